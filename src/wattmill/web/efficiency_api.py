"""Efficiency over HTTP: the page of a period, and the rows behind each of its figures."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.efficiency.asked import LONGEST_S, seconds_of, seen_at
from wattmill.app.efficiency.drill import NAMES, columns, rows
from wattmill.app.efficiency.model import efficiency
from wattmill.app.efficiency.page import Page, page
from wattmill.app.efficiency.spec import Seen
from wattmill.app.home import Home
from wattmill.ledger.stores.control import Control
from wattmill.units import US_PER_S
from wattmill.web.bodies import answer, queried
from wattmill.web.errors import ApiError
from wattmill.web.exports import Format, rows_response

FRESH_US = 20 * US_PER_S
"""A page is read again after so long: it reads the journal of its whole period."""


_PAGES = 4  # periods that are kept


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    back: str = "1h"  # so far back: 15m, 1h, 2d


class RowsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: int  # instants, microseconds since 1970 UTC, as the page's links say
    until: int
    format: Format = "json"


class Desk:
    """The last period that was read, for those who ask again: one reading at a time."""

    def __init__(self, home: Home, control: Control) -> None:
        self._home = home
        self._control = control
        self._lock = threading.Lock()
        self.limiter = anyio.CapacityLimiter(1)  # who waits for a reading holds no thread that others need
        self._pages: dict[str, tuple[int, Page]] = {}
        self._seen: Seen | None = None

    def page(self, back: str, now_us: int) -> Page:
        with self._lock:
            old = self._pages.get(back)
            if old is not None and 0 <= now_us - old[0] < FRESH_US:
                return old[1]
            since_us = now_us - round(seconds_of(back) * US_PER_S)
            self._seen = self._read(since_us, now_us)
            made = page(efficiency(self._seen))
            self._pages[back] = (now_us, made)
            for old_back in sorted(self._pages, key=lambda one: -self._pages[one][0])[_PAGES:]:
                del self._pages[old_back]
            return made

    def seen(self, since_us: int, until_us: int) -> Seen:
        """Return the period of a link: that of the last page, or read again."""
        with self._lock:
            last = self._seen
            if last is None or (last.start_us, last.end_us) != (since_us, until_us):
                last = self._seen = self._read(since_us, until_us)
            return last

    def _read(self, since_us: int, until_us: int) -> Seen:
        return seen_at(self._home, since_us=since_us, until_us=until_us, control=self._control)


async def efficiency_page(request: Request) -> Response:
    query, admin = queried(request, PageQuery), request.app.state.admin
    try:
        seconds_of(query.back)
    except ValueError as bad:
        raise ApiError(400, "bad_value", f"back: {bad}") from None
    desk: Desk = admin.efficiency
    made = await anyio.to_thread.run_sync(desk.page, query.back, admin.now_us(), limiter=desk.limiter)
    return answer(made)


async def efficiency_rows(request: Request) -> Response:
    query, admin = queried(request, RowsQuery), request.app.state.admin
    name = request.path_params["loss"]
    if not 0 <= query.until - query.since <= LONGEST_S * US_PER_S:
        raise ApiError(400, "bad_value", "until must come after since, at most 31 days")
    if name not in NAMES:
        raise ApiError(404, "not_found", f"no loss {name!r}", f"Losses with rows: {', '.join(NAMES)}")
    desk: Desk = admin.efficiency
    return await anyio.to_thread.run_sync(_rows, desk, query, name, limiter=desk.limiter)


def _rows(desk: Desk, query: RowsQuery, name: str) -> Response:
    found = rows(desk.seen(query.since, query.until), name)
    assert found is not None
    title, note, lines = found
    return rows_response(query.format, f"efficiency-{name}", title, note, lines, columns(lines))


EFFICIENCY_ROUTES = [
    Route("/api/efficiency", efficiency_page),
    Route("/api/efficiency/rows/{loss}", efficiency_rows),
]
