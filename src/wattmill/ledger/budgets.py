"""A worker's purse: leased from the shared limits, reserved and settled in memory.

For each gauge (a node's dollars, or the present period of a limit) the worker holds an allotment. Requests
take from what is free in it without a lock or a call; only an empty allotment asks the database for more. The
sum of all workers' grants never passes a limit (`stores.control_leases`), so neither does what they spend. A
worker that could not say for a term that it lives reserves nothing: it may have been written off, and others
may hold what it held.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from wattmill.ledger.allotment import Allotment, Dial, Part, Refused, Reservation, Way, taken
from wattmill.ledger.refusing import over_limit
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
from wattmill.vocab.budget import NOTHING, UNITS, Limit, Spend
from wattmill.vocab.refusal import Refusal

KEEP_TICKS = 8
"""An allotment is sized for the spending of so many ticks; more of it than that goes back."""
CHUNK_REQUESTS = 32
"""At least so many requests of the asking one's size, before the demand of a gauge is known."""
TERM_S = 30.0
"""How long a worker reserves without having said that it lives."""
QUIET_TICKS = 240
"""An allotment with nothing in it is forgotten after so many."""

_DOWN = (sqlite3.Error, CapsUnavailable)


def _elapsed_s() -> float:
    """Seconds that also pass while the process or the machine sleeps."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Lessor(Protocol):
    """The part of `stores.control.Control` that a purse needs; its calls block."""

    def opening(self, epoch: str, nodes: Sequence[int]) -> Opening: ...

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned: ...

    def report(self, epoch: str, holdings: dict[int, Holding]) -> None: ...

    def recalls(self, epoch: str) -> frozenset[int]: ...

    def renew(self, epoch: str, term_us: int, place: str) -> None: ...


class Allotments:
    """The `ports.Purse` of one worker. Use it on one event loop; its blocking calls run in a thread.

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

    # --- the hot path ------------------------------------------------------------------------------------

    def reserve(self, path: tuple[int, ...], worst: Spend | int) -> Reservation | None:
        """Set `worst` aside at every node of `path`, or nowhere and return None."""
        way = self._ways.get(path)
        if way is None or self._now() >= self._good_until:
            return None
        nusd = worst if type(worst) is int else worst.nusd  # type: ignore[union-attr]
        money = way.money
        for allotment in money:
            if allotment.free < nusd:
                return None
        if way.dials:
            return self._reserve_all(way, Spend(nusd) if type(worst) is int else worst)  # type: ignore[arg-type]
        return _take(nusd, money)

    def settle(self, grant: Any, spend: Spend | int) -> None:
        """Charge `spend`, at most what was granted, and free the rest. A second call does nothing.

        A limit is charged in the period in which it was reserved. What an engine produced beyond its clamp
        stays within the reservation; the excess is the operator's overrun.
        """
        if type(spend) is int:
            spend = Spend(spend) if spend else NOTHING
        charge_nusd: int = spend.nusd  # type: ignore[union-attr]
        if not 0 <= charge_nusd <= grant.nusd:
            raise ValueError(
                f"charge_nusd is {charge_nusd}, must be 0 to the granted {grant.nusd}; "
                "what an engine produced beyond its clamp is the operator's overrun"
            )
        if not grant.open:
            return
        grant.open = False
        rest = grant.nusd - charge_nusd
        for allotment in grant.money:
            allotment.used += charge_nusd
            allotment.free += rest
        for allotment, unit, amount in grant.parts:
            used = taken(unit, amount, spend)  # type: ignore[arg-type]
            allotment.used += used
            allotment.free += amount - used

    def shrink(self, grant: Any, worst: Spend) -> None:
        """Keep only `worst` of a reservation, and free the rest at once. Never raises it."""
        if not grant.open:
            return
        rest = max(0, grant.nusd - worst.nusd)
        grant.nusd -= rest
        for allotment in grant.money:
            allotment.free += rest
        parts: list[Part] = []
        for allotment, unit, amount in grant.parts:
            keep = worst.of(unit)
            kept = amount if keep is None else min(keep, amount)
            allotment.free += amount - kept
            parts.append((allotment, unit, kept))
        grant.parts = parts

    def _reserve_all(self, way: Way, worst: Spend) -> Reservation | None:
        now_us = self._wall_us()
        if now_us >= way.turns_us:
            self._turn_dials(way, now_us)
        parts: list[Part] = []
        for dial in way.dials:
            allotment, amount = dial.allotment, worst.of(dial.unit)
            if amount is None or allotment.free < amount:
                return None
            parts.append((allotment, dial.unit, amount))
        return _take(worst.nusd, way.money, parts)

    def _turn_dials(self, way: Way, now_us: int) -> None:
        for dial in way.dials:
            new = dial.turn(now_us)
            if new is not None:
                self._allotments[new.gauge] = new
        way.turns_us = min(dial.turns_us for dial in way.dials)

    # --- more of it --------------------------------------------------------------------------------------

    async def lease(
        self, path: tuple[int, ...], worst: Spend | int, floor: Spend | int
    ) -> Reservation | Refusal:
        """Reserve `worst`, or what the limits still allow if that is at least `floor`, or refuse.

        Waits at most `patience_s`, and only while other workers have yet to tell what they hold. A cancelled
        call leaves nothing reserved.
        """
        worst = Spend(worst) if isinstance(worst, int) else worst
        floor = Spend(floor) if isinstance(floor, int) else floor
        if not 0 <= floor.nusd <= worst.nusd:
            raise ValueError(f"floor_nusd is {floor.nusd}, must be 0 to nusd ({worst.nusd})")
        grant = self.reserve(path, worst)
        if grant is not None:
            return grant
        # A task of its own: once it was granted in the database, it must arrive here, whoever still waits.
        task = asyncio.get_running_loop().create_task(self._lease(path, worst, floor))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._release)
            raise

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
                tells = self._settle_up(recalled)
                if tells:
                    await self._run(self._control.report, self._epoch, tells)
                    for gauge, told in tells.items():
                        self._allotments[gauge].told = (told.used, told.keep, told.idle)
                await self._lease_ahead(recalled)
                self._forget()
            except EpochClosed:
                self._good_until = float("-inf")
                raise
            except _DOWN:
                return

    async def refresh(self) -> None:
        """Read the limits of all open nodes anew. The worker calls this when the declaration changed."""
        async with self._turn:
            try:
                opening = await self._run(self._control.opening, self._epoch, tuple(self._limits))
            except _DOWN:
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

    # --- inside ------------------------------------------------------------------------------------------

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

    async def _lease(self, path: tuple[int, ...], worst: Spend, floor: Spend) -> Reservation | Refusal:
        give_up = self._now() + self._patience_s
        while True:
            way = self._ways.get(path)
            refused = None if way is None else self._known_refusal(way, floor)
            if refused is None:
                async with self._turn:
                    grant = self.reserve(path, worst)  # the one before us may have brought enough for all
                    if grant is not None:
                        return grant
                    try:
                        if self._now() >= self._good_until:
                            await self._renew()
                        way = self._ways.get(path) or await self._open(path)
                        unknown = _undeclared(way, worst)
                        if unknown is not None:
                            return unknown
                        refused = self._known_refusal(way, floor)
                        answer = refused or await self._ask(way, worst, floor)
                    except EpochClosed:
                        self._good_until = float("-inf")
                        return _declared_dead()
                    except _DOWN as error:
                        return _unavailable(error)
                    if isinstance(answer, Reservation):
                        return answer
                    if answer is None:
                        continue  # a period has turned
                    refused = answer
            final = refused.denied.final
            if final or self._now() >= give_up:
                return self._refusal(refused, worst, floor)
            await asyncio.sleep(self._retry_s)

    async def _ask(self, way: Way, worst: Spend, floor: Spend) -> Reservation | Refused | None:
        now_us = self._wall_us()
        if way.dials and now_us >= way.turns_us:
            self._turn_dials(way, now_us)
        needs = [(a, worst.nusd, floor.nusd) for a in way.money]
        needs += [(d.allotment, worst.of(d.unit) or 0, floor.of(d.unit) or 0) for d in way.dials]
        # What is here is set aside while the database is asked, so that no later request slips in between.
        held = [max(0, min(allotment.free, want)) for allotment, want, _ in needs]
        asks = [
            Ask(
                a.gauge,
                want - have,
                max(0, least - have),
                max(CHUNK_REQUESTS * want, KEEP_TICKS * a.demand),
                a.ticket,
            )
            for (a, want, least), have in zip(needs, held, strict=True)
            if have < want
        ]
        for (allotment, _, _), have in zip(needs, held, strict=True):
            allotment.free -= have
        try:
            answer: dict[int, int] | Denied | Turned = await self._run(self._control.lease, self._epoch, asks)
        finally:
            for (allotment, _, _), have in zip(needs, held, strict=True):
                allotment.free += have
        if isinstance(answer, Turned):
            self._turned(answer)
            return None
        if isinstance(answer, Denied):
            return self._remember(answer, {a.gauge: least for a, _, least in needs}[answer.gauge])
        self._credit(answer)
        if any(allotment.free < least for allotment, _, least in needs):
            return None  # an allotment of a period that ended while we asked, or a lowered limit: ask again
        nusd = min(worst.nusd, *(allotment.free for allotment in way.money))
        parts = [(d.allotment, d.unit, min(worst.of(d.unit) or 0, d.allotment.free)) for d in way.dials]
        return _take(nusd, way.money, parts)

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
            allotment.refused = None
            allotment.ticket = 0

    def _remember(self, denied: Denied, floor: int) -> Refused:
        allotment = self._allotments[denied.gauge]
        allotment.ticket = 0 if denied.final else denied.ticket
        until = self._now() + self._retry_s * (2 if denied.final else 0.9)
        allotment.refused = Refused(denied, floor, allotment.free, until)
        return allotment.refused

    def _known_refusal(self, way: Way, floor: Spend) -> Refused | None:
        for allotment in way.money:
            known = allotment.refused
            if known is not None and self._still(known, allotment, floor.nusd):
                return known
        for dial in way.dials:
            known = dial.allotment.refused
            if known is not None and self._still(known, dial.allotment, floor.of(dial.unit) or 0):
                return known
        return None

    def _still(self, known: Refused, allotment: Allotment, floor: int) -> bool:
        return floor >= known.floor and allotment.free <= known.free and self._now() < known.until

    def _refusal(self, refused: Refused, worst: Spend, floor: Spend) -> Refusal:
        denied = refused.denied
        allotment = self._allotments.get(denied.gauge)
        untold = 0 if allotment is None else allotment.used - allotment.told[0]
        free = 0 if allotment is None else allotment.free
        unit = UNITS.index(denied.unit)
        return over_limit(
            msgspec.structs.replace(denied, used=denied.used + untold),
            worst.of(unit) or 0,
            floor.of(unit) or 0,
            reserved=max(0, denied.leased - untold - free),
            now_us=self._wall_us(),
            asked=denied.final,
        )

    def _settle_up(self, recalled: frozenset[int]) -> dict[int, Holding]:
        """Take what goes back out of the allotments, and return what to tell, where it changed."""
        tells: dict[int, Holding] = {}
        for gauge, a in self._allotments.items():
            a.fade()
            keep = KEEP_TICKS * a.demand
            spare = 0
            if gauge in recalled or a.over or not keep:
                spare = max(0, a.free)
            elif a.granted < UNCAPPED_CHUNK and a.free > 2 * keep:
                spare = a.free - keep
            a.free -= spare
            a.granted -= spare
            if a.told != (a.used, a.granted, a.free) or gauge in recalled:
                tells[gauge] = Holding(a.used, a.granted, a.free)
                a.quiet = 0
            else:
                a.quiet += 1
        return tells

    async def _lease_ahead(self, recalled: frozenset[int]) -> None:
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

    def _release(self, task: asyncio.Task[Reservation | Refusal]) -> None:
        """Free what a cancelled call still brought home."""
        if not task.cancelled() and task.exception() is None:
            answer = task.result()
            if isinstance(answer, Reservation):
                self.settle(answer, NOTHING)


