"""Law: a head that is recognised is understood exactly as the parser would understand it, however the bytes
come: whole, in pieces, several at once, or changed by a single byte."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.distribution.arriving import Arriving
from wattmill.distribution.connection import Connection
from wattmill.distribution.http import HttpRequest
from wattmill.distribution.outbox import Outbox
from wattmill.distribution.server import Server
from wattmill.distribution.spec import Limits
from wires import Wire


class Clock:
    def now(self) -> float:
        return 1.0

    def wall_us(self) -> int:
        return 1


class Recorder:
    """Answers each request at once and remembers how it was understood."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def request(self, r: HttpRequest) -> None:
        kept = {k: v for k, v in r.headers.items() if k != b"content-length"}
        self.seen.append((r.method, r.path, r.query, kept, r.body, r.close, r.http10))
        r.conn.answer(b"HTTP/1.1 200 OK\r\n", b"")

    def sender_of(self, request: Any) -> int:
        return 1

    def refused(self, refusal: Any) -> tuple[bytes, bytes]:
        self.seen.append(refusal.code)
        return b"HTTP/1.1 400 Bad\r\n", b""


class Hub:
    """The part of a server that a connection needs."""

    def __init__(self, limits: Limits) -> None:
        self.handler = Recorder()
        self.connections: set[Connection] = set()
        self.lingering = 0
        self.arriving = Arriving()
        self.draining = False
        self.clock = Clock()
        self.now_s = 1.0
        self.date = b"date: x\r\n"
        self.outbox = Outbox(lambda flush: None)  # what is answered is not looked at
        self.limits = limits

    def watch(self, conn: Connection) -> None: ...
    def unwatch(self, conn: Connection) -> None: ...


LIMITS = Limits(body_bytes=64, header_bytes=512, headers=12)


def understood(reads: list[bytes], *, tries: int) -> tuple[list[object], bool]:
    hub = Hub(LIMITS)
    conn = Connection(cast(Server, hub), LIMITS)
    conn._unlike = tries
    wire = Wire()
    conn.connection_made(wire)
    for data in reads:
        if wire.closed:
            break
        conn.data_received(data)
    return hub.handler.seen, wire.closed


lines = st.sampled_from(
    [
        b"host: a",
        b"Host: a",
        b"authorization: Bearer k",
        b"Authorization: Bearer other",
        b"x-request-id: 1",
        b"x-other: content-length: 3",
        b"connection: close",
        b"connection: keep-alive",
        b"expect: 100-continue",
        b"transfer-encoding: chunked",
        b"content-length: 3",
        b"Content-Length:2",
        b"content-encoding: gzip",
        b"content-type: application/json",
    ]
)
targets = st.sampled_from([b"/v1/chat/completions", b"/v1/x?a=1", b"/", b"nothing"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(st.binary(max_size=80))
    head = [b"POST " + draw(targets) + b" HTTP/1." + draw(st.sampled_from([b"1", b"1", b"1", b"0"]))]
    head += [b"host: a"] * draw(st.sampled_from([1, 1, 1, 0])) + draw(st.lists(lines, max_size=4))
    zeros = draw(st.sampled_from([b"", b"", b"", b"0", b"+", b" "]))
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    head.insert(draw(st.integers(1, len(head))), b"content-length: %b%d" % (zeros, length))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Reads of one connection: the same few requests again and again, some cut, glued or changed."""
    plain = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\nx: y\r\n\r\n%b"
    bodies = draw(st.lists(st.sampled_from([b"", b"ab", b"c" * 64, b"d" * 65]), min_size=1, max_size=3))
    kinds = [plain % (len(body), body) for body in bodies] + draw(st.lists(requests(), max_size=1))
    reads: list[bytes] = []
    for _ in range(draw(st.integers(2, 8))):
        data = draw(st.sampled_from(kinds))
        how = draw(st.sampled_from(["whole"] * 6 + ["cut", "half", "glued", "changed", "grown"]))
        if how in ("cut", "half"):
            at = draw(st.integers(1, len(data) - 1))
            reads += [data[:at], data[at:]] if how == "cut" else [data[:at]]
            continue
        if how == "glued":
            data += draw(st.sampled_from(kinds))
        elif how == "changed":
            at = draw(st.integers(0, len(data) - 1))
            data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        elif how == "grown":
            data += draw(st.binary(min_size=1, max_size=3))
        reads.append(data)
    return reads


@settings(max_examples=400)
@given(conversations())
def test_recognising_a_head_changes_nothing(reads: list[bytes]) -> None:
    assert understood(reads, tries=4) == understood(reads, tries=0)


def test_a_repeated_head_is_recognised() -> None:
    ask = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\nauthorization: Bearer k\r\n\r\n%b"
    hub = Hub(LIMITS)
    conn = Connection(cast(Server, hub), LIMITS)
    conn.connection_made(Wire())
    conn.data_received(ask % (2, b"ab"))
    assert conn._known is not None
    fed: list[bytes] = []
    conn._parser = type("Never", (), {"feed_data": lambda self, data: fed.append(data)})()
    conn.data_received(ask % (3, b"abc"))
    assert not fed and [seen[4] for seen in cast(Any, hub.handler.seen)] == [b"ab", b"abc"]
