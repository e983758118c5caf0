"""Clients that ask more than there is: seeded arrivals, a connection kept per client, one retry when told.

Does not import wattmill: what it measures is what a client sees.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec


@dataclass(frozen=True)
class Tenant:
    """One team with its key, and how many requests per second it sends."""

    name: str
    tier: str
    key: str
    per_s: float


@dataclass
class Seen:
    """What became of one request."""

    tenant: Tenant
    at_s: float  # since the start of the run
    status: int = 0
    ttft_s: float | None = None
    total_s: float = 0.0
    output_tok: int = 0
    retry_s: float | None = None  # what a refusal told
    code: str = ""
    retry_of: Seen | None = field(default=None, repr=False)
    serial: int = 0


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.parser: Any = None
        self.seen: Seen
        self.began_s = 0.0
        self.done: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.body: list[bytes] = []
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        if b'"content"' in data:
            if self.seen.ttft_s is None:
                self.seen.ttft_s = self.loop.time() - self.began_s
            self.seen.output_tok += data.count(b'"content"')
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.seen.retry_s = float(value)

    def on_body(self, body: bytes) -> None:
        if self.parser.get_status_code() != 200:
            self.body.append(body)

    def on_message_complete(self) -> None:
        self.seen.status = self.parser.get_status_code()
        self.seen.total_s = self.loop.time() - self.began_s
        if self.seen.status != 200:
            self.seen.code = str(msgspec.json.decode(b"".join(self.body))["error"].get("code", ""))
            self.body.clear()
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    async def ask(self, seen: Seen, request: bytes) -> None:
        self.seen = seen
        self.parser = httptools.HttpResponseParser(self)
        self.began_s = self.loop.time()
        self.done = self.loop.create_future()
        self.transport.write(request)
        await self.done


class Crowd:
    """All tenants of one run. `seen` has every request, retries too."""

    def __init__(
        self, port: int, *, tokens: int, model: str, seed: int, prompt: str = "tell me more"
    ) -> None:
        self.port = port
        self.tokens = tokens
        self.model = model
        self.seed = seed
        self.prompt = prompt
        self.seen: list[Seen] = []
        self._idle: dict[str, list[Client]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._began_s = 0.0

    async def run(self, tenants: list[Tenant], *, seconds: float, patience_s: float) -> None:
        """Send for `seconds`, then wait for what is under way, at most `patience_s`."""
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        rng = random.Random(self.seed)
        arrivals = sorted(
            (at, index)
            for index, tenant in enumerate(tenants)
            for at in _arrivals(rng, tenant.per_s, seconds)
        )
        for at, index in arrivals:
            await asyncio.sleep(max(0.0, self._began_s + at - loop.time()))
            self._start(self._one(tenants[index], until_s=seconds))
        if self._running:
            await asyncio.wait(self._running, timeout=patience_s)
        for task in list(self._running):
            task.cancel()
        for clients in self._idle.values():
            for client in clients:
                client.transport.close()

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _one(self, tenant: Tenant, *, until_s: float) -> None:
        client = await self._connection(tenant)
        first = await self._ask(client, tenant, None)
        told_s = first.retry_s
        if told_s is not None and not client.closed and self._now() + told_s < until_s:
            await asyncio.sleep(told_s)  # the load still stands then
            await self._ask(client, tenant, first)
        if not client.closed:
            self._idle.setdefault(tenant.name, []).append(client)

    async def _ask(self, client: Client, tenant: Tenant, retry_of: Seen | None) -> Seen:
        serial = len(self.seen) if retry_of is None else retry_of.serial
        seen = Seen(tenant, self._now(), retry_of=retry_of, serial=serial)
        self.seen.append(seen)
        body = msgspec.json.encode(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self.prompt}],
                "max_tokens": self.tokens,
                "stream": True,
                "user": tenant.name,
                "seed": seen.serial,  # makes a body its own; a retry has the same
            }
        )
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {tenant.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        await client.ask(seen, head.encode() + body)
        return seen

    async def _connection(self, tenant: Tenant) -> Client:
        idle = self._idle.setdefault(tenant.name, [])
        while idle:
            client = idle.pop()
            if not client.closed:
                return client
        _, made = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self.port)
        return made

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s


def _arrivals(rng: random.Random, per_s: float, seconds: float) -> list[float]:
    """Poisson arrivals."""
    at, out = 0.0, []
    while per_s > 0:
        at += rng.expovariate(per_s)
        if at >= seconds:
            break
        out.append(at)
    return out
