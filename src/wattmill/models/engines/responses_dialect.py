"""OpenAI's Responses, read as chat."""

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
from wattmill.models.engines.usage import ResponsesUsage, from_responses, to_openai, to_responses
from wattmill.vocab.usage import ImpossibleUsage, Usage

_TEXTS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}
_CALLS = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[dict[str, Any]] | None = None
    usage: ResponsesUsage | None = None
    error: Any = None
    incomplete_details: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    type: str
    response: msgspec.Raw = msgspec.Raw(b"")  # long, and told four times: read where it counts
    output_index: int = 0
    sequence_number: int = 0
    item: dict[str, Any] | None = None
    delta: Any = None
    message: str | None = None
    code: Any = None


_event = msgspec.json.Decoder(_Event).decode
_answer = msgspec.json.Decoder(_Answer).decode


class ResponsesDialect:
    """Implements `speech.Dialect`. Usage comes with the last event only."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._model: str | None = None
        self._first = msgspec.Raw(b"{}")  # the object of `response.created`
        self._done_items: list[Any] = []
        self._sequence = 0
        self._calls: dict[int, tuple[int, str, str]] = {}  # by output index: the chat's index, kind, field

    def feed(self, event: bytes) -> list[bytes]:
        payload = data_of(event)
        if payload is None:
            return [] if event.startswith(b":") or not event.strip() else [event]
        try:
            return self._take(_event(payload))
        except ImpossibleUsage as error:
            return [failure(str(error))]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return [failure(f"no event of Responses: {error}")]

    def _take(self, said: _Event) -> list[bytes]:
        self._sequence = max(self._sequence, said.sequence_number)
        field = _TEXTS.get(said.type)
        if field is not None:
            return [self._chunk({field: said.delta})]
        match said.type:
            case "response.created":
                first = _answer(said.response)
                self._id, self._model, self._first = first.id, first.model, said.response
                return [self._chunk({"role": "assistant", "content": ""})]
            case "response.output_item.added":
                return self._item(said.output_index, said.item or {})
            case "response.output_item.done":
                self._done_items.append(said.item)
                return []
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                place, kind, name = self._calls.get(said.output_index, (0, "function", "arguments"))
                return [self._chunk({"tool_calls": [{"index": place, kind: {name: said.delta}}]})]
            case "response.completed" | "response.incomplete":
                answer = _answer(said.response)
                out = [self._chunk({}, finish_reason=_finish(answer, bool(self._calls)))]
                if answer.usage is not None:
                    out.append(usage_chunk(self._id, self._model, to_openai(from_responses(answer.usage))))
                return [*out, DONE]
            case "response.failed":
                return [failure(_words(_answer(said.response).error))]
            case "error":
                return [failure(said.message or str(said.code))]
        return []

    def _item(self, index: int, item: dict[str, Any]) -> list[bytes]:
        known = _CALLS.get(str(item.get("type")))
        if known is None:
            return []
        kind, field = known
        place = len(self._calls)
        self._calls[index] = (place, kind, field)
        named = {"name": item.get("name"), field: item.get(field) or ""}
        call = {"index": place, "id": item.get("call_id"), "type": kind, kind: named}
        return [self._chunk({"tool_calls": [call]})]

    def _chunk(self, delta: dict[str, Any], **more: Any) -> bytes:
        return chunk(self._id, self._model, delta, **more)

    def whole(self, body: bytes) -> bytes:
        said = _answer(body)
        if said.error is not None or said.status == "failed":
            return encode({"error": {"message": _words(said.error)}})
        texts: list[str] = []
        refusals: list[str] = []
        thoughts: list[str] = []
        calls = []
        for item in said.output or ():
            if (known := _CALLS.get(str(item.get("type")))) is not None:
                kind, field = known
                named = {"name": item.get("name"), field: item.get(field)}
                calls.append({"id": item.get("call_id"), "type": kind, kind: named})
                continue
            for part in (*_parts(item.get("content")), *_parts(item.get("summary"))):
                match part.get("type"):
                    case "output_text":
                        texts.append(str(part.get("text", "")))
                    case "refusal":
                        refusals.append(str(part.get("refusal", "")))
                    case "reasoning_text" | "summary_text":
                        thoughts.append(str(part.get("text", "")))
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
        if refusals:
            message["refusal"] = "".join(refusals)
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        try:
            usage = None if said.usage is None else to_openai(from_responses(said.usage))
        except ImpossibleUsage as error:
            return encode({"error": {"message": str(error)}})
        return whole_answer(said.id, said.model, message, _finish(said, bool(calls)), usage)

    def cut(self, usage: Usage | None) -> list[bytes]:
        answer = msgspec.json.decode(self._first, type=dict[str, Any])
        answer |= {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": self._done_items,
            "usage": None if usage is None else to_responses(usage),
        }
        body = {
            "type": "response.incomplete",
            "sequence_number": self._sequence + 1,
            "response": answer,
        }
        return [b"event: response.incomplete\ndata: %b\n\n" % encode(body)]


def _parts(told: Any) -> list[dict[str, Any]]:
    return [part for part in told if isinstance(part, dict)] if isinstance(told, list) else []


def _finish(answer: _Answer, calls: bool) -> str:
    if answer.status == "incomplete":
        why = (answer.incomplete_details or {}).get("reason")
        return "content_filter" if why == "content_filter" else "length"
    return "tool_calls" if calls else "stop"


def _words(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error or "failed")
