"""Originals put back into an answer: whole, or event by event while it streams.

A placeholder may arrive in pieces. What could still become one is held back and goes out with the next event
of the same text; everything else passes at once, and an event without a bracket passes as the bytes it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

_PREFIX = b"data: "
_ESCAPED = frozenset(("arguments", "partial_json", "input_json"))
"""Fields whose text is JSON by itself: an original goes in there escaped."""

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_encoder = msgspec.json.Encoder()


class Restorer:
    """A tap for one answer. `event` takes and returns whole events with their blank line."""

    __slots__ = ("_by_bracket", "_held", "_last", "_longest", "_originals")

    def __init__(self, originals: Mapping[str, str]) -> None:
        self._originals = dict(originals)
        self._longest = max(map(len, originals), default=0)
        self._held: dict[tuple[int, str, int], str] = {}  # (choice, field, tool call) -> text held back
        self._last: dict[str, Any] | None = None  # an event with a text, as a pattern for one of ours

    # ---- a tap

    def again(self) -> None:
        """Another place answers from the beginning: what was held back of the first was shown to nobody."""
        self._held.clear()

    def whole(self, body: bytes) -> bytes:
        """Return a complete answer with every placeholder replaced, in whatever string it stands."""
        if b"[" not in body:
            return body
        try:
            return _encoder.encode(self._everywhere(msgspec.json.decode(body), escaped=False))
        except (msgspec.MsgspecError, RecursionError):
            return body  # no JSON: an engine's error page; it was not made from the prompt's placeholders

    def event(self, event: bytes) -> bytes:
        if not self._held and b"[" not in event.replace(b"[{", b"").replace(b"[]", b""):
            return event  # no bracket but those of JSON around choices
        before, found, data = event.partition(_PREFIX)
        data = data.strip()
        if not found:
            return event
        if data == b"[DONE]":
            return self.ended(True) + event
        try:
            decoded = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            return event
        if type(decoded) is not dict:
            return event
        self._one(decoded)
        return before + _PREFIX + _encoder.encode(decoded) + b"\n\n"

    def ended(self, complete: bool) -> bytes:
        """Return an event with what is still held back: no placeholder can become of it any more."""
        held, self._held = self._held, {}
        if not held or self._last is None:
            return b""
        choices = []
        for (index, field, call), text in held.items():
            value: Any = text
            if field == "text":
                choices.append({"index": index, "text": text, "finish_reason": None})
                continue
            if field == "arguments":
                field, value = "tool_calls", [{"index": call, "function": {"arguments": text}}]
            choices.append({"index": index, "delta": {field: value}, "finish_reason": None})
        event = {k: v for k, v in self._last.items() if k not in ("choices", "usage")} | {"choices": choices}
        return _PREFIX + _encoder.encode(event) + b"\n\n"

    # ---- inside

    def _one(self, event: dict[str, Any]) -> None:
        choices = event.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            index = choice.get("index", 0)
            ends = choice.get("finish_reason") is not None
            delta = choice.get("delta")
            if type(delta) is dict:
                self._delta(delta, index, ends)
            if type(choice.get("text")) is str:
                choice["text"] = self._put_back((index, "text", 0), choice["text"], ends)
            if type(delta) is dict or "text" in choice:
                self._last = event

    def _delta(self, delta: dict[str, Any], index: int, ends: bool) -> None:
        for field in _TEXTS:
            key = (index, field, 0)
            if type(delta.get(field)) is str:
                delta[field] = self._put_back(key, delta[field], ends)
            elif ends and key in self._held:
                delta[field] = self._held.pop(key)
        calls = delta.get("tool_calls")
        for call in calls if type(calls) is list else ():
            function = call.get("function") if type(call) is dict else None
            if type(function) is dict and type(function.get("arguments")) is str:
                key = (index, "arguments", call.get("index", 0))
                function["arguments"] = self._put_back(key, function["arguments"], ends)
        if ends:
            rest = [key for key in self._held if key[0] == index and key[1] == "arguments"]
            if rest:
                more = [{"index": key[2], "function": {"arguments": self._held.pop(key)}} for key in rest]
                delta["tool_calls"] = [*(calls or ()), *more]

    def _put_back(self, key: tuple[int, str, int], text: str, ends: bool) -> str:
        text = self._replaced(self._held.pop(key, "") + text, escaped=key[1] in _ESCAPED)
        at = text.rfind("[", max(0, len(text) - self._longest))
        if ends or at < 0 or not any(p.startswith(text[at:]) for p in self._originals):
            return text
        self._held[key] = text[at:]
        return text[:at]

    def _replaced(self, text: str, *, escaped: bool) -> str:
        """Return `text` with its placeholders replaced in one pass: an original that looks like one stays."""
        if "[" not in text:
            return text
        out, at = [], 0
        while (start := text.find("[", at)) >= 0:
            end = text.find("]", start) + 1
            original = self._originals.get(text[start:end]) if end else None
            if original is None:
                out.append(text[at : start + 1])
                at = start + 1
                continue
            out.append(text[at:start])
            out.append(json.dumps(original, ensure_ascii=False)[1:-1] if escaped else original)
            at = end
        out.append(text[at:])
        return "".join(out)

    def _everywhere(self, value: Any, *, escaped: bool) -> Any:
        kind = type(value)
        if kind is str:
            return self._replaced(value, escaped=escaped)
        if kind is dict:
            return {
                self._replaced(k, escaped=False): self._everywhere(v, escaped=k in _ESCAPED)
                for k, v in value.items()
            }
        if kind is list:
            return [self._everywhere(v, escaped=escaped) for v in value]
        return value
