"""A JSON body, read once: the few fields that govern cost, length and choice of place, the rest untouched.

The top level is decoded as raw values, so a 400 kB prompt is scanned and never built; what leaves is rendered
from the same raw values, so it cannot hold a key twice.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec
from msgspec import Raw

from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Endpoint

MAX_CHOICES = 128
MAX_MODEL_CHARS = 256
MAX_OUTPUT_TOK = 2**31 - 1

_SURROGATES = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)")
"""Pairs, so that they are passed over; what the group holds stands alone."""
_SPACE = b" \t\r\n"
_TELLING = frozenset(
    ("tools", "functions", "response_format", "logprobs", "top_logprobs", "audio", "modalities")
)
_UNUSUAL = _TELLING | {"n"}
_QUICK_BYTES = 8_192  # reading a longer body twice costs more than it saves
_NO_NEEDS: frozenset[str] = frozenset()
_EMPTY = (b"null", b"[]", b"{}", b"false")


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a body says, before anybody knows whether it may be served."""

    endpoint: Endpoint
    body: Body
    model: str
    stream: bool = False
    show_usage: bool = False  # the client asked for the usage chunk of a stream
    max_output_tok: int | None = None  # per choice; None: not given
    n: int = 1  # per prompt
    prompts: int = 1
    needs: frozenset[str] = _NO_NEEDS

    @property
    def choices(self) -> int:
        return self.n * self.prompts


class _Fields(msgspec.Struct, gc=False):
    model: str
    messages: Raw
    stream: bool | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_TOK)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_TOK)] | None = None


class _Message(msgspec.Struct, gc=False):
    content: Raw = Raw(b"")  # absent; msgspec has no union of Raw and None


_body_decoder = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()
_fields_decoder = msgspec.json.Decoder(_Fields)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_parts_decoder = msgspec.json.Decoder(list[dict[str, Raw]])
_str_decoder = msgspec.json.Decoder(str)
_int_decoder = msgspec.json.Decoder(int)


def parse(endpoint: Endpoint, data: bytes) -> Draft | Refusal:
    """Return what `data` asks of `endpoint`, or a refusal that names the field, the rule and the value."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return _bad_json(f"the body is not UTF-8: {error.reason} at byte {error.start}")
    try:
        return _parse(endpoint, data)
    except RecursionError:
        return _bad_json("the body is nested too deeply; a request needs no more than a few hundred levels")


def read_body(data: bytes) -> Body | Refusal:
    """Return the top level of `data`, for a door that reads it in its own way."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return _bad_json(f"the body is not UTF-8: {error.reason} at byte {error.start}")
    try:
        body = _body_decoder.decode(data)
        return _repeated(body, data) or body
    except msgspec.MsgspecError as error:
        return _why_not_json(data, error)
    except RecursionError:
        return _bad_json("the body is nested too deeply; a request needs no more than a few hundred levels")


def draft_of(body: Body) -> Draft | Refusal:
    """Return what a chat body that a door has written asks for; its usage is always told."""
    draft = _draft("chat", body)
    return draft if isinstance(draft, Refusal) else msgspec.structs.replace(draft, show_usage=True)


def _parse(endpoint: Endpoint, data: bytes) -> Draft | Refusal:
    try:
        body = _body_decoder.decode(data)
    except msgspec.MsgspecError as error:
        return _why_not_json(data, error)
    twice = _repeated(body, data)
    if twice is not None:
        return twice
    if len(data) <= _QUICK_BYTES and endpoint == "chat":
        draft = quick_chat(body, data)
        if draft is not None:
            return draft
    return _draft(endpoint, body)


def _repeated(body: Body, data: bytes) -> Refusal | None:
    if len(_encoder.encode(body)) != len(data) and not _is_whole(body, data):
        twice = _first_duplicate(data)
        if twice is not None:
            return Refusal(
                code="duplicate_field",
                message=f"field {twice!r} is given more than once; give each field once",
                param=twice[:128],
            )
    return None


def quick_chat(body: Body, data: bytes) -> Draft | None:
    """Read an ordinary chat in one typed pass; None for what `_draft` has to look at, or to refuse.

    It never says anything else than `_draft` (a property test holds them together), only sooner.
    """
    try:
        fields = _fields_decoder.decode(data)
    except msgspec.MsgspecError:
        return None
    model, limit, other = fields.model, fields.max_tokens, fields.max_completion_tokens
    if other is not None:
        limit = other if limit is None else min(limit, other)
    if not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        return None
    if bytes(fields.messages).rfind(b"[") != 0 or not _UNUSUAL.isdisjoint(body):
        return None
    stream = fields.stream is True
    # Most clients of streams ask for their usage.
    show_usage = _show_usage(body) if stream and "stream_options" in body else False
    if isinstance(show_usage, Refusal):
        return None
    return Draft(
        endpoint="chat",
        body=body,
        model=model,
        stream=stream,
        show_usage=show_usage,
        max_output_tok=limit,
    )


