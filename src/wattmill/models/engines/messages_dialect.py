"""Anthropic's Messages, read as chat."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.models.engines.speech import (
    DONE,
    chunk,
    data_of,
    encode,
    failure,
    usage_chunk,
    whole_answer,
)
from wattmill.models.engines.usage import AnthropicUsage, from_anthropic, to_anthropic, to_openai
from wattmill.vocab.usage import ImpossibleUsage, Usage

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    content: list[dict[str, Any]] | None = None
    stop_reason: str | None = None
    usage: AnthropicUsage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Answer | None = None
    content_block: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    usage: AnthropicUsage | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event).decode
_answer = msgspec.json.Decoder(_Answer).decode


class MessagesDialect:
    """Implements `speech.Dialect`. Each chat event with content counts what was produced until then: the
    input as the engine told it at the start, the output in events, of which none holds less than a token."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._model: str | None = None
        self._usage = AnthropicUsage()
        self._calls: dict[int, int] = {}  # the chat's index by the block's
        self._pieces = 0
        self._open: int | None = None  # the block that has not ended

    def feed(self, event: bytes) -> list[bytes]:
        payload = data_of(event)
        if payload is None:
            return [] if event.startswith(b":") or not event.strip() else [event]
        try:
            said = _event(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return [failure(f"no event of Messages: {error}")]
        try:
            return self._take(said)
        except ImpossibleUsage as error:
            return [failure(str(error))]

    def _take(self, said: _Event) -> list[bytes]:
        match said.type:
            case "message_start":
                if said.message is not None:
                    self._id, self._model = said.message.id, said.message.model
                    self._usage = said.message.usage or self._usage
                return [self._chunk({"role": "assistant", "content": ""})]
            case "content_block_start":
                self._open = said.index
                return self._start(said.index, said.content_block or {})
            case "content_block_delta":
                return self._grow(said.index, said.delta or {})
            case "content_block_stop":
                self._open = None
                return []
            case "message_delta":
                if said.usage is not None:
                    self._usage = self._usage.merged(said.usage)
                reason = (said.delta or {}).get("stop_reason")
                return [self._chunk({}, finish_reason=_FINISH.get(str(reason), "stop"))] if reason else []
            case "message_stop":
                return [usage_chunk(self._id, self._model, to_openai(from_anthropic(self._usage))), DONE]
            case "error":
                return [failure(_words(said.error))]
        return []  # ping, and what later versions add: the protocol tells clients to pass over it

    def _start(self, index: int, block: dict[str, Any]) -> list[bytes]:
        if block.get("type") == "tool_use":
            place = self._calls[index] = len(self._calls)
            function = {"name": block.get("name"), "arguments": ""}
            call = {"index": place, "id": block.get("id"), "type": "function", "function": function}
            return [self._content({"tool_calls": [call]})]
        if block.get("type") == "text" and block.get("text"):
            return [self._content({"content": block["text"]})]
        return []

    def _grow(self, index: int, delta: dict[str, Any]) -> list[bytes]:
        match delta.get("type"):
            case "text_delta":
                return [self._content({"content": delta.get("text")})]
            case "thinking_delta":
                return [self._content({"reasoning_content": delta.get("thinking")})]
            case "input_json_delta":
                call = {
                    "index": self._calls.get(index, 0),
                    "function": {"arguments": delta.get("partial_json")},
                }
                return [self._content({"tool_calls": [call]})]
        return []  # signatures and citations

    def _content(self, delta: dict[str, Any]) -> bytes:
        self._pieces += 1
        so_far = max(self._pieces, self._usage.output_tokens or 0)
        usage = from_anthropic(msgspec.structs.replace(self._usage, output_tokens=so_far))
        return self._chunk(delta, usage=to_openai(usage))

    def _chunk(self, delta: dict[str, Any], **more: Any) -> bytes:
        return chunk(self._id, self._model, delta, **more)

    def whole(self, body: bytes) -> bytes:
        said = _answer(body)
        if said.error is not None:
            return encode({"error": {"message": _words(said.error)}})
        message: dict[str, Any] = {"role": "assistant", "content": None}
        texts: list[str] = []
        thoughts: list[str] = []
        calls = []
        for block in said.content or ():
            match block.get("type"):
                case "text":
                    texts.append(str(block.get("text", "")))
                case "thinking":
                    thoughts.append(str(block.get("thinking", "")))
                case "tool_use":
                    function = {
                        "name": block.get("name"),
                        "arguments": encode(block.get("input") or {}).decode(),
                    }
                    calls.append({"id": block.get("id"), "type": "function", "function": function})
        if texts:
            message["content"] = "".join(texts)
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        try:
            usage = None if said.usage is None else to_openai(from_anthropic(said.usage))
        except ImpossibleUsage as error:
            return encode({"error": {"message": str(error)}})
        return whole_answer(said.id, said.model, message, _FINISH.get(str(said.stop_reason), "stop"), usage)

    def cut(self, usage: Usage | None) -> list[bytes]:
        out = []
        if self._open is not None:
            out.append(_named("content_block_stop", {"index": self._open}))
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        out.append(
            _named(
                "message_delta",
                {"delta": delta, "usage": {"output_tokens": 0} if usage is None else to_anthropic(usage)},
            )
        )
        out.append(_named("message_stop", {}))
        return out


def _named(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


def _words(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
