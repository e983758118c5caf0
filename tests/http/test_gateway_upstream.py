"""The way to the engines: kept connections, one honest second try, TLS that is verified, and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_rig import CHAT, STREAM, Client, Engine, Rig, Wire, answer_body, rig, run, until, well

from certificates import self_signed
from served import serving
from wattmill.app.running.clock import LiveClock
from wattmill.distribution.spec import Backend
from wattmill.distribution.upstream import BadBackendError, Upstream


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a self-signed certificate for `localhost`."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_connections_are_kept_and_used_again() -> None:
    async def test() -> None:
        async with rig() as r:
            for body in (CHAT, STREAM) * 10:
                assert (await r.ask(body)).status == 200
            assert r.engines[0].connections == 1
            await asyncio.gather(*(r.ask() for _ in range(5)))
            assert 1 < r.engines[0].connections <= 6

    run(test())


def test_nothing_is_put_on_a_connection_that_the_engine_is_about_to_close_after_a_stream() -> None:
    """llama.cpp says `Keep-Alive`, and closes a moment after the last chunk: what came in that moment was
    lost to a reset, booked as if it might have been worked on, and asked anew."""

    async def test() -> None:
        async with rig(adapter="llama.cpp") as r:
            for body in (STREAM, CHAT, STREAM):  # a chat that is not streamed is streamed from this engine
                assert (await r.ask(body)).status == 200
            assert r.engines[0].connections == 3
            assert all(e.status == "finished" for e in r.journal.ends)
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("asked", [CHAT, STREAM])
def test_a_request_that_a_dying_kept_connection_may_have_carried_is_booked_and_reserved_anew(
    how: str, asked: dict[str, Any]
) -> None:
    async def fragile(wire: Wire) -> None:
        await well(wire)
        # The next request on this connection is read, and the connection ends without a byte.
        await wire.reader.readuntil(b"\r\n\r\n")
        wire.reset() if how == "reset" else wire.writer.close()

    async def test() -> None:
        async with rig(fragile) as r:
            for body in (CHAT, asked):
                assert (await r.ask(body)).status == 200
            assert r.engines[0].connections == 2
            _, lost, second = r.journal.intents
            assert (lost.request, second.request, second.attempt) == (lost.seq, lost.seq, 1)
            assert [(e.status, e.error) for e in r.journal.ends] == [
                ("finished", None),
                ("failed", "stale"),
                ("finished", None),
            ]
            end = r.journal.ends[1]
            assert (end.charge_nusd, end.kept_nusd) == (0, lost.reserved_nusd), "it may have been worked on"
            assert len(r.purse.grants) == 3 and r.gateway.state("p0").healthy
            r.assert_balanced()

    run(test())


def test_a_place_that_gives_up_each_connection_is_asked_again_only_once() -> None:
    async def fragile(wire: Wire) -> None:
        await well(wire)
        await wire.reader.readuntil(b"\r\n\r\n")
        wire.writer.close()

    async def test() -> None:
        async with rig(fragile, well) as r:
            await asyncio.gather(*(r.ask() for _ in range(3)))  # three connections are kept
            before = len(r.journal.intents)
            a = await r.ask()
            assert a.status == 200 and a.headers["x-wattmill-pool"] == "p1"
            assert [i.pool for i in r.journal.intents[before:]] == ["p0", "p0", "p1"]
            r.assert_balanced()

    run(test())


class Wanted:
    """A sink that only remembers."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.said: list[str] = []
        self.over = asyncio.Event()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        self.said.append("end")
        self.over.set()

    def on_lost(self, kind: str, text: str) -> None:
        self.said.append(kind)
        self.over.set()


