"""Rows: what figures were computed from, to read, to explain and to take away."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.running import home_lock
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.explain import UnknownRequest, explain
from wattmill.app.seeing.figures import read, row
from wattmill.app.seeing.request_list import STATUS_FILTERS, request_page
from wattmill.app.seeing.request_view import request_view
from wattmill.ledger.stores.sqlite_energy import latest_windows
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.tenancy import name_of, path_of
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.web.bodies import answer, queried
from wattmill.web.errors import ApiError
from wattmill.web.exports import Format, Value, export_response, rows_response

EXPORT_MAX = 100_000


class RequestQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`node` is an organisation, team or key; `key` is the same, named for those who look for a key."""

    limit: Annotated[int, Meta(ge=1, le=EXPORT_MAX)] | None = None
    before: Annotated[int, Meta(ge=1)] | None = None
    pool: str | None = None
    node: int | None = None
    key: int | None = None
    status: str | None = None
    format: Format = "json"


class RowQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=EXPORT_MAX)] = 200
    format: Format = "json"


async def requests(request: Request) -> Response:
    return await run_in_threadpool(_requests, request, queried(request, RequestQuery))


def _requests(request: Request, query: RequestQuery) -> Response:
    admin = request.app.state.admin
    if query.status is not None and query.status not in STATUS_FILTERS:
        raise ApiError(
            400, "bad_value", f"status is {query.status!r}, must be one of: {', '.join(STATUS_FILTERS)}"
        )
    tree = admin.control.nodes()
    node = query.node if query.node is not None else query.key
    keys = None if node is None else {id for id in tree if node in path_of(tree, id)} | {node}
    limit = query.limit or (50 if query.format == "json" else EXPORT_MAX)
    with _books(request) as books:
        page = request_page(
            books, limit=limit, before=query.before, pool=query.pool, keys=keys, status=query.status
        )
    if query.format != "json":
        flat = [
            {**msgspec.structs.asdict(r), "key": name_of(tree, r.key) if r.key in tree else str(r.key)}
            for r in page.rows
        ]
        return export_response(query.format, "requests", flat, list(flat[0]) if flat else ["id"])
    readings = read(admin.home, admin.now_us(), control=admin.control)
    said = {
        name: value for name, value in (("pool", query.pool), ("status", query.status)) if value is not None
    }
    if node is not None:
        said["node"] = str(node)
    more = urlencode({**said, "limit": limit, "before": page.before}) if page.before else None
    who = name_of(tree, node) if node is not None and node in tree else None
    return answer(
        {
            "kind": "requests",
            "title": " · ".join(filter(None, ["Requests", query.pool, who, query.status])),
            "note": "Attempts, newest first, as they are booked.",
            "rows": [row(r, readings) for r in page.rows],
            "next": f"/api/requests?{more}" if more else None,
        }
    )


async def one_request(request: Request) -> Response:
    """The whole story: as data, and as the figures that the board draws."""
    home, id = request.app.state.admin.home, request.path_params["id"]
    try:
        story = await run_in_threadpool(explain, home, id)
    except UnknownRequest as error:
        raise ApiError(
            404, "not_found", str(error), "The header x-request-id of an answer is its id"
        ) from None
    return answer({"story": story, "view": request_view(story)})


async def energy(request: Request) -> Response:
    return await run_in_threadpool(_energy, request, queried(request, RowQuery))


def _energy(request: Request, query: RowQuery) -> Response:
    with _books(request) as books:
        found = latest_windows(books.db, query.limit)
    parts = ("total", "idle", "requests", "service", "foreign", "overhead", "unattributed")
    rows = [
        {
            "meter": window.meter,
            "start_us": window.start_us,
            "seconds": window.length_us / US_PER_S,
            **{f"{part}_j": getattr(window, f"{part}_uj") / UJ_PER_J for part in parts},
            "provenance": window.provenance,
            "source": window.source,
        }
        for window in found
    ]
    note = f"Booked meter windows, newest first: total = {' + '.join(parts[1:])}, exactly."
    return _rows(query, "energy", "Energy", note, rows)


async def balances(request: Request) -> Response:
    return await run_in_threadpool(_balances, request, queried(request, RowQuery))


def _balances(request: Request, query: RowQuery) -> Response:
    tree = request.app.state.admin.control.nodes()
    with _books(request) as books:
        found = books.balances()
    rows: list[Mapping[str, Value]] = []
    for (commodity, account), balance in found.items():
        kind, _, id = account.partition(":")
        who = name_of(tree, int(id)) if kind == "key" and id.isdigit() and int(id) in tree else None
        rows.append({"commodity": commodity, "account": account, "name": who, "balance": balance})
    note = "All accounts in their smallest unit. Each commodity sums to zero."
    return _rows(query, "balances", "Balances", note, rows)


async def run_audit(request: Request) -> Response:
    try:
        report = await run_in_threadpool(audit_home, request.app.state.admin.home)
    except FileNotFoundError as error:
        raise ApiError(404, "no_books", str(error), "wattmill up") from None
    return answer({"ok": report.holds, **msgspec.to_builtins(report)})


async def reload(request: Request) -> Response:
    """Ask the supervisor to read the declaration again, as SIGHUP does."""
    admin = request.app.state.admin
    holder = await run_in_threadpool(home_lock.running, admin.home)
    if holder is None or holder.pid <= 0:
        raise ApiError(409, "not_running", "no factory runs in this folder", "wattmill up")
    os.kill(holder.pid, signal.SIGHUP)
    return answer({"ok": True, "supervisor_pid": holder.pid}, 202)


def _books(request: Request) -> Books:
    try:
        return Books(request.app.state.admin.home.ledger_db)
    except FileNotFoundError as error:
        raise ApiError(404, "no_books", str(error), "wattmill up") from None


def _rows(query: RowQuery, name: str, title: str, note: str, rows: Sequence[Mapping[str, Value]]) -> Response:
    return rows_response(query.format, name, title, note, rows, list(rows[0]) if rows else [])


ROWS_ROUTES = [
    Route("/api/requests", requests),
    Route("/api/requests/{id}", one_request),
    Route("/api/rows/energy", energy),
    Route("/api/rows/balances", balances),
    Route("/api/audit", run_audit),
    Route("/api/reload", reload, methods=["POST"]),
]
