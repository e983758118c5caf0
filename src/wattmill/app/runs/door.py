"""`/v1/runs` on the data port: a key opens runs for itself, looks at them, and closes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from wattmill.agents.runaway.spec import Verdict
from wattmill.app.runs.bodies import NewRun, NewStep, run_body
from wattmill.app.runs.desk import Desk, Known
from wattmill.app.runs.named import named
from wattmill.app.runs.opening import Opened, Terms, close_run, live_runs, open_run, open_step, show_run
from wattmill.app.runs.settings import RunawaySettings, RunSettings
from wattmill.distribution.side_door import SideAnswer, SideRequest
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Run
from wattmill.units import S_PER_H
from wattmill.vocab.refusal import Refusal

PREFIX = b"/v1/runs"
_T = TypeVar("_T", NewRun, NewStep)
_encode = msgspec.json.Encoder().encode


class RunsDoor:
    """Implements `distribution.side_door.SideDoor`."""

    def __init__(
        self,
        control: Control,
        desk: Desk,
        runs: RunSettings,
        runaway: RunawaySettings,
        on_storm: Callable[[SideRequest, Opened, Verdict, str], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        """`tell` lets this worker say what it has charged until now; other workers say it within 0.25 s.
        `on_storm` writes down that sub-runs come too fast; what is done about it is done here."""
        self._control = control
        self._desk = desk
        self._runaway = runaway
        self._terms = Terms(
            max_open=runs.max_open,
            max_depth=runs.max_depth,
            expires_s=runs.expires_h * S_PER_H,
            rules=runaway.rules,
        )
        self._on_storm = on_storm
        self._tell = tell

    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal:
        parts = request.path[len(PREFIX) :].decode("utf-8", "replace").strip("/").split("/")
        match request.method, parts:
            case b"POST", [""]:
                return await self._open(request)
            case b"GET", [""]:
                return await self._list(request)
            case b"GET", [id]:
                return await self._show(request, id)
            case b"POST", [id, "close"]:
                return await self._close(request, id)
            case b"POST", [id, "steps"]:
                return await self._step(request, id)
            case b"DELETE", [id]:
                return await self._close(request, id)
        return Refusal(
            code="not_found",
            message="runs have: POST /v1/runs, GET /v1/runs, GET /v1/runs/ID, POST /v1/runs/ID/close, "
            "POST /v1/runs/ID/steps",
        )

    async def _open(self, request: SideRequest) -> SideAnswer | Refusal:
        asked = _decoded(request, NewRun)
        if isinstance(asked, Refusal):
            return asked
        said = named(request.headers)
        if isinstance(said, Refusal):
            return said
        if said[0] is not None and asked.parent is not None and said[0] != asked.parent:
            return Refusal(
                code="run_mismatch",
                message="field 'parent' and the run that the request is in differ; name one",
                param="parent",
            )
        above: Run | None = None
        parent = asked.parent or said[0]
        if parent is not None:
            found = await self._desk.look_up(parent, request.caller)
            if isinstance(found, Refusal):
                return found
            above = found.run
        opened = await asyncio.to_thread(
            open_run, self._control, request.caller.key, asked, above, self._terms
        )
        if isinstance(opened, Refusal):
            return opened
        if opened.storm is None:
            return SideAnswer(_encode(opened.body), 201)
        return await self._storm(request, opened, opened.storm)

    async def _storm(self, request: SideRequest, opened: Opened, verdict: Verdict) -> SideAnswer | Refusal:
        action = self._runaway.fan_out
        if action == "off":
            return SideAnswer(_encode(opened.body), 201)
        self._on_storm(request, opened, verdict, action)
        if action == "slow":
            await asyncio.sleep(self._runaway.slow_s)
        elif action in ("pause", "stop"):
            return self._desk.hold(opened.root, action, f"runaway: {verdict.reason}")
        line = f"{action}; rule={verdict.rule}; sub-runs={verdict.count}".encode()
        return SideAnswer(_encode(opened.body), 201, headers=((b"x-wattmill-runaway", line),))

    async def _list(self, request: SideRequest) -> SideAnswer:
        found = await asyncio.to_thread(live_runs, self._control, request.caller.key)
        return SideAnswer(
            _encode({"object": "list", "data": [run_body(run, budget) for run, budget in found]})
        )

    async def _show(self, request: SideRequest, id: str) -> SideAnswer | Refusal:
        known = await self._mine(request, id)
        if isinstance(known, Refusal):
            return known
        await self._tell()
        return await self._told(show_run, known.run, id)

    async def _close(self, request: SideRequest, id: str) -> SideAnswer | Refusal:
        known = await self._mine(request, id)
        if isinstance(known, Refusal):
            return known
        await self._tell()
        body = await asyncio.to_thread(close_run, self._control, known.run, id, None)
        await self._desk.reread()
        return SideAnswer(_encode(body))

    async def _step(self, request: SideRequest, id: str) -> SideAnswer | Refusal:
        asked = _decoded(request, NewStep)
        if isinstance(asked, Refusal):
            return asked
        known = await self._desk.look_up(id, request.caller)
        if isinstance(known, Refusal):
            return known
        step = await asyncio.to_thread(open_step, self._control, known.run, asked)
        if isinstance(step, Refusal):
            return step
        await self._desk.step(known, asked)
        return await self._told(show_run, step, None, status=201)

    async def _mine(self, request: SideRequest, id: str) -> Known | Refusal:
        """Return the caller's run in whatever state."""
        return await self._desk.look_up(id, request.caller, ended_too=True)

    async def _told(
        self, show: Callable[..., Any], run: Run, id: str | None, status: int = 200
    ) -> SideAnswer:
        return SideAnswer(_encode(await asyncio.to_thread(show, self._control, run, id)), status)


def _decoded(request: SideRequest, kind: type[_T]) -> _T | Refusal:
    try:
        msgspec.json.decode(request.body or b"{}", type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        return Refusal(code="bad_json", message=f"the body must be one JSON object: {error}")
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        return Refusal(code="bad_value", message=f"the body cannot be used: {error}")
