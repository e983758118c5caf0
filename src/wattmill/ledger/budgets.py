"""A worker's purse: leased from the shared limits, reserved and settled in memory.

For each gauge (a node's dollars, or the present period of a limit) the worker holds an allotment. Requests
take from what is free in it without a lock or a call; only an empty allotment asks the database for more. The
sum of all workers' grants never passes a limit (`stores.control_leases`), so neither does what they spend. A
worker that could not say for a term that it lives reserves nothing: it may have been written off, and others
may hold what it held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from wattmill.ledger.allotment import Allotment, Part, Refused, Reservation, Way, taken
from wattmill.ledger.holdings import DOWN, KEEP_TICKS, Holdings
from wattmill.ledger.refusing import over_limit
from wattmill.ledger.stores.control_records import (
    Ask,
    Denied,
    EpochClosed,
    Turned,
)
from wattmill.vocab.budget import NOTHING, UNITS, Spend
from wattmill.vocab.refusal import Refusal

CHUNK_REQUESTS = 32
"""At least so many requests of the asking one's size, before the demand of a gauge is known."""
_NUSD = UNITS.index("nusd")
T = TypeVar("T")


class Allotments(Holdings):
    """The `ports.Purse` of one worker. Use it on one event loop; its blocking calls run in a thread."""

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
        if nusd < 0:
            raise ValueError(f"nusd is {nusd}, must be >= 0")
        for allotment in money:
            allotment.free -= nusd
            allotment.taken += nusd
        return Reservation(nusd, money)

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

    def lease_now(
        self, path: tuple[int, ...], worst: Spend | int, floor: Spend | int
    ) -> Reservation | Refusal:
        """The same where whoever runs the blocking calls awaits nothing, as in a simulation: it answers at
        once. Raises `RuntimeError` where it would have to wait."""
        worst = Spend(worst) if isinstance(worst, int) else worst
        floor = Spend(floor) if isinstance(floor, int) else floor
        return at_once(self._lease(path, worst, floor))

    # --- inside ------------------------------------------------------------------------------------------

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
                    except DOWN as error:
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
        present = [d.allotment for d in way.dials]
        needs += [
            (a, worst.of(d.unit) or 0, floor.of(d.unit) or 0) for a, d in zip(present, way.dials, strict=True)
        ]
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
        if any(max(0, allotment.free) < least for allotment, _, least in needs):
            return None  # an allotment of a period that ended while we asked, or a lowered limit: ask again
        if any(d.allotment is not a for a, d in zip(present, way.dials, strict=True)):
            return None  # somebody turned a dial while we asked: nothing was granted of its new period
        parts = [
            (d.allotment, d.unit, min(worst.of(d.unit) or 0, max(0, d.allotment.free))) for d in way.dials
        ]
        # A limit of dollars per day binds what may be spent now just as a cap does.
        dollars = [amount for _, unit, amount in parts if unit == _NUSD]
        nusd = min(worst.nusd, *(max(0, allotment.free) for allotment in way.money), *dollars)
        return _take(nusd, way.money, parts)

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
        free = 0 if allotment is None else max(0, allotment.idle)
        unit = UNITS.index(denied.unit)
        return over_limit(
            msgspec.structs.replace(denied, used=denied.used + untold),
            worst.of(unit) or 0,
            floor.of(unit) or 0,
            reserved=max(0, denied.leased - untold - free),
            now_us=self._wall_us(),
            asked=denied.final,
        )

    def _release(self, task: asyncio.Task[Reservation | Refusal]) -> None:
        """Free what a cancelled call still brought home."""
        if not task.cancelled() and task.exception() is None:
            answer = task.result()
            if isinstance(answer, Reservation):
                self.settle(answer, NOTHING)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits. Raises `RuntimeError` if it does."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise RuntimeError("this would have to wait, and in a simulation nobody else runs meanwhile")


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
