"""The twin's results over HTTP: files that commands left, read and told; nothing is computed here."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.results.room import room
from wattmill.app.results.sheet import Sheet, plain_rows
from wattmill.app.results.shelf import Shelf
from wattmill.twin.plots.chart import Chart, sides
from wattmill.web.bodies import answer, queried
from wattmill.web.errors import ApiError
from wattmill.web.exports import Format, rows_response


class PartQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Format = "json"


async def twin_room(request: Request) -> Response:
    admin = request.app.state.admin
    return answer(await run_in_threadpool(lambda: room(admin.home.root, admin.shelf)))


async def one_result(request: Request) -> Response:
    found = await run_in_threadpool(_sheet, request)
    told: dict[str, Any] = msgspec.to_builtins(found)
    told["id"] = request.path_params["id"]
    told["charts"] = [drawn(chart) for chart in found.charts]
    return answer(told)


async def rows_of_part(request: Request) -> Response:
    """The rows behind one chart or table of a result."""
    query = queried(request, PartQuery)
    found, part = await run_in_threadpool(_sheet, request), request.path_params["part"]
    rows = plain_rows(found, part)
    if rows is None:
        have = ", ".join([*(one.id for one in found.charts), *(one.id for one in found.tables)])
        raise ApiError(404, "not_found", f"the result has no part {part!r}", f"It has: {have}")
    title, columns, lines = rows
    name = f"{found.kind}-{part}"
    return rows_response(query.format, name, f"{found.title}: {title}", found.says, lines, columns)


def drawn(chart: Chart) -> dict[str, Any]:
    """Return a chart with both axes as they are drawn, so that the page decides nothing."""
    told: dict[str, Any] = msgspec.to_builtins(chart)
    return told | {"sides": msgspec.to_builtins(sides(chart))}


def _sheet(request: Request) -> Sheet:
    shelf: Shelf = request.app.state.admin.shelf
    found = shelf.sheet(request.path_params["id"])
    if found is None:
        raise ApiError(
            404,
            "not_found",
            f"no result {request.path_params['id']!r} is kept",
            f"/api/twin lists those that are; the newest of each kind stay in {shelf.folder}",
        )
    return found


TWIN_ROUTES = [
    Route("/api/twin", twin_room),
    Route("/api/twin/results/{id}", one_result),
    Route("/api/twin/results/{id}/{part}", rows_of_part),
]
