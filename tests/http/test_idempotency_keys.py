"""`idempotency-key` on real sockets: one request, one charge, the same answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import CHAT, EPOCH, STREAM, Answer, Rig, Wire, answer_body, rig, run, until, well

from wattmill.app.gates.claims import Claims
from wattmill.app.gates.idempotency import IdempotencyGate
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.store import KeptStore
from wattmill.vocab.fact import Replayed

KEY = ("idempotency-key", "order-17")


@contextlib.asynccontextmanager
async def keeping(path: Path, *scripts: Any, most_bytes: int = 1 << 20, **backend: Any) -> AsyncIterator[Rig]:
    """A gateway with the gate, on the kept store at `path`."""
    async with rig(*scripts, **backend) as r:
        shelf = Shelf(KeptStore(path))
        claims = Claims(shelf, epoch=EPOCH, alive=lambda e: False, wall_us=r.clock.wall_us, keep_s=60.0)
        gate = IdempotencyGate(claims, most_bytes=most_bytes)
        r.more = {"gates": (gate,)}
        r.gateway.use(r.services())
        try:
            yield r
            await gate.settled()
        finally:
            shelf.close()


def ask(r: Rig, body: Any = CHAT, *headers: tuple[str, str], key: tuple[str, str] = KEY) -> Any:
    return r.ask(body, headers=(key, *headers))


def is_replay(answer: Answer, of: Answer) -> bool:
    return answer.headers.get("x-wattmill-replayed") == of.headers["x-request-id"]


@pytest.mark.parametrize("body", [CHAT, STREAM, STREAM | {"stream_options": {"include_usage": True}}])
def test_a_repeated_request_gets_the_same_answer_and_is_made_and_charged_once(
    tmp_path: Path, body: Any
) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            first = await ask(r, body)
            spent = r.purse.spent_nusd
            again = [await ask(r, body) for _ in range(3)]
            assert all(one.status == 200 and is_replay(one, first) for one in again)
            assert {one.headers["x-wattmill-charge-usd"] for one in again} == {"0.000000000"}
            noted = r.journal.of(Replayed)
            assert [fact.of for fact in noted] == [first.headers["x-request-id"]] * 3
            if body is CHAT:
                assert {one.body for one in again} == {first.body}
            else:
                events = [e for e in first.events if not str(e).startswith(":")]
                assert all(one.events == events and one.events[-1] == "data: [DONE]" for one in again)
                assert again[0].headers["content-type"].startswith("text/event-stream")
            assert len(r.engines[0].seen) == len(r.journal.intents) == 1
            assert r.purse.spent_nusd == spent
            r.assert_balanced()

    run(test())


def test_a_replay_that_its_key_no_longer_allows_is_not_written_down_as_one(tmp_path: Path) -> None:
    """The key ends while the store is asked for the first answer."""

    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            assert (await ask(r)).status == 200
            services, asked = r.gateway.services, []

            def identify(header: bytes | None, wall_us: int) -> Any:
                asked.append(header)
                return services.identify(header if len(asked) == 1 else b"Bearer revoked", wall_us)

            r.gateway.use(dataclasses.replace(services, identify=identify))
            assert (await ask(r)).error["code"] == "revoked_key"
            assert not r.journal.of(Replayed), "explain would tell of an answer that nobody got"

    run(test())


def test_it_survives_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            first = await ask(r)
        async with keeping(tmp_path / "kept.db") as r:
            assert is_replay(await ask(r), first)
            assert not r.engines[0].seen

    run(test())


def test_another_body_is_a_conflict_that_waiting_does_not_cure(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            await ask(r)
            other = await ask(r, CHAT | {"max_tokens": 9})
            assert (other.status, other.error["code"]) == (409, "idempotency_mismatch")
            assert other.headers["x-should-retry"] == "false"
            other = await ask(r, CHAT, ("x-wattmill-privacy", "private"))
            assert other.error["code"] == "idempotency_mismatch"
            assert len(r.engines[0].seen) == 1

    run(test())


def test_a_running_one_is_a_conflict_that_waiting_cures(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(wire: Wire) -> None:
        await go.wait()
        await well(wire)

    async def test() -> None:
        async with keeping(tmp_path / "kept.db", slow) as r:
            first = asyncio.ensure_future(ask(r))
            await until(lambda: r.engines[0].seen)
            running = await ask(r)
            assert (running.status, running.error["code"]) == (409, "idempotency_running")
            assert int(running.headers["retry-after"]) >= 1 and "x-should-retry" not in running.headers
            go.set()
            done = await first
            assert is_replay(await ask(r), done)
            assert len(r.engines[0].seen) == 1

    run(test())


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_request_that_failed_may_be_made_again(tmp_path: Path, body: Any) -> None:
    async def broken(wire: Wire) -> None:
        if len(wire.engine.seen) > 1:
            await well(wire)
            return
        if wire.body.get("stream"):
            await wire.stream_head()
            await wire.chunk("half of")
        wire.reset()

    async def test() -> None:
        async with keeping(tmp_path / "kept.db", broken) as r:
            await ask(r, body)
            again = await ask(r, body)
            assert again.status == 200 and "x-wattmill-replayed" not in again.headers
            assert len(r.engines[0].seen) == 2
            r.assert_balanced()

    run(test())


def test_a_refused_request_frees_its_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            r.refusal = None
            r.purse.cap_nusd = 0
            assert (await ask(r)).error["code"] == "budget_exceeded"
            r.purse.cap_nusd = 10**15
            await until(lambda: not r.gateway.in_flight)
            answer = await ask(r)
            assert answer.status == 200 and "x-wattmill-replayed" not in answer.headers

    run(test())


def test_a_client_that_left_in_the_middle_may_ask_again(tmp_path: Path) -> None:
    async def endless(wire: Wire) -> None:
        if len(wire.engine.seen) > 1:
            await well(wire)
            return
        await wire.stream_head()
        await wire.chunk("one")
        await wire.until_left()

    async def test() -> None:
        async with keeping(tmp_path / "kept.db", endless) as r:
            client = await r.connect()
            await client.send(STREAM, headers=(KEY,))
            await client.head()
            client.abort()
            await until(lambda: len(r.journal.ends) == 1)
            answer = await ask(r, STREAM)
            assert answer.status == 200 and answer.text == "hello"
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "schlüssel"])
def test_a_key_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            answer = await r.ask(CHAT, headers=(("idempotency-key", name),))
            assert (answer.status, answer.error["code"]) == (400, "bad_header")
            assert not r.engines[0].seen and not (tmp_path / "kept.db").exists()

    run(test())


def test_a_request_without_a_key_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            for body in (CHAT, STREAM):
                assert (await r.ask(body)).status == 200
            assert list(tmp_path.iterdir()) == []

    run(test())


def test_store_false_leaves_neither_question_nor_answer_on_the_disk(tmp_path: Path) -> None:
    async def secret(wire: Wire) -> None:
        await wire.json(answer_body("a secret answer"))

    async def test() -> None:
        async with keeping(tmp_path / "kept.db", secret) as r:
            body = CHAT | {"store": False, "messages": [{"role": "user", "content": "a secret question"}]}
            assert (await ask(r, body)).status == 200
            again = await ask(r, body)
            assert (again.status, again.error["code"]) == (409, "idempotency_gone")
            assert len(r.engines[0].seen) == 1
            for file in tmp_path.iterdir():
                assert b"secret" not in file.read_bytes()

    run(test())


def test_an_answer_that_is_too_long_to_keep_is_told_and_not_made_twice(tmp_path: Path) -> None:
    async def long(wire: Wire) -> None:
        await wire.json(answer_body("x" * 5_000))

    async def test() -> None:
        async with keeping(tmp_path / "kept.db", long, most_bytes=1_000) as r:
            assert (await ask(r)).status == 200
            assert (await ask(r)).error["code"] == "idempotency_gone"
            assert len(r.engines[0].seen) == 1

    run(test())


def test_many_at_once_with_one_key_are_one_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path / "kept.db") as r:
            answers = await asyncio.gather(*(ask(r) for _ in range(30)))
            made = [one for one in answers if one.status == 200 and "x-wattmill-replayed" not in one.headers]
            assert len(made) == 1 == len(r.engines[0].seen)
            assert {one.status for one in answers} <= {200, 409}
            r.assert_balanced()

    run(test())
