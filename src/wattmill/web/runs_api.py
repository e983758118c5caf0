"""Runs over HTTP: the same calls as `wattmill runs` makes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.runs.amounts import amount_of
from wattmill.app.runs.minding import RunLine, all_runs, line_of, pause, resume, stop, top_up
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Run
from wattmill.ledger.stores.control_runs import Runs
from wattmill.web.bodies import answer, decoded
from wattmill.web.nodes import NODE


class Why(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str | None = None  # told to the run's client


class More(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    amount: str  # "1 USD", "20000 tokens", "50 requests/hour"


def _control(request: Request) -> Control:
    control: Control = request.app.state.admin.control
    return control


def _run(request: Request) -> Run:
    return Runs(_control(request)).at(int(request.path_params["node"]))


async def list_runs(request: Request) -> Response:
    """`?all=1`: those that have ended too."""
    ended_too = request.query_params.get("all") in ("1", "true")
    found = await run_in_threadpool(all_runs, _control(request), ended_too=ended_too)
    return answer({"runs": found})


async def show_run(request: Request) -> Response:
    return answer(await run_in_threadpool(lambda: line_of(_control(request), _run(request))))


async def stop_run(request: Request) -> Response:
    return await _with_reason(request, stop)


async def pause_run(request: Request) -> Response:
    return await _with_reason(request, pause)


async def resume_run(request: Request) -> Response:
    return answer(await run_in_threadpool(lambda: resume(_control(request), _run(request))))


async def top_up_run(request: Request) -> Response:
    unit, period, more = amount_of((await decoded(request, More)).amount)
    return answer(
        await run_in_threadpool(
            lambda: top_up(_control(request), _run(request), more, unit=unit, period=period)
        )
    )


async def _with_reason(request: Request, do: Callable[[Control, Run, str | None], RunLine]) -> Response:
    why = await decoded(request, Why)
    return answer(await run_in_threadpool(lambda: do(_control(request), _run(request), why.reason)))


RUN_ROUTES = [
    Route("/api/runs", list_runs),
    Route(f"/api/runs/{NODE}", show_run),
    Route(f"/api/runs/{NODE}/stop", stop_run, methods=["POST"]),
    Route(f"/api/runs/{NODE}/pause", pause_run, methods=["POST"]),
    Route(f"/api/runs/{NODE}/resume", resume_run, methods=["POST"]),
    Route(f"/api/runs/{NODE}/top-up", top_up_run, methods=["POST"]),
]
