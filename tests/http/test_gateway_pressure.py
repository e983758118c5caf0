"""Slow readers, full pipes and clients that vanish: memory stays bounded, and the end of a client is seen."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket

import msgspec
import pytest
from gateway_rig import CHAT, KEY, STREAM, Client, Rig, Wire, rig, run, until, well

from wattmill.distribution.spec import Limits

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"


def request(body: object) -> bytes:
    data = json.dumps(body).encode()
    return HEAD + b"content-length: %d\r\n\r\n%b" % (len(data), data)


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def slow_client(r: Rig) -> Client:
    """Connect with a small receive window and read nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", r.port))
    client = Client()
    client.reader, client.writer = await asyncio.open_connection(sock=sock, limit=1_024)
    r.clients.append(client)
    return client


WHOLE = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"',
    b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
)


def flood(sent: list[int], total: int, *, stream: bool) -> object:
    piece = "x" * 20_000
    answer = WHOLE[0] + b"x" * (total - len(WHOLE[0]) - len(WHOLE[1])) + WHOLE[1]  # one for all engines

    async def script(wire: Wire) -> None:
        wire.writer.transport.set_write_buffer_limits(high=0)
        at = len(sent)
        sent.append(0)
        if stream:
            await wire.stream_head()
            while sent[at] < total:
                await wire.chunk(piece)
                sent[at] += len(piece)
            await wire.chunk(None, finish="stop")
            await wire.usage_chunk(1, 2)
            await wire.done()
        else:
            await wire.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % total
            )
            while sent[at] < total:
                part = answer[sent[at] : sent[at] + len(piece)]
                await wire.send(part)
                sent[at] += len(part)

    return script


@pytest.mark.parametrize("stream", [True, False])
def test_slow_readers_of_long_answers_hold_little_memory_and_pause_their_engines(stream: bool) -> None:
    readers, total = 40, 10_000_000

    async def test() -> None:
        sent: list[int] = []
        limits = Limits(answer_buffer_bytes=65_536)
        async with rig(flood(sent, total, stream=stream), limits=limits) as r:  # type: ignore[arg-type]
            clients = [await slow_client(r) for _ in range(readers)]
            gc.collect()
            before = rss_bytes()
            for client in clients:
                client.writer.write(request(CHAT | {"stream": stream, "max_tokens": 100_000}))
            await until(lambda: len(sent) == readers and min(sent) > 0, timeout_s=20)
            last = -1
            while last != sum(sent):  # until all engines stand still
                last = sum(sent)
                await asyncio.sleep(0.3)
            assert max(sent) < total * 0.9  # the rest waits at the engine
            held = sum(c.transport.get_write_buffer_size() for c in r.server.connections)
            # A buffer of 64 kB each, and one more read of 64 kB that arrived as it filled.
            assert held <= readers * (65_536 + 2 * 65_536)
            assert rss_bytes() - before < readers * 600_000  # 400 MB were offered

            async def swallow(client: Client) -> bytes:
                tail = b""
                while part := await client.reader.read(262_144):
                    tail = (tail + part)[-64:]
                    if tail.endswith(b"0\r\n\r\n"):
                        break
                return tail

            assert (await swallow(clients[0])).endswith(b"0\r\n\r\n")  # one that reads gets it all
            assert sent[0] >= total or max(sent) >= total
            for client in clients:
                client.abort()
            await until(lambda: not r.server.connections)
            r.assert_balanced()

    run(test(), timeout_s=60)


def test_the_end_of_a_client_is_seen_while_its_pipelined_bytes_are_not_read() -> None:
    async def think(wire: Wire) -> None:
        await wire.until_left()

    async def test() -> None:
        async with rig(think, limits=Limits(pipelined_bytes=2_048)) as r:
            client = await r.connect()
            client.writer.write(request(STREAM))
            await r.engines[0].arrived.wait()
            client.writer.write(request(CHAT) * 400)  # beyond what is held, within what the kernel takes
            (conn,) = r.server.connections
            await until(lambda: conn._reading_paused)
            held = len(conn._pending)
            await asyncio.sleep(0.05)
            assert held <= 2_048 + 262_144 and len(conn._pending) == held  # one read more than the limit
            client.abort()
            await asyncio.wait_for(r.engines[0].left.wait(), 1)
            await until(lambda: not r.server.connections)
            assert len(r.engines[0].seen) == 1
            assert [e.status for e in r.journal.ends] == ["aborted"]
            r.assert_balanced()

    run(test())


def test_pipelined_bytes_beyond_the_limit_are_served_in_the_end() -> None:
    gate = asyncio.Event()

    async def held(wire: Wire) -> None:
        await gate.wait()
        await well(wire)

    async def test() -> None:
        async with rig(held, limits=Limits(pipelined_bytes=1_024)) as r:
            client = await r.connect()
            client.writer.write(request(CHAT) * 500)
            await until(lambda: any(c._reading_paused for c in r.server.connections))
            gate.set()
            for _ in range(500):
                assert (await client.answer()).status == 200
            client.close()
            r.assert_balanced()

    run(test())


def test_who_pipelines_and_never_reads_is_not_answered_into_memory() -> None:
    async def big(wire: Wire) -> None:
        await wire.json({"choices": [{"message": {"content": "x" * 50_000}}], "usage": {"prompt_tokens": 1}})

    async def test() -> None:
        async with rig(big) as r:
            client = await slow_client(r)
            client.writer.write(request(CHAT) * 300)
            last = -1
            while last != len(r.engines[0].seen):
                last = len(r.engines[0].seen)
                await asyncio.sleep(0.2)
            (conn,) = r.server.connections
            assert last < 300  # later requests wait until the client reads
            assert conn.transport.get_write_buffer_size() < 65_536 + 2 * 51_000
            for _ in range(300):
                assert (await client.answer()).status == 200
            client.close()
            r.assert_balanced()

    run(test(), timeout_s=40)


