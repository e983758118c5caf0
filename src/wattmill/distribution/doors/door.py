"""What the gateway asks of a door, and of one visit through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from wattmill.distribution.doors import messages_request, responses_request
from wattmill.distribution.doors.fields import Unservable, encode
from wattmill.distribution.doors.messages_answer import MessageWriter, error_object
from wattmill.distribution.doors.responses_answer import ResponseWriter, retouched
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Entry
from wattmill.vocab.usage import Usage


class Writer(Protocol):
    """Tells one chat answer in the door's words. A stream: `take` each event, then `close` or `fail`. A whole
    answer: `answer` alone."""

    def take(self, event: bytes) -> list[bytes]: ...
    def close(self, usage: Usage | None, *, now_s: int) -> list[bytes]: ...
    def fail(self, refusal: Refusal, request_id: str) -> list[bytes]: ...
    def answer(self, body: bytes, usage: Usage | None, *, now_s: int) -> bytes: ...


class Visit(Protocol):
    """One request that came through a door.

    `native` is sent to an engine that speaks the door's protocol, but only while the draft's body is still
    `chat`: a body that a gate has changed (redacted, say) leaves as a chat, translated.
    """

    @property
    def door(self) -> Door: ...
    @property
    def chat(self) -> Body: ...
    @property
    def native(self) -> Body: ...
    @property
    def beside_bytes(self) -> int:
        """Text of `native` that `chat` does not hold; it counts in the bound of the input."""
        ...

    @property
    def pending(self) -> bool:
        """The request continues an earlier answer, which has to be looked up."""
        ...

    def writer(self, *, kept: bool) -> Writer:
        """`kept`: the answer will be found again by its id."""
        ...

    def retouched(self, event_or_answer: bytes, *, kept: bool) -> bytes:
        """Return what an engine said in the door's protocol as the client may see it: fields that were not
        sent to it are told as the client gave them."""
        ...


class Door(Protocol):
    """`name` is what rows, metrics and the scopes of keys call it."""

    @property
    def name(self) -> Entry: ...
    def read(self, body: Body, *, suffix: str, now_s: int, counting: bool = False) -> Visit | Refusal:
        """`suffix` makes the ids of the answer unique and unguessable. `counting`: only the prompt is of
        interest, so a length need not be given."""
        ...

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        """Return an error in the protocol's shape; None where it is OpenAI's."""
        ...

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """Return the event that ends a stream of an engine's own, which cannot go on."""
        ...

    def key_of(self, headers: Mapping[bytes, bytes]) -> bytes | Refusal | None:
        """Return the value of the authorization header, or what stands for it in the protocol."""
        ...


class ResponsesVisit(msgspec.Struct, frozen=True, kw_only=True):
    asked: responses_request.Asked
    response_id: str
    model: str
    created_s: int
    pending: bool = False

    @property
    def door(self) -> Door:
        return RESPONSES

    @property
    def chat(self) -> Body:
        return self.asked.chat

    @property
    def native(self) -> Body:
        return self.asked.native

    @property
    def beside_bytes(self) -> int:
        return self.asked.beside_bytes

    def writer(self, *, kept: bool) -> ResponseWriter:
        return ResponseWriter(
            response_id=self.response_id,
            model=self.model,
            created_s=self.created_s,
            echo={**self.asked.echo, "store": kept},
        )

    def retouched(self, event_or_answer: bytes, *, kept: bool) -> bytes:
        echo = self.asked.echo
        ours = {name: echo[name] for name in ("previous_response_id", "metadata")}
        # The id is ours: what is kept is found by it, and no place may choose it twice.
        said = {**ours, "id": self.response_id, "model": self.model, "store": kept}
        return retouched(event_or_answer, said)

    def following(self, before: list[Any]) -> ResponsesVisit | Refusal:
        """Return the visit as a continuation of the items `before`."""
        try:
            asked = responses_request.following(self.asked, before)
            return msgspec.structs.replace(self, asked=asked, pending=False)
        except Unservable as no:
            return no.refusal