def _draft(endpoint: Endpoint, body: Body) -> Draft | Refusal:
    model = _model(body.get("model"))
    if isinstance(model, Refusal):
        return model
    if endpoint == "embeddings":
        return _embeddings(body, model)
    stream = _flag(body, "stream")
    if isinstance(stream, Refusal):
        return stream
    limit = _limit(body, "max_tokens", MAX_OUTPUT_TOK)
    if isinstance(limit, Refusal):
        return limit
    if "max_completion_tokens" in body:
        other = _limit(body, "max_completion_tokens", MAX_OUTPUT_TOK)
        if isinstance(other, Refusal):
            return other
        limit = other if limit is None else limit if other is None else min(limit, other)
    n = _limit(body, "n", MAX_CHOICES) if "n" in body else 1
    if isinstance(n, Refusal):
        return n
    prompts: int | Refusal = _prompts(body) if endpoint == "completions" else 1
    if isinstance(prompts, Refusal):
        return prompts
    if endpoint == "chat" and not _starts(body.get("messages"), b"["):
        return _bad_value("messages", "an array of messages", body.get("messages"))
    show_usage = _show_usage(body) if stream and "stream_options" in body else False
    if isinstance(show_usage, Refusal):
        return show_usage
    needs = _needs(endpoint, body, (n or 1) * prompts)
    if isinstance(needs, Refusal):
        return needs
    return Draft(
        endpoint=endpoint,
        body=body,
        model=model,
        stream=stream,
        show_usage=show_usage,
        max_output_tok=limit,
        n=n or 1,
        prompts=prompts,
        needs=needs,
    )


def _embeddings(body: Body, model: str) -> Draft | Refusal:
    if _is_null(body.get("input")):
        return _bad_value("input", "text, or an array of texts", body.get("input"))
    stream = _flag(body, "stream")
    if isinstance(stream, Refusal):
        return stream
    if stream:
        return Refusal(
            code="bad_value", message="embeddings are not streamed; leave 'stream' out", param="stream"
        )
    return Draft(endpoint="embeddings", body=body, model=model)


def _model(raw: Raw | None) -> str | Refusal:
    if raw is None:
        return Refusal(
            code="bad_value", message="field 'model' is missing; GET /v1/models lists names", param="model"
        )
    try:
        model = _str_decoder.decode(raw)
    except msgspec.MsgspecError:
        return _bad_value("model", "a string", raw)
    if not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        return _bad_value("model", f"1 to {MAX_MODEL_CHARS} printable characters", raw)
    return model


def _flag(body: Body, name: str) -> bool | Refusal:
    raw = body.get(name)
    if raw is None:
        return False
    text = bytes(raw)
    if text == b"true":
        return True
    if text in (b"false", b"null"):
        return False
    return _bad_value(name, "true or false", raw)


def _limit(body: Body, name: str, most: int) -> int | Refusal | None:
    raw = body.get(name)
    if _is_null(raw):
        return None
    assert raw is not None
    try:
        value = _int_decoder.decode(raw)
    except msgspec.MsgspecError:
        return _bad_value(name, f"a whole number from 1 to {most}", raw)
    if not 1 <= value <= most or not bytes(raw).isdigit():
        return _bad_value(name, f"a whole number from 1 to {most}", raw)
    return value


def _prompts(body: Body) -> int | Refusal:
    """Return how many prompts a completion asks for: each one yields choices of its own."""
    raw = body.get("prompt")
    if _is_null(raw):
        return _bad_value("prompt", "text, tokens, or an array of these", raw)
    assert raw is not None
    if not _starts(raw, b"["):
        return 1
    items = msgspec.json.decode(raw, type=list[Raw])
    if not items:
        return _bad_value("prompt", "not an empty array", raw)
    if bytes(items[0])[:1] in (b'"', b"["):
        if len(items) > MAX_CHOICES:
            return _bad_value("prompt", f"at most {MAX_CHOICES} prompts", raw)
        return len(items)
    return 1  # one prompt, given as tokens


def _show_usage(body: Body) -> bool | Refusal:
    raw = body["stream_options"]
    if bytes(raw) == b"null":
        return False
    try:
        options = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return _bad_value("stream_options", 'an object such as {"include_usage": true}', raw)
    asked = options.get("include_usage", False)
    if asked is None or isinstance(asked, bool):
        return bool(asked)
    return _bad_value("stream_options", "an object whose 'include_usage' is true or false", raw)


