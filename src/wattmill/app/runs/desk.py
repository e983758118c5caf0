"""The runs that a worker knows: looked up once, off the event loop, then found in memory.

A run that was opened at another worker a moment ago is a miss here, and the miss asks the control database,
so a run is known everywhere at once. What changes later (paused, stopped, topped up, closed) raises the
generation of the control database; the worker sees that within its poll, and reads anew what it knows.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import NoSuch, Run
from wattmill.ledger.stores.control_runs import Runs
from wattmill.units import US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

MAX_KNOWN = 8_192
MAX_UNKNOWN = 1_024
UNKNOWN_US = US_PER_S  # how long an id that nobody opened is not asked for again
MAX_LOOKUPS = 32  # at once; further ones are told to come back


class Share(msgspec.Struct, frozen=True, gc=False):
    """How much of a run's tightest limit is spent, as last read."""

    node: int
    name: str
    unit: str
    used: int  # of the whole factory
    amount: int
    mine: int  # of it, this worker's own


class Known:
    """One run as this worker knows it."""

    __slots__ = ("below", "run", "share", "steps", "token", "used")

    def __init__(self, run: Run, token: str) -> None:
        self.run = run
        self.token = token
        self.below = 0
        self.share: Share | None = None
        self.steps: dict[str, Known | None] = {}
        self.used = True  # since the last reading


UNKNOWN = Refusal(
    code="unknown_run",
    message="no such run of this API key; POST /v1/runs opens one for the key that asks",
)


class Desk:
    """All calls on one event loop; what blocks runs by `run_in_thread`."""

    def __init__(
        self,
        control: Control,
        *,
        wall_us: Callable[[], int],
        run_in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self.runs = Runs(control)
        self._control = control
        self._wall_us = wall_us
        self._run = run_in_thread
        self._known: dict[str, Known] = {}
        self._by_node: dict[int, Known] = {}
        self._unknown: dict[str, int] = {}
        self._lookups: dict[str, asyncio.Task[Known | Refusal]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, id: str, caller: Caller) -> Known | Refusal | None:
        """Return the run `id` as `caller` may use it now, why it may not, or None: look it up."""
        token = _hashed(id)
        known = self._known.get(token)
        if known is None:
            until_us = self._unknown.get(token)
            if until_us is None or self._wall_us() >= until_us:
                return None
            return UNKNOWN
        return self.judge(known, caller)

    def judge(self, known: Known, caller: Caller) -> Known | Refusal:
        """Return `known`, or why `caller` may not use it now."""
        run = known.run
        if run.key != caller.key:
            return UNKNOWN
        if run.state != "open":
            return not_open(run)
        if run.expires_us is not None and self._wall_us() >= run.expires_us:
            return not_open(msgspec.structs.replace(run, state="closed", reason="expired"))
        known.used = True
        return known

    async def look_up(self, id: str, caller: Caller) -> Known | Refusal:
        """Ask the control database. Those who ask for the same id at the same time ask once."""
        token = _hashed(id)
        task = self._lookups.get(token)
        if task is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                return Refusal(
                    code="overloaded",
                    message=f"{MAX_LOOKUPS} unknown runs are being looked up already",
                    retry_after_s=1.0,
                )
            task = asyncio.get_running_loop().create_task(self._look_up(id, token))
            self._lookups[token] = task
            task.add_done_callback(lambda _: self._lookups.pop(token, None))
        found = await asyncio.shield(task)
        return found if isinstance(found, Refusal) else self.judge(found, caller)

    async def _look_up(self, id: str, token: str) -> Known | Refusal:
        try:
            run = await self._run(self.runs.find, id)
        except NoSuch:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[token] = self._wall_us() + UNKNOWN_US
            return UNKNOWN
        return self.learn(run, token)

    def learn(self, run: Run, token: str) -> Known:
        """Remember a run; the longest unused one is forgotten."""
        known = self._known.pop(token, None)
        if known is None:
            known = Known(run, token)
            if len(self._known) >= MAX_KNOWN:
                oldest = self._known.pop(next(iter(self._known)))
                self._by_node.pop(oldest.run.node, None)
        known.run = run
        known.below = run.depth
        self._known[token] = known
        self._by_node[run.node] = known
        self._unknown.pop(token, None)
        return known

    def opened(self, run: Run, id: str) -> Known:
        """Remember a run that was opened here."""
        return self.learn(run, _hashed(id))

    def at(self, node: int) -> Known | None:
        return self._by_node.get(node)

    # --- what changes --------------------------------------------------------------------------------------

    async def reread(self) -> None:
        """Read anew the state of every run that is known here: somebody changed something."""
        nodes = list(self._by_node)
        if not nodes:
            return
        states = await self._run(self._states, nodes)
        for node, (state, reason, cap_nusd, expires_us) in states.items():
            known = self._by_node.get(node)
            if known is not None:
                known.run = msgspec.structs.replace(
                    known.run, state=state, reason=reason, cap_nusd=cap_nusd, expires_us=expires_us
                )

    def _states(self, nodes: list[int]) -> dict[int, tuple[Any, str | None, int | None, int | None]]:
        out = {}
        with self._control.reading() as db:
            for node in nodes:
                row = db.execute(
                    "SELECT state, reason, cap_nusd, expires_us FROM run JOIN node ON node.id = run.node "
                    "WHERE run.node = ?",
                    (node,),
                ).fetchone()
                if row is not None:
                    out[node] = row
        return out

    async def tick(self, mine: Callable[[int], int]) -> None:
        """Read what the runs in use have spent. `mine`: what this worker has charged at a node by now."""
        live = [known for known in self._known.values() if known.used]
        for known in live:
            known.used = False
        if live:
            shares = await self._run(self._shares, [known.run.node for known in live], mine)
            for known in live:
                known.share = shares.get(known.run.node)

    def _shares(self, nodes: list[int], mine: Callable[[int], int]) -> dict[int, Share]:
        out: dict[int, Share] = {}
        for node in nodes:
            own = mine(node)  # before the reading: what comes in between is counted twice, never missed
            try:
                budget = self.runs.budget(node)
            except NoSuch:
                continue
            tightest: Share | None = None
            if budget.cap_nusd is not None:
                tightest = Share(node, budget.name, "nusd", budget.used_nusd, budget.cap_nusd, own)
            for limit in budget.limits:
                share = Share(node, budget.name, limit.unit, limit.used, limit.amount, 0)
                if limit.unit in ("depth", "fan_out", "concurrency"):
                    continue
                if tightest is None or share.used * tightest.amount > tightest.used * share.amount:
                    tightest = share
            if tightest is not None:
                out[node] = tightest
        return out


def not_open(run: Run) -> Refusal:
    """Return why a run that is not open serves nothing, and the way out."""
    why = f": {run.reason}" if run.reason else ""
    if run.state == "paused":
        return Refusal(
            code="run_paused",
            message=f"run {run.name!r} is paused{why}; a person may let it go on: "
            f"wattmill runs resume {run.node}, or wattmill runs top-up {run.node} 1 USD",
        )
    return Refusal(
        code="run_ended", message=f"run {run.name!r} is {run.state}{why}; open a new one: POST /v1/runs"
    )


def _hashed(id: str) -> str:
    """Known ids are kept as hashes: who could read this memory by timing it would learn nothing to send."""
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()
