"""What leaves in one turn of the event loop leaves together, at its end.

A write to a socket runs some ten thousand instructions of the kernel. Between two pieces of Python they are
cold each time and cost two to three times as much as back to back, so with many requests in a turn it pays to
put the writes off by some microseconds. A turn with one write gains nothing and pays for the call that ends
it: after some of those, writes leave at once for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

WHOLE_BYTES = 16_384
"""What is longer leaves at once: it is not cold for long, and memory stays bounded."""

_LONELY = 8  # turns with one write each, until writes leave at once ...
_AT_ONCE = 256  # ... so many of them, before it is tried again


class Sender(Protocol):
    def flush(self) -> None:
        """Write what was put off, if it still can be."""


class Outbox:
    """One per event loop and side: who has something to write at the end of this turn."""

    __slots__ = ("_call_soon", "_lonely", "_waiting", "at_once")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon`: the event loop's."""
        self._call_soon = call_soon
        self._waiting: list[Sender] = []
        self._lonely = 0
        self.at_once = 0  # so many writes leave at once; whoever does that counts it down

    def put_off(self, sender: Sender) -> None:
        """Call `sender.flush` at the end of this turn."""
        if not self._waiting:
            self._call_soon(self.flush)
        self._waiting.append(sender)

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if len(waiting) > 1:
            self._lonely = 0
        elif self._lonely < _LONELY:
            self._lonely += 1
        else:
            self._lonely = 0
            self.at_once = _AT_ONCE
        at = 0
        try:
            for sender in waiting:
                at += 1
                sender.flush()
        finally:
            if at < len(waiting):  # one has failed: the others would wait for ever
                if not self._waiting:
                    self._call_soon(self.flush)
                self._waiting[:0] = waiting[at:]
