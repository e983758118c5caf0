"""What a worker's purse holds, and its upkeep: told, given back, leased ahead, turned and forgotten.

`budgets.Allotments` reserves from it. One call to the database at a time: totals are told, and would race.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from wattmill.ledger.allotment import Allotment, Dial, Reservation, Way
from wattmill.ledger.stores.control_leases import UNCAPPED_CHUNK
from wattmill.ledger.stores.control_records import (
    Ask,
    CapsUnavailable,
    Denied,
    EpochClosed,
    Holding,
    Opening,
    Turned,
)
from wattmill.units import US_PER_S
from wattmill.vocab.budget import Limit
from wattmill.vocab.refusal import Refusal

KEEP_TICKS = 8
"""An allotment is sized for the spending of so many ticks; more of it than that goes back."""
TERM_S = 30.0
"""How long a worker reserves without having said that it lives."""
QUIET_TICKS = 240
"""An allotment with nothing in it is forgotten after so many."""

DOWN = (sqlite3.Error, CapsUnavailable)


_elapsed_s = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds that also pass while the process or the machine sleeps."""


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Lessor(Protocol):
    """The part of `stores.control.Control` that a purse needs; its calls block."""

    def opening(self, epoch: str, nodes: Sequence[int]) -> Opening: ...

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned: ...

    def report(self, epoch: str, holdings: dict[int, Holding]) -> None: ...

    def recalls(self, epoch: str) -> dict[int, int]: ...

    def excess(self, gauges: Sequence[int]) -> dict[int, int]: ...

    def renew(self, epoch: str, term_us: int, place: str) -> None: ...


