"""The first gates: in which run a request is, and how near to its budget.

The run (and step) that a request names is appended to the path that it pays along, so that one reservation
covers all of them. A run that this worker does not know yet is looked up off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from wattmill.app.gates.tier import in_tier, probable_tok
from wattmill.app.runs.bodies import NewStep
from wattmill.app.runs.desk import MAX_STEPS_KNOWN, Desk, Known
from wattmill.app.runs.named import BAGGAGE, RUN_HEADER, STEP_HEADER, named
from wattmill.app.runs.stages import Stages
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.distribution.http import RUN_IN_URL
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.tier import Tier

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange


class RunGate:
    """Implements `distribution.gate.Gate`."""

    name = "run"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tasks: dict[Exchange, asyncio.Task[None]] = {}
        self.nodes: dict[Exchange, int] = {}  # the run that a request is in, while it is served

    def concerns(self, headers: Mapping[bytes, bytes], caller: Caller) -> bool:
        return caller.requires_run or _names_one(headers)

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        headers, caller = x.http.headers, x.caller
        assert caller is not None
        if not _names_one(headers):
            return _required(caller) if caller.requires_run else None
        said = named(headers)
        if isinstance(said, Refusal):
            return said
        id, step = said
        if id is None:  # others' baggage only
            if caller.requires_run:
                return _required(caller)
            return None
        found = self._desk.find(id, caller)
        if isinstance(found, Refusal):
            return found
        if found is None or _new_step(found, step):
            self._tasks[x] = asyncio.get_running_loop().create_task(self._look_up(x, caller, id, step))
            return WAIT
        return self._bind(x, found, step)

    def left(self, x: Exchange) -> None:
        self.nodes.pop(x, None)
        task = self._tasks.pop(x, None)
        if task is not None:
            task.cancel()

    async def _look_up(self, x: Exchange, caller: Caller, id: str, step: str | None) -> None:
        refusal: Refusal | None = None
        try:
            found = await self._desk.look_up(id, caller)
            if isinstance(found, Refusal):
                refusal = found
            else:
                if _new_step(found, step) and step is not None:
                    await self._desk.step(found, NewStep(name=step))
                refusal = self._bind(x, found, step)
        except Exception as error:  # noqa: BLE001 - a task's boundary: the request gets an answer
            x.gateway.defect(x.id, error)
            refusal = Refusal(
                code="caps_unavailable",
                message="the control database gave no answer; nothing leaves unreserved. Try again.",
                retry_after_s=1.0,
            )
        self._tasks.pop(x, None)  # before it goes on: `left` must not cancel the task that runs it
        x.go_on(refusal)

    def _bind(self, x: Exchange, known: Known, step: str | None) -> Refusal | None:
        one, caller = known, _caller_of(x)
        if step is not None and (named_one := known.steps.get(step)) is not None:
            one = named_one
            if (refusal := self._desk.still(one, caller)) is not None:  # it may be held by itself
                return refusal
        x.path, x.below = one.run.path, one.run.depth
        self.nodes[x] = known.run.node
        x.holds = partial(self._desk.still, one, caller)
        return None


class StageGate:
    """Implements `distribution.gate.Gate`, behind the run's: who nears a cap is told, and served frugally."""

    name = "stage"

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self.saving: Mapping[str, Tier] = {}  # a tier's name -> the lower one that serves near a limit
        self.bound_tok_per_tok = 4.0

    def enter(self, x: Exchange) -> None:
        if self._stages.shares and (stage := self._stages.stage(x.path)) is not None:
            lower = self.saving.get(x.ask.tier)
            if lower is not None and not self._fits(x.ask, lower):
                lower = None
            x.head_lines += stage.line(None if lower is None else lower.name)
            x.ask = msgspec.structs.replace(x.ask if lower is None else in_tier(x.ask, lower), frugal=True)

    def _fits(self, ask: Request, tier: Tier) -> bool:
        return tier.context_tok is None or probable_tok(ask, self.bound_tok_per_tok) <= tier.context_tok

    def left(self, x: Exchange) -> None:
        pass


def _names_one(headers: Mapping[bytes, bytes]) -> bool:
    return RUN_IN_URL in headers or RUN_HEADER in headers or BAGGAGE in headers or STEP_HEADER in headers


def _caller_of(x: Exchange) -> Caller:
    assert x.caller is not None
    return x.caller


def _new_step(known: Known, step: str | None) -> bool:
    return step is not None and step not in known.steps and len(known.steps) < MAX_STEPS_KNOWN


def _required(caller: Caller) -> Refusal:
    return Refusal(
        code="run_required",
        message=f"key {caller.name!r} serves nothing outside of a run: open one with POST /v1/runs and "
        "name it by the base URL /run/ID/v1, the header x-wattmill-run or baggage wattmill.run=ID",
        param="x-wattmill-run",
    )
