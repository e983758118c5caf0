"""Work that may begin while power is short: a bucket that fills at the ordered pace, live and in the twin.

It begins empty, saves little, and may go below zero: a large request is paid off before the next may begin.
"""

from __future__ import annotations

SAVED_S = 2.0
"""Of its pace that an unused bucket keeps."""


class Bucket:
    """`pace` is work per second; None: nothing is held back."""

    __slots__ = ("level", "pace")

    def __init__(self) -> None:
        self.level = 0.0
        self.pace: float | None = None

    def order(self, pace: float | None) -> None:
        """Go by another pace from now on. What has passed since the last `fill` is to be filled in before."""
        if pace is None or self.pace is None:
            self.level = 0.0
        self.pace = pace

    def fill(self, seconds: float) -> None:
        if self.pace is not None:
            self.level = min(self.level + self.pace * seconds, self.pace * SAVED_S)

    def take(self, work: float) -> None:
        if self.pace is not None:
            self.level -= work
