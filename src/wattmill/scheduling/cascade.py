"""Small first: when an answer is not good enough, by signals that are declared and can be read from it.

The escalation is a further attempt, with its own reservation, at the next place of the route. What the small
model produced stays booked and charged: it was asked for.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

_MOST_DEPTH = 32


class Signals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which signs of a poor answer send it on to the next larger model (policy `cascade`)."""

    length: Annotated[
        bool, Meta(description="The answer was cut by its length although the request had room for more.")
    ] = True
    refusal: Annotated[bool, Meta(description="The model refused, or gave nothing at all.")] = True
    schema: Annotated[
        bool, Meta(description="JSON was asked for, and the answer is none or breaks its schema.")
    ] = True
    least_mean_logprob: Annotated[
        Annotated[float, Meta(le=0)] | None,
        Meta(
            description="Mean logarithm of the tokens' probabilities below which an answer goes on. Looked "
            "at where a request asks for `logprobs`. Absent: not looked at.",
            examples=[-1.0],
        ),
    ] = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Token(msgspec.Struct, gc=False):
    logprob: float = 0.0


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message = msgspec.field(default_factory=_Message)
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct, gc=False):
    choices: list[_Choice] = []


_decode_answer = msgspec.json.Decoder(_Answer).decode


def escalates(
    signals: Signals,
    answer: bytes,
    *,
    clamp_tok: int | None = None,
    asked_tok: int | None = None,
    schema: Any = None,
) -> str | None:
    """Return why `answer` (one JSON body of the chat or completions endpoint) should go on to a larger model,
    None if it is good enough or cannot be read.

    Args:
        clamp_tok: what one choice was allowed at most. Where that is what the client asked for, being cut
            there is no fault of the model.
        asked_tok: `max_tokens` of the request, None if it named none.
        schema: the `response_format` of the request, decoded; None if it wants text.
    """
    try:
        choices = _decode_answer(answer).choices
    except msgspec.MsgspecError:
        return None
    cut_is_wanted = asked_tok is not None and clamp_tok is not None and clamp_tok >= asked_tok
    for choice in choices:
        if signals.length and choice.finish_reason == "length" and not cut_is_wanted:
            return "length: the answer was cut"
        text = choice.text if choice.text is not None else choice.message.content
        if signals.refusal and _refused(choice, text):
            return "refusal: the model gave no answer"
        if signals.schema and schema is not None:
            fault = _schema_fault(schema, text)
            if fault is not None:
                return f"schema: {fault}"
        if signals.least_mean_logprob is not None:
            mean = _mean_logprob(choice)
            if mean is not None and mean < signals.least_mean_logprob:
                return f"logprob: {mean:.2f} in the mean, below {signals.least_mean_logprob:g}"
    return None


def _refused(choice: _Choice, text: Any) -> bool:
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return True
    return not choice.message.tool_calls and (text is None or (isinstance(text, str) and not text.strip()))


def _mean_logprob(choice: _Choice) -> float | None:
    tokens = choice.logprobs.content if choice.logprobs is not None else None
    return sum([token.logprob for token in tokens]) / len(tokens) if tokens else None


def _schema_fault(wanted: Any, text: Any) -> str | None:
    """Return what is wrong with `text` for a `response_format`, None if nothing is seen to be."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("json_object", "json_schema") or not isinstance(text, str):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return "the answer is no JSON"
    if kind == "json_object":
        return None if isinstance(value, dict) else "the answer is no object"
    schema = wanted.get("json_schema")
    return fault_of(value, schema.get("schema") if isinstance(schema, dict) else None)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def fault_of(value: Any, schema: Any, at: str = "answer", depth: int = 0) -> str | None:
    """Return the first breach of a JSON schema, in words. Looks at type, enum, const, required, properties,
    additionalProperties and items: a breach of another keyword is not seen, and none is ever invented."""
    if not isinstance(schema, dict) or depth > _MOST_DEPTH:
        return None
    kinds = schema.get("type")
    if kinds is not None:
        names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
        if names and not any(_is(value, name) for name in names):
            return f"{at} is no {' or '.join(map(str, names))}"
    if "enum" in schema and isinstance(schema["enum"], list) and value not in schema["enum"]:
        return f"{at} is none of the values allowed"
    if "const" in schema and value != schema["const"]:
        return f"{at} is not the value asked for"
    if isinstance(value, dict):
        return _object_fault(value, schema, at, depth)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for i, item in enumerate(value):
            fault = fault_of(item, schema["items"], f"{at}[{i}]", depth + 1)
            if fault is not None:
                return fault
    return None


def _object_fault(value: dict[str, Any], schema: dict[str, Any], at: str, depth: int) -> str | None:
    declared = schema.get("properties")
    properties = declared if isinstance(declared, dict) else {}
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in value:
            return f"{at} lacks {name!r}"
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in properties:
                return f"{at} has {name!r}, which its schema does not know"
    for name, inner in properties.items():
        if name in value:
            fault = fault_of(value[name], inner, f"{at}.{name}", depth + 1)
            if fault is not None:
                return fault
    return None


def _is(value: object, name: object) -> bool:
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        return True  # a type that we do not know is not broken
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kind)
