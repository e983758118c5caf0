"""The last gate before routing: who goes now, who waits at the gateway, who is told when to come back.

Places are filled to their slots and not beyond: who waits, waits here, where a higher tier can overtake. With
room free and nobody waiting a request passes with a few additions; nothing here blocks or reads a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from wattmill.app.gates.shared_room import SharedRoom
from wattmill.app.gates.valve import Valve
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.ports import Clock
from wattmill.scheduling.admission.policy import Admission
from wattmill.scheduling.admission.spec import AdmissionRules, Full, OwnTags, Ticket
from wattmill.scheduling.filters import Sieved, sieved
from wattmill.scheduling.spec import Fleet
from wattmill.units import US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request

if TYPE_CHECKING:
    from typing import Protocol

    from wattmill.distribution.exchange import Exchange

    class PoolLife(Protocol):
        busy: int


_LOOK_S = 0.01  # how often a worker looks for time-outs, and for slots that an engine freed by itself
_LOOK_SHARED_S = 0.002  # and for slots that another worker freed
_GRACE_S = 0.01  # how long a free slot is left to another worker that has a better right to it
_REMEMBERED = 4_096


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate works by; replaced whole at a reload. Places are numbered as in the fleet."""

    rules: AdmissionRules
    tiers: dict[str, int]  # number in `rules.tiers`
    slots: tuple[int, ...]  # of each place, with those that may wait inside it
    fair_over: Literal["team", "organisation", "key"] = "team"
    prompt_share: float = 0.1
    expected_output_tok: int = 128
    bound_tok_per_tok: float = 4.0


class _NoRoom:
    """What is free while another worker has somebody who waits: whoever comes then queues first."""

    def free(self, pools: Sequence[int], tier: int) -> bool:
        return False


_NO_ROOM = _NoRoom()


