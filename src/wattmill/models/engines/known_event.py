"""An event whose like came before: engines repeat themselves, but for the text.

One event with content is read as JSON. A later one with the same bytes before and after its text says the
same of everything else: choice, no end, no usage, what is ours to hide. What is left to see is that the bytes
in between are the inside of one JSON string, and not an empty one.

Why that cannot be fooled: with a mark in that place the bytes were seen to say the same, with the mark for
their text (`learn`). So what stands before leads a parser into that string, and a whole string leads it on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

_MARK = "here stands the text 7c0e4a91d3f5"
_MARKED = _MARK.encode()
_quoted = msgspec.json.Encoder().encode
_inside = re.compile(rb'[ !#-\[\]-\xff]*+(?:\\["\\/bfnrt][ !#-\[\]-\xff]*+)*+').fullmatch
"""The inside of a JSON string that escapes no character by its number; UTF-8 is looked at elsewhere."""


class KnownEvent:
    """The bytes around the text of an engine's events, with the blank line at their end."""

    __slots__ = ("_after", "_before", "_shown")

    def __init__(self, before: bytes, after: bytes, shown: tuple[bytes, bytes] | None) -> None:
        """`shown`: what the client sees around the text, None if that is the same."""
        self._before = before
        self._after = after
        self._shown = shown

    def read(self, data: bytes) -> bytes | None:
        """Return what to send on if `data` is one whole event like the known one with a text that is not
        empty, else None."""
        before, after = self._before, self._after
        if not (data.startswith(before) and data.endswith(after)):
            return None
        at, end = len(before), len(data) - len(after)
        if at >= end or _inside(data, at, end) is None:
            return None
        if not data.isascii():
            try:
                data[at:end].decode()
            except UnicodeDecodeError:
                return None
        shown = self._shown
        return data if shown is None else b"%b%b%b" % (shown[0], data[at:end], shown[1])


def learn(event: bytes, text: str, same: Callable[[bytes, str], bytes | None]) -> KnownEvent | None:
    """Return what to know of `event`, a line `data: {...}` that says `text`; None if the text cannot be told
    from the rest.

    Args:
        same: given an event and its text, returns what is sent on of it if it says what `event` says, but
            for the text; else None.
    """
    quoted = _quoted(text)
    if not text or b"\r" in event or event.count(quoted) != 1:
        return None
    at = event.index(quoted)
    before, after = event[: at + 1], event[at + len(quoted) - 1 :]
    sent = same(before + _MARKED + after, _MARK)
    parts = () if sent is None else sent.split(_MARKED)
    if len(parts) != 2:
        return None
    after += b"\n\n"
    shown = parts[0], parts[1]
    return KnownEvent(before, after, None if shown == (before, after) else shown)
