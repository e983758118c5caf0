"""What one worker holds: of each gauge an allotment, for each limit a dial, for each path its way.

`granted = used + reserved + idle` for every allotment. Nothing here waits, asks or looks at a clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.ledger.period import window_at, window_of
from wattmill.ledger.stores.control_records import Denied
from wattmill.vocab.budget import ALL_TOK, UNITS, Limit, Spend, Unit, gauge_of

_FINE = 6  # bits: a demand of 1 takes some seconds to fade
CONCURRENCY = UNITS.index("concurrency")


class Refused:
    """A denial, remembered for a moment so that a crowd at an empty limit is one call, not a thousand."""

    __slots__ = ("denied", "floor", "free", "until")

    def __init__(self, denied: Denied, floor: int, free: int, until: float) -> None:
        self.denied = denied
        self.floor = floor  # a request with a lower floor may still fit
        self.free = free  # once more is free here (something was settled), the denial is out of date
        self.until = until


class Allotment:
    """One gauge in this worker, in the gauge's unit."""

    __slots__ = (
        "_peak",
        "debt",
        "demand",
        "free",
        "gauge",
        "granted",
        "over",
        "quiet",
        "refused",
        "taken",
        "ticket",
        "told",
        "used",
    )

    def __init__(self, gauge: int, granted: int = 0, used: int = 0) -> None:
        self.gauge = gauge
        self.granted = granted  # total over the epoch, less what was given back
        self.used = used  # settled, total over the epoch
        self.free = 0  # what may be reserved at once; below 0 while it owes more than is idle
        self.debt = 0  # of what is out, to be given back before anything is reserved: the limit came down
        self.taken = 0  # reserved since the last tick
        self.demand = 0  # recent reservations per tick
        self._peak = 0  # the same, finer
        self.told: tuple[int, int, int] = (used, granted, 0)  # used, granted, free as last reported
        self.refused: Refused | None = None
        self.ticket = 0  # of the denial that is being waited on
        self.over = False  # its period has ended: it only settles what was reserved in it
        self.quiet = 0  # ticks without anything to do

    def fade(self) -> None:
        """Begin a new tick. A peak fades slowly: one request now and then should not lease anew each time."""
        self._peak = max(self.taken << _FINE, self._peak * 7 // 8)
        self.demand = -(-self._peak >> _FINE)
        self.taken = 0

    @property
    def idle(self) -> int:
        """What nobody has reserved, whether it is owed or not."""
        return self.free + self.debt

    @property
    def reserved(self) -> int:
        return self.granted - self.used - self.idle

    def owe(self, amount: int) -> None:
        """Lend nothing until requests in flight have brought back so much: it is above a limit that came
        down. At most what they hold can come back."""
        idle = self.idle
        self.debt = max(0, min(amount, self.reserved))
        self.free = idle - self.debt


class Dial:
    """One limit: which of its gauges counts now, and until when."""

    __slots__ = ("allotment", "limit", "turns_us", "unit")

    def __init__(self, limit: Limit, now_us: int) -> None:
        self.limit = limit
        self.unit = UNITS.index(limit.unit)
        window = window_at(limit.period, limit.zone, now_us)
        self.turns_us = window.end_us
        self.allotment = Allotment(gauge_of(limit.id, limit.unit, window.index))

    def turn(self, now_us: int, index: int | None = None) -> Allotment | None:
        """Go on to the period of `now_us`, or to a later one by its number. Never back. Returns the new
        allotment, or None if nothing turned."""
        limit = self.limit
        if index is None:
            if now_us < self.turns_us:
                return None
            index = window_at(limit.period, limit.zone, now_us).index
        gauge = gauge_of(limit.id, limit.unit, index)
        if gauge <= self.allotment.gauge:
            return None
        old, new = self.allotment, Allotment(gauge)
        old.fade()
        new.demand, new._peak = old.demand, old._peak
        old.over = True
        self.turns_us = window_of(limit.period, limit.zone, index).end_us
        self.allotment = new
        return new


class Way:
    """A path of nodes, compiled: their dollars, and the dials of all limits on it."""

    __slots__ = ("dials", "money", "turns_us")

    def __init__(self, money: tuple[Allotment, ...], dials: tuple[Dial, ...]) -> None:
        self.money = money
        self.dials = dials
        self.turns_us = min((dial.turns_us for dial in dials), default=0)


Part = tuple[Allotment, int, int]
"""An allotment of a dial, its unit, and what was taken from it."""


class Reservation:
    """A `Grant`: amounts set aside at every node of a path until they are settled."""

    __slots__ = ("money", "nusd", "open", "parts")

    def __init__(self, nusd: int, money: tuple[Allotment, ...], parts: Sequence[Part] = ()) -> None:
        self.nusd = nusd
        self.money = money
        self.parts = parts
        self.open = True

    def part(self, unit: Unit) -> int | None:
        """Return what was granted in a unit where some limit counts it; None: no limit does."""
        index = UNITS.index(unit)
        return min((amount for _, at, amount in self.parts if at == index), default=None)

    @property
    def held(self) -> tuple[int, ...]:
        """Gauges of limits with what is reserved of each, flat, as the journal keeps them. What is only in
        flight is not among them: it ends with its process."""
        if not self.parts:
            return ()
        return tuple(
            word
            for allotment, unit, amount in self.parts
            if unit != CONCURRENCY
            for word in (allotment.gauge, amount)
        )

    def took(self, spend: Spend) -> tuple[int, ...]:
        """Gauges of limits with what `spend` uses of each, in the same form. Where that is more than was
        reserved, only the reservation counts under the limit; the books name the rest."""
        if not self.parts:
            return ()
        return tuple(
            word
            for allotment, unit, amount in self.parts
            if unit != CONCURRENCY
            for word in (allotment.gauge, _used(unit, amount, spend))
        )


def taken(unit: int, amount: int, spend: Spend) -> int:
    """Return what `spend` uses of a reserved `amount`: never more than that, and all of it if unknown."""
    return min(amount, _used(unit, amount, spend))


def _used(unit: int, amount: int, spend: Spend) -> int:
    if unit == CONCURRENCY:
        return 0
    used = spend.of(unit)
    return amount if used is None or used >= ALL_TOK else used
