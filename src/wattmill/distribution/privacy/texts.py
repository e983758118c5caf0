"""The strings of a JSON body: what a model reads is in them, whatever escapes the client wrote them with."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from wattmill.distribution.privacy.redact import Span
from wattmill.vocab.request import Body

_CONTROL = frozenset(("model", "stream"))
"""Fields that the gateway reads and rewrites itself."""

_HOLDS_TEXT = (b'"', b"[", b"{")
_ESCAPED = re.compile(r"\\u00[2-7][0-9a-fA-F]|\\/")
_PLAIN = re.compile(r"[A-Za-z0-9@._%+/ :=\-]")

MEDIA = ("image", "audio", "file", "video")

Values = dict[str, Any]
"""The decoded values of a body's fields that hold strings or long numbers, by field."""


def values_of(body: Body) -> Values:
    """Decode what may hold a text. Raises `msgspec.MsgspecError` or `RecursionError` on what is no JSON."""
    return {
        key: msgspec.json.decode(raw)
        for key, raw in body.items()
        if key not in _CONTROL and bytes(memoryview(raw)[:1]) in _HOLDS_TEXT
    }


def strings_of(values: Values) -> list[str]:
    """Return every string, key and long whole number below the top level, in the order of the body."""
    out: list[str] = []
    for value in values.values():
        _collect(value, out)
    return out


def _collect(value: Any, out: list[str]) -> None:
    kind = type(value)
    if kind is str:
        out.append(plain(value))
    elif kind is dict:
        for key, inner in value.items():
            if len(key) > 5:  # shorter than anything that a pattern finds
                out.append(plain(key))
            if type(inner) is str:
                out.append(plain(inner))
            else:
                _collect(inner, out)
    elif kind is list:
        for inner in value:
            _collect(inner, out)
    elif kind is int and (value > 9_999_999 or value < -9_999_999):
        out.append(str(value))


def changed(values: Values, change: Callable[[str], str]) -> Values:
    """Return `values` with `change` applied to each string that `strings_of` tells of, in the same order, but
    as it was written: `plain` of it is what `strings_of` tells."""
    return {key: _changed(value, change) for key, value in values.items()}


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    kind = type(value)
    if kind is str:
        return change(value)
    if kind is dict:
        out = {}
        for key, inner in value.items():
            name = change(key) if len(key) > 5 else key
            out[name] = _changed(inner, change)
        return out
    if kind is list:
        return [_changed(inner, change) for inner in value]
    if kind is int and (value > 9_999_999 or value < -9_999_999):
        text = str(value)
        new = change(text)
        return value if new == text else new
    return value


def as_written(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return where `spans` (in bytes of `plain(text)`) stand in `text` itself, escapes and all."""
    harmless = [m for m in _ESCAPED.finditer(text) if _unescaped(m) != m[0]]
    if not harmless:
        return list(spans)
    data = plain(text).encode()
    places: list[int] = []  # of escapes, in characters of the plain text
    more = [0]  # characters that the text is longer, up to behind each of them
    for match in harmless:
        places.append(match.start() - more[-1])
        more.append(more[-1] + len(match[0]) - 1)

    written: dict[int, int] = {}  # byte of the plain text -> byte of `text` that stands for it
    byte = char = raw_byte = raw_char = 0
    for at in sorted({edge for start, end, _ in spans for edge in (start, end)}):
        char += len(data[byte:at].decode())
        byte = at
        to = char + more[bisect_left(places, char)]
        raw_byte += len(text[raw_char:to].encode())
        raw_char = to
        written[at] = raw_byte
    return [(written[start], written[end], name) for start, end, name in spans]


def plain(text: str) -> str:
    r"""Return `text` with the JSON escapes of harmless characters undone.

    A string may itself hold JSON (the arguments of a tool call): there `\u0040` still stands for an @ sign
    and `\/` for a slash. Quotes and backslashes stay escaped, so JSON inside stays JSON.
    """
    if "\\u00" not in text and "\\/" not in text:
        return text
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    found = match[0]
    char = "/" if found == "\\/" else chr(int(found[2:], 16))
    return char if _PLAIN.match(char) else found


def unreadable(values: Values) -> str | None:
    """Return what in these values no pattern can read (token numbers, pictures, sound), or None."""
    for key in ("prompt", "input"):
        value = values.get(key)
        if type(value) is list and any(
            type(item) is int or (type(item) is list and any(type(n) is int for n in item)) for item in value
        ):
            return f"{key!r} is given as token numbers"
    messages = values.get("messages")
    for message in messages if type(messages) is list else ():
        content = message.get("content") if type(message) is dict else None
        for part in content if type(content) is list else ():
            kind = part.get("type") if type(part) is dict else None
            if isinstance(kind, str) and any(word in kind for word in MEDIA):
                return f"'messages' has a part of type {kind[:32]!r}"
    return None
