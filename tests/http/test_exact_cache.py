"""The exact cache on real sockets: the same question, the same answer, its own row in the books."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_rig import CHAT, STREAM, Rig, Wire, answer_body, rig, run, until, well
from polyglot import polyglot

from wattmill.app.declared.kept_settings import Cache
from wattmill.app.gates.answer_shelf import AnswerShelf
from wattmill.app.gates.cache import CacheGate
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.store import KeptStore
from wattmill.ledger.rating import rate
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

SAME = {"temperature": 0}
USAGE = Usage(5, 2)


class Cached:
    """A gateway with a cache."""

    def __init__(self, r: Rig, gate: CacheGate, shelf: AnswerShelf) -> None:
        self.r, self.gate, self.shelf = r, gate, shelf

    def price(self) -> int:
        return rate(self.r.services().backends["p0"].models["m"].charge, USAGE)


@contextlib.asynccontextmanager
async def caching(path: Path, *scripts: Any, **rules: Any) -> AsyncIterator[Cached]:
    async with rig(*scripts) as r:
        shelf = Shelf(KeptStore(path))
        answers = AnswerShelf(shelf, memory_bytes=1 << 20, wall_us=r.clock.wall_us)
        gate = CacheGate(msgspec.convert({"models": ["m"]} | rules, Cache), answers, most_bytes=1 << 20)
        r.more = {"gates": (gate,)}
        r.gateway.use(r.services())
        await answers.tick()
        try:
            yield Cached(r, gate, answers)
            r.assert_balanced()
        finally:
            await answers.tick()
            shelf.close()


@pytest.mark.parametrize("body", [CHAT | SAME, STREAM | SAME])
def test_the_same_question_gets_the_same_answer_without_an_engine(tmp_path: Path, body: Any) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db") as c:
            first = await c.r.ask(body)
            assert "x-wattmill-cache" not in first.headers
            await until(lambda: c.shelf._memory)
            again = await c.r.ask(body)
            assert again.status == 200 and again.headers["x-wattmill-pool"] == "cache"
            request = first.headers["x-request-id"]
            assert again.headers["x-wattmill-cache"] == f"hit; age=0; from={request}"
            if "stream" in body:
                assert again.text == first.text == "hello"
                assert again.events[-1] == "data: [DONE]"
            else:
                assert again.body == first.body
            assert len(c.r.engines[0].seen) == 1

    run(test())


@pytest.mark.parametrize("share, part", [("0", 0.0), ("0.25", 0.25), ("1", 1.0)])
def test_it_is_booked_with_its_usage_the_declared_share_and_what_it_saved(
    tmp_path: Path, share: str, part: float
) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", charge_share=share) as c:
            r = c.r
            await r.ask(CHAT | SAME)
            await until(lambda: c.shelf._memory)
            again = await r.ask(CHAT | SAME)
            first, hit = r.journal.ends
            full = first.charge_nusd
            assert full == c.price()
            assert (hit.status, hit.usage, hit.usage_source) == ("finished", first.usage, first.usage_source)
            assert hit.cost_nusd == 0
            assert hit.charge_nusd == int(full * part)
            assert hit.charge_nusd + hit.saved_nusd == full
            intent = r.journal.intents[1]
            assert (intent.pool, intent.reserved_nusd) == ("cache", hit.charge_nusd)
            told = again.headers
            assert told["x-wattmill-charge-usd"] == f"{hit.charge_nusd / 1e9:.9f}"
            assert told["x-wattmill-saved-usd"] == f"{hit.saved_nusd / 1e9:.9f}"
            assert r.purse.spent_nusd == full + hit.charge_nusd

    run(test())


def test_another_worker_and_a_restart_find_it_on_the_disk(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db") as one:
            first = await one.r.ask(CHAT | SAME)
            await until(lambda: one.shelf._memory)
            await one.shelf.tick()
            async with caching(tmp_path / "kept.db") as two:
                assert (await two.r.ask(CHAT | SAME)).body == first.body
                assert not two.r.engines[0].seen
        async with caching(tmp_path / "kept.db") as later:
            assert (await later.r.ask(STREAM | SAME)).headers["x-wattmill-pool"] == "p0"
            assert (await later.r.ask(CHAT | SAME)).headers["x-wattmill-pool"] == "cache"

    run(test())


async def twice(c: Cached, body: Any, *, first: Any = (), then: Any = ()) -> str:
    """Ask twice and return the place that answered the second time."""
    assert (await c.r.ask(body, headers=first)).status == 200
    await c.shelf.tick()
    answer = await c.r.ask(body, headers=then)
    assert answer.status == 200
    return answer.headers["x-wattmill-pool"]


@pytest.mark.parametrize(
    "body, rules, place",
    [
        (CHAT, {}, "p0"),  # it may want another answer each time
        (CHAT, {"when": "always"}, "cache"),
        (CHAT | {"seed": 4}, {}, "cache"),
        (CHAT | {"temperature": 0.7}, {}, "p0"),
        (CHAT | SAME, {"models": ["*"]}, "cache"),
        (CHAT | SAME, {"models": ["other"]}, "p0"),
        (CHAT | SAME, {"teams": ["demo/search"]}, "p0"),
        (CHAT | SAME | {"store": False}, {}, "p0"),
    ],
)
def test_what_is_cached_is_declared(tmp_path: Path, body: Any, rules: Any, place: str) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", **rules) as c:
            assert await twice(c, body) == place

    run(test())


@pytest.mark.parametrize(
    "first, then, place",
    [
        ("no-store", None, "p0"), (None, "no-cache", "p0"), ("no-cache", None, "cache"),
        (None, "no-store", "cache"), (None, None, "cache"),
    ],
)  # fmt: skip
def test_a_client_may_keep_out_of_the_cache(
    tmp_path: Path, first: str | None, then: str | None, place: str
) -> None:
    def header(value: str | None) -> Any:
        return () if value is None else (("cache-control", value),)

    async def test() -> None:
        async with caching(tmp_path / "kept.db") as c:
            assert await twice(c, CHAT | SAME, first=header(first), then=header(then)) == place

    run(test())


def test_an_answer_is_never_given_to_another_class(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db") as c:
            private = (("x-wattmill-privacy", "private"),)
            assert await twice(c, CHAT | SAME, first=private) == "p0"
            assert await twice(c, CHAT | SAME, then=private) == "cache"  # each class has its own by now
            assert len(c.r.engines[0].seen) == 2

    run(test())


def test_an_expired_answer_is_made_anew(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", ttl_s=1) as c:
            assert await twice(c, CHAT | SAME) == "cache"
            later_us = c.r.clock.wall_us() + 1_000_001
            c.shelf._wall_us = c.shelf._shelf.store._wall_us = lambda: later_us
            assert (await c.r.ask(CHAT | SAME)).headers["x-wattmill-pool"] == "p0"

    run(test())


@pytest.mark.parametrize("how", ["refused", "broken", "cut"])
def test_what_is_no_whole_answer_is_not_cached(tmp_path: Path, how: str) -> None:
    async def script(wire: Wire) -> None:
        if how == "refused":
            await wire.json({"error": {"message": "no"}}, status=500)
            return
        await wire.stream_head()
        await wire.chunk("half")
        if how == "broken":
            wire.reset()
            return
        for n in range(30):  # past its clamp
            await wire.chunk(f"w{n}")
        await wire.until_left()

    async def test() -> None:
        async with caching(tmp_path / "kept.db", script) as c:
            for _ in range(2):
                await c.r.ask(STREAM | SAME)
                await c.shelf.tick()
            assert len(c.r.engines[0].seen) == 2

    run(test())


def test_memory_is_bounded_and_the_disk_stands_behind_it(tmp_path: Path) -> None:
    async def long(wire: Wire) -> None:
        await wire.json(answer_body(wire.body["messages"][0]["content"] + "x" * 20_000))

    async def test() -> None:
        async with caching(tmp_path / "kept.db", long) as c:
            c.shelf.memory_bytes = 100_000
            bodies = [CHAT | SAME | {"messages": [{"role": "user", "content": f"q{n}"}]} for n in range(20)]
            for body in bodies:
                assert (await c.r.ask(body)).status == 200
            await c.shelf.tick()
            assert len(c.shelf._memory) <= 4 and c.shelf._bytes <= 100_000
            for body in bodies:
                assert (await c.r.ask(body)).headers["x-wattmill-pool"] == "cache"
            assert len(c.r.engines[0].seen) == 20

    run(test())


def test_what_was_deleted_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db") as c:
            assert await twice(c, CHAT | SAME) == "cache"
            await c.shelf._shelf.delete_all(kind="cache")
            c.shelf.forget()
            assert (await c.r.ask(CHAT | SAME)).headers["x-wattmill-pool"] == "p0"

    run(test())


def test_a_charged_hit_that_no_budget_holds_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", charge_share="1") as c:
            await c.r.ask(CHAT | SAME)
            await until(lambda: c.shelf._memory)
            c.r.purse.cap_nusd = c.r.purse.spent_nusd + 1
            answer = await c.r.ask(CHAT | SAME)
            assert (answer.status, answer.error["code"]) == (429, "budget_exceeded")

    run(test())


@pytest.mark.parametrize("wait", ["for the disk", "for money"])
def test_who_may_ask_no_more_while_the_cache_is_looked_at_pays_nothing_for_it(
    tmp_path: Path, wait: str
) -> None:
    async def test() -> None:
        go, waiting = asyncio.Event(), asyncio.Event()
        async with caching(tmp_path / "kept.db", charge_share="1") as c:
            await c.r.ask(CHAT | SAME)
            await until(lambda: c.shelf._memory)
            await c.shelf.tick()

            async def later(call: Any, *args: Any) -> Any:
                found = await call(*args)
                waiting.set()
                await go.wait()
                return found

            if wait == "for the disk":
                c.shelf._memory.clear()
                c.shelf.from_store = functools.partial(later, c.shelf.from_store)  # type: ignore[method-assign]
            else:
                c.r.purse.reserve = lambda *_: None  # type: ignore[method-assign]
                c.r.purse.lease = functools.partial(later, c.r.purse.lease)  # type: ignore[method-assign]
            spent = c.r.purse.spent_nusd
            asking = asyncio.create_task(c.r.ask(CHAT | SAME))
            await waiting.wait()
            c.r.gateway.services.identify = lambda *_: Refusal(code="revoked_key", message="gone")
            go.set()
            assert (await asking).error["code"] == "revoked_key"
            assert c.r.purse.spent_nusd == spent and len(c.r.journal.intents) == 1

    run(test())


def test_a_journal_that_is_full_serves_nothing_from_the_cache_either(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db") as c:
            await c.r.ask(CHAT | SAME)
            await until(lambda: c.shelf._memory)
            c.r.journal.full = True
            answer = await c.r.ask(CHAT | SAME)
            assert (answer.status, answer.error["code"]) == (503, "journal_unavailable")
            c.r.journal.full = False

    run(test())


def test_embeddings_are_cached_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", well) as c:
            ask = {"model": "m", "input": "text"}
            first = await c.r.ask(ask, path="/v1/embeddings")
            await until(lambda: c.shelf._memory)
            again = await c.r.ask(ask, path="/v1/embeddings")
            assert again.headers["x-wattmill-pool"] == "cache" and again.body == first.body

    run(test())


def test_a_key_gets_nothing_from_its_teams_cache_that_it_may_not_ask_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", scope="team") as c:
            services = c.r.services()
            plain_identify, plain_route = services.identify, services.route
            less = Caller(key=5, name="o/t/less", path=(1, 2, 5), models=frozenset({"other"}))

            def identify(header: bytes | None, wall_us: int) -> Any:
                return less if header == b"Bearer less" else plain_identify(header, wall_us)

            def route(ask: Any, caller: Caller, prompt: object) -> Any:
                no = Refusal(code="out_of_scope", message="not this model")
                return no if caller is less else plain_route(ask, caller, prompt)  # type: ignore[arg-type]

            services.identify, services.route = identify, route
            c.r.gateway.use(services)
            assert (await c.r.ask(CHAT | SAME)).status == 200
            await until(lambda: c.shelf._memory)
            assert "x-wattmill-cache" in (await c.r.ask(CHAT | SAME)).headers
            refused = await c.r.ask(CHAT | SAME, key="less")
            assert (refused.status, refused.error["code"]) == (403, "out_of_scope")

    run(test())


@pytest.mark.parametrize(("adapter", "hit"), [("anthropic", False), ("openai-compatible", True)])
def test_thinking_at_the_messages_door_is_another_question_where_the_engine_hears_of_it(
    tmp_path: Path, adapter: str, hit: bool
) -> None:
    async def test() -> None:
        async with caching(tmp_path / "kept.db", polyglot()) as c:
            services = c.r.services()
            backends = {
                name: msgspec.structs.replace(backend, adapter=adapter)
                for name, backend in services.backends.items()
            }
            c.r.gateway.use(dataclasses.replace(services, backends=backends))
            asked = {"model": "m", "max_tokens": 2048, "messages": CHAT["messages"], "temperature": 0}
            thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
            first = await c.r.ask(asked, path="/v1/messages")
            assert first.status == 200, first.body
            await until(lambda: c.shelf._memory)
            other = await c.r.ask(asked | thinking, path="/v1/messages")
            assert ("x-wattmill-cache" in other.headers) == hit
            again = await c.r.ask(asked, path="/v1/messages")
            assert "x-wattmill-cache" in again.headers and again.json["content"] == first.json["content"]

    run(test())
