"""Scripted places that write down every byte they are sent: a witness of the privacy proof.

    python benchmarks/privacy_places.py --log FILE --seed 1 --fault-share 0.2 name name ...

Does not import wattmill. Each name is a place with a port of its own, printed as `listening NAME PORT`; after
that `ready`. The log has one line for each request, written with one `write(2)` before anything is answered:

    NAME<TAB>PATH<TAB>BODY

They answer as OpenAI does, streamed or not, and repeat up to 400 characters of the last text that they were
sent, so that what was replaced on its way here must be put back on its way out. By a seeded dice they fail:
an error status, a reset before or after the first bytes, a break in the middle, silence, being down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
from typing import Any

import httptools
import uvloop

CHUNK_CHARS = 7  # a placeholder or a canary never fits into one
DOWN_S = 0.4
HEAD = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%b\r\n"


class Place(asyncio.Protocol):
    """One connection to one place."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.parser = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.url = b""
        self.parts: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.open[self.name].add(self)
        if self.name in self.world.down:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.world.open[self.name].discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        url, self.url = self.url, b""
        body = b"".join(self.parts)
        self.parts.clear()
        if not body:
            data = b'{"object":"list","data":[]}'
            self.transport.write(
                HEAD % (200, b"application/json", b"content-length: %d\r\n" % len(data)) + data
            )
            return
        os.write(self.world.log, b"%b\t%b\t%b\n" % (self.name.encode(), url, body.replace(b"\n", b" ")))
        asyncio.get_running_loop().create_task(self.serve(url, json.loads(body)))

    async def serve(self, url: bytes, body: dict[str, Any]) -> None:
        fault = self.world.fault(self.name)
        if fault == "hang":
            return
        if fault == "reset":
            self.transport.abort()
            return
        if fault.startswith("status"):
            data = b'{"error":{"message":"scripted","type":"server_error"}}'
            head = HEAD % (int(fault[6:]), b"application/json", b"content-length: %d\r\n" % len(data))
            self.transport.write(head + data)
            return
        text = last_text(body)[:400]
        tokens = max(1, len(text) // 4)
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
        if url.endswith(b"embeddings"):
            usage |= {"completion_tokens": 0, "total_tokens": 10}
            answer: Any = {
                "object": "list",
                "model": "m",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": usage,
            }
            self.whole(answer, fault)
        elif body.get("stream"):
            await self.stream(text, usage, fault, chat=b"chat" in url)
        else:
            said = {"message": {"role": "assistant", "content": text}} if b"chat" in url else {"text": text}
            kind = "chat.completion" if b"chat" in url else "text_completion"
            choice = {"index": 0, "finish_reason": "stop", **said}
            self.whole(
                {"id": "x", "object": kind, "created": 1, "model": "m", "choices": [choice], "usage": usage},
                fault,
            )

    def whole(self, answer: Any, fault: str) -> None:
        data = json.dumps(answer).encode()
        head = HEAD % (200, b"application/json", b"content-length: %d\r\n" % len(data))
        if fault in ("break", "break_early"):
            self.transport.write(head + data[: len(data) // 2])
            self.transport.close()
        else:
            self.transport.write(head + data)

    async def stream(self, text: str, usage: Any, fault: str, *, chat: bool) -> None:
        write = self.transport.write
        write(HEAD % (200, b"text/event-stream", b"transfer-encoding: chunked\r\n"))
        if fault == "break_early":
            self.transport.abort()
            return
        pieces = [text[at : at + CHUNK_CHARS] for at in range(0, len(text), CHUNK_CHARS)]
        for number, piece in enumerate(pieces):
            if self.transport.is_closing():
                return
            if fault == "break" and number == len(pieces) // 2:
                self.transport.abort()
                return
            said: Any = {"delta": {"content": piece}} if chat else {"text": piece}
            self.event({"choices": [{"index": 0, "finish_reason": None, **said}]}, chat)
            if number % 8 == 7:
                await asyncio.sleep(0)
        if self.transport.is_closing():
            return
        said = {"delta": {}} if chat else {"text": ""}
        self.event({"choices": [{"index": 0, "finish_reason": "stop", **said}]}, chat)
        self.event({"choices": [], "usage": usage}, chat)
        write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def event(self, event: dict[str, Any], chat: bool) -> None:
        kind = "chat.completion.chunk" if chat else "text_completion"
        data = (
            b"data: %b\n\n"
            % json.dumps({"id": "x", "object": kind, "created": 1, "model": "m", **event}).encode()
        )
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class World:
    """All places, the log that they share, and the dice."""

    def __init__(self, log: str, seed: int, fault_share: float) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.random = random.Random(seed)
        self.fault_share = fault_share
        self.down: set[str] = set()
        self.open: dict[str, set[Place]] = {}

    def fault(self, name: str) -> str:
        if self.random.random() >= self.fault_share:
            return ""
        kinds = ("status500", "status503", "status429", "reset", "break", "break_early", "status502", "hang")
        return self.random.choices(kinds, (4, 4, 2, 4, 4, 4, 2, 1))[0]

    async def blink(self) -> None:
        """Take one place down, again and again: its connections break and new ones are thrown out."""
        names = list(self.open)
        while self.fault_share:
            await asyncio.sleep(self.random.uniform(0.3, 1.2))
            name = self.random.choice(names)
            self.down.add(name)
            for one in list(self.open[name]):
                one.transport.abort()
            await asyncio.sleep(DOWN_S)
            self.down.discard(name)


def last_text(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    if messages:
        content = messages[-1].get("content")
        return content if isinstance(content, str) else " ".join(p.get("text", "") for p in content)
    prompt = body.get("prompt", body.get("input", ""))
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


async def serve(args: argparse.Namespace) -> None:
    world = World(args.log, args.seed, args.fault_share)
    loop = asyncio.get_running_loop()
    for name in args.names:
        world.open[name] = set()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        await loop.create_server(lambda name=name: Place(world, name), sock=sock)
        print("listening", name, sock.getsockname()[1], flush=True)
    print("ready", flush=True)
    await world.blink()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault-share", type=float, default=0.2)
    parser.add_argument("names", nargs="+")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
