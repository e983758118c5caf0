"""One whole answer made of a stream, in the shape in which the engine would have given it unstreamed."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.models.engines.odd_answer import OddAnswer
from wattmill.vocab.request import Endpoint

_OBJECTS: dict[str, str] = {"chat": "chat.completion", "completions": "text_completion"}
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Assembler:
    """Add each event that `Tally.feed` let through (or the raw ones); `answer` is complete after `[DONE]`.

    Every field of the chunks is kept: text is joined, tool calls are joined by their index, log-probabilities
    are appended, of all else the last value that is not null stays. llama.cpp's `timings` are dropped.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, event: bytes) -> None:
        """Take one event; what is no `data: {...}` adds nothing. Raises `OddAnswer` for a shape of which no
        answer can be made."""
        try:
            self._add(event)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise OddAnswer(f"a part of the answer has no known shape: {error!r}") from error

    def _add(self, event: bytes) -> None:
        for line in event.splitlines():
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if not payload.startswith(b"{"):
                continue
            chunk = _decode(payload)
            for choice in chunk.pop("choices", None) or ():
                self._add_choice(choice)
            chunk.pop("timings", None)
            for name, value in chunk.items():
                if value is not None or name not in self._top:
                    self._top[name] = value

    def _add_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        whole = self._choices.get(index)
        if whole is None:
            whole = self._choices[index] = {"index": index}
            if self._endpoint == "chat":
                whole["message"] = {"role": "assistant", "content": None}
            else:
                whole["text"] = ""
            whole["finish_reason"] = None
        for name, value in choice.items():
            if name == "delta":
                _merge_message(whole["message"], value or {})
            elif name == "text":
                whole["text"] += value or ""
            elif name == "logprobs":
                _merge_logprobs(whole, value)
            elif name == "token_ids" and isinstance(value, list):  # vLLM's
                whole[name] = (whole.get(name) or []) + value
            elif value is not None or name not in whole:
                whole[name] = value

    def answer(self) -> bytes:
        """Return the JSON of the whole answer."""
        top = dict(self._top)
        top["object"] = _OBJECTS[self._endpoint]
        top.pop("obfuscation", None)
        choices = [_without_indices(self._choices[index]) for index in sorted(self._choices)]
        return _encode({"choices": choices, **top})


def _without_indices(choice: dict[str, Any]) -> dict[str, Any]:
    """Calls are numbered in a stream only."""
    message = choice.get("message")
    if message is None or "tool_calls" not in message:
        return choice
    calls = [{k: v for k, v in call.items() if k != "index"} for call in message["tool_calls"]]
    return {**choice, "message": {**message, "tool_calls": calls}}


def _merge_message(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value or ():
                _merge_call(message.setdefault("tool_calls", []), call)
        elif name == "function_call" and value:
            _merge_named(message.setdefault("function_call", {"name": "", "arguments": ""}), value)
        elif name == "audio" and isinstance(value, dict):
            _merge_named(message.setdefault("audio", {}), value)
        elif name == "role":
            message["role"] = value or "assistant"
        elif isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif isinstance(value, list) and isinstance(message.get(name), list):
            message[name].extend(value)
        elif value is not None or name not in message:
            message[name] = value


def _merge_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    index = delta.get("index", len(calls))
    call = next((c for c in calls if c["index"] == index), None)
    if call is None:
        calls.append(call := {"index": index, "type": "function", "function": {"name": "", "arguments": ""}})
        calls.sort(key=lambda c: int(c["index"]))
    for name, value in delta.items():
        if name in ("function", "custom") and isinstance(value, dict):
            _merge_named(call.setdefault(name, {}), value)
        elif name != "index" and value is not None:
            call[name] = value


def _merge_named(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Join the parts of a call or of audio: text that arrives in pieces grows, the rest is set."""
    for name, value in delta.items():
        if name in ("arguments", "input", "data", "transcript") and isinstance(value, str):
            whole[name] = whole.get(name, "") + value
        elif value is not None and value != "":
            whole[name] = value


def _merge_logprobs(whole: dict[str, Any], part: dict[str, Any] | None) -> None:
    if not part:
        whole.setdefault("logprobs", None)
        return
    kept = whole.get("logprobs") or {}
    for name, values in part.items():
        kept[name] = (kept.get(name) or []) + values if isinstance(values, list) else values
    whole["logprobs"] = kept
