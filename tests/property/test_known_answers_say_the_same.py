"""Law: an engine's answer whose head is recognised reaches its sink exactly as the parser would bring it,
however the bytes come, and whatever is changed in them."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.distribution.outbox import Outbox
from wattmill.distribution.upstream import Upstream
from wattmill.distribution.upstream_conn import UpstreamConnection
from wires import Wire


class Owner:
    """What a connection asks of its `Upstream`."""

    def __init__(self) -> None:
        self.outbox = Outbox(lambda _: None)
        self.outbox.at_once = 1 << 30
        self.keeps_streams = True
        self.kept = 0
        self.lost = 0

    def idle(self, conn: UpstreamConnection) -> None:
        self.kept += 1

    def gone(self, conn: UpstreamConnection) -> None:
        self.lost += 1


class Heard:
    """A sink that writes down what it is told; bytes of a body are one, however they were cut."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.told: list[Any] = []

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.told.append((status, dict(headers)))

    def on_body(self, data: bytes) -> None:
        if self.told and isinstance(self.told[-1], bytes):
            self.told[-1] += data
        else:
            self.told.append(data)

    def on_end(self) -> None:
        self.told.append("end")

    def on_lost(self, kind: str, text: str) -> None:
        self.told.append(kind)


class Engine:
    """A connection, with or without its memory."""

    def __init__(self, *, knows: bool) -> None:
        self.owner = Owner()
        self.wire = Wire()
        self.conn = UpstreamConnection(cast(Upstream, self.owner))
        self.conn.connection_made(self.wire)
        if not knows:
            self.conn._unlike = 0
        self.recognised = 0

    def answers(self, pieces: list[bytes]) -> list[Any]:
        sink = Heard()
        self.conn.send(b"POST", sink, 0.0)
        for piece in pieces:
            if self.wire.closed:
                break
            self.conn.get_buffer(-1)[: len(piece)] = piece
            before = self.conn._raw_head
            self.conn.buffer_updated(len(piece))
            self.recognised += sink.told[-1:] == ["end"] and before == 0 and self.conn._known is not None
        return sink.told


heads = st.lists(
    st.sampled_from(
        [
            b"content-type: application/json",
            b"Content-Type: text/html",
            b"date: Sat, 28 Nov 2026 10:00:00 GMT",
            b"retry-after: 3",
            b"connection: close",
            b"transfer-encoding: chunked",
            b"x-content-length: 5",
            b"content-length: 7",
        ]
    ),
    max_size=3,
)
bodies = st.sampled_from([b"", b"{}", b'{"a":1}', b"0\r\n\r\n", b"x" * 1_200])
lengths = st.sampled_from([b"content-length: %d", b"Content-Length:%d", b"CONTENT-LENGTH: \t%d ", None])
statuses = st.sampled_from(
    [b"200 OK", b"200 OK", b"200 OK", b"429 Too Many", b"100 Continue", b"204 No Content"]
)


def written(status: bytes, lines: list[bytes], length: bytes | None, body: bytes) -> bytes:
    first, second = lines[:1], lines[1:]
    own = [] if length is None else [length % len(body)]
    return b"\r\n".join([b"HTTP/1.1 " + status, *first, *own, *second, b"", body])


@st.composite
def spoken(draw: st.DrawFn) -> list[list[bytes]]:
    """Answers of one connection, mostly of one head; some changed by a byte, cut or run together."""
    status, lines, length = draw(statuses), draw(heads), draw(lengths)
    answers: list[list[bytes]] = []
    for _ in range(draw(st.integers(2, 5))):
        data = written(status, lines, length, draw(bodies))
        change = draw(st.sampled_from(["", "", "", "", "cut", "byte", "more", "other"]))
        if change == "byte" and data:
            at = draw(st.integers(0, len(data) - 1))
            data = data[:at] + draw(st.binary(min_size=0, max_size=2)) + data[at + 1 :]
        elif change == "more":
            data += draw(st.sampled_from([b"x", b"\r\n", data]))
        elif change == "other":
            data = written(draw(statuses), draw(heads), draw(lengths), draw(bodies))
        at = draw(st.integers(0, len(data))) if change == "cut" else len(data)
        answers.append([piece for piece in (data[:at], data[at:]) if piece])
    return answers


@given(spoken())
@settings(max_examples=400)
def test_any_answers(answers: list[list[bytes]]) -> None:
    one, two = Engine(knows=True), Engine(knows=False)
    for pieces in answers:
        assert one.answers(pieces) == two.answers(pieces)
        assert (one.owner.kept, one.owner.lost > 0) == (two.owner.kept, two.owner.lost > 0)
        assert one.wire.closed == two.wire.closed
        if one.wire.closed or one.conn.sink is not None:
            break


def test_an_ordinary_answer_is_recognised() -> None:
    engine = Engine(knows=True)
    line = [b"content-type: application/json"]
    for body in (b"{}", b'{"a":1}', b"x" * 900):
        told = engine.answers([written(b"200 OK", line, b"content-length: %d", body)])
        assert told == [(200, {b"content-type": b"application/json"}), body, "end"]
    assert engine.recognised == 3 and engine.owner.kept == 3
    assert engine.conn._status == 0 and not engine.conn.got_byte


def test_an_engine_that_numbers_its_answers_is_not_learnt_for_ever() -> None:
    engine = Engine(knows=True)
    for number in range(20):
        engine.answers([written(b"200 OK", [b"x-request-id: %d" % number], b"content-length: %d", b"{}")])
    assert engine.conn._unlike == 0 and engine.owner.kept == 20


def test_a_sink_that_has_heard_enough_at_the_head_hears_no_more() -> None:
    class Deaf(Heard):
        def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
            super().on_head(status, headers)
            self.handle.abort()

    engine = Engine(knows=True)
    data = written(b"200 OK", [], b"content-length: %d", b"{}")
    engine.answers([data])
    sink = Deaf()
    engine.conn.send(b"POST", sink, 0.0)
    engine.conn.get_buffer(-1)[: len(data)] = data
    engine.conn.buffer_updated(len(data))
    assert sink.told == [(200, {})] and engine.wire.closed
