"""The data port: all connections of one worker, their time-outs, and how they end.

One coarse sweep per worker watches all time-outs, so that a request costs no timer.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from wattmill.distribution.arriving import Arriving
from wattmill.distribution.connection import Connection
from wattmill.distribution.http import HttpRequest
from wattmill.distribution.outbox import Outbox
from wattmill.distribution.spec import Limits
from wattmill.ports import Clock
from wattmill.vocab.refusal import Refusal

SWEEP_S = 0.1
"""How late a time-out may be seen."""

_WATCH_S = 0.02
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date_line(second: int) -> bytes:
    """Return the header of a moment (RFC 9110, 5.6.7); names do not follow the process's locale."""
    t = time.gmtime(second)
    day, month = _DAYS[t.tm_wday], _MONTHS[t.tm_mon - 1]
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    return f"date: {day}, {t.tm_mday:02} {month} {t.tm_year} {clock} GMT\r\n".encode()


class Handler(Protocol):
    def request(self, request: HttpRequest) -> None:
        """Serve: set `request.conn.client`, then answer once, now or later."""

    def refused(self, refusal: Refusal) -> tuple[bytes, bytes]:
        """Return head lines and body for bytes that are no request."""

    def sender_of(self, request: HttpRequest) -> int | Refusal:
        """Return the number of the key that sends a body which is still to come, by its head alone, or say
        no to it."""


class Server:
    """All connections of one worker. `limits` is read when a connection opens."""

    def __init__(self, handler: Handler, *, limits: Callable[[], Limits], clock: Clock) -> None:
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.connections: set[Connection] = set()
        self.draining = False
        self.arriving = Arriving()
        self.lingering = 0  # connections that only wait for their client to read why it was refused
        self.now_s = clock.now()
        self.date = b""
        self._date_at = 0
        self._watched: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._loop.call_soon)  # of answers
        self._sweep()

    async def listen(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Serve a bound socket."""
        limits = self.limits()
        self._listeners.append(
            await self._loop.create_server(
                lambda: Connection(self, self.limits()),
                sock=sock,
                ssl=tls,
                backlog=1024,
                ssl_handshake_timeout=limits.header_s if tls is not None else None,
            )
        )

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, let running answers end, and return how many had to be cut at the time-out."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        ends = self.clock.now() + timeout_s
        while self.connections and self.clock.now() < ends:
            await asyncio.sleep(0.02)
        left = [c for c in self.connections if c.client is not None]
        for connection in left:
            connection.cut()
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self.connections):
            connection.transport.abort()
        return len(left)

    def _sweep(self) -> None:
        self._sweep_timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = self.now_s = self.clock.now()
        second = int(time.time())
        if second != self._date_at:
            self._date_at = second
            self.date = _date_line(second)
        late = [c for c in self.connections if now > c.deadline_s]
        for connection in late:
            connection.on_deadline()

    def watch(self, connection: Connection) -> None:
        """See the end of a client whose bytes are not being read.

        It is seen as soon as it reaches this machine. A client that has sent more than the kernel takes and
        closes in order has its end queued behind those bytes; a reset is seen always.
        """
        self._watched.add(connection)
        if self._watch_timer is None:
            self._watch_timer = self._loop.call_later(_WATCH_S, self._watch)

    def unwatch(self, connection: Connection) -> None:
        self._watched.discard(connection)

    def _watch(self) -> None:
        self._watch_timer = None
        by_fd = {fd: c for c in self._watched if (fd := c.fileno()) >= 0}
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, _HUNG_UP)
        for fd, event in poll.poll(0):
            if event & _HUNG_UP:
                self._watched.discard(by_fd[fd])
                by_fd[fd].transport.abort()
        if self._watched:
            self._watch_timer = self._loop.call_later(_WATCH_S, self._watch)
