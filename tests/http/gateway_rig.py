"""What the gateway's tests stand on: a real gateway on a real socket, with a purse and a journal that only
remember, and a scripted engine behind it that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from gateway_engine import Engine, Script, Wire, answer_body, well

from wattmill.app.running.clock import LiveClock
from wattmill.distribution.gateway import Gateway, Services
from wattmill.distribution.server import Server
from wattmill.distribution.spec import Backend, BackendModel, Limits
from wattmill.ledger.rating import output_affordable, rate, worst_case_nusd
from wattmill.models.spec import TokenizerBound
from wattmill.ports import Grant, JournalUnavailable
from wattmill.vocab.budget import Spend, Unit
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import End, Fact, Intent
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Candidate, Route

__all__ = [
    "CHAT",
    "KEY",
    "STREAM",
    "Engine",
    "Rig",
    "Script",
    "Wire",
    "answer_body",
    "rig",
    "run",
    "until",
    "well",
]

EPOCH = "0123456789ab"
KEY = "wm-test-key"
ME = Caller(key=3, name="me", path=(1, 2, 3))
NARROW = Caller(key=4, name="narrow", path=(1, 2, 4), endpoints=frozenset({"embeddings"}))


def price(id: int, dollars_in: int, dollars_out: int) -> Price:
    """Dollars per million tokens, all classes alike."""
    return Price(
        id=id,
        book="test",
        model="m",
        rates_nusd_per_mtok=(dollars_in * 10**9,) * 4 + (dollars_out * 10**9,) * 3,
    )


class FakeGrant:
    def __init__(self, nusd: int) -> None:
        self.nusd = nusd
        self.settled: int | None = None
        self.held: tuple[int, ...] = ()

    def took(self, spend: Spend) -> tuple[int, ...]:
        return ()

    def part(self, unit: Unit) -> int | None:
        return None


class FakePurse:
    """One cap for everybody; `cap - spent - held` is what is left."""

    def __init__(self, cap_nusd: int = 10**15) -> None:
        self.cap_nusd = cap_nusd
        self.spent_nusd = 0
        self.held_nusd = 0
        self.grants: list[FakeGrant] = []
        self.lease_first = False  # as when the allotment in memory is used up
        self.lease_gate: asyncio.Event | None = None

    def reserve(self, path: tuple[int, ...], worst: Spend) -> FakeGrant | None:
        nusd = worst.nusd
        if self.lease_first or nusd > self.cap_nusd - self.spent_nusd - self.held_nusd:
            return None
        return self._grant(nusd)

    async def lease(self, path: tuple[int, ...], worst: Spend, floor: Spend) -> Grant | Refusal:
        nusd, floor_nusd = worst.nusd, floor.nusd
        if self.lease_gate is not None:
            await self.lease_gate.wait()
        left = self.cap_nusd - self.spent_nusd - self.held_nusd
        if left < floor_nusd:
            return Refusal(code="budget_exceeded", message=f"{left} nusd left, {floor_nusd} needed")
        return self._grant(min(nusd, left))

    def _grant(self, nusd: int) -> FakeGrant:
        grant = FakeGrant(nusd)
        self.held_nusd += nusd
        self.grants.append(grant)
        return grant

    def shrink(self, grant: Grant, worst: Spend) -> None:
        assert isinstance(grant, FakeGrant) and grant.settled is None
        self.held_nusd -= max(0, grant.nusd - worst.nusd)
        grant.nusd = min(grant.nusd, worst.nusd)

    def settle(self, grant: Grant, spend: Spend) -> None:
        assert isinstance(grant, FakeGrant)
        charge_nusd = spend.nusd
        if grant.settled is None:
            assert 0 <= charge_nusd <= grant.nusd
            grant.settled = charge_nusd
            self.held_nusd -= grant.nusd
            self.spent_nusd += charge_nusd


class ListJournal:
    epoch = EPOCH

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.full = False
        self.ends_fail = False

    def append_intent(self, fact: Fact) -> None:
        if self.full:
            raise JournalUnavailable("no room on the disk")
        self.facts.append(fact)

    def append_end(self, fact: Fact) -> None:
        if self.ends_fail:
            raise JournalUnavailable("the disk is gone")
        self.facts.append(fact)

    def append_note(self, fact: Fact) -> bool:
        self.facts.append(fact)
        return True

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]

    @property
    def ends(self) -> list[End]:
        return self.of(End)

    @property
    def intents(self) -> list[Intent]:
        return self.of(Intent)


class Rig:
    """A gateway with one pool per engine; `route` tries them in order."""

    def __init__(self, engines: Sequence[Engine], *, limits: Limits | None = None, **backend: Any) -> None:
        self.engines = engines
        self.limits = limits or Limits()
        self.journal = ListJournal()
        self.purse = FakePurse()
        self.clock = LiveClock()
        self.backend = {"adapter": "openai-compatible"} | backend
        self.refusal: Refusal | None = None  # of admit
        self.gateway: Gateway
        self.server: Server
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self.more: dict[str, Any] = {}  # services beside the plain ones: gates, side doors
        self.logged: list[BaseException] = []
        self.clients: list[Client] = []

    def services(self) -> Services:
        backends = {
            f"p{i}": Backend(
                pool=f"p{i}",
                base_url=engine.base_url,
                models={
                    "m": BackendModel(name="m", upstream="up", cost=price(1, 1, 2), charge=price(2, 10, 20))
                },
                headers=(("authorization", "Bearer factory-secret"),),
                **self.backend,
            )
            for i, engine in enumerate(self.engines)
        }

        def identify(header: bytes | None, wall_us: int) -> Caller | Refusal:
            if header is None:
                return Refusal(code="missing_key", message="send 'authorization: Bearer KEY'")
            known = {KEY: ME, "narrow": NARROW}.get(header.decode("latin-1").removeprefix("Bearer "))
            if header == b"Bearer revoked":
                return Refusal(code="revoked_key", message="this key was revoked")
            if header == b"Bearer expired":
                return Refusal(code="expired_key", message="this key has expired")
            return known or Refusal(code="invalid_key", message="the API key is unknown")

        def route(ask: Request, caller: Caller, prompt: object = None) -> Route | Refusal:
            if ask.model != "m":
                return Refusal(
                    code="unknown_model", message=f"no model {ask.model!r}; there is: m", param="model"
                )
            pools = [p for p in backends if ask.pool in (None, p) and self.gateway.state(p).healthy]
            if not pools:
                return Refusal(code="no_healthy_place", message="all down")
            return Route(tuple(Candidate(p, 1_000, 0.1, 0.2, 0.0) for p in pools), (), "in order", 1)

        return Services(
            epoch=EPOCH,
            identify=identify,
            route=route,
            models=lambda caller: [("m", "wattmill"), *((f"{p}/m", p) for p in backends)],
            purse=self.purse,
            journal=self.journal,
            rate=rate,
            worst_case=worst_case_nusd,
            affordable=output_affordable,
            backends=backends,
            bound={"m": TokenizerBound()},
            energy=lambda pool, usage: 0.5 * usage.output_tok,
            admit=lambda: self.refusal,
            clock=self.clock,
            limits=self.limits,
            default_output_tok=100,
            **self.more,
        )

    async def start(self) -> None:
        self.gateway = Gateway(self.clock)
        self.gateway.use(self.services())
        self.gateway.defect = self._defect  # type: ignore[method-assign]
        self.server = Server(self.gateway, limits=lambda: self.limits, clock=self.clock)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.server.listen(sock, tls=self.tls)

    def _defect(self, request_id: str, error: BaseException) -> None:
        self.logged.append(error)

    async def stop(self) -> None:
        await self.server.drain(0.0)
        self.gateway.close()
        for upstream in self.gateway.upstreams.values():
            for conn in list(upstream._open):
                conn.transport.abort()
        for client in self.clients:
            client.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    async def connect(self) -> Client:
        client = Client()
        client.reader, client.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)
        self.clients.append(client)
        return client

    async def ask(self, body: Any = None, **kwargs: Any) -> Answer:
        """Ask on a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(body, **kwargs)
        finally:
            client.close()

    def assert_balanced(self) -> None:
        """The laws: nothing is held, what is spent is what the ends charge, each intent has one end."""
        ends, intents = self.journal.ends, self.journal.intents
        assert sorted(e.seq for e in ends) == sorted(i.seq for i in intents)
        assert len({i.seq for i in intents}) == len(intents)
        assert self.purse.held_nusd == 0
        assert all(g.settled is not None for g in self.purse.grants)
        assert self.purse.spent_nusd == sum(e.charge_nusd + e.kept_nusd for e in ends)
        by_seq = {i.seq: i for i in intents}
        assert all(e.charge_nusd <= by_seq[e.seq].reserved_nusd for e in ends)
        assert self.gateway.in_flight == 0
        assert not self.gateway.attempts
        for pool in self.gateway.upstreams:
            assert self.gateway.state(pool).serving == 0
            # What lingers at an engine stands in its line until the engine says that it is free.
            assert self.gateway.state(pool).lingering or self.gateway.state(pool).ahead_tok == 0


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes, chunks: list[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.chunks = chunks  # HTTP chunks, as framed

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Decoded data events; comments and [DONE] as text."""
        out: list[Any] = []
        for event in self.body.decode().split("\n\n"):
            if event.startswith("data: {"):
                out.append(json.loads(event[6:]))
            elif event:
                out.append(event)
        return out

    @property
    def text(self) -> str:
        return "".join(
            (c.get("delta") or {}).get("content") or c.get("text") or ""
            for e in self.events
            if isinstance(e, dict)
            for c in e.get("choices", ())
        )


class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(
        self,
        body: Any = None,
        *,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        key: str | None = KEY,
        headers: Sequence[tuple[str, str]] = (),
        version: str = "1.1",
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or CHAT).encode()
        if method in ("GET", "HEAD", "OPTIONS"):
            data = b""
        lines = [f"{method} {path} HTTP/{version}", "host: gateway"]
        if key is not None:
            lines.append(f"authorization: Bearer {key}")
        if data:
            lines.append(f"content-length: {len(data)}")
        lines += [f"{k}: {v}" for k, v in headers]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
        await self.writer.drain()

    async def ask(self, body: Any = None, **kwargs: Any) -> Answer:
        await self.send(body, **kwargs)
        return await self.answer(head_only=kwargs.get("method") == "HEAD")

    async def answer(self, *, head_only: bool = False) -> Answer:
        status, headers = await self.head()
        if head_only:
            return Answer(status, headers, b"", [])
        if headers.get("transfer-encoding") == "chunked":
            chunks = [c async for c in self.chunks()]
            return Answer(status, headers, b"".join(chunks), chunks)
        if "content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])), [])
        return Answer(status, headers, await self.reader.read(), [])

    async def head(self) -> tuple[int, dict[str, str]]:
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.rstrip().split("\r\n")
        return int(first.split()[1]), {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int(await self.reader.readline(), 16)
            chunk = (await self.reader.readexactly(size + 2))[:-2]
            if not size:
                return
            yield chunk

    async def closed(self) -> bool:
        """Wait for the end of the connection; True if nothing more came."""
        try:
            return not await self.reader.read(1)
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
STREAM = CHAT | {"stream": True}


@contextlib.asynccontextmanager
async def rig(*scripts: Script, limits: Limits | None = None, **backend: Any) -> AsyncIterator[Rig]:
    """Run a gateway before one engine for each script."""
    engines = [Engine(script) for script in scripts or (well,)]
    for engine in engines:
        await engine.start()
    made = Rig(engines, limits=limits, **backend)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        for engine in engines:
            await engine.stop()


def run(test: Any, *, timeout_s: float = 20.0, pure: bool = False) -> None:
    """Run a test on a fresh loop, and fail if it leaves an error behind on the loop."""
    errors: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        async with asyncio.timeout(timeout_s):
            await test

    if USE_UVLOOP and not pure:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        asyncio.run(main())
    assert not errors, errors


USE_UVLOOP = os.environ.get("WATTMILL_TEST_LOOP") != "asyncio"


async def until(condition: Callable[[], Any], *, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