def _take(nusd: int, money: tuple[Allotment, ...], parts: Sequence[Part] = ()) -> Reservation:
    if nusd < 0:
        raise ValueError(f"nusd is {nusd}, must be >= 0")
    for allotment in money:
        allotment.free -= nusd
        allotment.taken += nusd
    for allotment, _, amount in parts:
        allotment.free -= amount
        allotment.taken += amount
    return Reservation(nusd, money, parts)


def _undeclared(way: Way, worst: Spend) -> Refusal | None:
    """A limit of joules or grams holds only where somebody has said what a token may take of it."""
    for dial in way.dials:
        if worst.of(dial.unit) is None:
            what = "joules" if dial.limit.unit == "energy_uj" else "grams of CO2"
            return Refusal(
                code="no_ceiling",
                message=f"a limit of {what} holds for this request, and this place declares no ceiling of "
                f"{what} per token; declare it in [pools.NAME.ceiling], or lift the limit",
            )
    return None


def _declared_dead() -> Refusal:
    return Refusal(
        code="draining", message="this worker was declared dead while it slept; another one takes over"
    )


def _unavailable(error: Exception) -> Refusal:
    return Refusal(
        code="caps_unavailable",
        message=f"the place where limits are kept gave no answer ({error}); nothing leaves unreserved. "
        "Try again.",
        retry_after_s=1.0,
    )
