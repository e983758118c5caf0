"""A thousand clients that do not read: ten gigabytes are offered, and a bounded part of them is held."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import books
from factory import Factory, declaration, free_port
from served import Served

READERS, ANSWER_BYTES = 1_000, 10_000_000
PIECE = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 20_000}}]})
EVENT = f"data: {PIECE}\n\n".encode()
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Flood:
    """An engine that would send 10 MB to each who asks, and waits for those who do not read."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)
        self.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"
            )
            await reader.readexactly(length)
            at = len(self.sent)
            self.sent.append(0)
            writer.write(HEAD)
            while self.sent[at] < ANSWER_BYTES:
                writer.write(CHUNK)
                await writer.drain()
                self.sent[at] += len(CHUNK)
        finally:
            self.open -= 1


def rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096 / 1e6


async def ask(port: int, key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps(
        {
            "model": "mock",
            "stream": True,
            "max_tokens": 100_000,
            "messages": [{"role": "user", "content": "x"}],
        }
    ).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1_024)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read(2_000)
    return reader, writer


@pytest.mark.timeout(180)
def test_a_thousand_slow_readers_of_ten_megabytes_hold_a_bounded_part_of_it(tmp_path: Path) -> None:
    async def scene() -> None:
        flood = Flood()
        server = Served(flood.serve)
        await server.start(backlog=2_000)
        port = free_port()
        toml = declaration(
            {"mock": f"http://127.0.0.1:{server.port}/v1"},
            model="mock",
            port=port,
            admin_port=free_port(),
            slots=2_000,
        ).replace("queue = 4096", "queue = 4096\nmax_connections = 2000")
        factory = Factory(tmp_path / "home", toml, port=port)
        await asyncio.to_thread(factory.start)
        try:
            pid = factory.pids()["gateway-0"]
            before_mb = rss_mb(pid)
            gate = asyncio.Semaphore(50)

            async def one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                async with gate:
                    return await ask(port, factory.key)

            clients = await asyncio.gather(*(one() for _ in range(READERS)))
            last = -1
            while last != sum(flood.sent):  # until every engine stands still
                last = sum(flood.sent)
                await asyncio.sleep(0.5)
            held_mb = rss_mb(pid) - before_mb
            assert len(flood.sent) == READERS
            # The rest waits at the engine; what is missing here fills the sockets, its own send buffer too.
            assert max(flood.sent) < ANSWER_BYTES / 2
            # 64 kB of write buffer, one read of 64 kB that arrived as it filled, and two sockets' objects.
            assert held_mb < READERS * 0.3, f"{held_mb:.0f} MB held"
            for _, writer in clients:
                writer.transport.abort()
            ends = time.monotonic() + 20
            while flood.open:  # every engine is told
                assert time.monotonic() < ends, f"{flood.open} streams still run"
                await asyncio.sleep(0.1)
            await asyncio.to_thread(books.wait_settled, factory.home)
            assert books.attempts(factory.home) == READERS
        finally:
            await asyncio.to_thread(factory.stop)
            await server.stop()

    asyncio.run(scene())
