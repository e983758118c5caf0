"""Chat answers as the doors read them: one shape for the chunks of a stream and for a whole answer."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.models.engines.odd_answer import OddAnswer


class Named(msgspec.Struct, gc=False):
    """A function or custom tool in a call; in a stream each piece holds a part."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Named | None = None
    custom: Named | None = None


class Said(msgspec.Struct, gc=False):
    """A delta, or a whole message."""

    content: Any = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else ""

    @property
    def thought(self) -> str:
        """Reasoning, under the two names that engines give it."""
        if self.reasoning_content:
            return self.reasoning_content
        return self.reasoning if isinstance(self.reasoning, str) else ""


class Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = None  # vLLM: the stop sequence that was met


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None


_chunk = msgspec.json.Decoder(Chunk).decode


def choice_of(event: bytes) -> Choice | None:
    """Return the (only) choice of an event `data: {...}`; None where it has none. Raises `OddAnswer`."""
    if not event.startswith(b"data: {"):
        return None
    return _first(event[6:])


def choice_of_answer(body: bytes) -> Choice | None:
    """Return the (only) choice of a whole answer. Raises `OddAnswer`."""
    return _first(body)


def _first(body: bytes) -> Choice | None:
    try:
        chunk = _chunk(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OddAnswer(f"a part of the answer has no known shape: {error}") from error
    return chunk.choices[0] if chunk.choices else None
