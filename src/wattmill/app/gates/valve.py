"""Holds lower tiers back while power is short: work begins at the pace that the orders leave, no faster.

One per worker. A bucket of work (expected tokens) fills at the ordered pace, divided by the number of
workers; while it is empty there is no room for tiers below the protected rank. Without orders it costs one
comparison.
"""

from __future__ import annotations

import os
from pathlib import Path

from wattmill.app.flexing.in_force import InForce, path, read
from wattmill.app.home import Home
from wattmill.ports import Clock
from wattmill.power.signal.bucket import Bucket
from wattmill.units import US_PER_S


class Valve:
    """`open` is asked often and reads no file; `tick` looks for new orders a few times a second."""

    __slots__ = (
        "_at_s",
        "_bucket",
        "_clock",
        "_home",
        "_mark",
        "_path",
        "held_work",
        "lower_work",
        "refused",
        "refused_work",
        "told",
        "work",
    )

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._path: Path = path(home)
        self._clock = clock
        self._mark: tuple[int, int] | None = None
        self._bucket = Bucket()
        self._at_s = 0.0
        self.told: InForce | None = None
        self.work = 0.0  # let in so far, of all tiers
        self.lower_work = 0.0  # and of those that may be held back
        self.held_work = 0.0  # of lower tiers that waited while power was short
        self.refused: dict[str, int] = {}  # requests turned away while their tier was held back
        self.refused_work: dict[str, float] = {}

    @property
    def holds(self) -> bool:
        """Whether anybody is held back at all."""
        return self._bucket.pace is not None

    @property
    def batches(self) -> bool:
        return self.told is None or self.told.orders.batches

    def tick(self) -> None:
        """Take over new orders, and let go of those whose time is over."""
        try:
            status = os.stat(self._path)
        except OSError:
            self._use(None)
            self._mark = None
            return
        mark = status.st_mtime_ns, status.st_ino
        if mark != self._mark:
            self._mark = mark
            self._use(read(self._home))
        told = self.told
        if told is not None and told.until_s is not None and self._clock.wall_us() / US_PER_S > told.until_s:
            self._use(None)

    def _use(self, told: InForce | None) -> None:
        self.told = told
        pace = None if told is None else told.orders.lower_work_per_s
        self._fill()
        self._bucket.order(None if told is None or pace is None else pace / max(1, told.workers))

    def lower(self, rank: int) -> bool:
        """Return whether a tier of this rank may be held back."""
        told = self.told
        return told is None or told.protected_rank is None or rank < told.protected_rank

    def open(self, rank: int) -> bool:
        """Return whether a request of a tier of this rank may begin now, as far as power goes."""
        if not self.holds or not self.lower(rank):
            return True
        self._fill()
        return self._bucket.level > 0.0

    def _fill(self) -> None:
        now_s = self._clock.now()
        self._bucket.fill(now_s - self._at_s)
        self._at_s = now_s

    def took(self, rank: int, work: float) -> None:
        """Account for a request that was let in: a large one is paid off before the next may begin."""
        self.work += work
        if self.lower(rank):
            self.lower_work += work
            self._bucket.take(work)

    def turned_away(self, tier: str, work: float) -> None:
        self.refused[tier] = self.refused.get(tier, 0) + 1
        self.refused_work[tier] = self.refused_work.get(tier, 0.0) + work

    def left_s(self) -> float | None:
        """Return how long the event lasts yet, None if nobody is held back or it has no end."""
        told = self.told
        if not self.holds or told is None or told.until_s is None:
            return None
        return max(0.0, told.until_s - self._clock.wall_us() / US_PER_S)

    def status(self) -> dict[str, object]:
        return {
            "work": self.work,
            "lower_work": self.lower_work,
            "held_work": self.held_work,
            "refused": dict(self.refused),
            "refused_work": dict(self.refused_work),
            "holds": self.holds,
        }
