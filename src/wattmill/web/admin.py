"""The admin app: API, board and metrics on their own listener. `wattmill.app.admin_process` serves it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from wattmill.app.home import Home
from wattmill.app.results.shelf import Shelf
from wattmill.app.seeing.figures import assemble, read
from wattmill.app.seeing.readings import Power, mean_power, power_now, read_supervisor, read_workers
from wattmill.ledger import epoch as epochs
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import ControlError
from wattmill.units import US_PER_S
from wattmill.web import prometheus
from wattmill.web.bodies import decoded
from wattmill.web.efficiency_api import EFFICIENCY_ROUTES, Desk
from wattmill.web.errors import ApiError, control_error, error_response
from wattmill.web.guard import Guard, Sessions, cookie_name
from wattmill.web.live import Live
from wattmill.web.power_api import POWER_ROUTES
from wattmill.web.rows_api import ROWS_ROUTES
from wattmill.web.runs_api import RUN_ROUTES
from wattmill.web.tenants_api import TENANT_ROUTES
from wattmill.web.twin_api import TWIN_ROUTES

MINUTE_US = 60 * US_PER_S


class Admin:
    """What the handlers share: the factory's folder, its control database, the live figures."""

    def __init__(self, home: Home, control: Control, now_us: Callable[[], int]) -> None:
        self.home = home
        self.control = control
        self.now_us = now_us
        self.sessions = Sessions(home)
        self.shelf = Shelf(home.root)
        self.efficiency = Desk(home, control)
        self._powers: deque[tuple[int, Power]] = deque()
        self.live = Live(self._read)
        self.memory = prometheus.Memory(home)

    def _read(self) -> Any:
        now_us = self.now_us()
        readings = read(self.home, now_us, control=self.control)
        power = power_now(readings.state) if readings.running else None
        if power is not None:
            self._powers.append((now_us, power))
        while self._powers and self._powers[0][0] < now_us - MINUTE_US:
            self._powers.popleft()
        mean = mean_power([power for _, power in self._powers])
        return msgspec.to_builtins(assemble(msgspec.structs.replace(readings, power_mean=mean)))

    def metrics(self) -> bytes:
        _, state = read_supervisor(self.home)
        workers = read_workers(self.home, state, metrics=True)
        alive = {e for e in epochs.names(self.home.journal) if epochs.alive(self.home.journal / e)}
        figures = assemble(read(self.home, self.now_us(), control=self.control))
        return prometheus.text(self.memory.sum(workers, alive), figures)


def admin_app(
    home: Home,
    *,
    control: Control,
    host: str = "127.0.0.1",
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
) -> Starlette:
    """Return the ASGI app of one factory.

    Args:
        home: the factory's folder; nothing in it is written but `run/metrics.json`.
        control: open control database; used from threads.
        host: the declared name of the listener: requests for another name are refused.
        now_us: wall clock.
    """
    admin = Admin(home, control, now_us)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        reading = asyncio.create_task(admin.live.run())
        yield
        await admin.live.close()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    routes = [
        Route("/", board),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
        Route("/api/session", session, methods=["GET", "POST", "DELETE"]),
        Route("/api/figures", figures),
        Route("/api/live", live),
        *ROWS_ROUTES,
        *TENANT_ROUTES,
        *RUN_ROUTES,
        *TWIN_ROUTES,
        *EFFICIENCY_ROUTES,
        *POWER_ROUTES,
        Mount("/static", _Static(packages=[("wattmill.web", "static")])),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(Guard, home=home, control=control, sessions=admin.sessions, host=host),
            Middleware(GZipMiddleware, minimum_size=1024, compresslevel=4),
        ],
        exception_handlers={
            ApiError: _api_error,
            ControlError: _control_error,
            HTTPException: _http_error,
            Exception: _defect,
        },
    )
    app.state.admin = admin
    return app


class _Static(StaticFiles):
    """Assets of the wheel; a browser asks each time whether they changed (an ETag answers in no time)."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        response = super().file_response(*args, **named)
        response.headers["cache-control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if path.endswith(".js"):  # whatever this machine's mime tables say: nosniff needs the right one
            response.headers["content-type"] = "text/javascript; charset=utf-8"
        return response


async def board(request: Request) -> Response:
    page = importlib.resources.files("wattmill.web") / "static" / "index.html"
    return Response(page.read_bytes(), media_type="text/html; charset=utf-8")


async def healthz(request: Request) -> Response:
    return Response(b"ok\n", media_type="text/plain")


async def metrics(request: Request) -> Response:
    page = await run_in_threadpool(request.app.state.admin.metrics)
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


async def session(request: Request) -> Response:
    """GET: is there one. POST {"token"}: begin one. DELETE: end it in this browser."""
    admin: Admin = request.app.state.admin
    name = cookie_name(request.scope)
    if request.method == "GET":
        if admin.sessions.is_good(request.cookies.get(name, "")):
            return Response(b'{"ok":true}', media_type="application/json")
        return error_response(401, "no_session", "No session.", "POST the admin token to /api/session")
    response = Response(b'{"ok":true}', media_type="application/json")
    if request.method == "DELETE":
        response.delete_cookie(name, httponly=True, samesite="strict")
        return response
    token = (await decoded(request, _Token)).token
    if not await run_in_threadpool(admin.control.check_admin_token, token):
        raise ApiError(
            401,
            "wrong_token",
            "That is not the admin token.",
            "`wattmill up` prints it; it stands in `admin.token`",
        )
    response.set_cookie(name, admin.sessions.make(), httponly=True, samesite="strict", path="/")
    return response


async def figures(request: Request) -> Response:
    found = await request.app.state.admin.live.figures()
    return Response(msgspec.json.encode(found), media_type="application/json")


async def live(request: Request) -> Response:
    return StreamingResponse(
        request.app.state.admin.live.watch(),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.code, str(error), error.help)


async def _control_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return control_error(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return error_response(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")


async def _defect(request: Request, error: Exception) -> Response:
    return error_response(
        500, "internal", f"A defect in wattmill: {type(error).__name__}", "See logs/admin.log"
    )
