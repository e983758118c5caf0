"""A gateway with real keys, caps and runs in a real control database, in front of scripted engines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway_rig import EPOCH, Answer, Rig, Script, rig

from wattmill.app.declared.settings import Settings
from wattmill.app.identify import Keyring, read_entries
from wattmill.app.running.worker_runs import WorkerRuns
from wattmill.app.runs.settings import RunawaySettings, RunSettings
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control

WIDE = 10**18


class RunsRig:
    """Several "workers" may share one control database, as in a factory: each one is a rig of its own."""

    def __init__(self, r: Rig, control: Control, epoch: str, settings: Any, secrets: dict[str, str]) -> None:
        self.r = r
        self.control = control
        self.settings = settings
        self.secrets = secrets
        self.keyring = Keyring(read_entries(control))
        self.purse = Allotments(control, epoch)
        self.runs = WorkerRuns(control, self.purse, r.journal, r.clock, ends_runs=True)
        self.generation = control.generation()
        self.ticking: asyncio.Task[None] | None = None
        self.use()

    def use(self) -> None:
        runaway = self.runs.runaway_gate(self.settings)
        gates = [*self.runs.run_gates(), *([runaway] if runaway is not None else [])]
        self.r.gateway.use(
            dataclasses.replace(
                self.r.services(),
                identify=self.keyring.identify,
                purse=self.purse,
                gates=tuple(gates),
                side_doors=self.runs.side_doors(self.settings),
            )
        )

    async def tick(self) -> None:
        """What a worker does at each poll."""
        await self.purse.tick()
        self.runs._stages_at_s = 0.0
        await self.runs.tick()
        if (now := self.control.generation()) != self.generation:
            self.generation = now
            self.keyring.replace(read_entries(self.control))
            await self.runs.changed()

    async def ask(self, body: Any = None, *, key: str = "mine", **more: Any) -> Answer:
        return await self.r.ask(body, key=self.secrets[key], **more)

    async def open(self, *, key: str = "mine", **asked: Any) -> dict[str, Any]:
        answer = await self.ask(asked or b"{}", path="/v1/runs", key=key)
        assert answer.status == 201, answer.body
        return dict(answer.json)

    def in_run(self, run: dict[str, Any], path: str = "/v1/chat/completions") -> str:
        return f"/run/{run['id']}{path}"


class Declared:
    """The two sections of a declaration that these tests look at."""

    def __init__(self, runs: RunSettings | None = None, runaway: RunawaySettings | None = None) -> None:
        self.runs = runs or RunSettings()
        self.runaway = runaway or RunawaySettings()


def tenants(
    control: Control, *, requires_run: bool = False, team_cap_nusd: int | None = None
) -> dict[str, str]:
    """Make two keys of one team, and return their secrets."""
    org = control.put_org("org", WIDE)
    team = control.put_team(org, "team", team_cap_nusd)
    secrets = {}
    for name in ("mine", "other"):
        _, secrets[name] = control.create_key(team, name, requires_run=requires_run and name == "mine")
    return secrets


@contextlib.asynccontextmanager
async def runs_rig(
    folder: Path,
    *scripts: Script,
    requires_run: bool = False,
    settings: Declared | Settings | None = None,
    team_cap_nusd: int | None = None,
) -> AsyncIterator[RunsRig]:
    async with rig(*scripts) as r:
        with Control(folder / "control.db") as control:
            secrets = tenants(control, requires_run=requires_run, team_cap_nusd=team_cap_nusd)
            made = RunsRig(r, control, EPOCH, settings or Declared(), secrets)
            await made.tick()
            yield made
            await asyncio.gather(*made.runs.desk._tasks)


@contextlib.asynccontextmanager
async def second_worker(first: RunsRig, *scripts: Script) -> AsyncIterator[RunsRig]:
    """Another gateway of the same factory."""
    async with rig(*scripts) as r:
        made = RunsRig(r, first.control, "fedcba987654", first.settings, first.secrets)
        await made.tick()
        yield made