@pytest.mark.parametrize(
    ("how", "sent_again"),
    [("closed before", True), ("read, then closed", False), ("read in part, then closed", False)],
)
def test_only_what_no_engine_can_have_read_is_sent_again_under_one_reservation(
    how: str, sent_again: bool
) -> None:
    """The engine's thread and the gateway's loop take turns, so that each order of events is exact."""
    body = b"x" * 300_000

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as engine:
            url = f"http://127.0.0.1:{engine.getsockname()[1]}"
            up = Upstream(Backend(pool="p", adapter="openai", base_url=url, models={}), clock=LiveClock())

            engine.settimeout(3)

            def serve() -> socket.socket:
                conn = engine.accept()[0]
                conn.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += conn.recv(65_536)
                left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                left -= len(head.partition(b"\r\n\r\n")[2])
                while left:
                    left -= len(conn.recv(65_536))
                conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                return conn

            first, second = Wanted(), Wanted()
            up.post("/a", b"{}", first, up.now_s())
            conn = await asyncio.to_thread(serve)
            await first.over.wait()
            again = asyncio.get_running_loop().run_in_executor(None, serve)
            if how == "closed before":
                conn.close()
                time.sleep(0.02)  # its end is here, and the loop has not looked
                up.post("/a", body, second, up.now_s())
            else:
                up.post("/a", body, second, up.now_s())
                time.sleep(0.01)
                conn.recv(100 if "part" in how else 10_000_000)
                conn.close()
            await asyncio.wait_for(second.over.wait(), 5)
            assert second.said == (["end"] if sent_again else ["stale"])
            if not sent_again:
                up.post("/a", b"{}", Wanted(), up.now_s())  # lets the thread end
            (await again).close()
            up.close()

    run(test())


def test_a_fresh_connection_that_dies_is_a_failed_attempt() -> None:
    async def dying(wire: Wire) -> None:
        wire.writer.close()

    async def test() -> None:
        async with rig(dying) as r:
            a = await r.ask()
            assert a.error["code"] == "upstream_failed" and "before its first byte" in a.error["message"]
            assert r.engines[0].connections == 1
            r.assert_balanced()

    run(test())


def test_an_engine_that_works_on_a_kept_connection_and_dies_is_not_asked_again_unseen() -> None:
    calls = 0

    async def works(wire: Wire) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.sleep(1.1)
            wire.writer.close()
        else:
            await well(wire)

    async def test() -> None:
        async with rig(works, well) as r:
            assert (await r.ask()).status == 200
            a = await r.ask()
            assert a.headers["x-wattmill-pool"] == "p1"
            assert [e.status for e in r.journal.ends] == ["finished", "failed", "finished"]
            r.assert_balanced()

    run(test())


def test_an_engine_that_closes_idle_connections_costs_nothing() -> None:
    async def once(wire: Wire) -> None:
        await well(wire)
        wire.writer.close()

    async def test() -> None:
        async with rig(once) as r:
            for _ in range(5):
                assert (await r.ask()).status == 200
                await until(lambda: not r.gateway.upstreams["p0"]._open)
            assert r.engines[0].connections == 5

    run(test())


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def old(wire: Wire) -> None:

        await wire.send(
            b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + json.dumps(answer_body()).encode()
        )
        wire.writer.close()

    async def test() -> None:
        async with rig(old) as r:
            a = await r.ask()
            assert a.status == 200 and a.json["usage"]["completion_tokens"] == 2
            r.assert_balanced()

    run(test())


