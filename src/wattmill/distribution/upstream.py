"""The way to one pool: its connections, kept and reused, and what is known of its health.

**Sending again.** A kept connection may have been closed by the engine just before we wrote: the request was
never read, and a new connection gets it as the same attempt. This is done only where the kernel proves it:
the connection was ended in order, no byte of the request having been acknowledged and none of an answer sent.
Whatever else ends had, perhaps, a working engine behind it: that is a failed attempt with an end of its own,
and the next attempt, at the same place if the connection had been given up (`stale`), is a new record with a
reservation of its own.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from urllib.parse import urlsplit

from wattmill.distribution.backend_state import LESSONS, BackendState
from wattmill.distribution.metrics import PoolCounts
from wattmill.distribution.outbox import Outbox
from wattmill.distribution.spec import Backend
from wattmill.distribution.upstream_conn import Handle, Sink, UpstreamConnection
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.ports import Clock

_KEEP_IDLE_S = 30.0
USER_AGENT = b"wattmill"


class BadBackendError(ValueError):
    """A backend's address cannot be used; the message says why."""


class Upstream:
    """Connections to one backend. The most recently used idle one is taken first, so that others can age."""

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        state: BackendState | None = None,
        counts: PoolCounts | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.backend = backend
        self.state = state if state is not None else BackendState(backend.pool)
        self.counts = counts if counts is not None else PoolCounts()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.outbox = outbox if outbox is not None else Outbox(self._loop.call_soon)
        url = urlsplit(backend.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise BadBackendError(
                f"pool {backend.pool!r}: base_url {backend.base_url!r} must be http://host… or https://host…"
            )
        self._host = url.hostname
        self._tls = _client_tls(backend) if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        self._proxy = urlsplit(backend.proxy) if backend.proxy else None
        self.keeps_streams = not ADAPTERS[backend.adapter].closes_after_stream
        self._prefix = url.path.rstrip("/")
        self._absolute = f"http://{url.netloc}" if self._proxy and not self._tls else ""
        common = [
            f"host: {url.netloc.rpartition('@')[2]}",
            "accept-encoding: identity",
            f"user-agent: {USER_AGENT.decode()}",
        ]
        if self._absolute and self._proxy and self._proxy.username:
            common.append(f"proxy-authorization: {_basic(self._proxy)}")
        common += [f"{name.lower()}: {value}" for name, value in backend.headers]
        for line in common:
            if any(c in line for c in "\r\n\0"):
                raise BadBackendError(
                    f"pool {backend.pool!r}: header {line.split(':')[0]!r} has a line break in it"
                )
        self._common = ("\r\n".join(common) + "\r\n").encode("latin-1")
        self._secrets = [
            part
            for _, value in backend.headers
            for part in (value, value.rpartition(" ")[2])
            if len(part) >= 8
        ]
        self._posts: dict[str, bytes] = {}
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._opening: set[_Opening] = set()
        self._probe: _Probe | None = None
        self.closed = False
        self._swept_s = clock.now()

    def now_s(self) -> float:
        return self._clock.now()

    def redacted(self, text: str) -> str:
        """Return an engine's words without the factory's credentials, which some engines repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text

    # ---- requests

    def post(self, path: str, body: bytes, sink: Sink, now_s: float) -> None:
        """Send `body` to `path` (below base_url). The sink hears of the answer, or why there is none."""
        head = self._posts.get(path)
        if head is None:
            line = f"POST {self._absolute}{self._prefix}{path} HTTP/1.1\r\n".encode()
            head = self._posts[path] = (
                line + self._common + b"content-type: application/json\r\ncontent-length: "
            )
        self._send(b"%b%d\r\n\r\n%b" % (head, len(body), body), sink, now_s)

    def get(self, path: str, sink: Sink, *, below_base: bool = True) -> None:
        """Ask for `path` below base_url, or below the server's root."""
        prefix = self._prefix if below_base else ""
        line = f"GET {self._absolute}{prefix}{path} HTTP/1.1\r\n".encode()
        self._send(line + self._common + b"\r\n", sink, self._clock.now())

    def _send(self, request: bytes, sink: Sink, now_s: float) -> None:
        idle = self._idle
        while idle:
            conn = idle.pop()
            if not conn.dead and not conn.transport.is_closing():
                conn.reused = True
                conn.send(request, sink, now_s)
                return
        self._connect(request, sink)

    def send_again(self, request: bytes, sink: Sink) -> None:
        self._connect(request, sink)

    def _connect(self, request: bytes, sink: Sink) -> None:
        if len(self._open) + len(self._opening) >= self.backend.max_connections:
            most = self.backend.max_connections
            sink.handle = None
            sink.on_lost("busy", f"all {most} connections to pool {self.backend.pool!r} are in use")
            return
        opening = _Opening(self, request, sink)
        sink.handle = opening
        self._opening.add(opening)
        opening.task = self._loop.create_task(opening.run())
        opening.task.add_done_callback(lambda _: self._opening.discard(opening))

    async def open(self) -> UpstreamConnection:
        """Open a connection, through the proxy and TLS where declared. Raises OSError or TimeoutError."""
        host, port = self._host, self._port
        if self._proxy is not None:
            host, port = self._proxy.hostname or "", self._proxy.port or 3128
        if self._proxy is not None and self._tls is not None:
            transport = await self._tunnel(host, port)
            conn = UpstreamConnection(self)
            tls = await self._loop.start_tls(
                transport, conn, self._tls, server_hostname=self._host, ssl_handshake_timeout=60.0
            )
            if tls is None:
                raise ConnectionResetError("the proxy closed the tunnel")
            conn.connection_made(tls)
        else:
            _, conn = await self._loop.create_connection(
                lambda: UpstreamConnection(self),
                host,
                port,
                ssl=self._tls if self._proxy is None else None,
                server_hostname=self._host if self._tls and self._proxy is None else None,
            )
        self._open.add(conn)
        return conn

    async def _tunnel(self, host: str, port: int) -> asyncio.Transport:
        assert self._proxy is not None
        reply: asyncio.Future[bytes] = self._loop.create_future()
        transport, _ = await self._loop.create_connection(lambda: _ConnectReply(reply), host, port)
        target = f"{self._host}:{self._port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
        if self._proxy.username:
            lines.append(f"proxy-authorization: {_basic(self._proxy)}")
        transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        try:
            head = await reply
        except BaseException:
            transport.abort()
            raise
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            transport.abort()
            raise ConnectionRefusedError(f"the proxy answered {head[:80].decode('latin-1')!r} to CONNECT")
        return transport

    # ---- connections

    def idle(self, conn: UpstreamConnection) -> None:
        if self.closed:
            self.gone(conn)
            conn.transport.close()
            return
        conn.resume()
        conn.idle_since_s = self._swept_s
        self._idle.append(conn)

    def gone(self, conn: UpstreamConnection) -> None:
        self._open.discard(conn)
        if conn in self._idle:
            self._idle.remove(conn)

    def close(self) -> None:
        """Close idle connections now and the others when their answers end."""
        self.closed = True
        for conn in self._idle:
            self._open.discard(conn)
            conn.transport.close()
        self._idle.clear()

    @property
    def in_use(self) -> int:
        return len(self._open) - len(self._idle) + len(self._opening)

    # ---- time

    def sweep(self, now_s: float) -> None:
        """Watch time-outs, drop connections that idled for long, and probe a pool that is down."""
        self._swept_s = now_s
        self.state.lessons = LESSONS
        idle = self._idle
        while idle and now_s - idle[0].idle_since_s > _KEEP_IDLE_S:
            old = idle.pop(0)
            self._open.discard(old)
            old.transport.close()
        if len(self._open) > len(idle):
            resting = set(idle)
            for conn in [c for c in self._open if c not in resting]:
                conn.sweep(now_s)
        state = self.state
        if state.state == "closed":
            return
        state.tick(now_s)
        if state.probe_due(now_s) and self._probe is None and not self.closed:
            self._probe = _Probe(self)
            self.get("/models", self._probe)

    def probed(self, error: str | None, *, surely_down: bool = False) -> None:
        self._probe = None
        if error is None:
            self.state.probe_good()
        else:
            self.state.probe_failed(error, now_s=self._clock.now(), surely_down=surely_down)


class _Opening:
    """A request whose connection is being made."""

    written = False
    __slots__ = ("_request", "_sink", "_up", "task")

    def __init__(self, up: Upstream, request: bytes, sink: Sink) -> None:
        self._up = up
        self._request = request
        self._sink: Sink | None = sink
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        limit_s = self._up.backend.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                began_s = self._up.now_s()
                conn = await self._up.open()
                conn.round_trip_s = self._up.now_s() - began_s
        except TimeoutError:
            self._fail(f"no connection within {limit_s:g} s (connect_timeout_s)")
        except OSError as error:  # refused, unreachable, no such host, bad certificate
            self._fail(str(error) or type(error).__name__)
        else:
            sink, self._sink = self._sink, None
            if sink is None:
                self._up.idle(conn)
            else:
                conn.send(self._request, sink, self._up.now_s())

    def _fail(self, text: str) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.handle = None
            sink.on_lost("connect", f"cannot connect to pool {self._up.backend.pool!r}: {text}")

    def abort(self) -> None:
        self._sink = None  # the connection is kept for the next request

    def detach(self) -> None:
        self._sink = None

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class _Probe:
    """Asks a pool that is down whether it is back: any answer that is no 502, 503 or 504 says yes."""

    def __init__(self, up: Upstream) -> None:
        self._up = up
        self.handle: Handle | None = None
        self._status = 0

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        down = self._status in (502, 503, 504)
        self._up.probed(f"probe: status {self._status}" if down else None)

    def on_lost(self, kind: str, text: str) -> None:
        self._up.probed(f"probe: {text}", surely_down=kind == "connect")


class _ConnectReply(asyncio.Protocol):
    """Reads a proxy's answer to CONNECT, up to its empty line and not a byte further: TLS follows only after
    we begin it, so a proxy has nothing more to say."""

    def __init__(self, reply: asyncio.Future[bytes]) -> None:
        self._reply = reply
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._reply.done():
            return
        if b"\r\n\r\n" in self._seen:
            self._reply.set_result(self._seen)
        elif len(self._seen) > 16_384:
            self._reply.set_exception(ConnectionRefusedError("the proxy's answer to CONNECT is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the proxy closed the connection"))


def _client_tls(backend: Backend) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=backend.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadBackendError(f"pool {backend.pool!r}: ca_file {backend.ca_file!r}: {error}") from None
    if not backend.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _basic(proxy: object) -> str:
    user, password = getattr(proxy, "username", "") or "", getattr(proxy, "password", "") or ""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
