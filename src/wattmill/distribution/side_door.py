"""Paths of the data port that ask no engine: runs, files, batches, stored answers.

A side door is an ordinary coroutine with an identified caller. It runs as a task of its own; a client that
leaves cancels it. This module is its boundary: an exception nobody planned becomes a 500.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import msgspec

from wattmill.distribution import answers
from wattmill.distribution.doors.door import error_shape, key_of
from wattmill.distribution.http import HttpRequest
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.gateway import Gateway


class SideRequest(msgspec.Struct, frozen=True):
    """One request at a side door. Header names are in lower case; only those of `http.WANTED` are kept."""

    caller: Caller
    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes
    id: str


class SideAnswer(msgspec.Struct, frozen=True):
    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class SideDoor(Protocol):
    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal: ...


class SideExchange:
    """Implements `connection.Client` for one request at a side door."""

    __slots__ = ("_gateway", "_http", "_id", "_over", "_task")

    def __init__(self, gateway: Gateway, http: HttpRequest, door: SideDoor) -> None:
        self._gateway = gateway
        self._http = http
        self._id = gateway.new_id()
        self._over = False
        self._task: asyncio.Task[None] | None = None
        services = gateway.services
        key = key_of(http.headers)
        caller = key if isinstance(key, Refusal) else services.identify(key, services.clock.wall_us())
        if isinstance(caller, Refusal):
            self._refuse(caller)
            return
        http.conn.client = self
        asked = SideRequest(caller, http.method, http.path, http.query, http.headers, http.body, self._id)
        self._task = asyncio.get_running_loop().create_task(self._serve(door, asked))

    async def _serve(self, door: SideDoor, asked: SideRequest) -> None:
        answer: SideAnswer | Refusal
        try:
            answer = await door(asked)
        except Exception as error:  # noqa: BLE001 - the boundary that turns defects into answers
            self._gateway.defect(self._id, error)
            answer = Refusal(code="internal", message=f"a defect in wattmill, logged under {self._id}")
        if self._over:
            return
        if isinstance(answer, Refusal):
            self._refuse(answer)
            return
        self._over = True
        self._gateway.metrics.answered("side", "", f"{answer.status // 100}xx")
        head = answers.plain_head(self._id, answer.status, answer.content_type)
        for name, value in answer.headers:
            head += b"%b: %b\r\n" % (name, value)
        self._http.conn.answer(head, answer.body)

    def _refuse(self, refusal: Refusal) -> None:
        self._over = True
        metrics = self._gateway.metrics
        metrics.count("wattmill_refusals_total", refusal.code)
        metrics.answered("side", "", f"{refusal.status // 100}xx")
        shape = error_shape(self._http.path, self._http.headers, refusal, self._id)
        self._http.conn.answer(*answers.error_answer(refusal, self._id, body=shape))

    # ---- connection.Client

    def client_gone(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def client_slow(self) -> None: ...
    def client_ready(self) -> None: ...

    def timed_out(self) -> None:
        if not self._over:
            if self._task is not None:
                self._task.cancel()
            self._refuse(Refusal(code="upstream_timeout", message="no answer within limits.total_s"))