class Holdings:
    """Allotments by gauge, dials by limit, ways by path, and the term within which they may be used.

    Args:
        control: where limits and leases are kept.
        epoch: of this worker; its grants are recovered under this name.
        run_in_thread: awaits a blocking call, like `asyncio.to_thread`.
        now: seconds that pass also while this process is stopped.
        wall_us: the clock of calendars.
        patience_s: how long a request waits while other workers have not yet told what they hold. They look
            at their ticks, so this should span several.
        retry_s: between two looks of a waiting request.
        term_s: how long this worker reserves without having said that it lives.
        place: the name of this machine, for people.
    """

    def __init__(
        self,
        control: Lessor,
        epoch: str,
        *,
        run_in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        now: Callable[[], float] = _elapsed_s,
        wall_us: Callable[[], int] = _wall_us,
        patience_s: float = 3.0,
        retry_s: float = 0.05,
        term_s: float = TERM_S,
        place: str = "",
    ) -> None:
        self._control = control
        self._epoch = epoch
        self._run = run_in_thread
        self._now = now
        self._wall_us = wall_us
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._term_s = term_s
        self._place = place
        self._allotments: dict[int, Allotment] = {}
        self._limits: dict[int, tuple[Limit, ...]] = {}  # of the nodes that are open
        self._dials: dict[int, Dial] = {}  # by limit
        self._ways: dict[tuple[int, ...], Way] = {}
        self._good_until = float("-inf")  # nothing is reserved later than this
        self._renewed = float("-inf")
        self._turn = asyncio.Lock()  # one call to the database at a time; totals would race
        self._tasks: set[asyncio.Task[Reservation | Refusal]] = set()

    def _turn_dials(self, way: Way, now_us: int) -> None:
        for dial in way.dials:
            new = dial.turn(now_us)
            if new is not None:
                self._allotments[new.gauge] = new
        way.turns_us = min(dial.turns_us for dial in way.dials)

    async def tick(self) -> None:
        """Say that this worker lives, tell what was used, give back what is not needed or was recalled, and
        lease ahead of the demand.

        The worker calls this about every 0.25 s. Raises `EpochClosed` if this worker was declared dead: it
        must stop. Other failures of the database are made good at the next tick, because totals are told.
        """
        async with self._turn:
            try:
                if self._now() >= self._renewed + self._term_s / 4:
                    await self._renew()
                recalled = await self._run(self._control.recalls, self._epoch)
                excess = await self._run(self._control.excess, tuple(recalled)) if recalled else {}
                tells = self._settle_up(recalled, excess)
                if tells:
                    await self._run(self._control.report, self._epoch, tells)
                    for gauge, told in tells.items():
                        self._allotments[gauge].told = (told.used, told.keep, told.idle)
                await self._lease_ahead(recalled)
                self._forget()
            except EpochClosed:
                self._good_until = float("-inf")
                raise
            except DOWN:
                return

    async def refresh(self) -> None:
        """Read the limits of all open nodes anew. The worker calls this when the declaration changed."""
        async with self._turn:
            try:
                opening = await self._run(self._control.opening, self._epoch, tuple(self._limits))
            except DOWN:
                return
            if any(opening.limits.get(node, ()) != limits for node, limits in self._limits.items()):
                for node in self._limits:
                    self._limits[node] = opening.limits.get(node, ())
                self._ways.clear()
                self._set_dials(opening)

    def used(self) -> dict[int, int]:
        """Return what was charged of each gauge since this epoch began."""
        return {gauge: allotment.used for gauge, allotment in self._allotments.items() if allotment.used}

    def charged(self, gauge: int) -> int:
        """Return what was charged of one gauge since this epoch began."""
        allotment = self._allotments.get(gauge)
        return 0 if allotment is None else allotment.used

    def reserved(self) -> dict[int, int]:
        """Return what requests in flight hold of each gauge."""
        return {gauge: allotment.reserved for gauge, allotment in self._allotments.items()}

    def nodes(self) -> list[int]:
        """Return the nodes at which this worker holds something."""
        return sorted(self._limits)

    async def _renew(self) -> None:
        began = self._now()
        await self._run(self._control.renew, self._epoch, int(self._term_s * US_PER_S), self._place)
        self._renewed = began
        self._good_until = began + self._term_s

    async def _open(self, path: tuple[int, ...]) -> Way:
        """Return the way of a path, after reading the limits of nodes that were not open."""
        if len(set(path)) != len(path) or not path:
            raise ValueError(f"path is {path}, must have at least one node and each once")
        fresh = tuple(node for node in path if node not in self._limits)
        if fresh:
            opening = await self._run(self._control.opening, self._epoch, fresh)
            for node in fresh:
                self._limits[node] = opening.limits.get(node, ())
                self._allotments[node] = Allotment(node, *opening.held.get(node, (0, 0)))
            self._set_dials(opening)
        dials = tuple(self._dials[limit.id] for node in path for limit in self._limits[node])
        way = self._ways[path] = Way(tuple(self._allotments[node] for node in path), dials)
        return way

    def _set_dials(self, opening: Opening) -> None:
        """Make the dials of limits that are new here, and drop those that are gone."""
        now_us = self._wall_us()
        declared = {limit.id: limit for limits in self._limits.values() for limit in limits}
        for id in self._dials.keys() - declared.keys():
            self._dials.pop(id).allotment.over = True
        for id, limit in declared.items():
            dial = self._dials.get(id)
            if dial is not None and dial.limit.zone == limit.zone:
                dial.limit = limit
                continue
            new = Dial(limit, now_us)
            if dial is not None:  # another time zone: never back before the period that counted until now
                if new.allotment.gauge <= dial.allotment.gauge:
                    dial.limit, dial.turns_us = limit, new.turns_us
                    continue
                dial.allotment.over = True
            self._dials[id] = new
            gauge = new.allotment.gauge
            known = self._allotments.get(gauge)
            if known is None:
                held = opening.held.get(gauge, (0, 0))
                known = self._allotments[gauge] = Allotment(gauge, *held)
            known.over = False
            new.allotment = known

    def _turned(self, answer: Turned) -> None:
        """Somebody's clock is ahead of ours, or ours was set back: its period holds for all."""
        for limit, index in answer.index.items():
            dial = self._dials.get(limit)
            new = dial.turn(0, index) if dial is not None else None
            if new is not None:
                self._allotments[new.gauge] = new

    def _credit(self, grants: dict[int, int]) -> None:
        for gauge, granted in grants.items():
            allotment = self._allotments[gauge]
            allotment.granted += granted
            allotment.free += granted
            if granted:
                allotment.owe(0)  # there was room for more, so what is out is below the limit
            allotment.refused = None
            allotment.ticket = 0

    def _settle_up(self, recalled: dict[int, int], excess: dict[int, int]) -> dict[int, Holding]:
        """Take what goes back out of the allotments, and return what to tell, where it changed.

        Where more is out than the limit that came down allows (`excess`), what requests in flight bring back
        is owed too: a worker that lent it again would spend above the limit for as long as it is busy."""
        tells: dict[int, Holding] = {}
        for gauge, a in self._allotments.items():
            a.fade()
            keep = KEEP_TICKS * a.demand
            spare, idle = 0, a.idle
            if gauge in recalled or a.over or not keep:
                spare = max(0, idle)
            elif a.granted < UNCAPPED_CHUNK and idle > 2 * keep:
                spare = idle - keep
            idle -= spare
            a.free -= spare
            a.granted -= spare
            if a.debt or gauge in excess:
                a.owe(excess.get(gauge, 0) - spare)
            if a.told != (a.used, a.granted, idle) or gauge in recalled:
                tells[gauge] = Holding(a.used, a.granted, idle, recalled.get(gauge, 0))
                a.quiet = 0
            else:
                a.quiet += 1
        return tells

    async def _lease_ahead(self, recalled: dict[int, int]) -> None:
        """Fill allotments that would run dry before the next tick, so that no request has to wait for it."""
        asks = [
            Ask(a.gauge, 0, 0, KEEP_TICKS * a.demand)
            for a in self._allotments.values()
            if a.demand and a.free < 2 * a.demand and not a.over and a.gauge not in recalled
        ]
        if asks:
            answer = await self._run(self._control.lease, self._epoch, asks)
            if isinstance(answer, Turned):
                self._turned(answer)
                return
            assert isinstance(answer, dict), "an ask with floor 0 cannot be denied"
            self._credit(answer)

    def _forget(self) -> None:
        """Drop what nothing is in any more: ended periods, and nodes that nobody has used for a while. What
        they used is in the database; it comes back from there if they are opened again."""
        empty = [a for a in self._allotments.values() if a.quiet > QUIET_TICKS and a.granted == a.used]
        present = {dial.allotment.gauge for dial in self._dials.values()}
        nodes = {a.gauge for a in empty if a.gauge in self._limits}
        for a in empty:
            if a.gauge not in present and a.gauge not in nodes:
                del self._allotments[a.gauge]
        # A node goes when all that its limits hold is as empty as its dollars.
        idle = {a.gauge for a in empty}
        gone = {
            node
            for node in nodes
            if all(self._dials[limit.id].allotment.gauge in idle for limit in self._limits[node])
        }
        if not gone:
            return
        for node in gone:
            del self._allotments[node]
            for limit in self._limits.pop(node):
                del self._allotments[self._dials.pop(limit.id).allotment.gauge]
        self._ways = {path: way for path, way in self._ways.items() if gone.isdisjoint(path)}
