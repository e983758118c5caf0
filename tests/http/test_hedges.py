"""A second place is asked while the first is silent: first content wins, the loser is booked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_rig import CHAT, STREAM, Rig, Wire, answer_body, rig, run, until, well

from wattmill.distribution.resilience import Resilience
from wattmill.distribution.retry_budget import RetryRules
from wattmill.vocab.fact import End

VLLM = {"adapter": "vllm"}


def use(r: Rig, **rules: Any) -> None:
    r.more = {"resilience": Resilience(**({"hedge_after": "50 ms"} | rules))}
    r.gateway.use(r.services())


async def silent(wire: Wire) -> None:
    await wire.until_left()


async def begins_and_stays(wire: Wire) -> None:
    """The head and the role come at once, content never."""
    await wire.stream_head()
    await wire.event({"id": "late", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    await wire.until_left()


def late(seconds: float) -> Any:
    async def script(wire: Wire) -> None:
        await asyncio.sleep(seconds)
        await well(wire)

    return script


def ends_by_pool(r: Rig) -> dict[str, End]:
    pool_of = {intent.seq: intent.pool for intent in r.journal.intents}
    return {pool_of[end.seq]: end for end in r.journal.ends}


@pytest.mark.parametrize("first", [silent, begins_and_stays])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_late_place_is_overtaken_cancelled_and_booked(first: Any, body: Any) -> None:
    async def test() -> None:
        async with rig(first, well, **VLLM) as r:
            use(r)
            answer = await r.ask(body)
            assert answer.status == 200 and answer.headers["x-wattmill-pool"] == "p1"
            text = answer.text if body is STREAM else answer.json["choices"][0]["message"]["content"]
            assert text == "hello"
            assert b"late" not in answer.body  # not one event of the loser
            await asyncio.wait_for(r.engines[0].left.wait(), 5)  # its way to the engine is closed
            ends = ends_by_pool(r)
            assert (ends["p0"].status, ends["p0"].error, ends["p0"].charge_nusd) == (
                "failed",
                "hedge_lost",
                0,
            )
            assert ends["p0"].cost_nusd > 0  # what it may have used is the operator's
            assert ends["p1"].status == "finished" and ends["p1"].charge_nusd > 0
            assert [i.attempt for i in r.journal.intents] == [0, 1]
            assert len({i.request for i in r.journal.intents}) == 1
            assert r.gateway.state("p0").state == "closed"  # late is not broken
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_the_first_place_may_still_win(body: Any) -> None:
    async def test() -> None:
        async with rig(late(0.12), late(1.0), **VLLM) as r:
            use(r)
            answer = await r.ask(body)
            assert (answer.status, answer.headers["x-wattmill-pool"]) == (200, "p0")
            ends = ends_by_pool(r)
            assert ends["p1"].error == "hedge_lost" and ends["p0"].status == "finished"
            r.assert_balanced()

    run(test())


def test_a_place_that_is_in_time_is_not_hedged() -> None:
    async def test() -> None:
        async with rig(well, well, **VLLM) as r:
            use(r, hedge_after="2 s")
            for _ in range(5):
                assert (await r.ask(STREAM)).status == 200
            assert not r.engines[1].seen and len(r.journal.intents) == 5
            r.assert_balanced()

    run(test())


def test_a_hedge_waits_for_the_percentile_of_the_places_own_times() -> None:
    served = 0

    async def usually_quick(wire: Wire) -> None:
        nonlocal served
        served += 1
        await (well if served <= 25 else silent)(wire)

    async def test() -> None:
        async with rig(usually_quick, well, **VLLM) as r:
            use(r, hedge_after="p95", hedge_least_ms=30)
            for _ in range(25):
                assert (await r.ask(STREAM)).headers["x-wattmill-pool"] == "p0"
            assert not r.engines[1].seen
            began_s = r.clock.now()
            assert (await r.ask(STREAM)).headers["x-wattmill-pool"] == "p1"
            assert r.clock.now() - began_s < 2.0
            r.assert_balanced()

    run(test())


def test_a_hedge_that_cannot_reserve_at_once_does_not_start() -> None:
    async def test() -> None:
        async with rig(late(0.3), well, **VLLM) as r:
            use(r)
            one = r.services().worst_case(r.services().backends["p0"].models["m"].charge, 60, 10)
            r.purse.cap_nusd = one * 3 // 2  # room for one attempt, not for two
            answer = await r.ask(CHAT)
            assert (answer.status, answer.headers["x-wattmill-pool"]) == (200, "p0")
            assert not r.engines[1].seen
            assert r.gateway.metrics.values["wattmill_hedges_total"] == {("p1", "refused"): 1}
            r.assert_balanced()

    run(test())


def test_a_hedge_takes_a_token_of_the_budget_for_further_attempts() -> None:
    async def test() -> None:
        async with rig(late(0.2), well, **VLLM) as r:
            use(r, retries=RetryRules(share=0.0, per_s=0.0, burst=2.0))
            pools = [(await r.ask(CHAT)).headers["x-wattmill-pool"] for _ in range(4)]
            assert pools == ["p1", "p1", "p0", "p0"]
            assert len(r.engines[1].seen) == 2
            r.assert_balanced()

    run(test())


def test_when_the_first_breaks_the_hedge_goes_on_and_when_the_hedge_breaks_the_first_does() -> None:
    async def breaks(wire: Wire) -> None:
        await asyncio.sleep(0.15)
        wire.reset()

    async def test() -> None:
        async with rig(breaks, late(0.3), **VLLM) as r:
            use(r)
            assert (await r.ask(STREAM)).headers["x-wattmill-pool"] == "p1"
            assert len(r.journal.intents) == 2
            r.assert_balanced()
        async with rig(late(0.3), breaks, **VLLM) as r:
            use(r)
            assert (await r.ask(STREAM)).headers["x-wattmill-pool"] == "p0"
            assert len(r.journal.intents) == 2
            r.assert_balanced()

    run(test())


def test_when_both_break_a_third_place_serves() -> None:
    async def breaks(wire: Wire) -> None:
        await asyncio.sleep(0.15)
        wire.reset()

    async def test() -> None:
        async with rig(breaks, breaks, well, **VLLM) as r:
            use(r)
            assert (await r.ask(STREAM)).headers["x-wattmill-pool"] == "p2"
            assert len(r.journal.intents) == 3
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_ends_both() -> None:
    async def test() -> None:
        async with rig(silent, silent, **VLLM) as r:
            use(r)
            client = await r.connect()
            await client.send(STREAM)
            await until(lambda: r.engines[1].seen)
            client.abort()
            await until(lambda: len(r.journal.ends) == 2)
            ends = ends_by_pool(r)
            assert (ends["p0"].status, ends["p1"].error) == ("aborted", "hedge_lost")
            await until(lambda: r.gateway.in_flight == 0)
            r.assert_balanced()

    run(test())


def test_a_refusal_that_no_place_would_change_ends_both() -> None:
    async def no(wire: Wire) -> None:
        await asyncio.sleep(0.15)
        await wire.json({"error": {"message": "bad"}}, status=400)

    async def test() -> None:
        async with rig(no, silent, **VLLM) as r:
            use(r)
            answer = await r.ask(STREAM)
            assert (answer.status, answer.error["code"]) == (400, "upstream_rejected")
            r.assert_balanced()

    run(test())


def test_a_whole_answer_is_hedged_too_and_the_first_whole_one_wins() -> None:
    async def slowly(wire: Wire) -> None:
        await asyncio.sleep(0.5)
        await wire.json(answer_body("slow"))

    async def test() -> None:
        async with rig(slowly, well) as r:
            use(r)
            answer = await r.ask(CHAT)
            assert answer.headers["x-wattmill-pool"] == "p1"
            assert answer.json["choices"][0]["message"]["content"] == "hello"
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("payer", ["operator", "tenant"])
def test_who_pays_the_loser_is_declared(payer: str) -> None:
    async def counted_then_silent(wire: Wire) -> None:
        await wire.stream_head()
        event = {"id": "e", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}
        await wire.event(event | {"usage": {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}})
        await wire.until_left()

    async def test() -> None:
        async with rig(counted_then_silent, well, **VLLM) as r:
            use(r, losers_pay=payer)
            assert (await r.ask(STREAM)).status == 200
            lost = ends_by_pool(r)["p0"]
            assert lost.usage is not None and lost.usage.prompt_tok == 7
            assert lost.charge_nusd == (70_000 if payer == "tenant" else 0)
            r.assert_balanced()

    run(test())


def test_a_slow_reader_and_a_time_out_find_both_attempts_in_order() -> None:
    async def test() -> None:
        async with rig(silent, silent, **VLLM) as r:
            use(r)
            client = await r.connect()
            await client.send(STREAM)
            await until(lambda: r.engines[1].seen)
            await r.server.drain(0.0)
            assert {end.status for end in r.journal.ends} == {"failed"}
            assert len(r.journal.ends) == 2
            r.assert_balanced()

    run(test())


def test_a_hedge_that_is_cancelled_while_it_connects_has_used_nothing() -> None:
    async def test() -> None:
        async with rig(late(0.2), well, **VLLM) as r:
            use(r)

            async def never() -> Any:
                await asyncio.Event().wait()

            r.gateway.upstreams["p1"].open = never  # type: ignore[method-assign]
            assert (await r.ask(CHAT)).headers["x-wattmill-pool"] == "p0"
            lost = ends_by_pool(r)["p1"]
            assert (lost.error, lost.usage, lost.usage_source, lost.cost_nusd) == (
                "hedge_lost",
                None,
                "none",
                0,
            )
            r.assert_balanced()

    run(test())


def test_a_defect_before_a_hedge_has_left_books_no_end_of_what_never_began() -> None:
    async def test() -> None:
        async with rig(silent, well, **VLLM) as r:
            use(r)
            plain = r.journal.append_intent

            def broken(fact: Any) -> None:
                if fact.attempt:
                    raise RuntimeError("a defect")
                plain(fact)

            r.journal.append_intent = broken  # type: ignore[method-assign]
            assert (await r.ask()).status == 500
            assert [type(error) for error in r.logged] == [RuntimeError]
            assert [end.seq for end in r.journal.ends] == [intent.seq for intent in r.journal.intents]
            assert len(r.purse.grants) == 2 and r.purse.held_nusd == 0
            assert r.gateway.state("p1").busy == 0

    run(test())
