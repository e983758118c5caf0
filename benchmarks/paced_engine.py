"""An engine with so many slots and a fixed pace: what it serves in a second is known before it is asked.

Does not import wattmill. A request waits for a slot in the order of arrival, then takes `--prefill-ms`, then
a token every `--token-ms`, streamed or not. `GET /v1/stats` tells what it saw: the most requests that were
ever inside at once (working and waiting), and how many tokens it made for each `user` of the bodies.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import socket
from typing import Any

import httptools
import msgspec
import uvloop

from mock_upstream import DONE, END, JSON_HEAD, SSE_HEAD, framed


class Ask(msgspec.Struct):
    stream: bool = False
    max_tokens: int = 16
    max_completion_tokens: int | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    user: str = "-"


class Place:
    """Slots and pace, and what was seen."""

    def __init__(self, slots: int, *, prefill_s: float, token_s: float) -> None:
        self.turns = asyncio.Semaphore(slots)
        self.prefill_s = prefill_s
        self.token_s = token_s
        self.inside = 0
        self.most_inside = 0
        self.tokens: collections.Counter[str] = collections.Counter()

    def stats(self) -> bytes:
        return msgspec.json.encode(
            {"inside": self.inside, "most_inside": self.most_inside, "tokens": dict(self.tokens)}
        )


class Connection(asyncio.Protocol):
    def __init__(self, place: Place) -> None:
        self.place = place
        self.parser = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.path = b""
        self.body: list[bytes] = []
        self.task: asyncio.Task[None] | None = None
        self.is_inside = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        path, self.path = self.path, b""
        body = b"".join(self.body)
        self.body.clear()
        if path == b"/v1/chat/completions":
            ask = msgspec.json.decode(body, type=Ask)
            if ask.max_completion_tokens is not None:
                ask.max_tokens = ask.max_completion_tokens
            self.task = asyncio.get_running_loop().create_task(self.serve(ask))
            return
        answer = self.place.stats() if path == b"/v1/stats" else b'{"object":"list","data":[]}'
        self.transport.write(JSON_HEAD % len(answer) + answer)

    async def serve(self, ask: Ask) -> None:
        place = self.place
        place.inside += 1
        place.most_inside = max(place.most_inside, place.inside)
        self.is_inside = True
        try:
            async with place.turns:
                await self.work(ask)
        finally:
            self.leave()

    def leave(self) -> None:
        """The last token is made: before the caller can know that, so that nobody is counted twice."""
        if self.is_inside:
            self.is_inside = False
            self.place.inside -= 1

    async def work(self, ask: Ask) -> None:
        """Answer at the fixed pace; a late wake-up is made good by the next ones."""
        place = self.place
        loop = asyncio.get_running_loop()
        due = loop.time() + place.prefill_s
        prompt = (len(ask.messages) + 3) // 4
        head = b'data: {"id":"paced","object":"chat.completion.chunk","created":1,"model":"m","choices":['
        if ask.stream:
            self.transport.write(SSE_HEAD)
        for index in range(ask.max_tokens):
            due += place.token_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            place.tokens[ask.user] += 1
            if ask.stream:
                reason = b'"stop"' if index == ask.max_tokens - 1 else b"null"
                event = b'{"index":0,"delta":{"content":"t%d "},"finish_reason":%s}]}\n\n' % (index, reason)
                self.transport.write(framed(head + event))
        self.leave()
        usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            prompt,
            ask.max_tokens,
            prompt + ask.max_tokens,
        )
        if ask.stream:
            self.transport.write(framed(head + b'],"usage":%s}\n\n' % usage) + DONE + END)
            return
        answer = (
            b'{"id":"paced","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
            b'"message":{"role":"assistant","content":"t"},"finish_reason":"stop"}],"usage":%s}' % usage
        )
        self.transport.write(JSON_HEAD % len(answer) + answer)


async def serve(args: argparse.Namespace) -> None:
    place = Place(args.slots, prefill_s=args.prefill_ms / 1000, token_s=args.token_ms / 1000)
    listener = socket.create_server(("127.0.0.1", args.port), backlog=1024)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(place), sock=listener)
    print("listening", listener.getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed")
    parser.add_argument("--slots", type=int, default=6, help="requests that it works on at once")
    parser.add_argument("--prefill-ms", type=float, default=50.0)
    parser.add_argument("--token-ms", type=float, default=20.0)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
