"""A worker's purse: money leased from the shared caps, reserved and settled in memory.

For each node of the budget tree the worker holds an allotment, `granted = used + reserved + free`. Requests
take from `free` without a lock or a call; only an empty allotment asks the control database for more. The
sum of all workers' grants never passes a cap (`stores.control_leases`), so neither does what they spend.
"""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from wattmill.ledger.stores.control_leases import UNCAPPED_CHUNK
from wattmill.ledger.stores.control_records import Ask, Denied, Holding, Turned
from wattmill.units import usd_text
from wattmill.vocab.refusal import Refusal

KEEP_TICKS = 8
"""An allotment is sized for the spending of so many ticks; more of it than that goes back."""
CHUNK_REQUESTS = 32
"""At least so many requests of the asking one's size, before the demand of a node is known."""


class Lessor(Protocol):
    """The part of `stores.control.Control` that a purse needs; its calls block."""

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned: ...

    def report(self, epoch: str, holdings: dict[int, Holding]) -> None: ...

    def recalls(self, epoch: str) -> frozenset[int]: ...


class Refused:
    """A denial, remembered for a moment so that a crowd at an empty cap is one call, not a thousand."""

    __slots__ = ("denied", "floor", "free", "helps", "until")

    def __init__(self, denied: Denied, floor: int, free: int, helps: bool, until: float) -> None:
        self.denied = denied
        self.floor = floor  # a request with a lower floor may still fit
        self.free = free  # once more is free here (something was settled), the denial is out of date
        self.helps = helps  # whether others hold enough idle
        self.until = until


class Allotment:
    """One node's money in this worker, in nano-dollars."""

    __slots__ = ("demand", "free", "granted", "node", "refused", "taken", "told", "used")

    def __init__(self, node: int) -> None:
        self.node = node
        self.granted = 0  # total over the epoch, less what was given back
        self.free = 0
        self.used = 0  # settled, total over the epoch
        self.taken = 0  # reserved since the last tick
        self.demand = 0  # recent reservations per tick
        self.told: tuple[int, int, int] = (0, 0, 0)  # used, granted, free as last reported
        self.refused: Refused | None = None


class Reservation:
    """A `Grant`: `nusd` set aside at every node of a path until it is settled."""

    __slots__ = ("allotments", "nusd", "open")

    def __init__(self, nusd: int, allotments: tuple[Allotment, ...]) -> None:
        self.nusd = nusd
        self.allotments = allotments
        self.open = True