class MessagesVisit(msgspec.Struct, frozen=True, kw_only=True):
    asked: messages_request.Asked
    message_id: str
    model: str
    pending: bool = False

    @property
    def door(self) -> Door:
        return MESSAGES

    @property
    def chat(self) -> Body:
        return self.asked.chat

    @property
    def native(self) -> Body:
        return self.asked.native

    @property
    def beside_bytes(self) -> int:
        return self.asked.beside_bytes

    def writer(self, *, kept: bool) -> MessageWriter:
        return MessageWriter(message_id=self.message_id, model=self.model)

    def retouched(self, event_or_answer: bytes, *, kept: bool) -> bytes:
        return event_or_answer


class ResponsesDoor:
    name: Entry = "responses"

    def read(
        self, body: Body, *, suffix: str, now_s: int, counting: bool = False
    ) -> ResponsesVisit | Refusal:
        try:
            asked = responses_request.read(body)
        except Unservable as no:
            return no.refusal
        return ResponsesVisit(
            asked=asked,
            response_id=f"resp_{suffix}",
            model=_model(body),
            created_s=now_s,
            pending=asked.previous is not None,
        )

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        return None

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        body = {
            "type": "error",
            "code": refusal.code,
            "message": f"{refusal.message} (request {request_id})",
            "param": refusal.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: %b\n\n" % encode(body)

    def key_of(self, headers: Mapping[bytes, bytes]) -> bytes | Refusal | None:
        return headers.get(b"authorization")


class MessagesDoor:
    name: Entry = "messages"

    def read(self, body: Body, *, suffix: str, now_s: int, counting: bool = False) -> MessagesVisit | Refusal:
        try:
            asked = messages_request.read(body, counting=counting)
        except Unservable as no:
            return no.refusal
        return MessagesVisit(asked=asked, message_id=f"msg_{suffix}", model=_model(body))

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        return error_object(refusal, request_id)

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % encode(error_object(refusal, request_id))

    def key_of(self, headers: Mapping[bytes, bytes]) -> bytes | Refusal | None:
        return key_of(headers)


RESPONSES = ResponsesDoor()
MESSAGES = MessagesDoor()
DOORS: Mapping[bytes, Door] = {b"/v1/responses": RESPONSES, b"/v1/messages": MESSAGES}


def error_shape(
    path: bytes, headers: Mapping[bytes, bytes], refusal: Refusal, request_id: str
) -> dict[str, Any] | None:
    """Return an error as whoever asks for `path` expects it; None where that is OpenAI's shape."""
    if path.startswith(b"/v1/messages") or b"anthropic-version" in headers:
        return error_object(refusal, request_id)
    return None


def models_shape(models: Sequence[tuple[str, str]]) -> bytes:
    """Return the list of models as Anthropic's clients read it; nobody knows when a model was made."""
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
        for name, _ in models
    ]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return encode({"data": data, "has_more": False, "first_id": None, "last_id": None, **ends})


def key_of(headers: Mapping[bytes, bytes]) -> bytes | Refusal | None:
    """Return an authorization header, or Anthropic's `x-api-key` as if it were one. Both may be given, as
    some clients do, but then they must hold one key: who pays is never a guess."""
    authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
    if api_key is None:
        return authorization
    bearer = b"Bearer " + api_key.strip()
    if authorization is not None and authorization.strip().partition(b" ")[2].strip() != api_key.strip():
        return Refusal(
            code="bad_header",
            message="headers 'authorization' and 'x-api-key' hold different keys; send one of them",
            param="x-api-key",
        )
    return bearer


def _model(body: Body) -> str:
    """Return the model as asked, or "": whoever reads the chat body says what is wrong with it."""
    try:
        return msgspec.json.decode(body["model"], type=str)
    except (KeyError, msgspec.MsgspecError):
        return ""
