"""Limits of every unit as a client meets them: real purse, real gateway, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import CHAT, EPOCH, STREAM, Rig, Wire, answer_body, price, rig, run, until
from msgspec.structs import replace

from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.vocab.budget import Ceiling, Period, Unit

USD = 10**9


@contextlib.asynccontextmanager
async def limited(
    folder: Path, *limits: tuple[Unit, Period, int], script: Any = None, **backend: Any
) -> AsyncIterator[tuple[Rig, Control]]:
    """A rig whose key (node 3) stands under these limits of its team (node 2)."""
    folder.mkdir(exist_ok=True)
    with Control(folder / "control.db") as control:
        team = control.put_team(control.put_org("demo"), "load")
        key, _ = control.create_key(team, "me")
        assert key.path == (1, 2, 3)
        for unit, period, amount in limits:
            if (unit, period) == ("nusd", "life"):
                control.set_cap(team, amount)
            else:
                Limits(control).put(team, unit, period, amount)
        async with rig(*([] if script is None else [script]), **backend) as r:
            r.purse = Allotments(control, EPOCH, patience_s=0.1)  # type: ignore[assignment]
            r.gateway.use(r.services())
            yield r, control


def released(r: Rig) -> None:
    assert not any(r.purse.reserved().values())  # type: ignore[attr-defined]


def test_an_answer_is_clamped_to_what_a_limit_of_tokens_leaves(tmp_path: Path) -> None:
    async def test() -> None:
        async with limited(tmp_path, ("total_tok", "life", 400)) as (r, control):
            assert (await r.ask(CHAT | {"max_tokens": 5_000})).status == 200
            (intent,), (end,) = r.journal.intents, r.journal.ends
            assert intent.output_clamp_tok == 400 - intent.input_bound_tok
            assert r.engines[0].seen[0].body["max_tokens"] == intent.output_clamp_tok
            gauge, held = intent.held
            assert held == 400
            used = end.usage.prompt_tok + end.usage.output_tok
            assert end.took == (gauge, used) and end.kept_nusd == 0
            released(r)
            await r.purse.tick()  # type: ignore[attr-defined]
            assert control.summary(2).limits[0].used == used

    run(test())


def test_an_answer_is_clamped_to_what_a_limit_of_dollars_a_day_leaves(tmp_path: Path) -> None:
    async def test() -> None:
        async with limited(tmp_path, ("nusd", "day", 3_000_000)) as (r, _):
            assert (await r.ask(CHAT | {"max_tokens": 1_000})).status == 200
            (intent,) = r.journal.intents
            assert intent.reserved_nusd <= 3_000_000
            assert intent.output_clamp_tok == r.engines[0].seen[0].body["max_tokens"] < 1_000
            released(r)

    run(test())


def test_a_limit_of_requests_says_when_it_begins_anew(tmp_path: Path) -> None:
    async def test() -> None:
        async with limited(tmp_path, ("requests", "day", 2)) as (r, _):
            assert [(await r.ask()).status for _ in range(2)] == [200, 200]
            a = await r.ask()
            assert (a.status, a.error["code"]) == (429, "limit_reached")
            assert 0 < int(a.headers["retry-after"]) <= 86_400
            assert a.headers.get("x-should-retry") != "false"
            assert "team 'demo/load' has a limit of 2 requests a day: 2 requests used" in a.error["message"]
            assert len(r.engines[0].seen) == 2, "nothing leaves that was not reserved"
            released(r)

    run(test())


def test_what_can_never_fit_is_not_to_be_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with limited(tmp_path, ("input_tok", "minute", 10)) as (r, _):
            a = await r.ask()
            assert (a.status, a.error["code"]) == (429, "budget_exceeded")
            assert a.headers["x-should-retry"] == "false"
            assert not r.engines[0].seen

    run(test())


def test_only_so_many_are_in_flight(tmp_path: Path) -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def slow(wire: Wire) -> None:
            await go.wait()
            await wire.json(answer_body())

        async with limited(tmp_path, ("concurrency", "life", 1), script=slow) as (r, _):
            first = asyncio.create_task(r.ask())
            await until(lambda: len(r.engines[0].seen) == 1)
            a = await r.ask()
            assert (a.status, a.error["code"]) == (429, "limit_reached") and a.headers["retry-after"] == "1"
            go.set()
            assert (await first).status == 200
            assert (await r.ask()).status == 200
            released(r)

    run(test())


def test_joules_are_capped_on_the_declared_ceiling(tmp_path: Path) -> None:
    async def test() -> None:
        ceiling = Ceiling(input_uj_per_mtok=10**12, output_uj_per_mtok=2 * 10**12, carbon_ug_per_kwh=10**8)
        # One joule a prompt token, two an output token: 300 J are the prompt's bound and some answer.
        async with limited(tmp_path, ("energy_uj", "life", 300 * 10**6), ceiling=ceiling) as (r, control):
            assert (await r.ask(CHAT | {"max_tokens": 1_000})).status == 200
            (intent,), (end,) = r.journal.intents, r.journal.ends
            assert intent.output_clamp_tok == (300 - intent.input_bound_tok) // 2
            joules = end.usage.prompt_tok + 2 * end.usage.output_tok
            assert end.took[1] == joules * 10**6
            released(r)
        async with limited(tmp_path / "b", ("nusd", "life", USD)) as (r, control):
            Limits(control).put(2, "carbon_ug", "month", 10)
            a = await r.ask()
            assert (a.status, a.error["code"]) == (503, "no_ceiling")
            assert a.headers["x-should-retry"] == "false"

    run(test())


def test_what_a_client_left_counts_in_full_against_the_cap_and_is_charged_as_seen(tmp_path: Path) -> None:
    async def test() -> None:
        async def endless(wire: Wire) -> None:
            await wire.stream_head()
            for _ in range(3):
                await wire.chunk("x")
            await asyncio.Event().wait()

        async with limited(tmp_path, ("nusd", "life", USD), script=endless) as (r, _):
            client = await r.connect()
            await client.send(STREAM | {"max_tokens": 50})
            await client.reader.readuntil(b'"x"')
            client.abort()
            await until(lambda: bool(r.journal.ends))
            (intent,), (end,) = r.journal.intents, r.journal.ends
            assert end.status == "aborted" and 0 < end.charge_nusd < intent.reserved_nusd
            assert end.charge_nusd + end.kept_nusd == intent.reserved_nusd
            assert r.purse.used()[2] == intent.reserved_nusd  # type: ignore[attr-defined]
            released(r)
            r.more = {"unseen": "delivered"}
            r.gateway.use(r.services())
            client = await r.connect()
            await client.send(STREAM | {"max_tokens": 50})
            await client.reader.readuntil(b'"x"')
            client.abort()
            await until(lambda: len(r.journal.ends) == 2)
            assert r.journal.ends[1].kept_nusd == 0
            released(r)

    run(test())


def test_near_a_limit_the_engine_counts_the_prompt(tmp_path: Path) -> None:
    async def test() -> None:
        counted: list[dict[str, Any]] = []

        async def counting(wire: Wire) -> None:
            if wire.path.endswith("/input_tokens"):
                counted.append(wire.body)
                await wire.json({"input_tokens": 9})
                return
            await wire.stream_head()
            await wire.chunk("x", finish="stop")
            await wire.usage_chunk(9, 1)
            await wire.done()

        async with limited(tmp_path, ("input_tok", "life", 20), script=counting, adapter="llama.cpp") as (
            r,
            _,
        ):
            a = await r.ask(CHAT | {"max_tokens": 5})
            assert a.status == 200, a.body
            assert len(counted) == 1 and counted[0]["messages"] == CHAT["messages"]
            assert "max_tokens" not in counted[0]
            (intent,) = r.journal.intents
            assert intent.held[1] == 9 < intent.input_bound_tok
            released(r)
            assert (await r.ask(CHAT | {"max_tokens": 5})).status == 200, "11 are left, 9 are needed"
            a = await r.ask(CHAT | {"max_tokens": 5})
            assert (a.status, a.error["code"]) == (429, "budget_exceeded")
            released(r)

    run(test())


def test_what_one_place_counted_says_nothing_of_another(tmp_path: Path) -> None:
    async def place(wire: Wire, tokens: int) -> None:
        if wire.path.endswith("/input_tokens"):
            await wire.json({"input_tokens": tokens})
        else:
            await wire.json({"error": "no"}, status=500)

    async def test() -> None:
        async with rig(lambda w: place(w, 5), lambda w: place(w, 60), adapter="llama.cpp") as r:
            r.purse.cap_nusd = 400_000  # 40 tokens: of the first place's, and not of the second's
            a = await r.ask(CHAT | {"max_tokens": 1, "messages": [{"role": "user", "content": "word " * 20}]})
            assert (a.status, a.error["code"]) == (429, "budget_exceeded")
            assert [i.pool for i in r.journal.intents] == ["p0"]
            assert [w.path.rpartition("/")[2] for w in r.engines[1].seen] == ["input_tokens"]
            assert r.purse.held_nusd == 0

    run(test())


def test_an_engine_that_cannot_count_just_now_means_the_bound(tmp_path: Path) -> None:
    async def test() -> None:
        async def broken(wire: Wire) -> None:
            await wire.json({"error": "no"}, status=500)

        async with limited(tmp_path, ("input_tok", "life", 20), script=broken, adapter="llama.cpp") as (r, _):
            a = await r.ask()
            assert (a.status, a.error["code"]) == (429, "budget_exceeded")
            released(r)

    run(test())


def test_an_answer_beyond_its_clamp_counts_as_reserved_and_is_written_down_in_full(tmp_path: Path) -> None:
    async def test() -> None:
        async def wild(wire: Wire) -> None:
            await wire.json(answer_body("x " * 80, output=80))

        async with limited(tmp_path, ("output_tok", "day", 500), script=wild) as (r, control):
            assert (await r.ask(CHAT | {"max_tokens": 50})).status == 200
            (intent,), (end,) = r.journal.intents, r.journal.ends
            assert (intent.held[1], end.took) == (50, (intent.held[0], 80))
            released(r)
            await r.purse.tick()  # type: ignore[attr-defined]
            assert control.summary(2).limits[0].used == 50

    run(test())


BROKEN = b'{"error":{"message":"CUDA error"}}'
BUSY = b'{"error":{"message":"loading model"}}'


@pytest.mark.parametrize("asked", [CHAT, STREAM])
@pytest.mark.parametrize(
    ("adapter", "status", "body", "known"),
    [
        ("openai-compatible", 500, BROKEN, False),
        ("openai-compatible", 502, b"<html>bad gateway</html>", False),
        ("openai-compatible", 504, b"", False),
        ("openai-compatible", 204, b"", False),
        ("openai-compatible", 424, BROKEN, False),
        ("openai-compatible", 503, b"upstream connect error or disconnect/reset before headers", False),
        ("openai-compatible", 503, BUSY, True),
        ("openai-compatible", 429, BUSY, True),
        ("openai-compatible", 400, BROKEN, True),
        ("llama.cpp", 500, BROKEN, False),
        ("llama.cpp", 503, BUSY, True),
        ("openai-compatible", 529, BUSY, False),
        ("anthropic", 529, BUSY, True),
    ],
)
def test_an_error_after_the_request_was_sent_counts_as_reserved_unless_nothing_can_have_been_made(
    tmp_path: Path, asked: dict[str, Any], adapter: str, status: int, body: bytes, known: bool
) -> None:
    async def test() -> None:
        async def broken(wire: Wire) -> None:
            head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await wire.send(head % (status, len(body)) + body)

        async with limited(
            tmp_path, ("nusd", "life", USD), ("output_tok", "day", 500), script=broken, adapter=adapter
        ) as (r, _):
            assert (await r.ask(asked | {"max_tokens": 50})).status >= 400
            (intent,), (end,) = r.journal.intents, r.journal.ends
            assert (end.status, end.usage, end.charge_nusd) == ("failed", None, 0)
            assert end.usage_source == ("none" if known else "unmetered")
            assert end.kept_nusd == (0 if known else intent.reserved_nusd)
            assert end.took[1::2] == ((0,) if known else (50,))
            assert r.purse.used().get(2, 0) == end.kept_nusd  # type: ignore[attr-defined]
            told = r.gateway.snapshot().get("wattmill_unmetered_total", [])
            assert told == ([] if known else [[["p0"], 1]])
            released(r)

    run(test())


@pytest.mark.parametrize("what", ["in flight", "tomorrow", "never"])
def test_a_dear_place_that_never_fits_does_not_hide_that_waiting_opens_a_cheap_one(
    tmp_path: Path, what: str
) -> None:
    """The policy's second choice costs a hundred times as much. What it would take is no reason to tell a
    client that waiting is of no use."""

    async def test() -> None:
        go = asyncio.Event()

        async def slow(wire: Wire) -> None:
            await go.wait()
            await wire.json(answer_body(output=40))

        period: Period = "day" if what == "tomorrow" else "life"
        with Control(tmp_path / "control.db") as control:
            team = control.put_team(control.put_org("demo"), "load")
            control.create_key(team, "me")
            Limits(control).put(team, "nusd", period, 2_200_000)
            async with rig(slow, slow) as r:
                r.purse = Allotments(control, EPOCH, patience_s=0.1)  # type: ignore[assignment]
                services = r.services()
                dear = services.backends["p1"]
                model = dear.models["m"]
                model = replace(model, charge=price(3, 1_000, 2_000))
                backends = {**services.backends, "p1": replace(dear, models={"m": model})}
                r.gateway.use(dataclasses.replace(services, backends=backends))
                first = asyncio.create_task(r.ask(CHAT | {"max_tokens": 50}))
                await until(lambda: bool(r.engines[0].seen))
                if what != "in flight":
                    go.set()
                    await first
                    assert (await r.ask(CHAT | {"max_tokens": 50})).status == 200
                told = await r.ask(CHAT | {"max_tokens": 50})
                go.set()
                await first
                assert told.status == 429 and not r.engines[1].seen
                if what == "never":
                    assert told.error["code"] == "budget_exceeded"
                    assert told.headers["x-should-retry"] == "false"
                    assert "more than the whole of it" not in told.error["message"]
                else:
                    assert told.error["code"] == "limit_reached", told.error
                    assert "x-should-retry" not in told.headers and "retry-after" in told.headers

    run(test())
