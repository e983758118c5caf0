"""A scripted engine on a real socket: it does what a test tells it, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from served import Served

Script = Callable[["Wire"], Awaitable[None]]


class Wire:
    """One request at the scripted engine, and the way back."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.engine = engine
        self.reader = reader
        self.writer = writer
        self.head = b""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.raw = b""
        self.body: dict[str, Any] = {}

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, body: Any, status: int = 200, extra: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}content-length: {len(data)}"
        await self.send(head.encode() + b"\r\n\r\n" + data)

    async def stream_head(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def event(self, data: Any) -> None:
        text = (
            data
            if isinstance(data, bytes)
            else b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
        )
        await self.send(b"%x\r\n%b\r\n" % (len(text), text))

    async def chunk(
        self, text: str | None, *, finish: str | None = None, usage: Any = None, **more: Any
    ) -> None:
        delta = {"content": text} if text is not None else {}
        event: dict[str, Any] = {
            "id": "e-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "up",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            **more,
        }
        if usage is not None:
            event["usage"] = usage
        await self.event(event)

    async def usage_chunk(self, prompt: int, output: int) -> None:
        await self.event(
            {
                "id": "e-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "up",
                "choices": [],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": output,
                    "total_tokens": prompt + output,
                },
            }
        )

    async def done(self) -> None:
        await self.event(b"data: [DONE]\n\n")
        await self.send(b"0\r\n\r\n")

    async def until_left(self) -> None:
        """Wait until the caller closes the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        self.engine.left.set()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()


def answer_body(text: str = "hello", prompt: int = 5, output: int = 2) -> dict[str, Any]:
    return {
        "id": "e-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }


async def well(wire: Wire) -> None:
    """Answer as an engine should: two tokens, streamed or not."""
    if wire.path.endswith("/embeddings"):
        await wire.json(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "model": "up",
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            }
        )
    elif wire.body.get("stream"):
        await wire.stream_head()
        await wire.event(
            {
                "id": "e-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "up",
                "choices": [
                    {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                ],
            }
        )
        await wire.chunk("hel")
        await wire.chunk("lo")
        await wire.chunk(None, finish="stop")
        await wire.usage_chunk(5, 2)
        await wire.done()
    else:
        await wire.json(answer_body())


class Engine:
    """A scripted engine. `script` serves each request; `/metrics` and `/v1/models` answer by themselves."""

    def __init__(self, script: Script = well) -> None:
        self.script = script
        self.seen: list[Wire] = []
        self.left = asyncio.Event()
        self.arrived = asyncio.Event()
        self.running = 0  # as its counters tell
        self._served = Served(self._serve)

    async def start(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        await self._served.start(port=port, ssl=tls, limit=2**24)

    async def stop(self) -> None:
        await self._served.stop()

    @property
    def port(self) -> int:
        return self._served.port

    @property
    def connections(self) -> int:
        """Return how many there were until now."""
        return self._served.connections

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await self._one(Wire(self, reader, writer)):
            pass

    async def _one(self, wire: Wire) -> bool:
        wire.head = await wire.reader.readuntil(b"\r\n\r\n")
        first, *lines = wire.head.decode().rstrip().split("\r\n")
        wire.path = first.split()[1]
        wire.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        wire.raw = await wire.reader.readexactly(int(wire.headers.get("content-length", 0)))
        if wire.path == "/metrics":
            text = f"llamacpp:requests_processing {self.running}\n".encode()
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
            return True
        if wire.path == "/v1/models":
            await wire.json({"data": []})
            return True
        wire.body = json.loads(wire.raw)
        self.seen.append(wire)
        self.arrived.set()
        await self.script(wire)
        return not wire.writer.is_closing()
