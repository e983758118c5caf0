"""Bytes of every kind: the gateway always answers or closes, and never has a defect."""

from __future__ import annotations

import asyncio
import contextlib
import json

from gateway_rig import CHAT, KEY, STREAM, Rig, Wire, rig, run, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BODIES = [json.dumps(CHAT).encode(), json.dumps(STREAM).encode(), b"{}", b"", b"\xff", b'{"model":"m"}']
LINES = [
    b"Host: g",
    b"Host:",
    b"Authorization: Bearer " + KEY.encode(),
    b"Content-Length: 5",
    b"Content-Length: 999999",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"X-Wattmill-Privacy: private",
    b"x: \xc3\xa9",
    b": empty",
    b"no colon",
    b" folded",
]
STARTS = [
    b"POST /v1/chat/completions HTTP/1.1",
    b"GET /v1/models HTTP/1.1",
    b"GET /healthz HTTP/1.0",
    b"HEAD /readyz HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"POST http://[::1/ HTTP/1.1",
    b"POST /%zz%00 HTTP/1.1",
    b"BREW /pot HTCPCP/1.0",
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw something like a request: mostly well-formed parts, badly put together."""
    body = draw(st.sampled_from(BODIES) | st.binary(max_size=30))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=6))
    if draw(st.booleans()):
        lines = [
            b"Host: g",
            b"Authorization: Bearer " + KEY.encode(),
            b"Content-Length: %d" % len(body),
            *lines[:1],
        ]
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    return end.join([draw(st.sampled_from(STARTS)), *lines, b"", body])


noise = st.lists(requests() | st.binary(max_size=80), min_size=1, max_size=4).map(b"".join)


async def talk(r: Rig, data: bytes, cuts: list[int]) -> None:
    """Send `data` in pieces, half-close, and read to the end."""
    client = await r.connect()
    at = 0
    with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop: the transport is closed already
        for cut in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
            client.writer.write(data[at:cut])
            await client.writer.drain()
            await asyncio.sleep(0)
            at = cut
        await asyncio.sleep(0.005)
        client.writer.write_eof()
        answer = await client.reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    client.abort()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(noise, st.lists(st.integers(0, 400), max_size=4)), min_size=1, max_size=4))
def test_any_bytes_are_answered_or_closed(talks: list[tuple[bytes, list[int]]]) -> None:
    async def test() -> None:
        async with rig() as r:
            await asyncio.gather(*(talk(r, data, cuts) for data, cuts in talks))
            await until(lambda: not r.server.connections)
            assert (await r.ask()).status == 200  # and it still serves
            assert not r.logged, r.logged
            await until(lambda: not r.gateway.in_flight)
            r.assert_balanced()

    run(test())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 204 No Content\r\n",
                b"content-length: 10\r\n",
                b"transfer-encoding: chunked\r\n",
                b"content-type: text/event-stream\r\n",
                b"\r\n",
                b"data: {}\n\n",
                b"data: [DONE]\n\n",
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b'{"choices":[],"usage":{"prompt_tokens":1}}',
            ]
        ),
        max_size=9,
    ).map(b"".join),
    st.booleans(),
)
def test_any_bytes_of_an_engine_become_an_answer(data: bytes, stream: bool) -> None:
    async def babble(wire: Wire) -> None:
        await wire.send(data)
        wire.writer.close()

    async def test() -> None:
        async with rig(babble, first_byte_timeout_s=1.0, idle_timeout_s=1.0) as r:
            a = await r.ask(STREAM if stream else CHAT)
            assert a.status in (200, 400, 429, 502, 503, 504)
            assert not r.logged, r.logged
            r.assert_balanced()

    run(test())
