"""A tap that remembers an answer as its client sees it, up to a limit."""

from __future__ import annotations


class Recorder:
    """Implements `distribution.gate.Tap`. `answer` is complete, or None."""

    __slots__ = ("_bytes", "_most", "_parts", "complete", "too_large")

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._bytes = 0
        self.complete = False
        self.too_large = False

    def again(self) -> None:
        self._parts.clear()
        self._bytes = 0
        self.too_large = False

    def event(self, event: bytes) -> bytes:
        self._add(event)
        return event

    def whole(self, body: bytes) -> bytes:
        self._add(body)
        self.complete = True
        return body

    def ended(self, complete: bool) -> bytes:
        self.complete = complete
        return b""

    def _add(self, part: bytes) -> None:
        if self.too_large:
            return
        self._bytes += len(part)
        if self._bytes > self._most:
            self.too_large = True
            self._parts.clear()
        else:
            self._parts.append(part)

    @property
    def answer(self) -> bytes | None:
        return b"".join(self._parts) if self.complete and not self.too_large else None


_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


def told_again(request_id: str, more: bytes, *, stream: bool) -> bytes:
    """Return the head of an answer that was recorded; `more`: further lines."""
    return b"%bx-request-id: %b\r\n%b" % (_STREAM if stream else _JSON, request_id.encode(), more)


def size_limit(item_mib: int) -> int:
    """Return how long an answer may be that is remembered: a kept item, with room for what is told of it."""
    return (item_mib << 20) - 4_096
