"""Asking the gateway from within: one request of a key, through everything that a client's request passes."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import Any, cast

import httptools
import msgspec

from wattmill.app.batches.spec import INSIDE
from wattmill.distribution.connection import Connection
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gateway import Gateway
from wattmill.distribution.http import HttpRequest
from wattmill.ports import Clock


class InsideKeys:
    """Tells which key a request from within is of. The token never leaves this process."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(32).encode()

    def authorization(self, key: int) -> bytes:
        return b"%b %b:%d" % (INSIDE, self._token, key)

    def key_of(self, secret: bytes) -> int | None:
        """Return the node that `secret` (what stands after the scheme) names; None: it is not ours."""
        token, _, key = secret.partition(b":")
        return int(key) if hmac.compare_digest(token, self._token) else None


class Answered(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes
    privacy: str | None  # class of the request as it was known in the end
    request_id: str


class _Wire:
    """Stands where a client's connection stands."""

    def __init__(self) -> None:
        self.client: Any = None
        self.answered: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._head = b""
        self._parts: list[bytes] = []

    def answer(self, head: bytes, body: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result((head, body))

    def begin(self, head: bytes, payloads: list[bytes]) -> None:
        self._head = head
        self._parts += payloads

    def framed(self, payload: bytes) -> bytes:
        return payload

    def send(self, framed: bytes) -> None:
        self._parts.append(framed)

    def end(self, framed: bytes = b"") -> None:
        self._parts.append(framed)
        self.answer(self._head, b"".join(self._parts))

    def break_off(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(BrokenOff())


class BrokenOff(Exception):
    """The answer ended in its middle."""


async def ask(
    gateway: Gateway, clock: Clock, path: str, headers: dict[bytes, bytes], body: bytes
) -> Answered:
    """Ask, and wait for the whole answer. Cancelling it is as if a client had left. Raises `BrokenOff`."""
    wire = _Wire()
    request = HttpRequest(cast(Connection, wire), clock.now())
    request.method = b"POST"
    request.path = path.encode()
    request.headers = {b"host": b"inside", **headers}
    request.body = body
    gateway.request(request)
    exchange = wire.client
    try:
        head, answer = await wire.answered
    except asyncio.CancelledError:
        if exchange is not None:
            exchange.client_gone()
        raise
    reader = _Head()
    parser = httptools.HttpResponseParser(reader)
    parser.feed_data(head + b"content-length: 0\r\n\r\n")
    ask = getattr(exchange, "ask", None) if isinstance(exchange, Exchange) else None
    return Answered(
        parser.get_status_code(),
        reader.headers,
        answer,
        ask.privacy if ask is not None else None,
        reader.headers.get("x-request-id", ""),
    )


class _Head:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
