"""How a request is put to an engine that speaks another protocol than chat, and how its answer is read.

The books know one kind of answer. A `Dialect` tells them an engine's own events as chat events; whether the
client sees those, or the engine's own, is the gateway's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from wattmill.vocab.request import Body
from wattmill.vocab.usage import Usage

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]"


class Dialect(Protocol):
    """One answer of an engine, read as chat. Make one for each answer."""

    def feed(self, event: bytes) -> list[bytes]:
        """Return the chat events (without their blank lines) that one event of the engine amounts to.

        What is no event of this protocol is handed on as it is, so that it is judged as malformed."""

    def whole(self, body: bytes) -> bytes:
        """Return the whole chat answer that a whole answer amounts to."""

    def cut(self, usage: Usage | None) -> list[bytes]:
        """Return the events, in the engine's own protocol, that end a stream which was cut at its clamp."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """One protocol of an engine. `render(body, model, stream, max_output_tok)` gives the bytes to send."""

    path: str  # after the pool's base address
    render: Callable[[Body, str, bool, int], bytes]
    dialect: Callable[[], Dialect]


def data_of(event: bytes) -> bytes | None:
    """Return the data of a server-sent event that has one line of it; None for comments and the like."""
    for line in event.splitlines():
        if line.startswith(b"data:"):
            return line[5:].strip()
    return None


def chunk(answer_id: str | None, model: str | None, delta: dict[str, Any], **more: Any) -> bytes:
    """Return a chat event with one choice; `finish_reason` and `usage` may be among `more`."""
    finish = more.pop("finish_reason", None)
    body = {
        "id": answer_id or "answer",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model or "",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + encode(body)


def usage_chunk(answer_id: str | None, model: str | None, usage: dict[str, Any]) -> bytes:
    body = {
        "id": answer_id or "answer",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model or "",
        "choices": [],
        "usage": usage,
    }
    return b"data: " + encode(body)


def failure(message: str) -> bytes:
    return b"data: " + encode({"error": {"message": message}})


def whole_answer(
    answer_id: str | None,
    model: str | None,
    message: dict[str, Any],
    finish: str,
    usage: dict[str, Any] | None,
) -> bytes:
    body: dict[str, Any] = {
        "id": answer_id or "answer",
        "object": "chat.completion",
        "created": 0,
        "model": model or "",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
    }
    if usage is not None:
        body["usage"] = usage
    return encode(body)
