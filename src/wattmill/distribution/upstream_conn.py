"""One connection to an engine: it writes requests, parses answers, and hands their bytes to a sink."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from wattmill.distribution.known_length import AroundLength, around_length
from wattmill.distribution.outbox import WHOLE_BYTES
from wattmill.distribution.spec import KERNEL_BUFFER_BYTES

if TYPE_CHECKING:
    from wattmill.distribution.upstream import Upstream

_HEAD_LIMIT = 65_536
_TRIES = 4  # heads that are learnt without meeting one again: an engine may number its answers
_STALE_S = 0.02  # and a round trip: a kept connection that ends so soon had been given up by its engine
_REST_S = 1.0  # for what an engine still sends after all the content was there
_READ_BYTES = 65_536
_shared = memoryview(bytearray(_READ_BYTES))
"""Every upstream connection of the process reads into this buffer: bytes are parsed before the loop reads on.
It bounds what one read can add to a slow client's memory."""


_TCP_INFO = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED = struct.Struct("=Q")  # of Linux' struct tcp_info, since 4.1; the opening counts as one
_BYTES_ACKED_AT = 120


def acknowledged_bytes(sock: socket.socket | None) -> int | None:
    """Return how many of the bytes that were written to `sock` its peer's kernel has acknowledged; None: this
    system does not tell."""
    if sock is None or _TCP_INFO is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED_AT + _BYTES_ACKED.size)
    except OSError:
        return None
    if len(info) < _BYTES_ACKED_AT + _BYTES_ACKED.size:
        return None
    return max(0, int(_BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]) - 1)


