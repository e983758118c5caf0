"""The reading half of a client's connection: bytes become requests, within limits of size and time.

httptools parses and calls back; what is complete waits in a queue for its turn (`connection`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools

from wattmill.distribution.http import WANTED, HttpRequest, judge_head, judge_header, path_of, too_large
from wattmill.distribution.known_head import KnownHead, learn
from wattmill.distribution.spec import Limits
from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.server import Server

SLICE_BYTES = 16_384
"""Bytes parsed at a time: bounds how many pipelined requests can exist as objects."""

_TRIES = 4
_PARTS = 256
_NO_UPGRADE = Refusal(code="bad_http", message="protocol upgrades and CONNECT are not offered here")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _StopReading(Exception):
    """Leaves the parser; the reason stands in the request."""


class Reading(asyncio.Protocol):
    """What has been read of a connection, and the request that is being read."""

    __slots__ = (
        "_arrived_s",
        "_body",
        "_body_bytes",
        "_bulk",
        "_chunks",
        "_counted_bytes",
        "_dead",
        "_head_bytes",
        "_headers_done",
        "_known",
        "_limits",
        "_n_headers",
        "_parser",
        "_queue",
        "_raw_bytes",
        "_request",
        "_sender",
        "_server",
        "_target",
        "_unlike",
        "current",
        "deadline_s",
    )

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        self.current: HttpRequest | None = None  # being served
        self.deadline_s = server.now_s + limits.idle_s
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[HttpRequest] = deque()
        self._dead = False  # what follows is not read as HTTP any more
        self._request: HttpRequest | None = None  # being read
        self._known: KnownHead | None = None  # of the last request, for the next
        self._unlike = _TRIES  # how many more heads are learnt: a client may never repeat itself
        self._arrived_s = 0.0
        self._counted_bytes = 0  # of the body that is being read, among those that arrive
        self._sender = 0  # the key that they are counted for
        self._bulk = bytearray()  # of a body in very many parts, its beginning
        self._reset()

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _reset(self) -> None:
        self._target = b""
        self._body: list[bytes] = []
        if self._counted_bytes:
            self._uncount()
        self._body_bytes = 0
        self._raw_bytes = 0
        self._chunks = 0
        self._n_headers = 0
        self._head_bytes = 0
        self._headers_done = False

    def _parse(self, data: bytes) -> None:
        fresh = self._request is None and not self._queue
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._bad(_NO_UPGRADE)
        except httptools.HttpParserError as error:
            if self._queue and self._queue[-1].close:
                self._dead = True  # bytes after a last request: not read
                return
            request = self._request
            if request is not None and request.refusal is not None:
                self._bad(request.refusal)
            else:
                self._bad(Refusal(code="bad_http", message=f"the bytes are not HTTP/1.1: {error}"))
        if self._request is not None:
            if not self._dead:
                self._still_reading()
        elif fresh and self._unlike and len(self._queue) == 1 and not self._dead:
            self._unlike -= 1
            self._known = learn(data, self._queue[0])

    def _uncount(self) -> None:
        """A body is complete, or will never be."""
        self._server.arriving.add(self._sender, -self._counted_bytes)
        self._counted_bytes = 0
        self._bulk = bytearray()

    def _still_reading(self) -> None:
        """Bound a request that is not complete: in bytes and in time."""
        limits = self._limits
        if self._headers_done:
            if not self._counted_bytes and self._turned_away():
                return
            arriving = self._server.arriving
            arriving.add(self._sender, self._body_bytes - self._counted_bytes)
            self._counted_bytes = self._body_bytes
            if len(self._body) > _PARTS:  # thousands of small parts would take many times their bytes
                self._bulk += b"".join(self._body)
                self._body.clear()
            refusal = arriving.too_much(self._sender, limits)
            if refusal is not None:
                self._bad(refusal)
                return
            beside_body = self._raw_bytes - self._body_bytes - 16 * self._chunks
            if beside_body > 2 * limits.header_bytes + SLICE_BYTES:
                self._bad(
                    Refusal(code="bad_http", message="the chunks' extensions or trailers are too large")
                )
            self.deadline_s = self._arrived_s + limits.header_s + limits.body_s
        else:
            if self._raw_bytes > limits.header_bytes:
                self._bad(_headers_too_large(limits))
            self.deadline_s = self._arrived_s + limits.header_s

    def _turned_away(self) -> bool:
        """Whether nobody who may ask is sending the body that is still to come: it is not waited for."""
        request = self._request
        assert request is not None
        sender = self._server.handler.sender_of(request)
        if isinstance(sender, Refusal):
            self._bad(sender)
            return True
        self._sender = sender
        return False

    def _bad(self, refusal: Refusal) -> None:
        """Nothing after this point can be trusted: answer in turn, then close."""
        self._dead = True
        self._body = []
        if self._counted_bytes:
            self._uncount()
        request = self._request or HttpRequest(self, self._server.now_s)  # type: ignore[arg-type]  # a Connection: it is written in two parts
        request.refusal = refusal
        request.close = True
        self._request = None
        self._queue.append(request)

    # ---- the parser's side

    def on_message_begin(self) -> None:
        self._arrived_s = self._server.clock.now()
        self._request = HttpRequest(self, self._arrived_s)  # type: ignore[arg-type]

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers_done:
            return  # a trailer: never read as a header
        self._n_headers += 1
        self._head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in WANTED:
            request = self._request
            assert request is not None
            refusal = judge_header(request, name, value)
            if refusal is not None:
                request.refusal = refusal
                raise _StopReading

    def on_headers_complete(self) -> None:
        self._headers_done = True
        request = self._request
        assert request is not None
        limits = self._limits
        refusal = judge_head(request, version=self._parser.get_http_version(), body_limit=limits.body_bytes)
        if refusal is None and self._n_headers > limits.headers:
            refusal = Refusal(
                code="headers_too_large",
                message=f"{self._n_headers} headers; at most {limits.headers} are read",
            )
        if refusal is None and len(self._target) + self._head_bytes > limits.header_bytes:
            refusal = _headers_too_large(limits)
        if refusal is None and self._parser.should_upgrade():
            refusal = _NO_UPGRADE  # the parser would skip the body of such a request
        if refusal is None:
            path = path_of(self._target)
            if path is None:
                refusal = Refusal(code="bad_http", message="the request target must be a path")
            else:
                request.path = path
                if b"?" in self._target:
                    request.query = self._target.partition(b"?")[2].partition(b"#")[0]
        if refusal is not None:
            request.refusal = refusal
            raise _StopReading
        request.method = self._parser.get_method()
        request.close = not self._parser.should_keep_alive()
        if request.want_continue and self.current is None and not self._queue:
            request.want_continue = False
            sender = self._server.handler.sender_of(request)
            if isinstance(sender, Refusal):
                request.refusal = sender
                raise _StopReading
            self._write(CONTINUE)

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            assert self._request is not None
            self._request.refusal = too_large(self._limits.body_bytes)
            raise _StopReading

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        if self._bulk:
            self._bulk += b"".join(self._body)
            request.body = bytes(self._bulk)
        elif len(self._body) == 1:
            request.body = self._body[0]
        elif self._body:
            request.body = b"".join(self._body)
        self._request = None
        self._queue.append(request)
        self._reset()


def _headers_too_large(limits: Limits) -> Refusal:
    return Refusal(
        code="headers_too_large",
        message=f"the request line and headers exceed {limits.header_bytes} bytes",
    )
