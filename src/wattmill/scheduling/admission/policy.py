"""The decisions of admission, without a clock of their own: time and free slots are arguments.

The same calls with the same arguments give the same answers, live and in a simulation.
"""

from __future__ import annotations

import math
from collections import deque

from wattmill.scheduling.admission.fair import FairQueue
from wattmill.scheduling.admission.pace import Pace, Returns
from wattmill.scheduling.admission.spec import AdmissionRules, Full, OwnTags, Room, Tags, Ticket

_FULL = 0.7  # of the longest wait: who would wait longer would perhaps not be served in time
_LEAD = 0.25  # of the longest wait: so long before its turn somebody is told to be back
_MOST_RETURNS = 4_096


class _Lane:
    """Those of one tier who wait for the same places."""

    __slots__ = ("fair", "pace", "pools", "returns")

    def __init__(self, fair: FairQueue, pools: tuple[int, ...]) -> None:
        self.fair = fair
        self.pools = pools
        self.pace = Pace()
        self.returns: dict[int, Returns] = {}  # by tenant


class Admission:
    """All queues of one worker. `offer` each newcomer, ask `next` whenever a slot may be free."""

    def __init__(self, rules: AdmissionRules, tags: Tags | None = None) -> None:
        self.rules = rules
        self._weighted = rules.between == "weighted"
        self.waiting = 0
        self._tags = tags if tags is not None else OwnTags()
        self._among = OwnTags()  # the tiers among each other, where they share by weights
        self._lanes: list[dict[tuple[int, ...], _Lane]] = [{} for _ in rules.tiers]
        self._waiting = [0] * len(rules.tiers)
        self._of: list[dict[int, int]] = [{} for _ in rules.tiers]  # waiting, by tenant
        self._arrivals: list[deque[Ticket]] = [deque() for _ in rules.tiers]
        self._order = sorted(range(len(rules.tiers)), key=lambda i: -rules.tiers[i].rank)
        self._number = 0

    # ---- arriving

    def offer(self, ticket: Ticket, now_s: float, room: Room) -> Full | None:
        """Admit a newcomer (`ticket.state` is then "served"), queue it ("waiting"), or say who has no place.

        It goes at once if there is room and nobody waits who would go before it. After it was queued, ask
        `next`: those who wait before it may wait for other places.
        """
        if self.waiting and self._before(ticket):
            return self._queue(ticket, now_s)
        if not room.free(ticket.pools, ticket.tier):
            return self._queue(ticket, now_s)
        ticket.state = "served"
        self._tags.charge(ticket.tier, ticket.tenant, ticket.work)
        if self.rules.between == "weighted":
            self._among.charge(0, ticket.tier, ticket.work / self.rules.tiers[ticket.tier].weight)
        return None

    def straight(self, tier: int, tenant: int, pools: tuple[int, ...], work: float, room: Room) -> bool:
        """Let a newcomer pass an empty queue if there is room; False: `offer` it."""
        if self.waiting or not room.free(pools, tier):
            return False
        self._tags.charge(tier, tenant, work)
        if self._weighted:
            self._among.charge(0, tier, work / self.rules.tiers[tier].weight)
        return True

    def _before(self, ticket: Ticket) -> bool:
        """Return whether somebody waits for one of the same places and has the right to go first."""
        rank = self.rules.tiers[ticket.tier].rank
        strict = self.rules.between == "strict"
        for tier in self._order:
            if strict and self.rules.tiers[tier].rank < rank:
                return False
            if self._waiting[tier]:
                mine = set(ticket.pools)
                for pools, lane in self._lanes[tier].items():
                    if lane.fair.waiting and not mine.isdisjoint(pools):
                        return True
        return False

    def _queue(self, ticket: Ticket, now_s: float) -> Full | None:
        rule = self.rules.tiers[ticket.tier]
        lane = self._lane(ticket)
        returns = lane.returns.get(ticket.tenant)
        back = False
        if returns is not None:
            returns.forget_late(now_s)
            back = returns.is_back(ticket.mark, now_s)
            if not len(returns):
                del lane.returns[ticket.tenant]
                returns = None
        pace = self._pace_of(lane, ticket.tenant, now_s, patience_s=rule.timeout_s)
        if pace is not None and not self._in_time(lane, ticket, returns, pace, now_s, back=back):
            return self._full(ticket, now_s)
        if self._waiting[ticket.tier] >= rule.queue:
            out = self._gives_way(ticket)
            if out is None:
                return self._full(ticket, now_s)
            self._drop(out, now_s)
            self._put(lane, ticket, back=back)
            return self._full(out, now_s)
        self._put(lane, ticket, back=back)
        return None

    def _in_time(
        self, lane: _Lane, ticket: Ticket, returns: Returns | None, pace: float, now_s: float, *, back: bool
    ) -> bool:
        """Return whether a newcomer can probably be served in time: after those who wait, and those who were
        told to come back until then. A tenant of which nobody waits may always queue one."""
        timeout_s = self.rules.tiers[ticket.tier].timeout_s
        if back:
            return lane.fair.back_of(ticket.tenant) <= pace * timeout_s
        mine = lane.fair.of(ticket.tenant)
        if not mine:
            return True
        if pace <= 0:
            return False
        wait_s = (mine + 1) / pace
        if returns is not None:
            wait_s += returns.within(now_s + wait_s) / pace
        return wait_s <= _FULL * timeout_s

    def _full(self, ticket: Ticket, now_s: float) -> Full:
        """Say when to come back: once everybody ahead, those who were told before included, has been served,
        less the time that it may wait here."""
        rule = self.rules.tiers[ticket.tier]
        longest_s = self.rules.longest_retry_s
        lane = self._lane(ticket)
        returns = lane.returns.get(ticket.tenant)
        pace = self._pace_of(lane, ticket.tenant, now_s)
        ahead = lane.fair.of(ticket.tenant) + (0 if returns is None else len(returns))
        if pace is None:
            retry_s = rule.timeout_s / 2
        elif pace <= 0:
            retry_s = longest_s
        else:
            retry_s = (ahead + 1) / pace - _LEAD * rule.timeout_s
        retry_s = float(min(math.ceil(max(retry_s, 1.0)), longest_s))
        if retry_s < longest_s:
            if returns is None:
                returns = self._new_returns(lane, ticket.tenant, now_s)
            if len(returns) < _MOST_RETURNS:
                returns.told(ticket.mark, now_s + retry_s)
        return Full(ticket, retry_s, ahead)

    def _new_returns(self, lane: _Lane, tenant: int, now_s: float) -> Returns:
        if len(lane.returns) >= _MOST_RETURNS:
            for one in lane.returns.values():
                one.forget_late(now_s)
            lane.returns = {id: one for id, one in lane.returns.items() if len(one)}
        returns = lane.returns[tenant] = Returns()
        return returns

    def _gives_way(self, ticket: Ticket) -> Ticket | None:
        """Return the last of a tenant that fills more than its share of the tier's queue, or None if the
        newcomer is of such a one itself."""
        counts = self._of[ticket.tier]
        share = self.rules.tiers[ticket.tier].queue / (len(counts) + (ticket.tenant not in counts))
        if counts.get(ticket.tenant, 0) + 1 > share:
            return None
        tenant = max(counts, key=lambda one: (counts[one], one))
        lasts = [lane.fair.last_of(tenant) for lane in self._lanes[ticket.tier].values()]
        return max((last for last in lasts if last is not None), key=lambda last: last.number)

    def _put(self, lane: _Lane, ticket: Ticket, *, back: bool) -> None:
        self._number += 1
        ticket.number = self._number
        if not lane.fair.waiting:
            lane.pace.began(ticket.at_s)
        lane.fair.put(ticket, back=back)
        self.waiting += 1
        self._waiting[ticket.tier] += 1
        counts = self._of[ticket.tier]
        counts[ticket.tenant] = counts.get(ticket.tenant, 0) + 1
        self._arrivals[ticket.tier].append(ticket)

    def _lane(self, ticket: Ticket) -> _Lane:
        lanes = self._lanes[ticket.tier]
        lane = lanes.get(ticket.pools)
        if lane is None:
            lane = lanes[ticket.pools] = _Lane(FairQueue(ticket.tier, self._tags), ticket.pools)
        return lane

    def _pace_of(self, lane: _Lane, tenant: int, now_s: float, *, patience_s: float = 0.0) -> float | None:
        """Return how many requests per second a tenant may expect to go: an equal share of its lane's."""
        pace = lane.pace.per_s(now_s, patience_s=patience_s)
        if pace is None:
            return None
        others = lane.fair.tenants - (1 if lane.fair.of(tenant) else 0)
        return pace / (others + 1)

    # ---- leaving

    def next(self, now_s: float, room: Room) -> Ticket | None:
        """Return who goes now, or None if nobody waits for a place that is free."""
        if not self.waiting:
            return None
        best = self.best(room)
        if best is None:
            return None
        _, tier, lane = best
        ticket = lane.fair.take()
        assert ticket is not None
        lane.pace.went(now_s)
        if self.rules.between == "weighted":
            self._among.charge(0, tier, ticket.work / self.rules.tiers[tier].weight)
        self._counted_out(lane, ticket, now_s)
        return ticket

    def best(self, room: Room) -> tuple[float, int, _Lane] | None:
        """Return (start tag, tier, lane) of who would go next: the highest tier first, or by weight."""
        order = self._order
        if self.rules.between == "weighted":
            virtual, finish = self._among.virtual(0), self._among.finish
            order = sorted(order, key=lambda tier: max(virtual, finish(0, tier)))
        for tier in order:
            if not self._waiting[tier]:
                continue
            found: tuple[float, int, _Lane] | None = None
            for lane in self._lanes[tier].values():
                if lane.fair.waiting and room.free(lane.pools, tier):
                    head = lane.fair.head()
                    if head is not None and (found is None or head[0] < found[0]):
                        found = head[0], tier, lane
            if found is not None:
                return found
        return None

    def drop(self, ticket: Ticket, now_s: float) -> None:
        """Its client has left. Somebody who does not wait is none of our business."""
        if ticket.state == "waiting":
            self._drop(ticket, now_s)

    def expire(self, now_s: float) -> list[Full]:
        """Return those who have waited for as long as their tier allows, with when to come back."""
        out: list[Full] = []
        for tier, arrivals in enumerate(self._arrivals):
            timeout_s = self.rules.tiers[tier].timeout_s
            while arrivals and (arrivals[0].state != "waiting" or arrivals[0].at_s + timeout_s <= now_s):
                ticket = arrivals.popleft()
                if ticket.state == "waiting":
                    self._drop(ticket, now_s)
                    out.append(self._full(ticket, now_s))
        return out

    def _drop(self, ticket: Ticket, now_s: float) -> None:
        lane = self._lane(ticket)
        lane.fair.drop(ticket)
        self._counted_out(lane, ticket, now_s)

    def _counted_out(self, lane: _Lane, ticket: Ticket, now_s: float) -> None:
        self.waiting -= 1
        self._waiting[ticket.tier] -= 1
        counts = self._of[ticket.tier]
        counts[ticket.tenant] -= 1
        if not counts[ticket.tenant]:
            del counts[ticket.tenant]
        if not lane.fair.waiting:
            lane.pace.emptied(now_s, served=ticket.state == "served")
        arrivals = self._arrivals[ticket.tier]
        while arrivals and arrivals[0].state != "waiting":
            arrivals.popleft()

    # ---- seeing it

    def best_by_pool(self) -> dict[int, tuple[int, float]]:
        """Return (rank, start tag) of the best who waits for each place."""
        best: dict[int, tuple[int, float]] = {}
        for tier in reversed(self._order):  # the highest last
            for lane in self._lanes[tier].values() if self._waiting[tier] else ():
                head = lane.fair.head()
                if head is None:
                    continue
                mine = self.rules.tiers[tier].rank, head[0]
                for pool in lane.pools:
                    known = best.get(pool)
                    if known is None or (-mine[0], mine[1]) < (-known[0], known[1]):
                        best[pool] = mine
        return best

    def counts(self) -> dict[str, int]:
        """Return how many wait, by tier."""
        return {rule.name: n for rule, n in zip(self.rules.tiers, self._waiting, strict=True)}
