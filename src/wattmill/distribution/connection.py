"""One client's connection: HTTP/1.1 on `asyncio.Protocol`, parsed by httptools. It knows bytes and time, not
tokens. Requests are served in order; later bytes wait unparsed, up to a limit, then reading pauses.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

from wattmill.distribution.http import HttpRequest
from wattmill.distribution.known_head import KnownHead
from wattmill.distribution.outbox import WHOLE_BYTES
from wattmill.distribution.reading import CONTINUE, SLICE_BYTES, Reading
from wattmill.distribution.spec import KERNEL_BUFFER_BYTES, Limits
from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.server import Server

_LINGER_S = 2.0  # how long a refused upload is read and dropped, so that the client can read the answer
_MOST_UNSENT = 16  # pieces that are put off


class Client(Protocol):
    """Who is serving the connection's present request."""

    def client_gone(self) -> None: ...
    def client_slow(self) -> None: ...  # its write buffer is full: stop writing soon
    def client_ready(self) -> None: ...
    def timed_out(self) -> None: ...


class Connection(Reading):
    """One client. Answers leave in the order of the requests; each is written by one call where it can be."""

    __slots__ = (
        "_lingering",
        "_pending",
        "_pumping",
        "_reading_paused",
        "_streaming",
        "_unsent",
        "_until_s",
        "_writing_paused",
        "client",
        "transport",
    )

    def __init__(self, server: Server, limits: Limits) -> None:
        super().__init__(server, limits)
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else happens
        self.client: Client | None = None
        self._pending = bytearray()
        self._unsent: list[bytes] = []  # of answers: it leaves at the end of this turn of the loop
        self._until_s = 0.0  # so long a client may take to read an answer that has ended
        self._pumping = False
        self._reading_paused = False
        self._writing_paused = False
        self._streaming = False
        self._lingering = False

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Left alone, the kernel lets each slow reader's buffer grow to megabytes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
        self.transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes)
        server = self._server
        server.connections.add(self)
        most = self._limits.connections
        if len(server.connections) > 2 * most:
            self.transport.abort()  # refusals take room too
        elif len(server.connections) - server.lingering > most:
            self._refuse_all(
                Refusal(
                    code="overloaded",
                    message=f"this gateway has {most} connections already (limits.connections); reuse them",
                    retry_after_s=1.0,
                )
            )

    def data_received(self, data: bytes) -> None:
        if self._dead:
            return
        known = self._known
        if known is not None and self._again(known, data):
            return
        if self.current is None and not self._queue and not self._pending and len(data) <= SLICE_BYTES:
            self._parse(data)
        else:
            self._pending += data
        if self._queue or self._pending:
            self._pump()
        if len(self._pending) > self._limits.pipelined_bytes and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
            self._server.watch(self)

    def _again(self, known: KnownHead, data: bytes) -> bool:
        """Serve `data` if it is one whole request with the head of the last one, and it is its turn."""
        if (
            self.current is not None
            or self._request is not None
            or self._queue
            or self._pending
            or self._writing_paused
        ):
            return False
        at = known.body_at(data)
        if not at or len(data) - at > self._limits.body_bytes:
            return False
        server = self._server
        now_s = server.clock.now()
        request = HttpRequest(self, now_s)
        request.known = known
        request.method = known.method
        request.path = known.path
        request.query = known.query
        request.headers = known.headers
        request.body = data[at:]
        request.close = server.draining
        self.current = request
        self.deadline_s = now_s + self._limits.total_s
        server.handler.request(request)
        return True

    def eof_received(self) -> bool:
        # A half-closed client cannot be told from one that left; like other proxies, take it as gone.
        if self.client is not None:
            self.transport.abort()
        else:
            self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        server = self._server
        server.connections.discard(self)
        server.unwatch(self)
        server.lingering -= self._lingering
        self._dead = True
        self._queue.clear()
        self._pending.clear()
        self._unsent.clear()
        self._body = []
        if self._counted_bytes:
            self._uncount()
        client, self.client, self.current = self.client, None, None
        if client is not None:
            client.client_gone()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self.client is not None:
            self.client.client_slow()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self.client is not None:
            self.client.client_ready()
        else:
            self._pump()

    def fileno(self) -> int:
        sock = self.transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    # ---- time

    def on_deadline(self) -> None:
        limits = self._limits
        if self.current is not None:
            self.deadline_s = float("inf")
            self.cut()
            self.flush()
            if self._unfinished():
                self.transport.abort()  # the client does not even read why
        elif self._request is not None and not self._lingering:
            if self._headers_done:
                late = Refusal(
                    code="request_timeout",
                    message=f"the body did not arrive within {limits.body_s:g} s; {self._body_bytes} bytes",
                )
            else:
                late = Refusal(
                    code="request_timeout", message=f"the headers did not arrive within {limits.header_s:g} s"
                )
            self._refuse_all(late)
        else:
            self.flush()
            self.deadline_s = float("inf")
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self.transport.close()

    def _unfinished(self) -> bool:
        return self.current is not None or self.transport.get_write_buffer_size() > 0

    def close_if_idle(self) -> None:
        if self.current is None and not self._queue and self._request is None:
            self.close()

    def close(self) -> None:
        """Close when all that was answered has been written."""
        self.flush()
        self.transport.close()

    def cut(self) -> None:
        """End the present answer now, with a word to the client if it still reads."""
        if self.client is not None:
            self.client.timed_out()

    def _refuse_all(self, refusal: Refusal) -> None:
        self._bad(refusal)
        self._pump()

    # ---- serving in order

    def _pump(self) -> None:
        """Serve what has arrived until an answer has to wait. A loop, not a recursion: clients pipeline."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.current is None and not self._writing_paused:
                if self._queue:
                    self._serve(self._queue.popleft())
                elif self._pending and not self._dead:
                    request = self._request
                    if request is not None and request.want_continue:
                        request.want_continue = False
                        self._write(CONTINUE)
                    part = bytes(self._pending[:SLICE_BYTES])
                    del self._pending[:SLICE_BYTES]
                    self._parse(part)
                else:
                    break
        finally:
            self._pumping = False
        request = self._request
        if request is not None and request.want_continue and self.current is None:
            request.want_continue = False
            self._write(CONTINUE)
        if self._reading_paused and len(self._pending) <= self._limits.pipelined_bytes:
            self._reading_paused = False
            self._server.unwatch(self)
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _serve(self, request: HttpRequest) -> None:
        self.current = request
        self.deadline_s = request.arrived_s + self._limits.total_s
        if self._server.draining:
            request.close = True
        if request.refusal is not None:
            self.answer(*self._server.handler.refused(request.refusal))
        else:
            self._server.handler.request(request)

    def _served(self) -> None:
        request = self.current
        assert request is not None
        self.current = self.client = None
        self._streaming = False
        # A client that has yet to read all of it has the time of its request for that.
        self._until_s = request.arrived_s + self._limits.total_s
        limits, now_s = self._limits, self._server.now_s
        if self._request is not None:  # the rest of the next one may take as long as if it began now
            self._arrived_s = now_s
            self.deadline_s = now_s + limits.header_s + (limits.body_s if self._headers_done else 0.0)
        elif self.transport.get_write_buffer_size():
            self.deadline_s = self._until_s
        else:
            self.deadline_s = now_s + limits.idle_s
        if request.close or self._server.draining:
            self._dead = True
            self._queue.clear()
            self._pending.clear()
            if request.refusal is not None:
                self._linger()
            else:
                self.close()
        elif not self._pumping and (
            self._queue or self._pending or self._reading_paused or self._request is not None
        ):
            self._pump()

    def _linger(self) -> None:
        """Close so that the answer arrives: closing with unread bytes would reset the connection before the
        client has read why it was refused. What still comes is dropped; the sweep ends it."""
        self._lingering = True
        self._server.lingering += 1
        self.deadline_s = self._server.clock.now() + _LINGER_S
        if self._reading_paused:
            self._reading_paused = False
            self._server.unwatch(self)
            self.transport.resume_reading()
        self.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # ---- answering

    def _write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop, with what others write then, or now."""
        outbox, unsent = self._server.outbox, self._unsent
        if not unsent:
            if not outbox.at_once and len(data) <= WHOLE_BYTES:
                unsent.append(data)
                outbox.put_off(self)
                return
            outbox.at_once -= outbox.at_once > 0
            self.transport.write(data)
            return
        unsent.append(data)
        if len(data) > WHOLE_BYTES or len(unsent) > _MOST_UNSENT:
            self.flush()

    def flush(self) -> None:
        """Write what was put off."""
        unsent = self._unsent
        if not unsent:
            return
        transport = self.transport
        data = unsent[0] if len(unsent) == 1 else b"".join(unsent)
        unsent.clear()
        if transport.is_closing():
            return
        transport.write(data)
        if (
            transport.get_write_buffer_size()
            and self.current is None
            and self._request is None
            and not self._lingering  # neither a half-read request nor an end that is near sets the time
        ):
            self.deadline_s = self._until_s

    def answer(self, head: bytes, body: bytes) -> None:
        """Write a whole answer. `head` is the status line and headers, each with its line end."""
        request = self.current
        if request is None:
            return
        if request.close:
            head += b"connection: close\r\n"
        elif request.http10:
            head += b"connection: keep-alive\r\n"
        if request.method == b"HEAD":
            body = b"%d" % len(body)
            self._write(b"%b%bcontent-length: %b\r\n\r\n" % (head, self._server.date, body))
        elif len(body) < 65_536:
            self._write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, self._server.date, len(body), body))
        else:
            self._write(b"%b%bcontent-length: %d\r\n\r\n" % (head, self._server.date, len(body)))
            self._write(body)
        self._served()

    def begin(self, head: bytes, payloads: list[bytes]) -> None:
        """Begin an answer of unknown length with its first chunks, all in one write."""
        request = self.current
        if request is None:
            return
        if request.http10:
            request.close = True
        else:
            head += b"transfer-encoding: chunked\r\n"
        if request.close:
            head += b"connection: close\r\n"
        self._streaming = True
        first = b""
        for payload in payloads:
            first += self.framed(payload)
        self._write(b"%b%b\r\n%b" % (head, self._server.date, first))

    def framed(self, payload: bytes) -> bytes:
        """Return `payload` as one chunk of the present answer; empty stays empty (it would end it)."""
        request = self.current
        if not payload or request is None or request.http10:
            return payload
        return b"%x\r\n%b\r\n" % (len(payload), payload)

    def send(self, framed: bytes) -> None:
        """Write chunks made by `framed`: several may leave in one call, each keeps its own frame."""
        if self.current is not None:
            self._write(framed)

    def send_one(self, payload: bytes) -> None:
        """Write `payload`, which is not empty, as one chunk."""
        request = self.current
        if request is not None:
            self._write(payload if request.http10 else b"%x\r\n%b\r\n" % (len(payload), payload))

    def end(self, framed: bytes = b"") -> None:
        """Write last chunks and end the answer."""
        request = self.current
        if request is None:
            return
        if not request.http10:
            framed += b"0\r\n\r\n"
        if framed:
            self._write(framed)
        self._served()

    def fail(self, head: bytes, body: bytes) -> None:
        """End the present answer by an error: in words if nothing was written of it, else by breaking off."""
        if self._streaming:
            self.break_off()
        else:
            self.answer(head, body)

    def break_off(self) -> None:
        """End an answer that cannot be completed, so that the client can tell."""
        self.flush()
        self.transport.abort()