def _needs(endpoint: Endpoint, body: Body, choices: int) -> frozenset[str] | Refusal:
    found: list[str] = []
    if choices > 1:
        found.append("n")
    if endpoint == "chat":
        found.extend(_media(body["messages"]))
    if _TELLING.isdisjoint(body):
        return frozenset(found) if found else _NO_NEEDS
    if _given(body, "tools") or _given(body, "functions"):
        found.append("tools")
    if _given(body, "response_format"):
        try:
            kind = msgspec.json.decode(body["response_format"], type=dict[str, Any]).get("type")
        except msgspec.MsgspecError:
            return _bad_value(
                "response_format", 'an object such as {"type": "text"}', body["response_format"]
            )
        if kind != "text":
            found.append("json_schema")
    if _given(body, "logprobs") or _given(body, "top_logprobs"):
        found.append("logprobs")
    if _given(body, "audio"):
        found.append("audio")
    elif _given(body, "modalities"):
        try:
            modalities = msgspec.json.decode(body["modalities"], type=list[str])
        except msgspec.MsgspecError:
            return _bad_value("modalities", 'an array such as ["text"]', body["modalities"])
        if "audio" in modalities:
            found.append("audio")
    return frozenset(found) if found else _NO_NEEDS


def _media(messages: Raw) -> list[str]:
    """Return "vision" and "audio" where a message has such a part; the texts themselves are not built."""
    if bytes(messages).find(b"[", 1) < 0:
        return []  # no list but the outer one, so no parts: the usual case, found by looking for a byte
    kinds: set[str] = set()
    try:
        for message in _messages_decoder.decode(messages):
            if not _starts(message.content, b"["):
                continue
            for part in _parts_decoder.decode(message.content):
                kinds.update(part)
                if "type" in part:
                    kinds.add(str(msgspec.json.decode(part["type"])))
    except msgspec.MsgspecError:
        return []  # no list of parts that any engine could read
    found = []
    if any("image" in kind for kind in kinds):
        found.append("vision")
    if any("audio" in kind for kind in kinds):
        found.append("audio")
    return found


def _is_null(raw: Raw | None) -> bool:
    return raw is None or bytes(raw) == b"null"


def _given(body: Body, name: str) -> bool:
    raw = body.get(name)
    return raw is not None and bytes(raw) not in _EMPTY


def _starts(raw: Raw | None, text: bytes) -> bool:
    return raw is not None and memoryview(raw)[:1] == text


def _is_whole(body: Body, data: bytes) -> bool:
    """True if `data` is exactly the members of `body` in order, with white space between them: nothing was
    dropped. False if that cannot be shown cheaply (an escaped or repeated key)."""
    at = _skip(data, 0) + 1
    for key, raw in body.items():
        name = f'"{key}"'.encode()
        at = _skip(data, at)
        if not data.startswith(name, at):
            return False
        at = _skip(data, at + len(name))
        at = _skip(data, at + 1)  # past the colon
        value = bytes(raw)
        if not data.startswith(value, at):
            return False
        at = _skip(data, at + len(value)) + 1  # past the comma or the closing brace
    return not data[at:].strip(_SPACE) if body else True


def _skip(data: bytes, at: int) -> int:
    while data[at : at + 1] in (b" ", b"\n", b"\r", b"\t"):
        at += 1
    return at


def _first_duplicate(data: bytes) -> str | None:
    def top(pairs: list[tuple[str, Any]]) -> list[str]:
        return [
            name for name, _ in pairs
        ]  # inner objects are replaced by their keys; only the last call stays

    seen: set[str] = set()
    try:
        names = json.loads(data, object_pairs_hook=top)
    except (ValueError, RecursionError):  # an integer beyond what json reads: msgspec has accepted the syntax
        names = json.loads(data, object_pairs_hook=top, parse_int=len)
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def _why_not_json(data: bytes, error: msgspec.MsgspecError) -> Refusal:
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        return _bad_json(f"the body must be one JSON object; {text[:1].lower()}{text[1:]}")
    if not data.strip(_SPACE):
        return _bad_json("the body is empty; send one JSON object")
    if "truncated" in text or "surrogate" in text:
        for surrogate in _SURROGATES.finditer(data):
            if surrogate.group(1):
                shown = surrogate.group(1).decode("ascii", "replace")
                return _bad_json(f"a lone surrogate {shown} at byte {surrogate.start()} is no text")
    if "truncated" in text:
        return _bad_json(f"the body ends too early, at byte {len(data)}")
    return _bad_json(text.replace("JSON is malformed: ", "the body is not JSON: "))


def _bad_json(message: str) -> Refusal:
    return Refusal(code="bad_json", message=message)


def _bad_value(name: str, rule: str, raw: Raw | None) -> Refusal:
    if raw is None:
        return Refusal(code="bad_value", message=f"field {name!r} is missing; it must be {rule}", param=name)
    value = bytes(raw)
    shown = value[:64].decode(errors="replace") + ("…" if len(value) > 64 else "")
    return Refusal(code="bad_value", message=f"field {name!r} must be {rule}, got {shown}", param=name)