def test_a_reader_that_stops_for_good_is_cut_at_the_total_time() -> None:
    async def test() -> None:
        sent: list[int] = []
        limits = Limits(total_s=0.6)
        async with rig(flood(sent, 10_000_000, stream=True), limits=limits) as r:  # type: ignore[arg-type]
            client = await slow_client(r)
            client.writer.write(request(STREAM | {"max_tokens": 100_000}))
            await until(lambda: not r.server.connections and r.journal.ends)
            r.assert_balanced()
            client.abort()

    run(test())


def test_memory_does_not_grow_with_requests() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()

            async def rounds(n: int) -> None:
                for _ in range(n):
                    await client.ask()
                    r.journal.facts.clear()
                    r.purse.grants.clear()
                    r.engines[0].seen.clear()

            await rounds(300)
            gc.collect()
            before = len(gc.get_objects())
            await rounds(300)
            gc.collect()
            assert len(gc.get_objects()) - before < 50
            client.close()

    run(test())


def head_of(key: str | None, length: int) -> bytes:
    who = f"authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\n{who}content-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("key", [None, "wm-no-such-key"])
@pytest.mark.parametrize("expects", [False, True])
def test_who_may_not_ask_is_told_so_before_a_body_is_read(key: str | None, expects: bool) -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            head = head_of(key, 10_000_000)
            if expects:
                client.writer.write(head.replace(b"host: t\r\n", b"host: t\r\nexpect: 100-continue\r\n"))
            else:
                client.writer.write(head + b"x" * 50_000)
            answer = await client.answer()
            assert answer.status == 401 and answer.error["code"] == (
                "missing_key" if key is None else "invalid_key"
            )
            assert await client.closed() and r.server.arriving.total == 0

    run(test())


def test_a_second_key_that_is_not_read_stops_no_large_body() -> None:
    """OpenAI's protocol does not know `x-api-key`: what a small body may carry, a large one may."""

    async def test() -> None:
        async with rig() as r:
            for size in (10, 200_000):
                client = await r.connect()
                body = json.dumps(CHAT | {"messages": [{"role": "user", "content": "x" * size}]}).encode()
                head = head_of(KEY, len(body)).replace(b"host: t\r\n", b"host: t\r\nx-api-key: another\r\n")
                client.writer.write(head + body)
                assert (await client.answer()).status == 200

    run(test())


def test_all_bodies_that_are_arriving_have_one_bound_and_what_is_complete_goes_on() -> None:
    """40 callers send all of a megabyte but its last byte, and one more than fits."""
    part = b" " * 999_999

    async def test() -> None:
        async with rig() as r:
            r.limits = msgspec.structs.replace(
                r.limits, unfinished_bytes=40_500_000, unfinished_share=1.0, body_bytes=2_000_000
            )
            slow = [await r.connect() for _ in range(40)]
            for client in slow:
                client.writer.write(head_of(KEY, 1_000_000) + part)
            await until(lambda: r.server.arriving.total == 40 * 999_999)
            assert (await r.ask()).status == 200, "what fits one read is not among them"
            late = await r.connect()
            late.writer.write(head_of(KEY, 1_000_000) + part)
            answer = await late.answer()
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert "limits.unfinished_bytes" in answer.error["message"] and "retry-after" in answer.headers
            slow[0].writer.write(b"x")  # the end of a body: it is read as any other
            assert (await slow[0].answer()).status == 400
            slow[1].abort()
            await until(lambda: r.server.arriving.total == 38 * 999_999)
            for client in slow[2:]:
                client.abort()
            await until(lambda: r.server.arriving.total == 0)

    run(test())


def test_one_key_takes_its_share_of_the_memory_for_bodies_and_others_are_still_read() -> None:
    part = b" " * 999_999

    async def test() -> None:
        async with rig() as r:
            r.limits = msgspec.structs.replace(
                r.limits, unfinished_bytes=8_000_000, unfinished_share=0.5, body_bytes=2_000_000
            )

            async def begun(key: str, wanted: int) -> Client:
                client = await r.connect()
                client.writer.write(head_of(key, 1_000_000) + part)
                await until(lambda: r.server.arriving.total == wanted * 999_999)
                return client

            greedy = [await begun(KEY, n) for n in (1, 2, 3, 4)]
            late = await r.connect()
            late.writer.write(head_of(KEY, 1_000_000) + part)
            answer = await late.answer()
            assert (answer.status, answer.error["code"]) == (429, "limit_reached")
            assert "limits.unfinished_share" in answer.error["message"] and "retry-after" in answer.headers
            await begun("narrow", 5)
            assert (await r.ask()).status == 200
            greedy[0].abort()
            await until(lambda: r.server.arriving.total == 4 * 999_999)
            await begun(KEY, 5)

    run(test())


def test_a_body_in_a_million_chunks_takes_no_more_memory_than_its_bytes() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            head = head_of(KEY, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
            body = json.dumps(CHAT | {"messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
            client.writer.write(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body))
            await until(lambda: r.server.arriving.total > 50_000)
            (conn,) = r.server.connections
            assert len(conn._body) < 20_000, "parts are put together as they come"
            client.writer.write(b"0\r\n\r\n")
            assert (await client.answer()).status == 200
            assert r.server.arriving.total == 0 and not conn._bulk

    run(test())