def test_interim_answers_are_passed_over() -> None:
    async def interim(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await well(wire)

    async def test() -> None:
        async with rig(interim) as r:
            assert (await r.ask()).status == 200
            assert (await r.ask(STREAM)).text == "hello"

    run(test())


def test_all_connections_in_use_is_said_so() -> None:
    gate = asyncio.Event()

    async def held(wire: Wire) -> None:
        await gate.wait()
        await well(wire)

    async def test() -> None:
        async with rig(held, max_connections=1) as r:
            first = asyncio.create_task(r.ask())
            await r.engines[0].arrived.wait()
            a = await r.ask()
            assert (a.status, a.error["code"]) == (503, "overloaded")
            assert r.gateway.state("p0").healthy
            gate.set()
            assert (await first).status == 200
            r.assert_balanced()

    run(test())


def test_an_engine_that_goes_on_after_done_is_let_go() -> None:
    async def chatty(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a", finish="stop")
        await wire.usage_chunk(1, 1)
        await wire.event(b"data: [DONE]\n\n")
        await wire.until_left()

    async def test() -> None:
        async with rig(chatty) as r:
            assert (await r.ask(STREAM)).text == "a"
            await asyncio.wait_for(r.engines[0].left.wait(), 3)
            r.assert_balanced()

    run(test())


def https(r: Rig, **more: Any) -> None:
    """Reach the first engine by TLS, under the name of its certificate."""
    backend = r.services().backends["p0"]
    changed = msgspec.structs.replace(backend, base_url=f"https://localhost:{r.engines[0].port}/v1", **more)
    services = r.services()
    services.backends = {"p0": changed}
    r.gateway.use(services)


def test_engines_behind_tls_are_verified_against_the_given_authority(certificate: tuple[Path, Path]) -> None:
    async def test() -> None:
        async with rig() as r:
            await r.engines[0].stop()
            await r.engines[0].start(tls=server_tls(certificate))
            https(r)
            unknown = await r.ask()
            assert unknown.error["code"] == "upstream_failed"
            assert "certificate" in unknown.error["message"].lower()
            assert not r.engines[0].seen
            r.gateway.state("p0").probe_good()
            https(r, ca_file=str(certificate[0]))
            for body in (CHAT, STREAM, CHAT):
                assert (await r.ask(body)).status == 200
            assert r.engines[0].seen[0].headers["host"] == f"localhost:{r.engines[0].port}"
            https(r, tls_verify=False)
            assert (await r.ask()).status == 200
            r.assert_balanced()

    run(test())


class Proxy:
    """A proxy that tunnels CONNECT and forwards absolute requests."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.refuse = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        method, target, _ = head.split(b" ", 2)
        if self.refuse:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        if method == b"CONNECT":
            host, port = target.decode().rsplit(":", 1)
        else:
            host, port = target.decode().split("/")[2].rsplit(":", 1)
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = b"/" + target.split(b"/", 3)[3]
            up_writer.write(head.replace(target, path, 1))
        try:
            await asyncio.gather(self._pipe(reader, up_writer), self._pipe(up_reader, writer))
        finally:
            up_writer.close()
            with contextlib.suppress(OSError):
                await up_writer.wait_closed()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()


def test_a_proxy_gets_connect_for_tls_and_absolute_targets_without(
    certificate: tuple[Path, Path],
) -> None:
    async def test() -> None:
        proxy = Proxy()
        async with (
            serving(proxy.serve) as port,
            rig(proxy=f"http://user:pass@127.0.0.1:{port}") as r,
        ):
            assert (await r.ask()).status == 200
            assert proxy.heads[0].startswith(
                f"POST http://127.0.0.1:{r.engines[0].port}/v1/chat/completions "
            )
            assert "proxy-authorization: Basic dXNlcjpwYXNz" in proxy.heads[0]
            await r.engines[0].stop()
            await r.engines[0].start(tls=server_tls(certificate))
            https(r, ca_file=str(certificate[0]))
            for body in (CHAT, STREAM):
                assert (await r.ask(body)).status == 200
            assert proxy.heads[1].startswith(f"CONNECT localhost:{r.engines[0].port} HTTP/1.1\r\n")
            assert "factory-secret" not in proxy.heads[1] and len(proxy.heads) == 2
            proxy.refuse = True
            https(r, ca_file=str(certificate[0]), idle_timeout_s=9.0)
            refused = await r.ask()
            assert "407" in refused.error["message"] and "user:pass" not in refused.body.decode()
            r.assert_balanced()

    run(test())


def test_the_gateway_itself_serves_tls(certificate: tuple[Path, Path]) -> None:
    async def test() -> None:
        engine = Engine()
        await engine.start()
        r = Rig([engine])
        r.tls = server_tls(certificate)
        await r.start()
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        client = Client()
        client.reader, client.writer = await asyncio.open_connection(
            "127.0.0.1", r.port, ssl=trust, server_hostname="localhost"
        )
        r.clients.append(client)
        for body in (CHAT, STREAM, CHAT):
            assert (await client.ask(body)).status == 200
        await client.send(b"{}", headers=[("host", "again")])
        assert (await client.answer()).status == 400 and await client.closed()
        plain = await r.connect()
        plain.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await plain.closed()
        await r.stop()
        await engine.stop()
        r.assert_balanced()

    run(test())


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"base_url": "ftp://x"}, "must be http://"),
        ({"base_url": "http://"}, "must be http://"),
        ({"base_url": "https://x", "ca_file": "/no/such/file"}, "/no/such/file"),
        ({"base_url": "http://x", "headers": (("authorization", "a\r\nb: c"),)}, "line break"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(more: dict[str, Any], part: str) -> None:
    async def test() -> None:
        with pytest.raises(BadBackendError, match=part) as caught:
            Upstream(Backend(pool="p", adapter="openai", models={}, **more), clock=LiveClock())
        assert "'p'" in str(caught.value) and "b: c" not in str(caught.value)

    run(test())
