"""Who may use the admin listener: host names that are ours, origins that are ours, and the admin token.

Written as plain ASGI around the app, so that nothing behind it can be reached by forgetting a decorator.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wattmill.app.home import Home
from wattmill.ledger.stores.control import Control
from wattmill.web.errors import error_response

SESSION_S = 12 * 3600
OPEN = ("/", "/healthz", "/metrics", "/api/session")
JSON_KINDS = ("application/json", "application/cloudevents+json")  # no form of a foreign page can send them
SAFE = ("GET", "HEAD", "OPTIONS")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Sessions:
    """Makes and checks session cookies. A cookie is an expiry and its seal; nothing is kept about it.

    The seal's key comes from the admin token's file: sessions outlive a restart of the admin app and end
    with the token. Browsers send cookies of 127.0.0.1 to every port of it, so the token itself is never one.
    """

    def __init__(self, home: Home, wall_s: Callable[[], float] = time.time) -> None:
        self._home = home
        self._wall_s = wall_s
        self._spare = secrets.token_bytes(32)

    def make(self) -> str:
        until = f"{int(self._wall_s()) + SESSION_S}"
        return f"{until}.{self._seal(until)}"

    def is_good(self, cookie: str) -> bool:
        until, _, seal = cookie.partition(".")
        fresh = until.isascii() and until.isdigit() and int(until[:12]) > self._wall_s()
        return hmac.compare_digest(seal.encode(), self._seal(until).encode()) and fresh

    def _seal(self, until: str) -> str:
        try:
            key = self._home.admin_token.read_bytes().strip() or self._spare
        except OSError:
            key = self._spare
        return hmac.new(key, b"wattmill session " + until.encode(), hashlib.sha256).hexdigest()


def cookie_name(scope: Scope) -> str:
    """Return the session cookie's name: one per port, because browsers do not keep ports apart."""
    server = scope.get("server")
    return f"wattmill_{server[1] if server else 0}"


def is_our_host(host: str, declared: str) -> bool:
    """True for literal addresses, localhost and the declared name; foreign DNS points other names here."""
    name = urlsplit(f"//{host}").hostname or ""
    if name in ("localhost", declared):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Host check, cross-site check, authentication; security headers on every answer."""

    def __init__(self, app: ASGIApp, *, home: Home, control: Control, sessions: Sessions, host: str) -> None:
        self._app = app
        self._home = home
        self._control = control
        self._sessions = sessions
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        answer = await self._refusal(scope)
        await (answer or self._app)(scope, receive, sealed)

    async def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_our_host(hosts[0], self._host):
            return error_response(
                421, "wrong_host", f"host {', '.join(hosts) or 'missing'!r} is not this listener",
                "Use the address that `wattmill status` prints",
            )  # fmt: skip
        path = scope["path"]
        if scope["method"] not in SAFE:
            foreign = _foreign(headers, hosts[0])
            if foreign:
                return error_response(
                    403, "cross_site", foreign, "Call the API from this board or without a browser"
                )
        if path in OPEN or path.startswith("/static/"):
            return None
        if await self._is_known(scope, headers):
            return None
        return error_response(
            401, "unauthorized", "The admin token is missing or wrong.",
            "Send `Authorization: Bearer` with the token in the file `admin.token` of the factory's folder",
        )  # fmt: skip

    async def _is_known(self, scope: Scope, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if token:
            return scheme.lower() == "bearer" and await run_in_threadpool(
                self._control.check_admin_token, token.strip()
            )
        cookie = cookie_parser(headers.get("cookie", "")).get(cookie_name(scope))
        return cookie is not None and self._sessions.is_good(cookie)


def _foreign(headers: Headers, host: str) -> str | None:
    """Return why a changing request does not come from our own page or a program, or None."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return f"origin {origin!r} is not this listener"
    if (
        origin is None
        and headers.get("cookie")
        and "authorization" not in headers
        and headers.get("sec-fetch-site")
    ):
        return "a browser's request without an origin"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "a request from another site"
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_KINDS:
        return f"content type is {kind or 'missing'!r}, must be 'application/json'"
    return None
