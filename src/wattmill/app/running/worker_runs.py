"""All that a worker has for runs, in one object: desk, stages, gates and door."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

from wattmill.agents.runaway.spec import Verdict
from wattmill.app.declared.settings import Settings
from wattmill.app.gates.run import RunGate, StageGate
from wattmill.app.gates.runaway import RunawayGate, seen
from wattmill.app.runs.desk import Desk
from wattmill.app.runs.door import PREFIX, RunsDoor
from wattmill.app.runs.opening import Opened
from wattmill.app.runs.stages import Stages
from wattmill.distribution.gate import Gate
from wattmill.distribution.side_door import SideDoor, SideRequest
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import CapsUnavailable
from wattmill.ports import Clock, Journal
from wattmill.vocab.ids import split_request_id
from wattmill.vocab.tier import Tier

_STAGES_S = 1.0
_EXPIRE_S = 5.0
_log = logging.getLogger("wattmill.runs")


class WorkerRuns:
    """Made once by a worker. `ends_runs`: this worker closes the runs of the factory whose time is over."""

    def __init__(
        self, control: Control, purse: Allotments, journal: Journal, clock: Clock, *, ends_runs: bool
    ) -> None:
        self._control = control
        self._purse = purse
        self._journal = journal
        self._clock = clock
        self._ends_runs = ends_runs
        self.desk = Desk(control, wall_us=clock.wall_us)
        self.stages = Stages(charged=purse.charged, nodes=purse.nodes, read=control.summaries_of)
        self._gate = RunGate(self.desk)
        self._stage_gate = StageGate(self.stages)
        self._runaway: RunawayGate | None = None
        self._stages_at_s = clock.now()
        self._expire_at_s = clock.now()

    def run_gates(
        self, saving: Mapping[str, Tier] = MappingProxyType({}), *, bound_tok_per_tok: float = 4.0
    ) -> list[Gate]:
        """`saving`: by the name of a tier, the lower one that serves its requests near a limit."""
        self._stage_gate.saving = saving
        self._stage_gate.bound_tok_per_tok = bound_tok_per_tok
        return [self._gate, self._stage_gate]

    def runaway_gate(self, settings: Settings) -> RunawayGate | None:
        """Return the watch, with what it remembers; None where nothing is to be looked at."""
        if not settings.runaway.looks:
            return None
        if self._runaway is None:
            self._runaway = RunawayGate(settings.runaway, self.desk, self._clock, self._gate.nodes)
        self._runaway.settings = settings.runaway
        return self._runaway

    def side_doors(self, settings: Settings) -> dict[bytes, SideDoor]:
        door = RunsDoor(
            self._control, self.desk, settings.runs, settings.runaway, self._note, self._purse.tick
        )
        return {PREFIX: door}

    async def tick(self) -> None:
        """The worker calls this at each poll. A failure of the database is made good at the next one."""
        now_s = self._clock.now()
        try:
            if now_s >= self._stages_at_s:
                self._stages_at_s = now_s + _STAGES_S
                await self.stages.tick()
            if self._ends_runs and now_s >= self._expire_at_s:
                self._expire_at_s = now_s + _EXPIRE_S
                await self.desk.expire()
        except CapsUnavailable as error:
            _log.warning("could not read how much is spent: %s", error)
        except Exception:  # noqa: BLE001 - what was known goes on to hold
            _log.exception("could not read how much is spent")

    async def changed(self) -> None:
        """Something changed in the control database."""
        for node in await self.desk.reread():
            if self._runaway is not None:
                self._runaway.forget(node)

    def _note(self, request: SideRequest, opened: Opened, verdict: Verdict, action: str) -> None:
        parts = split_request_id(request.id)
        self._journal.append_note(
            seen(
                parts[1] if parts else 0,
                self._clock.wall_us(),
                opened.run.path,
                opened.run.depth,
                verdict,
                action,
            )
        )
