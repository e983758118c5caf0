"""What admission looks at: the rules of each tier, a request that may have to wait, virtual clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

Between = Literal["strict", "weighted"]
"""strict: a lower tier goes only when no higher one waits. weighted: tiers share by their weights."""


class TierRule(msgspec.Struct, frozen=True, kw_only=True):
    """How one tier queues. Tiers stand in a tuple, and a ticket names its tier by the place there."""

    name: str
    rank: int  # higher goes first; the lowest gives way first
    weight: float = 1.0  # share among tiers, where they share by weights
    queue: int = 256  # requests of all its tenants that may wait
    timeout_s: float = 30.0  # longest wait; who cannot be served in that time is told to come back
    reserved: float = 0.0  # share of each place's slots that lower tiers leave free


class AdmissionRules(msgspec.Struct, frozen=True, kw_only=True):
    tiers: tuple[TierRule, ...]
    between: Between = "strict"
    longest_retry_s: float = 120.0  # nobody is told to come back later than this


class Ticket:
    """One request at the gate. `pools` are the places that could serve it, as numbers in the view's order."""

    __slots__ = ("at_s", "mark", "number", "owner", "pools", "state", "tenant", "tier", "work")

    def __init__(
        self,
        *,
        tier: int,
        tenant: int,
        pools: tuple[int, ...],
        work: float,
        at_s: float,
        owner: object = None,
        mark: int = 0,
    ) -> None:
        self.tier = tier
        self.tenant = tenant
        self.pools = pools
        self.work = work  # expected tokens, prompt tokens at their share of the effort
        self.at_s = at_s
        self.owner = owner
        self.mark = mark  # by which it is known again when it comes back
        self.number = 0  # of arrival
        self.state: Literal["new", "waiting", "gone", "served"] = "new"

    def __repr__(self) -> str:
        return f"Ticket({self.number}, tier={self.tier}, tenant={self.tenant}, {self.state})"


class Full(msgspec.Struct, frozen=True):
    """No place in the queue for `who`: the newcomer, or one of a tenant that fills more than its share and
    gives way to it. `retry_s` is when there will be one, from what was measured and who is ahead."""

    who: Ticket
    retry_s: float
    ahead: int  # of the same tenant, waiting or told to come back


class Room(Protocol):
    """Free slots of the places at this moment."""

    def free(self, pools: Sequence[int], tier: int) -> bool:
        """Return whether one of `pools` has a slot for a request of `tier`."""


class Tags(Protocol):
    """Virtual time of each tier, and up to where each tenant has had its share of it.

    Several workers of one machine share one: a value that two of them write at the same moment keeps one of
    both, so that a tenant may be charged for one request less. Nothing but fairness hangs on it.
    """

    def virtual(self, tier: int) -> float: ...

    def finish(self, tier: int, tenant: int) -> float: ...

    def charge(self, tier: int, tenant: int, work: float, start: float | None = None) -> float:
        """Account for a request that goes now: it starts at `start`, by default where its tenant's last one
        finished or at the virtual time, whichever is later; the virtual time follows. Returns its finish."""


class OwnTags:
    """The tags of one worker alone."""

    __slots__ = ("_finish", "_virtual")

    _MOST = 16_384  # tenants remembered; those behind the virtual time have nothing to be remembered for

    def __init__(self) -> None:
        self._virtual: dict[int, float] = {}
        self._finish: dict[tuple[int, int], float] = {}

    def virtual(self, tier: int) -> float:
        return self._virtual.get(tier, 0.0)

    def finish(self, tier: int, tenant: int) -> float:
        return self._finish.get((tier, tenant), 0.0)

    def charge(self, tier: int, tenant: int, work: float, start: float | None = None) -> float:
        finishes, key = self._finish, (tier, tenant)
        virtual = self._virtual.get(tier, 0.0)
        if start is None:
            start = finishes.get(key, 0.0)
            if start < virtual:
                start = virtual
        if start > virtual:
            self._virtual[tier] = start
        finish = finishes[key] = start + work
        if len(finishes) > self._MOST:
            self._finish = {k: v for k, v in finishes.items() if v > self._virtual.get(k[0], 0.0)}
        return finish
