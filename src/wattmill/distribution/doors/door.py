"""What the gateway asks of a door, and of one visit through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from wattmill.distribution.doors import messages_request, responses_request
from wattmill.distribution.doors.fields import Unservable
from wattmill.distribution.doors.messages_answer import MessageWriter, error_object
from wattmill.distribution.doors.responses_answer import ResponseWriter
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body
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

    def writer(self) -> Writer: ...


class Door(Protocol):
    """`name` is what rows, metrics and the scopes of keys call it."""

    @property
    def name(self) -> str: ...
    def read(self, body: Body, *, suffix: str, now_s: int) -> Visit | Refusal:
        """`suffix` makes the ids of the answer unique and unguessable."""
        ...

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        """Return an error in the protocol's shape; None where it is OpenAI's."""
        ...


class ResponsesVisit(msgspec.Struct, frozen=True, kw_only=True):
    asked: responses_request.Asked
    response_id: str
    model: str
    created_s: int

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

    def writer(self) -> ResponseWriter:
        return ResponseWriter(
            response_id=self.response_id, model=self.model, created_s=self.created_s, echo=self.asked.echo
        )

    def following(self, before: list[Any]) -> ResponsesVisit | Refusal:
        """Return the visit as a continuation of the items `before`."""
        try:
            return msgspec.structs.replace(self, asked=responses_request.following(self.asked, before))
        except Unservable as no:
            return no.refusal


class MessagesVisit(msgspec.Struct, frozen=True, kw_only=True):
    asked: messages_request.Asked
    message_id: str
    model: str

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

    def writer(self) -> MessageWriter:
        return MessageWriter(message_id=self.message_id, model=self.model)


class ResponsesDoor:
    name = "responses"

    def read(self, body: Body, *, suffix: str, now_s: int) -> ResponsesVisit | Refusal:
        try:
            asked = responses_request.read(body)
        except Unservable as no:
            return no.refusal
        return ResponsesVisit(asked=asked, response_id=f"resp_{suffix}", model=_model(body), created_s=now_s)

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        return None


class MessagesDoor:
    name = "messages"

    def read(self, body: Body, *, suffix: str, now_s: int) -> MessagesVisit | Refusal:
        try:
            asked = messages_request.read(body)
        except Unservable as no:
            return no.refusal
        return MessagesVisit(asked=asked, message_id=f"msg_{suffix}", model=_model(body))

    def error_body(self, refusal: Refusal, request_id: str) -> dict[str, Any] | None:
        return error_object(refusal, request_id)


RESPONSES = ResponsesDoor()
MESSAGES = MessagesDoor()
DOORS: Mapping[bytes, Door] = {b"/v1/responses": RESPONSES, b"/v1/messages": MESSAGES}


def _model(body: Body) -> str:
    """Return the model as asked, or "": whoever reads the chat body says what is wrong with it."""
    try:
        return msgspec.json.decode(body["model"], type=str)
    except (KeyError, msgspec.MsgspecError):
        return ""
