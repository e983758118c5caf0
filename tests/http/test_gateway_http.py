"""HTTP done right: framing, limits with an answer of their own, and nothing smuggled."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import parsedate_to_datetime

import pytest
from gateway_rig import CHAT, KEY, STREAM, Answer, Client, Rig, Wire, rig, run, until, well

from wattmill.distribution.spec import Limits

BODY = json.dumps(CHAT).encode()
AUTH = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + AUTH


async def raw(r: Rig, data: bytes) -> tuple[Answer, bool]:
    """Send bytes; return the answer and whether the connection was closed after it."""
    client = await r.connect()
    client.writer.write(data)
    answer = await client.answer()
    try:
        async with asyncio.timeout(0.3):
            closed = await client.closed()
    except TimeoutError:
        closed = False
    client.close()
    return answer, closed


def chunked(body: bytes, *, trailer: bytes = b"") -> bytes:
    half = len(body) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:]))
    return parts + b"0\r\n" + trailer + b"\r\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (POST.replace(b"Host: g\r\n", b"") + b"Content-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + b"Host: h\r\nContent-Length: 2\r\n\r\n{}", "bad_header"),
        (POST.replace(b"Host: g", b"Host: a, b") + b"Content-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + AUTH + b"Content-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + b"authorization: x\r\nContent-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_http"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", "bad_http"),
        (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_header"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "bad_header"),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "bad_header"),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_http"),
        (POST + b"Transfer-Encoding: identity\r\n\r\n", "bad_header"),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "bad_http"),
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "bad_http"),
        (POST + b"Content-Length: 2, 2\r\n\r\n{}", "bad_http"),
        (POST + b"Content-Length: +2\r\n\r\n{}", "bad_http"),
        (POST + b"Content-Length: -2\r\n\r\n{}", "bad_http"),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}", "bad_http"),
        (POST + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", "bad_http"),
        (POST + b"X: a\rY: b\r\nContent-Length: 2\r\n\r\n{}", "bad_http"),
        (POST + b"X: a\x00b\r\nContent-Length: 2\r\n\r\n{}", "bad_http"),
        (POST.replace(b"\r\n", b"\n") + b"\n", "bad_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", "bad_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", "bad_http"),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + b"Expect: magic\r\nContent-Length: 2\r\n\r\n{}", "bad_header"),
        (POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", "bad_http"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "bad_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bad_http"),
        (b"GET /healthz HTTP/0.9\r\nHost: a\r\n\r\n", "bad_http"),
        (b"GET /healthz\r\n\r\n", "bad_http"),
        (b"GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n", "bad_http"),
        (b"get /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "bad_http"),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "bad_http"),
        (b"hello there\r\n\r\n", "bad_http"),
    ],
)
def test_ambiguous_or_broken_requests_are_refused_and_the_connection_ends(data: bytes, code: str) -> None:
    async def test() -> None:
        async with rig() as r:
            # What a smuggler would hide behind the first request must never be read as one.
            hidden = POST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
            answer, closed = await raw(r, data + hidden)
            assert (answer.status, answer.error["code"]) == (400, code)
            assert answer.headers["connection"] == "close" and closed
            assert not r.engines[0].seen
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("trailer", [AUTH, b"Host: other\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n"])
def test_trailers_are_never_read_as_headers(trailer: bytes) -> None:
    async def test() -> None:
        async with rig() as r:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n"
            anonymous, _ = await raw(r, head + b"\r\n" + chunked(BODY, trailer=trailer))
            assert anonymous.status == 401
            known, closed = await raw(r, head + AUTH + b"\r\n" + chunked(BODY, trailer=trailer))
            assert known.status == 200 and not closed

    run(test())


def test_chunked_bodies_absolute_targets_and_odd_whitespace_are_served() -> None:
    async def test() -> None:
        async with rig() as r:
            a, _ = await raw(r, POST + b"Transfer-Encoding: Chunked\r\n\r\n" + chunked(BODY))
            assert a.status == 200
            for target in (b"http://g/v1/chat/completions", b"/v1/chat/completions?api-version=1#x"):
                data = POST.replace(b"/v1/chat/completions", target)
                a, _ = await raw(
                    r, b"\r\n\r\n" + data + b"Content-Length:\t%d \r\n\r\n%b" % (len(BODY), BODY)
                )
                assert a.status == 200

    run(test())


def test_old_clients_get_old_answers() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            a = await client.ask(version="1.0")
            assert a.status == 200 and a.headers["connection"] == "close" and await client.closed()
            client = await r.connect()
            a = await client.ask(version="1.0", headers=[("connection", "keep-alive")])
            assert a.headers["connection"] == "keep-alive"
            a = await client.ask(STREAM, version="1.0", headers=[("connection", "keep-alive")])
            assert "transfer-encoding" not in a.headers and a.headers["connection"] == "close"
            assert a.text == "hello" and a.body.endswith(b"data: [DONE]\n\n")
            assert (await r.ask(method="GET", path="/healthz", version="1.0")).status == 200

    run(test())


def test_head_has_the_length_and_no_body() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            got = await client.ask(method="GET", path="/v1/models")
            head = await client.ask(method="HEAD", path="/v1/models")
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))
            assert (await client.ask()).status == 200
            client.close()

    run(test())


def test_each_answer_is_dated() -> None:
    async def test() -> None:
        async with rig() as r:
            a = await r.ask(method="GET", path="/healthz")
            assert abs(parsedate_to_datetime(a.headers["date"]).timestamp() - time.time()) < 5

    run(test())


def test_who_expects_a_continue_gets_it_before_sending() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
            client.writer.write(head)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(BODY)
            assert (await client.answer()).status == 200
            # Behind another request it comes when its turn has come.
            client.writer.write(POST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY) + head)
            assert (await client.answer()).status == 200
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(BODY)
            assert (await client.answer()).status == 200
            client.close()
            too_big = POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
            refused, closed = await raw(r, too_big)
            assert refused.status == 413 and closed

    run(test())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def numbered(wire: Wire) -> None:
        number = int(wire.body["messages"][0]["content"])
        await asyncio.sleep(0.02 if number == 0 else 0)
        await wire.json({"choices": [{"message": {"content": str(number)}}], "usage": {"prompt_tokens": 1}})

    async def test() -> None:
        async with rig(numbered) as r:
            client = await r.connect()
            for i in range(30):
                data = json.dumps(CHAT | {"messages": [{"role": "user", "content": str(i)}]}).encode()
                client.writer.write(POST + b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
                if i % 5 == 0:
                    client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n")
            for i in range(30):
                a = await client.answer()
                assert a.json["choices"][0]["message"]["content"] == str(i)
                if i % 5 == 0:
                    assert (await client.answer()).json == {"status": "alive"}
            client.close()
            r.assert_balanced()

    run(test())


def test_thousands_of_pipelined_requests_do_not_pile_up_on_the_stack() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            one = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"
            client.writer.write(one * 5_000)
            for _ in range(5_000):
                assert (await client.answer()).status == 200
            client.close()

    run(test())


def test_what_follows_a_last_request_is_not_served() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            last = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
            client.writer.write(last + last)
            a = await client.answer()
            assert a.status == 200 and a.headers["connection"] == "close"
            assert await client.closed()
            assert len(r.engines[0].seen) == 1
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("way", ["length", "chunked", "chunked, no end"])
def test_a_body_of_100_megabytes_is_refused_early(way: str) -> None:
    async def test() -> None:
        async with rig(limits=Limits(body_bytes=1_000_000)) as r:
            client = await r.connect()
            if way == "length":
                client.writer.write(POST + b"Content-Length: 100000000\r\n\r\n")
            else:
                client.writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")

            async def upload() -> None:
                piece = b"x" * 65_536
                for _ in range(1_600):
                    if way == "length":
                        client.writer.write(piece)
                    else:
                        client.writer.write(b"10000\r\n" + piece + b"\r\n")
                    await client.writer.drain()

            uploading = asyncio.create_task(upload())
            a = await client.answer()
            assert (a.status, a.error["code"]) == (413, "body_too_large")
            assert a.headers["connection"] == "close"
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)
            client.abort()
            assert not r.engines[0].seen

    run(test())


@pytest.mark.parametrize(
    "data",
    [
        POST + b"X: " + b"y" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n",
        POST + b"".join(b"X%d: y\r\n" % i for i in range(120)) + b"\r\n",
        POST + b"X: " + b"y" * 40_000,  # and no end
    ],
)
def test_too_many_or_too_long_headers_are_refused(data: bytes) -> None:
    async def test() -> None:
        async with rig() as r:
            a, closed = await raw(r, data)
            assert (a.status, a.error["code"]) == (431, "headers_too_large") and closed

    run(test())


def test_endless_trailers_and_extensions_are_refused() -> None:
    async def test() -> None:
        async with rig() as r:
            for tail in (b"0\r\n" + b"X: " + b"y" * 200_000, b"5;" + b"e" * 200_000):
                a, _ = await raw(r, POST + b"Transfer-Encoding: chunked\r\n\r\n" + tail)
                assert (a.status, a.error["code"]) == (400, "bad_http")

    run(test())


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        (b"POST /v1/chat", "headers did not arrive"),
        (POST, "headers did not arrive"),
        (POST + b"Content-Length: 10\r\n\r\n{", "body did not arrive"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", "body did not arrive"),
    ],
)
def test_slow_senders_are_told_and_closed(sent: bytes, part: str) -> None:
    async def test() -> None:
        async with rig(limits=Limits(header_s=0.15, body_s=0.15)) as r:
            client = await r.connect()
            client.writer.write(sent)
            a = await client.answer()
            assert (a.status, a.error["code"]) == (408, "request_timeout") and part in a.error["message"]
            assert await client.closed()

    run(test())


def test_a_dripping_sender_gains_no_time() -> None:
    async def test() -> None:
        async with rig(limits=Limits(header_s=0.2)) as r:
            client = await r.connect()

            async def drip() -> None:
                client.writer.write(b"GET / HTTP/1.1\r\n")
                for i in range(1_000):
                    client.writer.write(b"X%d: y\r\n" % i)
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            assert (await client.answer()).status == 408
            dripping.cancel()
            client.abort()

    run(test())


def test_idle_connections_are_closed_in_silence() -> None:
    async def test() -> None:
        async with rig(limits=Limits(idle_s=0.2)) as r:
            never, once = await r.connect(), await r.connect()
            assert (await once.ask()).status == 200
            assert await never.closed() and await once.closed()
            await until(lambda: not r.server.connections)

    run(test())


def test_too_many_connections_are_told_so() -> None:
    async def test() -> None:
        async with rig(limits=Limits(connections=2)) as r:
            clients = [await r.connect() for _ in range(2)]
            for client in clients:
                assert (await client.ask()).status == 200
            third = await r.connect()
            a = await third.answer()
            assert (a.status, a.error["code"]) == (503, "overloaded") and await third.closed()
            third.close()
            clients[0].close()
            await until(lambda: len(r.server.connections) == 1)
            assert (await r.ask()).status == 200

    run(test())


def test_a_request_has_a_total_time() -> None:
    async def hang(wire: Wire) -> None:
        await wire.until_left()

    async def hang_in_mid_stream(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a")
        await wire.until_left()

    async def test() -> None:
        async with rig(hang, limits=Limits(total_s=0.2)) as r:
            a = await r.ask()
            assert (a.status, a.error["code"]) == (504, "upstream_timeout")
            r.engines[0].script = hang_in_mid_stream
            a = await r.ask(STREAM)
            assert a.events[-1]["error"]["code"] == "upstream_timeout"
            assert b"[DONE]" not in a.body
            assert [e.status for e in r.journal.ends] == ["failed", "failed"]
            r.assert_balanced()

    run(test())


def test_draining_lets_streams_end_and_takes_no_new_connections() -> None:
    gate = asyncio.Event()

    async def held(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a")
        await gate.wait()
        await wire.chunk("b", finish="stop")
        await wire.usage_chunk(1, 2)
        await wire.done()

    async def test() -> None:
        async with rig(held) as r:
            idle = await r.connect()
            assert (await idle.ask(method="GET", path="/healthz")).status == 200
            client = await r.connect()
            await client.send(STREAM)
            await client.head()
            draining = asyncio.create_task(r.server.drain(5.0))
            assert await idle.closed()
            with pytest.raises(OSError):
                await r.connect()
            gate.set()
            text = b"".join([c async for c in client.chunks()])
            assert b'"b"' in text and text.endswith(b"data: [DONE]\n\n")
            assert await client.closed()
            assert await draining == 0
            r.assert_balanced()

    run(test())


def test_a_drain_that_takes_too_long_cuts_with_a_word() -> None:
    async def forever(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a")
        await wire.until_left()

    async def test() -> None:
        async with rig(forever) as r:
            client = await r.connect()
            await client.send(STREAM)
            await client.head()
            r.gateway.draining = True
            started = time.monotonic()
            assert await r.server.drain(0.1) == 1
            assert time.monotonic() - started < 2
            text = b"".join([c async for c in client.chunks()])
            assert b'"code":"draining"' in text
            (end,) = r.journal.ends
            assert (end.status, end.error) == ("failed", "draining") and end.charge_nusd > 0
            r.assert_balanced()

    run(test())


def test_both_sides_send_without_delay() -> None:
    import socket

    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            await client.ask()
            (conn,) = r.server.connections
            (up,) = r.gateway.upstreams["p0"]._open
            for transport in (conn.transport, up.transport):
                sock = transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()

    run(test())


def test_a_hung_up_client_in_the_middle_of_its_upload_leaves_nothing() -> None:
    async def test() -> None:
        async with rig() as r:
            client: Client = await r.connect()
            client.writer.write(POST + b"Content-Length: 1000\r\n\r\n{")
            await until(lambda: any(c._headers_done for c in r.server.connections))
            client.abort()
            await until(lambda: not r.server.connections)
            assert (await r.ask()).status == 200 and well
            r.assert_balanced()

    run(test())
