"""An answer of `/v1/responses`: typed events while it grows, and the object that it becomes.

A whole answer goes through the same writer as a stream, so both end in the identical object.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.distribution.doors.chat import Call, Choice, choice_of, choice_of_answer
from wattmill.distribution.doors.fields import encode
from wattmill.distribution.doors.items_growing import Growing, GrowingCall, GrowingText
from wattmill.models.engines.usage import to_responses
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.usage import Usage

_WITH_RESPONSE = tuple(
    b"event: response.%b\n" % name
    for name in (b"created", b"queued", b"in_progress", b"completed", b"incomplete", b"failed")
)
_ENDS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseWriter:
    """Takes chat events in order and gives Responses events. `response` is the object as it stands."""

    def __init__(self, *, response_id: str, model: str, created_s: int, echo: dict[str, Any]) -> None:
        self.response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": created_s,
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **echo,
        }
        self._created_s = created_s
        self._sequence = 0
        self._open: list[Growing] = []
        self._count = 0  # of items
        self._calls: dict[int, GrowingCall] = {}  # by the chat's index
        self._finish: str | None = None
        self._begun = False

    def take(self, event: bytes) -> list[bytes]:
        """Return what the client sees for one chat event."""
        choice = choice_of(event)
        if choice is None:
            return []
        out = self._begin() if not self._begun else []
        self._said(choice, out)
        return out

    def answer(self, body: bytes, usage: Usage | None, *, now_s: int) -> bytes:
        """Return the whole answer that a whole chat answer becomes."""
        self._take_answer(body)
        self.close(usage, now_s=now_s)
        return encode(self.response)

    def _take_answer(self, body: bytes) -> None:
        choice = choice_of_answer(body)
        self._begin()
        if choice is not None:
            if choice.message is not None:
                choice.delta, choice.message = choice.message, None
            self._said(choice, [])

    def close(self, usage: Usage | None, *, now_s: int) -> list[bytes]:
        """End well: `response.completed`, or `response.incomplete` where the answer was cut short."""
        out = self._begin() if not self._begun else []
        short = _ENDS.get(self._finish or "")
        self._close_all(out, "completed" if short is None else "incomplete")
        response = self.response
        response["usage"] = None if usage is None else to_responses(usage)
        if short is None:
            response["status"] = "completed"
            response["completed_at"] = now_s
        else:
            response["status"] = "incomplete"
            response["incomplete_details"] = {"reason": short}
        out.append(self._event(f"response.{response['status']}", response=response))
        return out

    def fail(self, refusal: Refusal, request_id: str) -> list[bytes]:
        """End a stream that cannot go on; what was said stays."""
        out = self._begin() if not self._begun else []
        self._close_all(out, "incomplete")
        response = self.response
        response["status"] = "failed"
        response["error"] = failure(refusal, request_id)
        out.append(self._event("response.failed", response=response))
        return out

    # ---- the growing answer

    def _begin(self) -> list[bytes]:
        self._begun = True
        return [
            self._event("response.created", response=self.response),
            self._event("response.in_progress", response=self.response),
        ]

    def _said(self, choice: Choice, out: list[bytes]) -> None:
        if (said := choice.delta) is not None:
            if thought := said.thought:
                self._grow_text("reasoning", thought, None, out)
            if said.text:
                self._grow_text("output_text", said.text, choice.logprobs, out)
            if said.refusal:
                self._grow_text("refusal", said.refusal, None, out)
            for place, call in enumerate(said.tool_calls or ()):
                self._grow_call(place, call, out)
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason

    def _grow_text(self, kind: str, text: str, logprobs: Any, out: list[bytes]) -> None:
        last = self._open[-1] if self._open else None
        if not isinstance(last, GrowingText) or not last.takes(kind):
            self._close_all(out, "completed")
            last = GrowingText(self._next_id("rs" if kind == "reasoning" else "msg"), self._count - 1, kind)
            self._open.append(last)
            out.extend(self._event(name, **fields) for name, fields in last.opening())
        out.extend(self._event(name, **fields) for name, fields in last.grown(kind, text, logprobs))

    def _grow_call(self, place: int, call: Call, out: list[bytes]) -> None:
        index = call.index if call.index is not None else place
        growing = self._calls.get(index)
        named = call.function or call.custom
        if growing is None:
            if any(isinstance(one, GrowingText) for one in self._open):
                self._close_all(out, "completed")
            custom = call.custom is not None or call.type == "custom"
            item_id = self._next_id("ctc" if custom else "fc")
            growing = self._calls[index] = GrowingCall(
                item_id,
                self._count - 1,
                call_id=call.id or f"call_{item_id}",
                name=(named.name if named is not None else None) or "",
                custom=custom,
            )
            self._open.append(growing)
            out.extend(self._event(name, **fields) for name, fields in growing.opening())
        if named is not None and (piece := named.arguments or named.input):
            out.extend(self._event(name, **fields) for name, fields in growing.grown(piece))

    def _close_all(self, out: list[bytes], status: str) -> None:
        for growing in self._open:
            out.extend(self._event(name, **fields) for name, fields in growing.closing(status))
        self._open.clear()

    def _next_id(self, prefix: str) -> str:
        number = self._count
        self._count += 1
        return f"{prefix}_{self.response['id'].removeprefix('resp_')}_{number}"

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        if kind == "response.output_item.done":
            output = self.response["output"]
            output.append(fields["item"])
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(body))


def failure(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """Return a failure in the protocol's closed list of codes; ours stands before the message."""
    code = "rate_limit_exceeded" if CODES[refusal.code].status == 429 else "server_error"
    message = f"{refusal.code}: {refusal.message} (request {request_id})"
    return {"code": code, "message": message, "type": CODES[refusal.code].type}


def retouched(said: bytes, ours: dict[str, Any]) -> bytes:
    """Return an event or a whole answer of an engine with some fields of the response object replaced."""
    if said.startswith(b"{"):
        return encode({**msgspec.json.decode(said), **ours})
    if not said.startswith(_WITH_RESPONSE):
        return said
    head, _, data = said.partition(b"\ndata: ")
    try:
        body = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return said
    response = body.get("response")
    if not isinstance(response, dict):
        return said  # not ours to mend
    body["response"] = {**response, **ours}
    return b"%b\ndata: %b" % (head, encode(body))