class AdmissionGate:
    """One per worker, kept over reloads. Implements `Gate`, and `Room` for the policy."""

    def __init__(
        self, plan: Plan, *, clock: Clock, fleet: Callable[[], Fleet], lives: Sequence[PoolLife],
        shared: SharedRoom | None = None, valve: Valve | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._loop = loop or asyncio.get_running_loop()
        self._shared = shared
        self._valve = valve
        self._pending_cells: memoryview[int] | None = None
        self._pending_at = 0
        if shared is not None:
            self._pending_cells, self._pending_at = shared.pending_cell()
        self._tickets: dict[Exchange, Ticket] = {}  # of those who wait
        self._pending: list[Exchange] = []  # let in, and no slot taken yet
        self._lanes: dict[int, tuple[tuple[int, ...], int, Sieved]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._soon = False
        self._yielding_since_s: float | None = None
        self._mean_work = 100.0
        self._use(plan, fleet, lives)

    def _use(self, plan: Plan, fleet: Callable[[], Fleet], lives: Sequence[PoolLife]) -> None:
        self.plan = plan
        self._fleet = fleet
        self._lives = lives
        self._lanes.clear()
        self._tenant_at = {"organisation": 0, "team": 1, "key": None}[plan.fair_over]
        self.admission = Admission(plan.rules, self._shared if self._shared is not None else OwnTags())
        ranks = [rule.rank for rule in plan.rules.tiers]
        self._kept_free = [
            [
                -int(-slots * sum(r.reserved for r in plan.rules.tiers if r.rank > rank) // 1)
                for slots in plan.slots
            ]
            for rank in ranks
        ]

    def use(self, plan: Plan, *, fleet: Callable[[], Fleet], lives: Sequence[PoolLife]) -> None:
        """Work by another plan from now on. Whoever waits goes on waiting, by the new rules."""
        waiting = sorted(self._tickets.items(), key=lambda item: item[1].number)
        for x, _ in waiting:
            del self._tickets[x]
        self._use(plan, fleet, lives)
        for x, old in waiting:
            told = self.enter(x, since_s=old.at_s)
            if isinstance(told, Refusal):
                x.go_on(told)
            elif told is None:
                x.go_on()
        self._pump_soon()

    def lower_waiting(self) -> int:
        """Return how many of the tiers that may be held back wait."""
        valve = self._valve
        if valve is None:
            return 0
        counts = self.admission.counts()
        return sum(counts[rule.name] for rule in self.plan.rules.tiers if valve.lower(rule.rank))

    def release(self) -> None:
        """There are no tiers any more: whoever waits is routed, and waits inside a place if need be. The gate
        is of no use after this, and touches nothing that is shared."""
        self._shared = self._pending_cells = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for x in list(self._tickets):
            self._tickets.pop(x)
            x.go_on()
        self.admission = Admission(self.plan.rules)

    # ---- Gate

    def enter(self, x: Exchange, *, since_s: float | None = None) -> Refusal | Waiting | None:
        ask, caller, plan = x.ask, x.caller, self.plan
        assert caller is not None
        pools = self._pools(ask, caller)
        if not pools:
            return None  # no place could serve it: the policy says why
        tier = plan.tiers.get(ask.tier, 0)
        at = self._tenant_at
        tenant = caller.key if at is None else caller.path[at if len(caller.path) > at else 0]
        expected_tok = plan.expected_output_tok
        asked_tok = ask.max_output_tok
        if asked_tok is not None and asked_tok < expected_tok:
            expected_tok = asked_tok
        work = expected_tok * ask.choices + plan.prompt_share * ask.input_bound_tok / plan.bound_tok_per_tok
        shared = self._shared
        if (
            (shared is None or not shared.somebody_waits_elsewhere())
            and self.admission.straight(tier, tenant, pools, work, self)
        ):  # fmt: skip
            self._let_in(x, tier, work)
            return None
        now_s = self._clock.now()
        ticket = Ticket(tier=tier, tenant=tenant, pools=pools, work=work, at_s=since_s or now_s, owner=x)
        ticket.mark = hash(x.http.body)
        self._mean_work += 0.05 * (work - self._mean_work)
        room = self if shared is None or not shared.somebody_waits_elsewhere() else _NO_ROOM
        full = self.admission.offer(ticket, now_s, room)
        if full is not None and full.who is ticket:
            return self._refusal(full, "overloaded")
        if ticket.state == "served":
            self._let_in(x, tier, work)
            return None
        self._tickets[x] = ticket
        valve = self._valve
        if valve is not None and valve.holds and valve.lower(self.plan.rules.tiers[tier].rank):
            valve.held_work += work
        if full is not None:
            self._turn_away(full, "overloaded")
        self._pump_soon()
        self._watch()
        return WAIT

    def left(self, x: Exchange) -> None:
        ticket = self._tickets.pop(x, None)
        if ticket is not None:
            now_s = self._clock.now()
            self._waited(ticket, now_s, "gone")
            self.admission.drop(ticket, now_s)
        if ticket is not None or self.admission.waiting:
            self._pump_soon()

    # ---- Room

    def free(self, pools: Sequence[int], tier: int) -> bool:
        """Return whether one of the places has a slot for a request of a tier; also if all of them are down:
        then there is nothing to wait for, and the policy says so."""
        valve, room = self._valve, self._slots(pools, tier)
        if room == "free" and valve is not None and valve.holds:
            return valve.open(self.plan.rules.tiers[tier].rank)
        return room != "full"

    def _slots(self, pools: Sequence[int], tier: int) -> Literal["free", "full", "down"]:
        """Return whether one of the places has a slot, as far as slots go."""
        heading, taken = self._on_their_way() if self._pending else (None, 0)
        shared = self._shared
        if shared is not None:
            taken += shared.pending_elsewhere()
        lives, slots, kept_free = self._lives, self.plan.slots, self._kept_free[tier]
        view = self._fleet().pools
        down = True
        for pool in pools:
            seen = view[pool]
            if not seen.healthy or seen.breaker_open:
                continue
            down = False
            busy = lives[pool].busy + taken + kept_free[pool]
            if heading is not None:
                busy += heading.get(seen.name, 0)
            if shared is not None:
                busy += shared.busy_elsewhere(pool)
            if busy < slots[pool]:
                return "free"
        return "down" if down else "full"

    def heading_for(self, pool: str) -> int:
        """Return how many were routed to a place and wait for their money: its slots are as good as taken."""
        return self._on_their_way()[0].get(pool, 0) if self._pending else 0

    def _on_their_way(self) -> tuple[dict[str, int], int]:
        """Return how many of those let in are heading for each place, and of how many that is not known."""
        self._still_pending()
        heading: dict[str, int] = {}
        for x in self._pending:
            route = getattr(x, "route", None)  # None: it is being routed just now
            if route is not None:
                pool = route.candidates[0].pool
                heading[pool] = heading.get(pool, 0) + 1
        return heading, len(self._pending) - sum(heading.values())

    def _still_pending(self) -> int:
        pending = self._pending
        if len(pending) == 1:
            if pending[0].attempts or pending[0].over:
                pending.clear()
        else:
            self._pending = pending = [x for x in pending if not x.attempts and not x.over]
        if self._pending_cells is not None:
            self._pending_cells[self._pending_at] = len(pending)
        return len(pending)

    def _let_in(self, x: Exchange, tier: int, work: float) -> None:
        if self._valve is not None:
            self._valve.took(self.plan.rules.tiers[tier].rank, work)
        self._pending.append(x)
        if self._pending_cells is not None:
            self._pending_cells[self._pending_at] = len(self._pending)

    # ---- the queue moves

    def _pump_soon(self) -> None:
        """Look for free slots after what runs now: who has just ended is answered first."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._soon = False
        now_s = self._clock.now()
        for full in self.admission.expire(now_s):
            self._turn_away(full, "queue_timeout")
        while self.admission.waiting and not self._yields(now_s):
            ticket = self.admission.next(now_s, self)
            if ticket is None:
                break
            x: Exchange = ticket.owner  # type: ignore[assignment]
            del self._tickets[x]
            self._waited(ticket, now_s, "served")
            self._let_in(x, ticket.tier, ticket.work)
            x.go_on()
        if self._shared is not None:
            self._shared.tell_waiting(self.admission.best_by_pool() if self.admission.waiting else {})

    def _yields(self, now_s: float) -> bool:
        """Return whether the next slot is left to another worker, where somebody has a better right to it."""
        shared = self._shared
        if shared is None:
            return False
        best = self.admission.best(self)
        if best is None:
            return False
        tag, tier, lane = best
        rank = self.plan.rules.tiers[tier].rank
        if any(
            self.free((pool,), tier) and not shared.better_elsewhere(pool, rank, tag, self._mean_work)
            for pool in lane.pools
        ):
            self._yielding_since_s = None
            return False
        if self._yielding_since_s is None:
            self._yielding_since_s = now_s
        if now_s - self._yielding_since_s < _GRACE_S:
            return True
        self._yielding_since_s = None
        return False

    def _watch(self) -> None:
        if self._timer is None:
            period_s = _LOOK_S if self._shared is None else _LOOK_SHARED_S
            self._timer = self._loop.call_later(period_s, self._look)

    def _look(self) -> None:
        self._timer = None
        self._pump()
        if self.admission.waiting:
            self._watch()

    def _turn_away(self, full: Full, code: str) -> None:
        x: Exchange = full.who.owner  # type: ignore[assignment]
        self._tickets.pop(x, None)
        self._waited(full.who, self._clock.now(), "refused")
        x.go_on(self._refusal(full, code))

    def _waited(self, ticket: Ticket, now_s: float, outcome: str) -> None:
        x: Exchange = ticket.owner  # type: ignore[assignment]
        waited_s = now_s - ticket.at_s
        x.queued_us = int(waited_s * US_PER_S)
        tier = self.plan.rules.tiers[ticket.tier].name
        x.gateway.metrics.count("wattmill_queued_total", tier, outcome)
        x.gateway.metrics.count("wattmill_queued_seconds_total", tier, by=waited_s)

    def _refusal(self, full: Full, code: str) -> Refusal:
        rule = self.plan.rules.tiers[full.who.tier]
        valve = self._valve
        if (
            valve is not None
            and valve.holds
            and valve.lower(rule.rank)
            and self._slots(full.who.pools, full.who.tier) == "free"  # else it did not wait for power
        ):
            valve.turned_away(rule.name, full.who.work)
            left_s = min(valve.left_s() or 0.0, self.plan.rules.longest_retry_s)
            retry_s = max(full.retry_s, left_s)
            return Refusal(
                code="power_limit",
                message=f"a power limit holds tier {rule.name!r} back, and it may wait here for "
                f"{rule.timeout_s:g} s; {full.ahead} of yours are ahead. Come back in {retry_s:.0f} s",
                retry_after_s=retry_s,
            )
        what = (
            f"no place was free within the {rule.timeout_s:g} s that tier {rule.name!r} may wait"
            if code == "queue_timeout"
            else f"all places are busy and the queue of tier {rule.name!r} is full"
        )
        return Refusal(
            code=code,
            message=f"{what}; {full.ahead} of yours are ahead. Come back in {full.retry_s:.0f} s",
            retry_after_s=full.retry_s,
        )

    # ---- which places

    def _pools(self, ask: Request, caller: Caller) -> tuple[int, ...]:
        """Return the numbers of the places that could serve a request, whatever their load."""
        found = sieved(ask, caller, self._fleet())
        known = self._lanes.get(id(found))
        if known is None:
            if len(self._lanes) >= _REMEMBERED:
                self._lanes.clear()
            pools = tuple(able.at for able in found.able)
            shortest = min((able.context_tok for able in found.able), default=0)
            known = self._lanes[id(found)] = pools, shortest, found  # held, so that its id stays its own
        pools, shortest, _ = known
        input_tok = ask.input_bound_tok / self.plan.bound_tok_per_tok
        if input_tok < shortest:
            return pools
        return tuple(able.at for able in found.able if input_tok < able.context_tok)
