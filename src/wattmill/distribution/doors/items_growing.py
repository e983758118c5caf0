"""Items of a Responses answer while they grow. Each gives (event type, fields); the writer numbers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Said = tuple[str, dict[str, Any]]
_EVENT_NAMES = {"output_text": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}


class GrowingText:
    """A message, or reasoning: its parts are texts, refusals or thoughts."""

    def __init__(self, item_id: str, output_index: int, kind: str) -> None:
        self._reasoning = kind == "reasoning"
        self._at = {"item_id": item_id, "output_index": output_index}
        self._id = item_id
        self._index = output_index
        self._kind: str | None = None  # of the open part
        self._text: list[str] = []
        self._logprobs: list[Any] = []
        self._parts: list[dict[str, Any]] = []

    def takes(self, kind: str) -> bool:
        return self._reasoning == (kind == "reasoning")

    def opening(self) -> Iterator[Said]:
        yield "response.output_item.added", {"output_index": self._index, "item": self._item("in_progress")}

    def grown(self, kind: str, text: str, logprobs: Any) -> Iterator[Said]:
        if kind != self._kind:
            yield from self._close_part()
            self._kind = kind
            part = self._part(kind, "", [])
            yield "response.content_part.added", {**self._at, "content_index": len(self._parts), "part": part}
        self._text.append(text)
        fields: dict[str, Any] = {**self._at, "content_index": len(self._parts), "delta": text}
        if kind == "output_text":
            told = _logprobs(logprobs)
            self._logprobs += told
            fields["logprobs"] = told
        yield f"response.{_EVENT_NAMES[kind]}.delta", fields

    def closing(self, status: str) -> Iterator[Said]:
        yield from self._close_part()
        yield "response.output_item.done", {"output_index": self._index, "item": self._item(status)}

    def _close_part(self) -> Iterator[Said]:
        kind = self._kind
        if kind is None:
            return
        text = "".join(self._text)
        at = {**self._at, "content_index": len(self._parts)}
        fields: dict[str, Any] = {**at, "refusal" if kind == "refusal" else "text": text}
        if kind == "output_text":
            fields["logprobs"] = self._logprobs
        yield f"response.{_EVENT_NAMES[kind]}.done", fields
        part = self._part(kind, text, self._logprobs)
        yield "response.content_part.done", {**at, "part": part}
        self._parts.append(part)
        self._kind = None
        self._text = []
        self._logprobs = []

    def _part(self, kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
        if kind == "refusal":
            return {"type": "refusal", "refusal": text}
        if kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _item(self, status: str) -> dict[str, Any]:
        if self._reasoning:
            return {"id": self._id, "type": "reasoning", "summary": [], "content": list(self._parts)}
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": list(self._parts),
        }


class GrowingCall:
    """A call of a function or custom tool."""

    def __init__(self, item_id: str, output_index: int, *, call_id: str, name: str, custom: bool) -> None:
        self._at = {"item_id": item_id, "output_index": output_index}
        self._id = item_id
        self._index = output_index
        self._call_id = call_id
        self._name = name
        self._custom = custom
        self._pieces: list[str] = []
        self._event = "custom_tool_call_input" if custom else "function_call_arguments"
        self._field = "input" if custom else "arguments"

    def opening(self) -> Iterator[Said]:
        yield "response.output_item.added", {"output_index": self._index, "item": self._item("in_progress")}

    def grown(self, piece: str) -> Iterator[Said]:
        self._pieces.append(piece)
        yield f"response.{self._event}.delta", {**self._at, "delta": piece}

    def closing(self, status: str) -> Iterator[Said]:
        yield f"response.{self._event}.done", {**self._at, self._field: "".join(self._pieces)}
        yield "response.output_item.done", {"output_index": self._index, "item": self._item(status)}

    def _item(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {
            "id": self._id,
            "type": "custom_tool_call" if self._custom else "function_call",
            "call_id": self._call_id,
            "name": self._name,
            self._field: "".join(self._pieces),
        }
        if not self._custom:
            item["status"] = status
        return item


Growing = GrowingText | GrowingCall


def _logprobs(told: Any) -> list[Any]:
    """Return a chat chunk's log-probabilities in this protocol's shape; what has another one is left out."""
    return [
        {**_logprob(one), "top_logprobs": [_logprob(t) for t in _objects(one.get("top_logprobs"))]}
        for one in _objects(told.get("content") if isinstance(told, dict) else None)
    ]


def _logprob(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": one.get("token", ""),
        "bytes": one.get("bytes") or [],
        "logprob": one.get("logprob", 0.0),
    }


def _objects(told: Any) -> list[dict[str, Any]]:
    return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
