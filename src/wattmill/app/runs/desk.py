"""The runs that a worker knows: looked up once, off the event loop, then found in memory.

A run that was opened at another worker a moment ago is a miss here, and the miss asks the control database,
so a run is known everywhere at once. What changes later (paused, stopped, topped up, closed) raises the
generation of the control database; the worker sees that within its poll, and reads anew what it knows.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from wattmill.app.runs.bodies import NewStep
from wattmill.app.runs.opening import MAX_STEPS, not_open, open_step
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import ControlError, NoSuch, Run, RunState
from wattmill.ledger.stores.control_runs import Runs
from wattmill.units import US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

MAX_KNOWN = 8_192
MAX_UNKNOWN = 1_024
UNKNOWN_US = US_PER_S  # how long an id that nobody opened is not asked for again
MAX_STEPS_KNOWN = 2 * MAX_STEPS
_AT_ONCE = 500  # rows that one statement asks for
MAX_LOOKUPS = 32  # at once; further ones wait
MAX_LOOKUPS_OF_KEY = 8  # so that who guesses ids holds up nobody else

_log = logging.getLogger("wattmill.runs")


class Known:
    """One run as this worker knows it."""

    __slots__ = ("__weakref__", "above", "run", "steps")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.above: tuple[Known, ...] = ()  # agents and runs between the key and this one
        self.steps: dict[str, Known | None] = {}  # by name; None: it counts at the run


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
        self._by_node: weakref.WeakValueDictionary[int, Known] = weakref.WeakValueDictionary()
        self._unknown: dict[str, int] = {}
        self._readings = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding: set[int] = set()  # nodes whose new state is being written down
        self._lookups: dict[str, asyncio.Task[Known | Refusal]] = {}
        self._room = asyncio.Semaphore(MAX_LOOKUPS)
        self._turns: weakref.WeakValueDictionary[int, asyncio.Semaphore] = weakref.WeakValueDictionary()

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
        for one in known.above:
            if one.run.state != "open":
                return not_open(one.run)
        return known

    def still(self, known: Known, caller: Caller) -> Refusal | None:
        """Return why `caller` may not use `known` any more, or None."""
        now = self.judge(known, caller)
        return now if isinstance(now, Refusal) else None

    async def look_up(self, id: str, caller: Caller, *, ended_too: bool = False) -> Known | Refusal:
        """Return the run `id`, from the control database if it is unknown here. Those who ask for the same
        one at the same time ask once."""
        token = _hashed(id)
        known = self._known.get(token)
        if known is None:
            found = await self._looked_up(id, token, caller.key)
            if isinstance(found, Refusal):
                return found
            known = found
        if ended_too:
            return known if known.run.key == caller.key else UNKNOWN
        return self.judge(known, caller)

    async def _looked_up(self, id: str, token: str, key: int) -> Known | Refusal:
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = asyncio.Semaphore(MAX_LOOKUPS_OF_KEY)
        async with turn, self._room:
            known = self._known.get(token)  # somebody else may have asked meanwhile
            if known is not None:
                return known
            if self._wall_us() < self._unknown.get(token, 0):
                return UNKNOWN
            task = self._lookups.get(token)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._look_up(id, token))
                self._lookups[token] = task
                task.add_done_callback(lambda _: self._lookups.pop(token, None))
            return await asyncio.shield(task)

    async def step(self, known: Known, asked: NewStep) -> None:
        """Learn the step of a run, made if it is new. One that a limit forbids counts at the run itself."""
        made = await self._run(open_step, self._control, known.run, asked)
        if isinstance(made, Refusal):
            if len(known.steps) < MAX_STEPS_KNOWN:
                known.steps[asked.name] = None
        else:
            known.steps[asked.name] = self.learn(made, (*(one.run for one in known.above), known.run))

    def hold(self, node: int, action: str, reason: str) -> Refusal:
        """Pause or stop a run: here at once, everywhere when it is written down (a moment later)."""
        state: RunState = "stopped" if action == "stop" else "paused"
        known = self._by_node.get(node)
        if known is not None:
            known.run = msgspec.structs.replace(known.run, state=state, reason=reason)
            self._holding.add(node)
        task = asyncio.get_running_loop().create_task(self._write_down(node, state, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if known is not None:
            return not_open(known.run)
        return Refusal(code="run_paused", message=f"the run at node {node} is {state}: {reason}")

    async def _write_down(self, node: int, state: RunState, reason: str) -> None:
        try:
            await self._run(self.runs.set_state, node, state, reason)
        except ControlError as error:  # somebody ended it first
            self._holding.discard(node)
            _log.info("run at node %d: %s", node, error)
        except Exception:  # noqa: BLE001 - it stays held here; the log says why not elsewhere
            _log.exception("could not write down that the run at node %d is %s", node, state)
        else:
            self._holding.discard(node)

    async def _look_up(self, id: str, token: str) -> Known | Refusal:
        readings = -1
        while readings != self._readings:  # what changed while we read would not be read anew later
            readings = self._readings
            try:
                run, above = await self._run(self._read, id)
            except NoSuch:
                if len(self._unknown) >= MAX_UNKNOWN:
                    self._unknown.clear()
                self._unknown[token] = self._wall_us() + UNKNOWN_US
                return UNKNOWN
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the one that was looked up longest ago
        known = self._known[token] = self.learn(run, above)
        self._unknown.pop(token, None)
        return known

    def _read(self, id: str) -> tuple[Run, list[Run]]:
        run = self.runs.find(id)
        return run, [self.runs.at(node) for node in run.path[-run.depth : -1]]

    def learn(self, run: Run, above: Sequence[Run]) -> Known:
        """Remember a run as long as somebody holds it."""
        known = self._by_node.get(run.node)
        if known is None:
            known = Known(run)
            self._by_node[run.node] = known
        known.run = run
        known.above = tuple(self.learn(one, above[:n]) for n, one in enumerate(above))
        return known

    def at(self, node: int) -> Known | None:
        return self._by_node.get(node)

    # --- what changes --------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Close the runs whose time is over."""
        await self._run(self.runs.expire)

    async def reread(self) -> list[int]:
        """Read anew the state of every run that is known here: somebody changed something. Returns those that
        were let go on."""
        self._readings += 1
        nodes = list(self._by_node)
        if not nodes:
            return []
        resumed = []
        states = await self._run(self._states, nodes)
        for node, (state, reason, cap_nusd, expires_us) in states.items():
            known = self._by_node.get(node)
            if known is not None and node not in self._holding:
                if state == "open" != known.run.state:
                    resumed.append(node)
                known.run = msgspec.structs.replace(
                    known.run, state=state, reason=reason, cap_nusd=cap_nusd, expires_us=expires_us
                )
        return resumed

    def _states(self, nodes: list[int]) -> dict[int, tuple[Any, str | None, int | None, int | None]]:
        out: dict[int, tuple[Any, str | None, int | None, int | None]] = {}
        with self._control.reading() as db:
            for at in range(0, len(nodes), _AT_ONCE):
                some = nodes[at : at + _AT_ONCE]
                rows = db.execute(
                    "SELECT run.node, state, reason, cap_nusd, expires_us FROM run "
                    "JOIN node ON node.id = run.node WHERE run.node IN "
                    f"({','.join('?' * len(some))})",
                    some,
                )
                out |= {row[0]: row[1:] for row in rows}
        return out


def _hashed(id: str) -> str:
    """Known ids are kept as hashes: who could read this memory by timing it would learn nothing to send."""
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()
