"""An upper bound on the tokens of a prompt, from its bytes: no tokenizer of the serving engine makes more.

A tokenizer makes at most one token of each byte that it is given (byte-level BPE, or byte fallback), after
its normaliser has made `expansion` bytes of each. A JSON text is never shorter than the text it stands for,
so the original bytes are counted as they are; what a chat template adds is counted per request, message and
tool. Where a template prints a value as JSON again (tools, schemas), the widest usual print is taken.
"""

from __future__ import annotations

import re

import msgspec

from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Endpoint

_NOT_IN_PROMPT = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "tools",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "seed",
        "stop",
        "user",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
        "encoding_format",
        "dimensions",
        "store",
        "service_tier",
        "ignore_eos",
    ]
)
"""Fields that no template prints, and those counted by themselves. All others count by their bytes."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_AUDIO_PARTS = frozenset({"input_audio", "audio_url"})
_INDENT = 4  # the widest indent that a known template prints tools with
_MOST_OPENINGS = 4_096  # more objects and arrays than this are not printed, but bounded by arithmetic
_MOST_DEPTH = 1_024  # deeper JSON is not decoded by anybody
_WIDEST_NUMBER = 24  # characters of a double: 1e9 may be printed as 1000000000.0
_EXPONENT = re.compile(rb"[0-9.][eE][0-9+]")
_NO_BYTES = msgspec.Raw(b"")
_BRACKET, _QUOTE = 0x5B, 0x22


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NO_BYTES
    tool_calls: msgspec.Raw = _NO_BYTES
    audio: msgspec.Raw = _NO_BYTES


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    image_url: msgspec.Raw = _NO_BYTES
    image: msgspec.Raw = _NO_BYTES
    input_audio: msgspec.Raw = _NO_BYTES
    audio_url: msgspec.Raw = _NO_BYTES


_messages = msgspec.json.Decoder(list[_Message]).decode
_parts = msgspec.json.Decoder(list[_Part]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def input_bound_tok(endpoint: Endpoint, body: Body, bound: TokenizerBound) -> int | Refusal:
    """Return the most tokens that `body` can become as a prompt, or why that cannot be said."""
    count = fields_bytes(body)
    tokens = bound.per_request_tok
    try:
        if endpoint == "chat":
            messages = body.get("messages")
            if messages is None:
                return _bad("messages", "is missing: send a list of messages")
            told = _count_messages(messages, bound)
        else:
            name = "prompt" if endpoint == "completions" else "input"
            texts = body.get(name)
            if texts is None:
                return _bad(name, "is missing: send a text, or a list")
            told = _count_texts(name, texts, bound)
        if isinstance(told, Refusal):
            return told
        count += told[0]
        tokens += told[1]
        for name in ("tools", "functions"):
            tools = body.get(name)
            if tools is not None and len(tools) > 4:
                count += _printed(tools)
                tokens += bound.per_tool_tok * len(_elements(tools))
        if (schema := body.get("response_format")) is not None:
            count += _printed(schema)
    except msgspec.DecodeError as e:
        return _bad(_subject(endpoint), f"is not what this endpoint takes: {e}")
    except RecursionError:
        return _bad(_subject(endpoint), "is nested too deeply")
    return int(count * bound.expansion) + tokens + 1


def fields_bytes(body: Body) -> int:
    """Return the bytes of all fields that a template may print and nothing else counts."""
    return sum([len(value) for name, value in body.items() if name not in _NOT_IN_PROMPT])


def chat_bound_tok(messages: msgspec.Raw, beside_bytes: int, bound: TokenizerBound) -> int | Refusal:
    """Return what `input_bound_tok` says of a chat without tools and schema, whose other fields have
    `beside_bytes` (`fields_bytes`). Raises `msgspec.DecodeError` or `RecursionError` if it is no list of
    messages."""
    told = _count_messages(messages, bound)
    if isinstance(told, Refusal):
        return told
    return int((beside_bytes + told[0]) * bound.expansion) + bound.per_request_tok + told[1] + 1


def _count_messages(raw: msgspec.Raw, bound: TokenizerBound) -> tuple[int, int] | Refusal:
    """Return (bytes of text, tokens that come on top).

    Decoding without building strings is faster than searching the bytes for marks, and keys that are written
    with escapes cannot mislead it.
    """
    count = len(raw)
    messages = _messages(raw)
    tokens = bound.per_message_tok * len(messages)
    for message in messages:
        if message.tool_calls is not _NO_BYTES and len(message.tool_calls) > 4:
            count += _printed(message.tool_calls)
            tokens += bound.per_tool_tok * _openings(message.tool_calls)
        if message.audio is not _NO_BYTES and len(message.audio) > 4:
            if bound.per_audio_tok is None:
                return _unbounded("audio")
            tokens += bound.per_audio_tok
        content = message.content
        if content is _NO_BYTES or memoryview(content)[0] != _BRACKET:
            continue
        for part in _parts(content):
            if part.type in _TEXT_PARTS:
                tokens += bound.per_message_tok  # templates may put a line between parts
            elif part.type in _IMAGE_PARTS:
                if bound.per_image_tok is None:
                    return _unbounded(part.type)
                count -= len(part.image_url) + len(part.image)
                tokens += bound.per_image_tok
            elif part.type in _AUDIO_PARTS:
                if bound.per_audio_tok is None:
                    return _unbounded(part.type)
                count -= len(part.input_audio) + len(part.audio_url)
                tokens += bound.per_audio_tok
            else:
                return _unbounded(part.type)
    return count, tokens


def _count_texts(name: str, raw: msgspec.Raw, bound: TokenizerBound) -> tuple[int, int] | Refusal:
    """A text, a list of token ids (two bytes each at least), or a list of texts and of lists of ids."""
    first = memoryview(raw)[0]
    if first == _QUOTE:
        return len(raw), bound.per_message_tok
    if first != _BRACKET:
        return _bad(name, "must be a text, a list of texts or a list of token ids")
    tokens = bound.per_message_tok
    for element in _elements(raw):
        kind = memoryview(element)[0]
        if kind in (_QUOTE, _BRACKET):
            tokens += bound.per_message_tok
        elif not 0x30 <= kind <= 0x39:
            return _bad(name, "may hold texts, token ids or lists of token ids only")
    return len(raw) + 1, tokens


def _printed(raw: msgspec.Raw) -> int:
    """Return the most bytes with which a template prints this JSON value."""
    value = bytes(raw)
    openings = value.count(b"{") + value.count(b"[")
    if openings <= _MOST_OPENINGS:
        size = len(msgspec.json.format(value, indent=_INDENT))
    else:
        marks = 2 * openings + value.count(b",") + value.count(b":")
        size = len(value) + marks * (2 + _INDENT * min(openings, _MOST_DEPTH))
    return size + _WIDEST_NUMBER * len(_EXPONENT.findall(value))


def _openings(raw: msgspec.Raw) -> int:
    return bytes(raw).count(b"{")


def _subject(endpoint: Endpoint) -> str:
    return {"chat": "messages", "completions": "prompt", "embeddings": "input"}[endpoint]


def _bad(param: str, why: str) -> Refusal:
    return Refusal(code="bad_value", param=param, message=f"{param!r} {why}")


def _unbounded(kind: str) -> Refusal:
    return Refusal(
        code="no_capability",
        param="messages",
        message=f"a part of type {kind!r} cannot be bounded in tokens here, so nothing can be reserved for "
        "it; the model's card would need a published ceiling for it",
    )