class Allotments:
    """The `ports.Purse` of one worker. Use it on one event loop; its blocking calls run in a thread.

    Args:
        control: where caps and leases are kept.
        epoch: of this worker; its grants are recovered under this name.
        run_in_thread: awaits a blocking call, like `asyncio.to_thread`.
        now: monotonic seconds.
        patience_s: how long a request waits for money that other workers hold idle. They look for recalls
            at their ticks, so this should span two.
        retry_s: between two looks of a waiting request.
    """

    def __init__(
        self,
        control: Lessor,
        epoch: str,
        *,
        run_in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        now: Callable[[], float] = time.monotonic,
        patience_s: float = 0.6,
        retry_s: float = 0.05,
    ) -> None:
        self._control = control
        self._epoch = epoch
        self._run = run_in_thread
        self._now = now
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._allotments: dict[int, Allotment] = {}
        self._paths: dict[tuple[int, ...], tuple[Allotment, ...]] = {}
        self._turn = asyncio.Lock()  # one call to the control database at a time; totals would race
        self._tasks: set[asyncio.Task[Reservation | Refusal]] = set()

    # --- the hot path ------------------------------------------------------------------------------------

    def reserve(self, path: tuple[int, ...], nusd: int) -> Reservation | None:
        """Set `nusd` aside at every node of `path`, or nowhere and return None."""
        allotments = self._paths.get(path)
        if allotments is None:
            allotments = self._open(path)
        for allotment in allotments:
            if allotment.free < nusd:
                return None
        return _take(allotments, nusd)

    def settle(self, grant: Any, charge_nusd: int) -> None:
        """Charge `charge_nusd`, 0 to what was granted, and free the rest. A second call does nothing."""
        if not 0 <= charge_nusd <= grant.nusd:
            raise ValueError(
                f"charge_nusd is {charge_nusd}, must be 0 to the granted {grant.nusd}; "
                "what an engine produced beyond its clamp is the operator's overrun"
            )
        if not grant.open:
            return
        grant.open = False
        rest = grant.nusd - charge_nusd
        for allotment in grant.allotments:
            allotment.used += charge_nusd
            allotment.free += rest

    # --- more money --------------------------------------------------------------------------------------

    async def lease(self, path: tuple[int, ...], nusd: int, floor_nusd: int) -> Reservation | Refusal:
        """Reserve `nusd`, or what the caps still allow if that is at least `floor_nusd`, or refuse.

        Waits at most `patience_s`, and only while other workers hold idle what is missing. A cancelled call
        leaves nothing reserved.
        """
        if not 0 <= floor_nusd <= nusd:
            raise ValueError(f"floor_nusd is {floor_nusd}, must be 0 to nusd ({nusd})")
        grant = self.reserve(path, nusd)
        if grant is not None:
            return grant
        # A task of its own: once money was granted in the database, it must arrive here, whoever still waits.
        task = asyncio.get_running_loop().create_task(self._lease(path, nusd, floor_nusd))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._release)
            raise

    async def tick(self) -> None:
        """Tell what was used, give back what is not needed or was recalled, and lease ahead of the demand.

        The worker calls this about every 0.25 s. Raises `EpochClosed` if this worker was declared dead: it
        must stop. Other failures of the database are made good at the next tick, because totals are told.
        """
        async with self._turn:
            try:
                recalled = await self._run(self._control.recalls, self._epoch)
                tells = self._settle_up(recalled)
                if tells:
                    await self._run(self._control.report, self._epoch, tells)
                    for node, told in tells.items():
                        self._allotments[node].told = (told.used, told.keep, told.idle)
                await self._lease_ahead(recalled)
            except sqlite3.Error:
                return

    def used(self) -> dict[int, int]:
        """Return what was charged at each node since this epoch began."""
        return {node: allotment.used for node, allotment in self._allotments.items() if allotment.used}

    def reserved(self) -> dict[int, int]:
        """Return what requests in flight hold at each node."""
        return {node: a.granted - a.used - a.free for node, a in self._allotments.items()}

    # --- inside ------------------------------------------------------------------------------------------

    def _open(self, path: tuple[int, ...]) -> tuple[Allotment, ...]:
        if len(set(path)) != len(path) or not path:
            raise ValueError(f"path is {path}, must have at least one node and each once")
        for node in path:
            if node not in self._allotments:
                self._allotments[node] = Allotment(node)
        opened = self._paths[path] = tuple(self._allotments[node] for node in path)
        return opened

    async def _lease(self, path: tuple[int, ...], nusd: int, floor_nusd: int) -> Reservation | Refusal:
        allotments = self._paths[path]
        give_up = self._now() + self._patience_s
        while True:
            refused = self._known_refusal(allotments, floor_nusd)
            if refused is None:
                async with self._turn:
                    grant = self.reserve(path, nusd)  # the one before us may have brought enough for all
                    if grant is not None:
                        return grant
                    refused = self._known_refusal(allotments, floor_nusd)
                    if refused is None:
                        try:
                            answer = await self._ask(allotments, nusd, floor_nusd)
                        except sqlite3.Error as error:
                            return _unavailable(error)
                        if isinstance(answer, Reservation):
                            return answer
                        refused = answer
            if not refused.helps or self._now() >= give_up:
                return _over_budget(refused.denied, nusd, floor_nusd)
            await asyncio.sleep(self._retry_s)

    async def _ask(
        self, allotments: tuple[Allotment, ...], nusd: int, floor_nusd: int
    ) -> Reservation | Refused:
        # What is here is set aside while the database is asked, so that no later request slips in between.
        held = [max(0, min(allotment.free, nusd)) for allotment in allotments]
        asks = [
            Ask(
                a.node,
                nusd - have,
                max(0, floor_nusd - have),
                max(CHUNK_REQUESTS * nusd, KEEP_TICKS * a.demand),
            )
            for a, have in zip(allotments, held, strict=True)
            if have < nusd
        ]
        for allotment, have in zip(allotments, held, strict=True):
            allotment.free -= have
        try:
            answer: dict[int, int] | Denied | Turned = await self._run(self._control.lease, self._epoch, asks)
        finally:
            for allotment, have in zip(allotments, held, strict=True):
                allotment.free += have
        if isinstance(answer, Denied):
            return self._remember(answer, floor_nusd)
        assert isinstance(answer, dict), "a cap has one period, it never turns"
        self._credit(answer)
        return _take(allotments, min(nusd, *(allotment.free for allotment in allotments)))

    def _credit(self, grants: dict[int, int]) -> None:
        for node, granted in grants.items():
            allotment = self._allotments[node]
            allotment.granted += granted
            allotment.free += granted
            allotment.refused = None

    def _remember(self, denied: Denied, floor_nusd: int) -> Refused:
        allotment = self._allotments[denied.gauge]
        helps = not denied.final
        allotment.refused = Refused(
            denied, floor_nusd, allotment.free, helps, self._now() + self._retry_s * (0.9 if helps else 2)
        )
        return allotment.refused

    def _known_refusal(self, allotments: tuple[Allotment, ...], floor_nusd: int) -> Refused | None:
        for allotment in allotments:
            known = allotment.refused
            if (
                known is not None
                and floor_nusd >= known.floor
                and allotment.free <= known.free
                and self._now() < known.until
            ):
                return known
        return None

    def _settle_up(self, recalled: frozenset[int]) -> dict[int, Holding]:
        """Take what goes back out of the allotments, and return what to tell, where it changed."""
        tells: dict[int, Holding] = {}
        for node, a in self._allotments.items():
            # A peak fades slowly: one request now and then should not lease anew each time.
            a.demand = max(a.taken, a.demand * 7 // 8)
            a.taken = 0
            spare = 0
            if node in recalled:
                spare = max(0, a.free)
            elif a.granted < UNCAPPED_CHUNK and a.free > 2 * KEEP_TICKS * a.demand:
                spare = a.free - KEEP_TICKS * a.demand
            a.free -= spare
            a.granted -= spare
            if a.told != (a.used, a.granted, a.free) or node in recalled:
                tells[node] = Holding(a.used, a.granted, a.free)
        return tells

    async def _lease_ahead(self, recalled: frozenset[int]) -> None:
        """Fill allotments that would run dry before the next tick, so that no request has to wait for it."""
        asks = [
            Ask(a.node, 0, 0, KEEP_TICKS * a.demand)
            for a in self._allotments.values()
            if a.demand and a.free < 2 * a.demand and a.node not in recalled
        ]
        if asks:
            answer = await self._run(self._control.lease, self._epoch, asks)
            assert isinstance(answer, dict), "an ask with floor 0 cannot be denied"
            self._credit(answer)

    def _release(self, task: asyncio.Task[Reservation | Refusal]) -> None:
        """Free what a cancelled call still brought home."""
        if not task.cancelled() and task.exception() is None:
            answer = task.result()
            if isinstance(answer, Reservation):
                self.settle(answer, 0)


def _take(allotments: tuple[Allotment, ...], nusd: int) -> Reservation:
    if nusd < 0:
        raise ValueError(f"nusd is {nusd}, must be >= 0")
    for allotment in allotments:
        allotment.free -= nusd
        allotment.taken += nusd
    return Reservation(nusd, allotments)


def _over_budget(denied: Denied, nusd: int, floor_nusd: int) -> Refusal:
    least = "" if floor_nusd == nusd else f", at least {usd_text(floor_nusd)} USD"
    return Refusal(
        code="budget_exceeded",
        message=(
            f"{denied.kind} {denied.name!r} has a cap of {usd_text(denied.cap)} USD: "
            f"{usd_text(denied.used)} used, {usd_text(denied.leased)} set aside for requests in "
            f"flight; this request may cost up to {usd_text(nusd)} USD{least}. "
            f"Ask for fewer tokens, or raise the cap: wattmill budget set {shlex.quote(denied.name)} USD"
        ),
    )


def _unavailable(error: sqlite3.Error) -> Refusal:
    return Refusal(
        code="caps_unavailable",
        message=f"the control database gave no answer ({error}); nothing leaves unreserved. Try again.",
        retry_after_s=1.0,
    )
