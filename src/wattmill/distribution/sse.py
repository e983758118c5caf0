"""Server-sent events out of bytes that arrive as they please."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLongError(ValueError):
    """An engine sent more than `MAX_EVENT_BYTES` without an end of an event."""


class Splitter:
    """Gives whole events, without their blank line; keeps what is not complete. Line ends may be CRLF."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        rest = self._rest
        if rest:
            data = rest + data
        if b"\r" in data:
            tail = b"\r" if data.endswith(b"\r") else b""  # its LF may come with the next read
            data = data[: len(data) - len(tail)].replace(b"\r\n", b"\n")
        else:
            tail = b""
        events = data.split(b"\n\n")
        rest = self._rest = events.pop() + tail
        if len(rest) > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    @property
    def between(self) -> bool:
        """Whether the bytes so far end with an event."""
        return not self._rest

    @property
    def rest(self) -> bytes:
        """Bytes of an event that was not completed."""
        return self._rest.strip()
