"""Simulated time: a clock that stands still until it is set, and what was asked to happen later.

`Timers` has the two calls of an event loop that the gateway's gates use, so that the live gates run on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from wattmill.units import PS_PER_S, PS_PER_US, US_PER_S

NEVER_PS = 1 << 62


class Clock:
    """Implements `ports.Clock`. Both hands show the same simulation; the wall begins at `start_us`."""

    __slots__ = ("now_ps", "start_us")

    def __init__(self, start_us: int) -> None:
        self.start_us = start_us  # since 1970 UTC
        self.now_ps = 0  # since the simulation began

    def now(self) -> float:
        return self.now_ps / PS_PER_S

    def wall_us(self) -> int:
        return self.start_us + self.now_ps // PS_PER_US

    def at_us(self, ps: int) -> int:
        """Return the instant on the wall of an instant of the simulation."""
        return self.start_us + ps // PS_PER_US


class Timer:
    """One call that was asked for; `cancel` makes it none."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        self.call = None


class Timers:
    """Calls in the order of their time; of one instant in the order in which they were asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._soon: deque[Timer] = deque()
        self._later: list[tuple[int, int, Timer]] = []
        self._number = 0

    def call_soon(self, call: Callable[..., object], *args: object) -> Timer:
        timer = Timer(call, args)
        self._soon.append(timer)
        return timer

    def call_later(self, delay_s: float, call: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self._clock.now_ps + max(0, round(delay_s * US_PER_S) * PS_PER_US), call, *args)

    def call_at(self, at_ps: int, call: Callable[..., object], *args: object) -> Timer:
        timer = Timer(call, args)
        self._number += 1
        heappush(self._later, (at_ps, self._number, timer))
        return timer

    @property
    def soon(self) -> bool:
        """Whether a call is due at this very instant."""
        return bool(self._soon)

    @property
    def next_ps(self) -> int:
        """When the next call is due; `NEVER_PS` if none was asked for."""
        if self._soon:
            return self._clock.now_ps
        later = self._later
        while later and later[0][2].call is None:
            heappop(later)
        return later[0][0] if later else NEVER_PS

    def run_due(self) -> None:
        """Make all calls that are due now, and those that they ask to be made soon."""
        later, soon, now_ps = self._later, self._soon, self._clock.now_ps
        while True:
            while soon:
                timer = soon.popleft()
                if timer.call is not None:
                    timer.call(*timer.args)
            if not later or later[0][0] > now_ps:
                return
            timer = heappop(later)[2]
            if timer.call is not None:
                timer.call(*timer.args)
