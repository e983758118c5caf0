"""Until when a connection may take: what is still to be read decides, not the answer before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from wattmill.distribution.arriving import Arriving
from wattmill.distribution.connection import Connection
from wattmill.distribution.http import HttpRequest
from wattmill.distribution.outbox import Outbox
from wattmill.distribution.server import Server
from wattmill.distribution.spec import Limits

LIMITS = Limits(header_s=10.0, body_s=10.0, total_s=600.0, idle_s=75.0)
HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


class SlowWire(asyncio.Transport):
    """A client that reads nothing of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0

    def write(self, data: Any) -> None:
        self.unread += len(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None: ...
    def abort(self) -> None: ...


class Clock:
    s = 100.0

    def now(self) -> float:
        return self.s

    def wall_us(self) -> int:
        return 1


class Answering:
    def request(self, request: HttpRequest) -> None:
        request.conn.answer(b"HTTP/1.1 200 OK\r\n", b"")

    def sender_of(self, request: Any) -> int:
        return 1

    def refused(self, refusal: Any) -> tuple[bytes, bytes]:
        return b"HTTP/1.1 400 Bad\r\n", b""


class Later(Answering):
    """Answers when it is told."""

    def request(self, request: HttpRequest) -> None:
        self.waiting = request


class Hub:
    """The part of a server that a connection needs; the end of a turn comes when it is told."""

    def __init__(self) -> None:
        self.handler = Answering()
        self.connections: set[Connection] = set()
        self.lingering = 0
        self.arriving = Arriving()
        self.draining = False
        self.clock = Clock()
        self.now_s = 100.0
        self.date = b"date: x\r\n"
        self.soon: list[Callable[[], None]] = []
        self.outbox = Outbox(self.soon.append)

    def watch(self, conn: Connection) -> None: ...
    def unwatch(self, conn: Connection) -> None: ...

    def end_turn(self) -> None:
        for step in self.soon:
            step()
        self.soon.clear()


def connected() -> tuple[Hub, Connection]:
    hub = Hub()
    conn = Connection(cast(Server, hub), LIMITS)
    conn.connection_made(SlowWire())
    return hub, conn


def test_who_reads_its_answer_slowly_has_the_time_of_its_request_for_it() -> None:
    hub, conn = connected()
    conn.data_received(HEAD + b"{}")
    hub.end_turn()
    assert conn.deadline_s == 100.0 + LIMITS.total_s


def test_an_unread_answer_gives_no_further_time_to_a_half_sent_request() -> None:
    hub, conn = connected()
    conn.data_received(HEAD + b"{}" + HEAD + b"{")
    assert conn.deadline_s == 100.0 + LIMITS.header_s + LIMITS.body_s
    hub.end_turn()
    assert conn.deadline_s == 100.0 + LIMITS.header_s + LIMITS.body_s


def test_the_next_piece_of_a_pipelined_request_does_not_age_it() -> None:
    """What came half behind another request may take as long as if it had begun after that one's answer."""
    hub, conn = connected()
    hub.handler = later = Later()
    conn.data_received(HEAD + b"{}")
    conn.data_received(HEAD[:20])
    hub.clock.s = hub.now_s = 160.0
    later.waiting.conn.answer(b"HTTP/1.1 200 OK\r\n", b"")
    hub.end_turn()
    conn.data_received(HEAD[20:25])
    assert conn.deadline_s == 160.0 + LIMITS.header_s


def test_a_refused_client_that_reads_nothing_is_let_go_soon() -> None:
    hub, conn = connected()
    conn.data_received(b"not HTTP\r\n\r\n")
    hub.end_turn()
    assert conn.deadline_s < 100.0 + LIMITS.header_s
