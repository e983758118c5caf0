"""Power limits over HTTP: what holds now, what was asked, and a door for events in three formats."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.flexing import in_force
from wattmill.app.flexing.shelf import EventReport, Shelf
from wattmill.app.home import Home
from wattmill.app.running.state import FactoryState
from wattmill.app.seeing.power import lifting, overview
from wattmill.app.seeing.readings import read_supervisor
from wattmill.power.signal.formats import BadEvent, dsx_status, read_events
from wattmill.power.signal.spec import PowerEvent
from wattmill.units import US_PER_S
from wattmill.web.bodies import BODY_MAX, answer
from wattmill.web.errors import ApiError

FEED = "factory"


def _home(request: Request) -> Home:
    home: Home = request.app.state.admin.home
    return home


def _now_s(request: Request) -> float:
    now_us: int = request.app.state.admin.now_us()
    return now_us / US_PER_S


async def show_power(request: Request) -> Response:
    """What holds now, and every event that is known, without its samples."""
    return answer(await run_in_threadpool(overview, _home(request)))


async def take_event(request: Request) -> Response:
    """Take one message; 202 with the events that it holds, and whether each can be met as far as is known."""
    message = b""
    async for part in request.stream():
        message += part
        if len(message) > BODY_MAX:
            raise ApiError(413, "body_too_large", f"the message exceeds {BODY_MAX} bytes")
    now_s = _now_s(request)
    try:
        events = read_events(message, now_s=now_s, id=secrets.token_hex(4))
    except BadEvent as error:
        raise ApiError(400, "bad_event", str(error), "docs/how-to/power-limits.md has one of each") from None
    running, state = await run_in_threadpool(read_supervisor, _home(request))
    if not running:
        raise ApiError(503, "not_running", "the factory does not run: nobody would obey", "`wattmill up`")
    # Its id is fixed here: what was answered is what will be found.
    text = message if _names_itself(message) else _with_id(message, events[0])
    await run_in_threadpool(Shelf(_home(request)).put, text)
    return answer({"events": [_told(event, state) for event in events]}, 202)


def _told(event: PowerEvent, state: FactoryState | None) -> dict[str, Any]:
    idle_w = None if state is None else state.idle_w
    short = event.limit_w is not None and idle_w is not None and event.limit_w < idle_w
    return {
        "id": event.id,
        "start_s": event.start_s,
        "end_s": event.end_s,
        "limit_w": event.limit_w,
        "keep": event.keep,
        "feasible": None if event.limit_w is None or idle_w is None else not short,
        "least_w": idle_w,
    }


def _names_itself(message: bytes) -> bool:
    found = msgspec.json.decode(message)
    return "duration_s" not in found or found.get("id") is not None


def _with_id(message: bytes, event: PowerEvent) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(message), "id": event.id})


async def show_event(request: Request) -> Response:
    """One event with its samples."""
    return answer(await run_in_threadpool(_report, request))


def _report(request: Request) -> EventReport:
    id = str(request.path_params["id"])
    report = Shelf(_home(request)).report(id)
    if report is None:
        raise ApiError(404, "not_found", f"no power event {id!r}", "GET /api/power lists them")
    return report


async def lift_event(request: Request) -> Response:
    """End an event now: an event that lifts takes the rest of its time."""
    report = await run_in_threadpool(_report, request)
    now_s = _now_s(request)
    message = lifting(report.event, now_s)
    if message is None:
        raise ApiError(409, "over", f"event {report.event.id!r} has ended already")
    await run_in_threadpool(Shelf(_home(request)).put, message)
    return answer({"lifted": report.event.id}, 202)


async def dsx(request: Request) -> Response:
    """The power state as DSX Flex's `grid.powerstate.status.v1` (CloudEvents, unsigned)."""
    home, now_s = _home(request), _now_s(request)
    _, state = await run_in_threadpool(read_supervisor, home)
    told = await run_in_threadpool(in_force.read, home)
    if state is None or state.host_w is None:
        raise ApiError(
            503, "no_power", "nobody reads the factory's power now", "`wattmill up`, then wait 2 s"
        )
    orders = None if told is None else told.orders
    report = None
    if orders is not None and orders.event is not None:
        report = await run_in_threadpool(Shelf(home).report, orders.event)
    status = dsx_status(
        feed=FEED,
        now_s=now_s,
        event=None if report is None else report.event,
        phase="none" if orders is None else orders.phase,
        power_w=state.host_w if told is None or told.power_w is None else told.power_w,
        limit_w=None if orders is None else orders.limit_w,
        least_w=state.idle_w or 0.0,
        most_w=state.most_w or state.host_w,
        message_id=str(uuid.uuid4()),
        source=f"//grid/v1/dsx-flex-agent/{state.name.replace(' ', '-')}",
        traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00",
    )
    return Response(msgspec.json.encode(status), media_type="application/cloudevents+json")


POWER_ROUTES = (
    Route("/api/power", show_power),
    Route("/api/power/events", take_event, methods=["POST"]),
    Route("/api/power/events/{id}", show_event),
    Route("/api/power/events/{id}", lift_event, methods=["DELETE"]),
    Route("/api/power/dsx-flex", dsx),
)
