"""Soft stages: who nears a cap is told, and helped to make it last.

From 80 % on answers carry `x-wattmill-budget`, the cheapest place that may serve is preferred, and a tier
that declares one (`saving`) hands its requests to a lower one; from 95 % on the header says that it is the
last call. The cap itself is kept elsewhere (`ledger.budgets`): the shares here are read about once a second,
are for people, and stop nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from wattmill.ledger.stores.control_records import Budget

SAVING, LAST_CALL = 80, 95  # percent
AT_ONCE = 64
"""Nodes that one reading looks at: new ones first, the others in turn at the next ones."""


class Share(msgspec.Struct, frozen=True, gc=False):
    """The limit of a node of which most is spent, as last read."""

    name: str
    unit: str
    used: int  # by the whole factory
    amount: int
    mine: int  # of it, by this worker until then; 0 for other units than dollars


class Stage(msgspec.Struct, frozen=True, gc=False):
    """The tightest limit on a path."""

    percent: int
    name: str

    @property
    def word(self) -> str:
        return "spent" if self.percent >= 100 else "last-call" if self.percent >= LAST_CALL else "saving"

    def line(self, tier: str | None = None) -> bytes:
        """Return the header, with its line end. `tier`: the lower one that serves for it."""
        name = self.name.encode("ascii", "replace")
        lower = b"" if tier is None else b"; tier=%b" % tier.encode()
        word = self.word.encode()
        return b"x-wattmill-budget: %d%%; stage=%b; node=%b%b\r\n" % (self.percent, word, name, lower)


class Stages:
    """What one worker knows of how much is spent."""

    def __init__(
        self,
        *,
        charged: Callable[[int], int],
        nodes: Callable[[], Sequence[int]],
        read: Callable[[Sequence[int]], Sequence[Budget]],
        run_in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        """`charged`: what this worker has charged at a node; `nodes`: those in use; `read` blocks."""
        self.shares: dict[int, Share] = {}
        self._charged = charged
        self._nodes = nodes
        self._read = read
        self._run = run_in_thread
        self._turn = 0
        self._met: set[int] = set()  # nodes that were read since they came into use

    async def tick(self) -> None:
        """Read how much is spent at the nodes in use. Call it about once a second."""
        nodes = list(self._nodes())
        used = set(nodes)
        self.shares = {node: share for node, share in self.shares.items() if node in used}
        self._met &= used
        if not nodes:
            return
        some = self._next_of(nodes)
        self._met.update(some)
        mine = {node: self._charged(node) for node in some}  # before the reading: counted twice, never missed
        for budget in await self._run(self._read, some):
            share = tightest(budget, mine.get(budget.node, 0))
            if share is None:
                self.shares.pop(budget.node, None)
            else:
                self.shares[budget.node] = share

    def _next_of(self, nodes: list[int]) -> list[int]:
        """Return the nodes of this reading: those that were never read, then the others in turn. Once a node
        was read, what this worker charges there is known without another reading."""
        fresh = [node for node in nodes if node not in self._met][: AT_ONCE * 3 // 4]
        others = [node for node in nodes if node in self._met]
        room = min(AT_ONCE - len(fresh), len(others))  # a crowd of new ones must not starve them
        if not room:
            return fresh
        begin = self._turn % len(others)
        self._turn = begin + room
        return fresh + (others + others)[begin : begin + room]

    def percent(self, node: int) -> int:
        """Return how much of the node's tightest limit is spent; 0 where nothing is known."""
        share = self.shares.get(node)
        if share is None or not share.amount:
            return 0
        used = share.used
        if share.unit == "nusd":
            used += max(0, self._charged(node) - share.mine)
        return min(100, used * 100 // share.amount)

    def stage(self, path: Sequence[int]) -> Stage | None:
        """Return the tightest limit on a path, None while less than 80 % of each is spent."""
        most, at = SAVING - 1, 0
        for node in path:
            if node in self.shares and (percent := self.percent(node)) > most:
                most, at = percent, node
        return Stage(most, self.shares[at].name) if at else None


def tightest(budget: Budget, mine: int) -> Share | None:
    """Return the limit of a node of which the largest part is spent; those of shape do not count."""
    best: Share | None = None
    if budget.cap_nusd is not None:
        best = Share(budget.name, "nusd", budget.used_nusd, budget.cap_nusd, mine)
    for limit in budget.limits:
        if limit.unit in ("depth", "fan_out", "concurrency"):
            continue
        share = Share(budget.name, limit.unit, limit.used, limit.amount, mine if limit.unit == "nusd" else 0)
        if best is None or share.used * best.amount > best.used * share.amount:
            best = share
    return best
