"""The live clock."""

from __future__ import annotations

import time


class LiveClock:
    """Durations from the monotonic clock, instants from the wall: a jump of the wall moves no duration."""

    __slots__ = ()

    now = staticmethod(time.monotonic)  # the function itself: it is asked several times a request

    def wall_us(self) -> int:
        return time.time_ns() // 1_000
