"""Breakers, budgets for trying again, last resorts and Retry-After, on real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from gateway_rig import CHAT, STREAM, Rig, Wire, rig, run, until, well

from wattmill.distribution.breaker import BreakerRules
from wattmill.distribution.resilience import Resilience
from wattmill.distribution.retry_budget import RetryRules
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request


def use(r: Rig, **rules: Any) -> None:
    r.more = {**getattr(r, "more", {}), "resilience": Resilience(**rules)}
    r.gateway.use(r.services())


async def unwell(wire: Wire) -> None:
    await wire.json({"error": {"message": "no"}}, status=503)


def switch(first: Any, then: Any, *, after: int) -> Any:
    """Serve `after` requests by one script, and all later ones by the other."""
    served = 0

    async def script(wire: Wire) -> None:
        nonlocal served
        served += 1
        await (first if served <= after else then)(wire)

    return script


def test_a_place_whose_models_answer_and_whose_answers_fail_is_not_trusted_after_a_probe() -> None:
    """`GET /models` half-opens; only good answers close. One trial at a time reaches the engine."""

    async def test() -> None:
        async with rig(unwell, well) as r:
            rules = BreakerRules(failures=2, first_open_s=0.05, longest_open_s=0.1)
            use(r, breaker=rules, retries=RetryRules(burst=1_000.0))
            state = r.gateway.state("p0")
            for _ in range(40):
                assert (await r.ask()).status == 200
                await asyncio.sleep(0.01)
            assert state.opened >= 2
            # 40 requests, and only those before it opened and single trials went to the sick place.
            assert len(r.engines[0].seen) <= 2 + state.opened
            r.assert_balanced()

    run(test())


def test_a_place_that_is_well_again_gets_its_requests_back() -> None:
    async def test() -> None:
        async with rig(switch(unwell, well, after=3), well) as r:
            use(r, breaker=BreakerRules(failures=3, first_open_s=0.05))
            state = r.gateway.state("p0")
            for _ in range(3):
                assert (await r.ask()).headers["x-wattmill-pool"] == "p1"
            assert state.state == "open"
            assert (await r.ask()).headers["x-wattmill-pool"] == "p1"
            await until(lambda: state.healthy)
            for _ in range(3):
                assert (await r.ask()).headers["x-wattmill-pool"] == "p0"
            assert state.state == "closed"

    run(test())


def test_a_stream_that_still_runs_frees_the_next_trial_with_its_first_content() -> None:
    release = asyncio.Event()

    async def slow_end(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a")
        await release.wait()
        await wire.chunk("b", finish="stop")
        await wire.usage_chunk(5, 2)
        await wire.done()

    async def test() -> None:
        async with rig(slow_end) as r:
            use(r, breaker=BreakerRules(first_open_s=0.01, trial_s=30.0))
            state = r.gateway.state("p0")
            state.failed("planted", now_s=r.clock.now(), surely_down=True)
            await until(lambda: state.state == "half_open")
            one = await r.connect()
            await one.send(STREAM)
            await until(lambda: len(r.engines[0].seen) == 1)
            await one.head()
            await until(lambda: state.healthy)
            assert state.state == "half_open"
            two = await r.connect()
            await two.send(STREAM)
            await until(lambda: len(r.engines[0].seen) == 2)
            release.set()
            await until(lambda: state.state == "closed")

    run(test())


@pytest.mark.parametrize("whose", ["place 'p0'", "this key"])
def test_what_is_tried_again_never_exceeds_the_declared_share(whose: str) -> None:
    async def test() -> None:
        async with rig(unwell, well) as r:
            never = BreakerRules(failures=10**6, share=1.0, window=10_000)
            use(r, breaker=never, retries=RetryRules(share=0.1, per_s=0.0, burst=2.0))
            answers = []
            for _ in range(60):
                for _ in range(20 if whose == "this key" else 0):  # a busy place, but not by this key
                    r.gateway.retries.asked("p0", 999)
                answers.append(await r.ask())
            served = sum(answer.status == 200 for answer in answers)
            assert served == len(r.engines[1].seen)
            assert 2 + 4 <= served <= 2 + 6  # burst + share x requests
            refused = next(answer for answer in answers if answer.status != 200)
            assert refused.error["code"] == "upstream_failed"
            assert f"the budget of {whose} for trying again is used up" in refused.error["message"]
            r.assert_balanced()

    run(test())


def test_no_request_is_tried_more_often_than_declared() -> None:
    async def test() -> None:
        async with rig(unwell, unwell, unwell, well) as r:
            use(r, attempts=3)
            answer = await r.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
            assert [len(engine.seen) for engine in r.engines] == [1, 1, 1, 0]

    run(test())


def test_where_every_breaker_is_open_a_place_that_can_be_reached_is_tried_all_the_same() -> None:
    async def test() -> None:
        async with rig(switch(unwell, well, after=3)) as r:
            use(r, breaker=BreakerRules(failures=3, first_open_s=60.0, longest_open_s=60.0))
            state = r.gateway.state("p0")
            for _ in range(3):
                assert (await r.ask()).status == 502
            assert state.state == "open" and not state.healthy
            answer = await r.ask()
            assert answer.status == 200  # and not "no_healthy_place"
            assert state.state == "half_open"
            r.assert_balanced()

    run(test())


def test_a_place_that_nobody_can_connect_to_is_no_last_resort() -> None:
    async def test() -> None:
        async with rig(well) as r:
            use(r, breaker=BreakerRules(first_open_s=60.0, longest_open_s=60.0))
            await r.engines[0].stop()
            assert (await r.ask()).error["code"] == "upstream_failed"
            assert (await r.ask()).error["code"] == "no_healthy_place"

    run(test())


def test_a_last_resort_is_bounded_by_the_budget_for_trying_again() -> None:
    async def test() -> None:
        async with rig(unwell) as r:
            rules = BreakerRules(failures=1, first_open_s=60.0, longest_open_s=60.0)
            use(r, breaker=rules, retries=RetryRules(share=0.0, per_s=0.0, burst=5.0))
            codes = [(await r.ask()).error["code"] for _ in range(20)]
            assert codes == ["upstream_failed"] * 6 + ["no_healthy_place"] * 14
            assert len(r.engines[0].seen) == 6

    run(test())


def test_when_all_candidates_have_failed_the_fleet_is_looked_at_again() -> None:
    """A place that was left out when the request was routed may serve it now."""

    async def test() -> None:
        async with rig(unwell, well) as r:
            use(r)
            services = r.services()
            whole = services.route
            asked = 0

            def route(ask: Request, caller: Any, *more: Any) -> Any:
                nonlocal asked
                asked += 1
                route = whole(ask, caller, *more)
                assert not isinstance(route, Refusal)
                return msgspec.structs.replace(route, candidates=route.candidates[:asked])

            services.route = route
            r.gateway.use(services)
            answer = await r.ask()
            assert (answer.status, answer.headers["x-wattmill-pool"], asked) == (200, "p1", 2)
            first, second = r.journal.intents
            assert first.route is not None and len(first.route.candidates) == 1
            assert second.route is not None and len(second.route.candidates) == 2  # its own decision
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("status", [429, 503])
def test_a_place_that_asks_for_rest_gets_it(status: int) -> None:
    async def tired(wire: Wire) -> None:
        await wire.json({"error": {"message": "slow down"}}, status=status, extra="retry-after: 1\r\n")

    async def test() -> None:
        async with rig(switch(tired, well, after=1), well) as r:
            use(r)
            began_s = r.clock.now()
            pools = []
            while r.clock.now() - began_s < 0.8:
                pools.append((await r.ask()).headers["x-wattmill-pool"])
                await asyncio.sleep(0.02)
            assert set(pools) == {"p1"} and len(pools) > 10
            assert len(r.engines[0].seen) == 1
            await until(lambda: r.gateway.state("p0").healthy)
            assert (await r.ask()).headers["x-wattmill-pool"] == "p0"

    run(test())


def test_a_place_that_is_asked_for_nothing_is_no_last_resort_while_it_rests() -> None:
    async def tired(wire: Wire) -> None:
        await wire.json({"error": {"message": "slow down"}}, status=429, extra="retry-after: 30\r\n")

    async def test() -> None:
        async with rig(tired) as r:
            use(r)
            assert (await r.ask()).error["code"] == "upstream_rate_limited"
            assert (await r.ask()).error["code"] == "no_healthy_place"
            assert len(r.engines[0].seen) == 1

    run(test())


@pytest.mark.parametrize("payer", ["operator", "tenant"])
def test_who_pays_for_a_failover_is_declared(payer: str) -> None:
    async def half(wire: Wire) -> None:
        await wire.stream_head()
        await wire.event(
            {"id": "e", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
        )
        wire.reset()

    async def test() -> None:
        async with rig(half, well, adapter="vllm") as r:
            use(r, failovers_pay=payer)
            assert (await r.ask(CHAT)).status == 200  # assembled: the client saw nothing of the first
            first, second = r.journal.ends
            assert first.status == "failed" and first.usage is not None and first.cost_nusd > 0
            assert (first.charge_nusd > 0) == (payer == "tenant")
            assert second.status == "finished" and second.charge_nusd > 0
            r.assert_balanced()

    run(test())


def test_a_worker_that_was_held_up_reads_what_came_before_it_calls_a_place_silent() -> None:
    """The loop stands still for longer than the time-out; the answer comes as soon as it runs again."""
    go = asyncio.Event()

    async def when_told(wire: Wire) -> None:
        await go.wait()
        await well(wire)

    async def test() -> None:
        async with rig(when_told, idle_timeout_s=0.3, first_byte_timeout_s=0.3) as r:
            use(r)
            client = await r.connect()
            await client.send(STREAM)
            await until(lambda: r.engines[0].seen)
            go.set()
            began_s = r.clock.now()
            while r.clock.now() - began_s < 1.0:  # nothing runs on this loop meanwhile: no engine, no sweep
                pass
            answer = await client.answer()
            assert answer.text == "hello" and [end.status for end in r.journal.ends] == ["finished"]

    run(test())
