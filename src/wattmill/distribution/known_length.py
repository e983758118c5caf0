"""A head that repeats itself but for its length: the bytes around the digits of its content-length.

A parser has read and judged such a head once. A later message on the same connection whose head has the same
bytes, but for those digits, and whose body lies complete in the same read, says the same thing.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"


class AroundLength:
    """The bytes before and after the digits of the length."""

    __slots__ = ("after", "before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before = before
        self.after = after

    def body_at(self, data: bytes) -> int:
        """Return where the body begins if `data` is one whole message with this head; else 0."""
        if not data.startswith(self.before):
            return 0
        start = len(self.before)
        end = data.find(b"\r", start, start + 13)
        if end < 0 or not data.startswith(self.after, end):
            return 0
        digits = data[start:end]
        at = end + len(self.after)
        return at if digits.isdigit() and len(data) - at == int(digits) else 0


def around_length(data: bytes) -> tuple[bytes, bytes, int] | None:
    """Return the bytes around the length of a message, and where its body begins; None if `data` is not one
    whole message with a length."""
    at = data.find(_END) + len(_END)
    head = data[:at]
    found = _LENGTH.search(head)
    if found is None or len(data) - at != int(found[1]):
        return None
    return head[: found.start(1)], head[found.end(1) :], at