class Handle(Protocol):
    """A request on its way."""

    written: bool  # it was given to a connection; before, no engine can know of it

    def abort(self) -> None:
        """Close the connection at once; the sink hears no more."""

    def detach(self) -> None:
        """The sink has all it wants; what is left of the answer is dropped, and the connection kept."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Sink(Protocol):
    """Who wants the answer. Calls come in this order; after `on_end` or `on_lost` none comes."""

    handle: Handle | None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """`headers` holds content-type and retry-after, where given."""

    def on_body(self, data: bytes) -> None:
        """All body bytes of one read."""

    def on_end(self) -> None: ...

    def on_lost(self, kind: str, text: str) -> None:
        """`kind`: "connect", "busy", "reset", "timeout", "protocol"; "stale": a kept connection was given up,
        and whether the request was read before that is not known."""


class _KnownAnswer(AroundLength):
    """The head of a good answer, and what it said."""

    __slots__ = ("headers",)

    def __init__(self, before: bytes, after: bytes, headers: dict[bytes, bytes]) -> None:
        super().__init__(before, after)
        self.headers = headers


class UpstreamConnection(asyncio.BufferedProtocol):
    """At most one request at a time. Idle ones are kept by their `Upstream`."""

    written = True
    __slots__ = (
        "_before_bytes",
        "_chunked",
        "_complete",
        "_head_given",
        "_headers",
        "_interim",
        "_keep",
        "_known",
        "_length",
        "_parser",
        "_parts",
        "_raw_head",
        "_status",
        "_unlike",
        "_unsent",
        "_wrote_bytes",
        "alive",
        "dead",
        "deadline_s",
        "doubted",
        "got_byte",
        "idle_since_s",
        "last_s",
        "moved",
        "owner",
        "paused",
        "request",
        "reused",
        "round_trip_s",
        "sent_s",
        "sink",
        "transport",
    )

    def __init__(self, owner: Upstream) -> None:
        self.round_trip_s = 0.0  # at most: as long as connecting took
        self.owner = owner
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.sink: Sink | None = None
        self.request: bytes | None = None  # kept until the first byte of the answer, to send it again
        self._unsent: bytes | None = None  # it leaves at the end of this turn of the loop
        self.reused = False
        self.paused = False
        self.dead = False
        self.moved = False  # bytes came since the last sweep
        self.doubted = False  # the last sweep found it silent for too long
        self.got_byte = False
        self.sent_s = self.last_s = self.idle_since_s = 0.0
        self._wrote_bytes = self._before_bytes = 0  # in all, and before the present request
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._known: _KnownAnswer | None = None  # the last answer's head, if it may come again
        self._unlike = _TRIES
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._status = 0  # 0: the head is not complete
        self._raw_head = 0
        self._head_given = False
        self._complete = self._keep = False
        self._interim = False
        self._length = self._chunked = False
        self.got_byte = False

    # ---- the owner's side

    def send(self, request: bytes, sink: Sink, now_s: float) -> None:
        self.sink = sink
        self.doubted = False
        self.request = request
        self.sent_s = self.last_s = now_s
        self.moved = False
        self._before_bytes = self._wrote_bytes
        self._wrote_bytes += len(request)
        sink.handle = self
        outbox = self.owner.outbox
        if outbox.at_once or len(request) > WHOLE_BYTES:
            outbox.at_once -= outbox.at_once > 0
            self.transport.write(request)
        else:
            self._unsent = request
            outbox.put_off(self)

    def flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and not self.dead and not self.transport.is_closing():
            self.transport.write(unsent)

    def abort(self) -> None:
        self.sink = None
        self.request = self._unsent = None
        self.owner.gone(self)
        self.transport.abort()

    def pause(self) -> None:
        if not self.paused and not self.dead:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.dead:
                self.transport.resume_reading()

    def sweep(self, now_s: float) -> None:
        """Fail the request if its engine has been silent for too long."""
        backend = self.owner.backend
        if self.sink is None:
            if now_s - self.last_s > _REST_S:
                self.abort()
            return
        if self.moved or self.paused:
            self.moved = False
            self.last_s = now_s
        if now_s - self.sent_s > backend.total_timeout_s:
            self._lose("timeout", f"no end within {backend.total_timeout_s:g} s (total_timeout_s)")
        elif not self._status or not self.got_byte:
            if now_s - self.sent_s > backend.first_byte_timeout_s:
                text = f"no answer within {backend.first_byte_timeout_s:g} s (first_byte_timeout_s)"
                self._silent(text)
        elif now_s - self.last_s > backend.idle_timeout_s:
            self._silent(f"silent for {backend.idle_timeout_s:g} s in mid-answer (idle_timeout_s)")
        else:
            self.doubted = False

    def _silent(self, text: str) -> None:
        """Believe in silence at the second look: after a loop that was held up, the first one comes before
        what has arrived meanwhile was read."""
        if self.doubted:
            self._lose("timeout", text)
        self.doubted = True

    def _lose(self, kind: str, text: str) -> None:
        sink, self.sink = self.sink, None
        self.request = self._unsent = None
        self.owner.gone(self)
        self.transport.abort()
        if sink is not None:
            sink.handle = None
            sink.on_lost(kind, text)

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared

    def buffer_updated(self, nbytes: int) -> None:
        if self.dead:
            return
        self.moved = True
        if not self._status:
            if self.sink is None and not self.got_byte:
                self.abort()  # bytes nobody asked for: whatever they are, they are not the next answer
                return
            known = self._known
            if known is not None and not self.got_byte and self._again(known, bytes(_shared[:nbytes])):
                return
            self.got_byte = True
            self.request = None
            self._raw_head += nbytes
        try:
            self._parser.feed_data(_shared[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give()
            if self._complete:
                self._finished(keep=False)  # bytes after the end of a whole answer
            else:
                self._lose("protocol", f"the answer is not HTTP/1.1: {error}")
            return
        if not self._status and self._raw_head > _HEAD_LIMIT:
            self._lose("protocol", f"the answer's headers exceed {_HEAD_LIMIT} bytes")
            return
        if self._complete and self._raw_head == nbytes and self._unlike:
            self._learn(bytes(_shared[:nbytes]))
        self._give()
        if self._complete:
            self._finished(keep=self._keep and (self.owner.keeps_streams or not self._chunked))

    def _learn(self, data: bytes) -> None:
        """Know the head of an answer that came in one read, if it depends on nothing but its bytes."""
        self._unlike -= 1
        self._known = None
        if self._status == 200 and self._keep and not self._chunked:
            around = around_length(data)
            if around is not None:
                self._known = _KnownAnswer(around[0], around[1], self._headers)

    def _again(self, known: _KnownAnswer, data: bytes) -> bool:
        """Give `data` to the sink if it is one whole answer with the head of the last one."""
        at = known.body_at(data)
        sink = self.sink
        if not at or sink is None:
            return False
        self._unlike = _TRIES
        self.request = None
        sink.on_head(200, known.headers)
        if self.sink is not None and at < len(data):
            sink.on_body(data[at:])
        sink, self.sink = self.sink, None
        if self.dead:
            self.owner.gone(self)
        else:
            self.owner.idle(self)
        if sink is not None:
            sink.handle = None
            sink.on_end()
        return True

    def _give(self) -> None:
        if not self._head_given and self._status:
            self._head_given = True
            if self.sink is not None:
                self.sink.on_head(self._status, self._headers)
        parts = self._parts
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if self.sink is not None:
                self.sink.on_body(data)

    def _finished(self, *, keep: bool) -> None:
        sink, self.sink = self.sink, None
        self._reset()
        if keep and not self.dead:
            self.owner.idle(self)
        else:
            self.owner.gone(self)
            self.transport.close()
        if sink is not None:
            sink.handle = None
            sink.on_end()

    def detach(self) -> None:
        self.sink = None
        self.last_s = self.owner.now_s()
        self.resume()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        was_dead, self.dead = self.dead, True
        self.owner.gone(self)
        sink, self.sink = self.sink, None
        if sink is None or was_dead:
            return
        sink.handle = None
        if self._status and not self._length and not self._chunked and exc is None:
            sink.on_end()  # a body that ends with its connection
            return
        request, self.request = self.request, None
        kind = "reset"
        if self.reused and request is not None:
            if exc is None and self._was_not_taken():
                self.owner.send_again(request, sink)
                return
            if self.owner.now_s() - self.sent_s < _STALE_S + self.round_trip_s:
                kind = "stale"
        before = "before its first byte" if not self.got_byte else "in mid-answer"
        sink.on_lost(kind, f"the engine closed the connection {before}" + (f" ({exc})" if exc else ""))

    def _was_not_taken(self) -> bool:
        """Whether the connection was ended in order, and the end acknowledged no byte of the present request:
        then it was decided on before the request came, and what comes later is read by nobody.

        A reset does not acknowledge what was read before it, and TLS hides how long the request is: there the
        answer is no."""
        if self.transport.get_extra_info("sslcontext") is not None:
            return False
        taken = acknowledged_bytes(self.transport.get_extra_info("socket"))
        return taken is not None and taken <= self._before_bytes

    # ---- the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._length = True
        elif name == b"transfer-encoding":
            self._chunked = True
        elif name == b"content-type" or name == b"retry-after":
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        self._status = status

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._headers = {}
            return
        self._keep = self._parser.should_keep_alive()  # the parser forgets it when the callback returns
        self._complete = True
