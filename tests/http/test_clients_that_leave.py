"""Clients that leave: the engine is stopped, what was made is paid for, a lingering slot stays taken."""

from __future__ import annotations

import asyncio
import time

import pytest
from gateway_rig import CHAT, STREAM, Wire, rig, run, until

from wattmill.vocab.usage import Usage


@pytest.mark.parametrize("adapter", ["openai-compatible", "llama.cpp"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer_stops_the_engine_within_50_ms(
    adapter: str, stream: bool
) -> None:
    left_at: list[float] = []

    async def think(wire: Wire) -> None:
        await wire.until_left()
        left_at.append(time.monotonic())

    async def test() -> None:
        async with rig(think, adapter=adapter) as r:
            client = await r.connect()
            await client.send(STREAM if stream else CHAT)
            await r.engines[0].arrived.wait()
            gone = time.monotonic()
            client.abort()
            await asyncio.wait_for(r.engines[0].left.wait(), 2)
            assert left_at[0] - gone < 0.05 + 0.2  # a busy machine's share
            await until(lambda: r.journal.ends)
            (end,) = r.journal.ends
            assert end.status == "aborted" and end.usage_source in ("estimated", "unmetered")
            assert end.charge_nusd > 0  # a cap once spent is not given back on a guess
            assert r.gateway.snapshot()["wattmill_aborts_total"] == [[["p0"], 1]]
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_produced() -> None:
    async def script(wire: Wire) -> None:
        await wire.stream_head()
        for i in range(4):
            await wire.chunk(
                f"{i}", timings={"prompt_n": 6, "predicted_n": i + 1, "prompt_ms": 1, "predicted_ms": 1}
            )
        await wire.until_left()

    async def test() -> None:
        async with rig(script, adapter="llama.cpp") as r:
            client = await r.connect()
            await client.send(STREAM)
            await client.reader.readuntil(b'"content":"3"')
            client.abort()
            await asyncio.wait_for(r.engines[0].left.wait(), 2)
            await until(lambda: r.journal.ends)
            (end,) = r.journal.ends
            assert (end.status, end.usage_source) == ("aborted", "estimated")
            assert end.usage is not None and (end.usage.prompt_tok, end.usage.output_tok) == (6, 4)
            assert end.charge_nusd == 6 * 10_000 + 4 * 20_000
            r.assert_balanced()

    run(test())


def test_a_client_that_half_closes_is_taken_as_gone() -> None:
    async def think(wire: Wire) -> None:
        await wire.until_left()

    async def test() -> None:
        async with rig(think) as r:
            client = await r.connect()
            await client.send(STREAM)
            await r.engines[0].arrived.wait()
            client.writer.write_eof()
            await asyncio.wait_for(r.engines[0].left.wait(), 2)
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_while_a_lease_is_asked_for_leaves_nothing_reserved() -> None:
    async def test() -> None:
        async with rig() as r:
            r.purse.lease_first = True
            r.purse.lease_gate = asyncio.Event()
            client = await r.connect()
            await client.send()
            await until(lambda: r.gateway.in_flight)
            client.abort()
            await until(lambda: not r.gateway.in_flight)
            r.purse.lease_gate.set()
            await until(lambda: r.purse.grants and r.purse.grants[0].settled is not None)
            assert r.purse.grants[0].settled == 0 and not r.engines[0].seen
            r.assert_balanced()

    run(test())


def test_an_aborted_slot_stays_busy_until_the_engine_says_it_is_free() -> None:
    async def think(wire: Wire) -> None:
        wire.engine.running = 1
        await wire.until_left()

    async def test() -> None:
        async with rig(think, adapter="llama.cpp") as r:
            client = await r.connect()
            await client.send(STREAM)
            await r.engines[0].arrived.wait()
            client.abort()
            await until(lambda: r.journal.ends)
            state = r.gateway.state("p0")
            assert (state.busy, state.lingering, state.serving) == (1, 1, 0)
            await asyncio.sleep(0.25)
            assert state.busy == 1
            r.engines[0].running = 0
            await until(lambda: state.busy == 0)
            assert state.linger_s is not None and state.linger_s > 0.1
            ((labels, seconds),) = r.gateway.snapshot()["wattmill_abort_linger_seconds_total"]
            assert labels == ["p0"] and seconds > 0.1
            r.assert_balanced()

    run(test())


def test_what_an_aborted_prompt_leaves_in_the_line_stands_there_until_the_engine_is_free() -> None:
    async def think(wire: Wire) -> None:
        wire.engine.running = 1
        await wire.until_left()

    async def test() -> None:
        async with rig(think, adapter="llama.cpp") as r:
            client = await r.connect()
            await client.send(STREAM)
            await r.engines[0].arrived.wait()
            client.abort()
            await until(lambda: r.journal.ends)
            state = r.gateway.state("p0")
            assert state.ahead_tok == r.journal.intents[0].input_bound_tok
            r.engines[0].running = 0
            await until(lambda: state.busy == 0)
            r.assert_balanced()

    run(test())


def test_a_slot_that_lingers_over_a_reload_comes_back_though_another_one_lingers() -> None:
    """The watch of the place's new address took the old one's place, and its slot was never free again."""

    async def think(wire: Wire) -> None:
        wire.engine.running = 1
        await wire.until_left()

    async def test() -> None:
        async with rig(think, adapter="llama.cpp") as r:
            state = r.gateway.state("p0")
            for number in (1, 2):
                client = await r.connect()
                await client.send(STREAM)
                await until(lambda: len(r.journal.intents) == number)  # noqa: B023
                await r.engines[0].arrived.wait()
                client.abort()
                await until(lambda: len(r.journal.ends) == number)  # noqa: B023
                r.backend["idle_timeout_s"] = 50.0 + number
                r.gateway.use(r.services())
            assert (state.busy, state.lingering) == (2, 2)
            r.engines[0].running = 0
            await until(lambda: state.busy == 0)
            assert state.lingering == 0
            r.assert_balanced()

    run(test())


def test_a_prefill_that_was_left_is_booked_with_the_batch_that_the_engine_goes_on_to_compute() -> None:
    async def progress(wire: Wire) -> None:
        await wire.stream_head()
        told = {"total": 3_627, "cache": 24, "processed": 152, "time_ms": 300}
        await wire.event(
            {"choices": [], "timings": {"cache_n": 24, "prompt_n": 128}, "prompt_progress": told}
        )
        await wire.until_left()

    async def test() -> None:
        for batch_tok, prompt_tok in ((128, 24 + 128 + 128), (4_096, 3_627)):
            async with rig(progress, adapter="llama.cpp", batch_tok=batch_tok) as r:
                client = await r.connect()
                await client.send(STREAM)
                await r.engines[0].arrived.wait()
                await asyncio.sleep(0.05)
                client.abort()
                await until(lambda: r.journal.ends)
                (end,) = r.journal.ends
                assert end.usage_source == "estimated" and end.charge_nusd > 0
                assert end.usage == Usage(prompt_tok, 0, 24)

    run(test())
