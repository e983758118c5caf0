"""An answer of `/v1/messages`: events while it grows, and the message that it becomes.

A whole answer goes through the same writer as a stream, so both end in the identical message.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.distribution.doors.chat import Call, Choice, choice_of, choice_of_answer
from wattmill.distribution.doors.fields import encode
from wattmill.models.engines.usage import to_anthropic
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.usage import Usage

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def usage_object(usage: Usage | None) -> dict[str, Any]:
    """The protocol has no word for "not counted": then the counts are 0 and "provenance" says why."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0, "provenance": "unmetered"}
    return to_anthropic(usage)


def error_object(refusal: Refusal, request_id: str) -> dict[str, Any]:
    code = CODES[refusal.code]
    kind = "billing_error" if code.type == "insufficient_quota" else _ERRORS.get(code.status)
    if kind is None:
        kind = "invalid_request_error" if code.status < 500 else "api_error"
    error = {"type": kind, "message": refusal.message, "code": refusal.code, "param": refusal.param}
    return {"type": "error", "error": error, "request_id": request_id}


class MessageWriter:
    """Takes chat events in order and gives Messages events. `message` is the message as it stands."""

    def __init__(self, *, message_id: str, model: str) -> None:
        self.message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},  # so far; `message_delta` tells all
        }
        self._begun = False
        self._kind: str | None = None  # of the open block
        self._pieces: list[str] = []
        self._block: dict[str, Any] = {}
        self._call = -1  # the chat's index of the open call
        self._finish: str | None = None
        self._stop: str | None = None
        self._waiting: dict[int, list[Call]] = {}  # pieces of calls that came while another was open

    def take(self, event: bytes) -> list[bytes]:
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
        return encode(self.message)

    def _take_answer(self, body: bytes) -> None:
        choice = choice_of_answer(body)
        self._begin()
        if choice is not None:
            if choice.message is not None:
                choice.delta, choice.message = choice.message, None
            self._said(choice, [])

    def close(self, usage: Usage | None, *, now_s: int) -> list[bytes]:
        out = self._begin() if not self._begun else []
        self._close_all(out)
        message = self.message
        message["usage"] = told = usage_object(usage)
        message["stop_reason"] = reason = self._reason()
        message["stop_sequence"] = self._stop
        delta = {"stop_reason": reason, "stop_sequence": self._stop}
        out.append(_event("message_delta", delta=delta, usage=told))
        out.append(_STOP)
        return out

    def fail(self, refusal: Refusal, request_id: str) -> list[bytes]:
        return [b"event: error\ndata: %b\n\n" % encode(error_object(refusal, request_id))]

    # ---- the growing message

    def _reason(self) -> str:
        if self._stop is not None:
            return "stop_sequence"
        reason = _STOPS.get(self._finish or "stop", "end_turn")
        if reason == "end_turn" and any(block["type"] == "tool_use" for block in self.message["content"]):
            return "tool_use"  # some engines end a call with "stop"
        return reason

    def _begin(self) -> list[bytes]:
        self._begun = True
        return [_event("message_start", message=self.message), _PING]

    def _said(self, choice: Choice, out: list[bytes]) -> None:
        if (said := choice.delta) is not None:
            if thought := said.thought:
                self._grow("thinking", thought, out)
            if words := said.text or said.refusal:
                self._grow("text", words, out)
            for place, call in enumerate(said.tool_calls or ()):
                self._grow_call(call.index if call.index is not None else place, call, out)
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason
            if choice.finish_reason == "stop" and isinstance(choice.stop_reason, str):
                self._stop = choice.stop_reason

    def _grow(self, kind: str, words: str, out: list[bytes]) -> None:
        if self._kind != kind:
            self._close_all(out)
            block = {"type": "thinking", "thinking": "", "signature": ""}
            self._open(kind, block if kind == "thinking" else {"type": "text", "text": ""}, out)
        self._pieces.append(words)
        out.append(self._delta({"type": f"{kind}_delta", kind: words}))

    def _grow_call(self, index: int, call: Call, out: list[bytes]) -> None:
        """Blocks come one after the other here; what belongs to a later call waits until this one ends."""
        if self._kind == "tool_use" and index != self._call:
            self._waiting.setdefault(index, []).append(call)
            return
        if self._kind != "tool_use":
            self._close_block(out)
            self._open_call(index, call, out)
        self._pieces_of(call, out)

    def _open_call(self, index: int, call: Call, out: list[bytes]) -> None:
        self._call = index
        named = call.function
        number = len(self.message["content"])
        block = {
            "type": "tool_use",
            "id": call.id or f"toolu_{self.message['id'].removeprefix('msg_')}_{number}",
            "name": (named.name if named is not None else None) or "",
            "input": {},
        }
        self._open("tool_use", block, out)

    def _pieces_of(self, call: Call, out: list[bytes]) -> None:
        if call.function is not None and call.function.arguments:
            self._pieces.append(call.function.arguments)
            out.append(self._delta({"type": "input_json_delta", "partial_json": call.function.arguments}))

    def _open(self, kind: str, block: dict[str, Any], out: list[bytes]) -> None:
        self._kind, self._block = kind, block
        out.append(
            _event("content_block_start", index=len(self.message["content"]), content_block=dict(block))
        )

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=len(self.message["content"]), delta=delta)

    def _close_block(self, out: list[bytes]) -> None:
        kind = self._kind
        if kind is None:
            return
        whole = "".join(self._pieces)
        self._block[{"text": "text", "thinking": "thinking", "tool_use": "input"}[kind]] = (
            _input(whole) if kind == "tool_use" else whole
        )
        index = len(self.message["content"])
        self.message["content"].append(self._block)
        self._kind, self._block, self._pieces = None, {}, []
        out.append(_event("content_block_stop", index=index))

    def _close_all(self, out: list[bytes]) -> None:
        self._close_block(out)
        while self._waiting:
            index = min(self._waiting)
            calls = self._waiting.pop(index)
            self._open_call(index, calls[0], out)
            for call in calls:
                self._pieces_of(call, out)
            self._close_block(out)


def _input(text: str) -> dict[str, Any]:
    """Return the arguments of a call; what is no object is kept under a name of its own, never dropped."""
    if not text:
        return {}
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return {"_unparsed": text}
    return value if isinstance(value, dict) else {"_unparsed": text}


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))
