"""Engines that refuse, hang and break off: what the client sees, and that the books close each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gateway_rig import STREAM, Wire, answer_body, rig, run, until, well

Script = Callable[[Wire], Awaitable[None]]


def status(code: int, text: str = "no", extra: str = "") -> Script:
    async def script(wire: Wire) -> None:
        await wire.json({"error": {"message": text}}, status=code, extra=extra)

    return script


async def reset_at_once(wire: Wire) -> None:
    wire.reset()


async def close_at_once(wire: Wire) -> None:
    wire.writer.close()


async def garbage(wire: Wire) -> None:
    await wire.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def truncated_head(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-le")
    wire.writer.close()


async def reset_after_role(wire: Wire) -> None:
    await wire.stream_head()
    await wire.event({"id": "e", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    wire.reset()


async def malformed_first_event(wire: Wire) -> None:
    await wire.stream_head()
    await wire.event(b"data: {not json\n\n")
    await wire.until_left()


async def error_event(wire: Wire) -> None:
    await wire.stream_head()
    await wire.event({"error": {"message": "out of memory"}})
    await wire.until_left()


async def not_a_stream(wire: Wire) -> None:
    await wire.json(answer_body() if not wire.body.get("stream") else {"choices": "none"})


async def ends_before_content(wire: Wire) -> None:
    await wire.stream_head()
    await wire.send(b"0\r\n\r\n")


async def not_json(wire: Wire) -> None:
    await wire.json(b"<html>")


async def impossible_usage(wire: Wire) -> None:
    await wire.json(
        answer_body()
        | {
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 9},
            }
        }
    )


STREAM_FAULTS = [
    status(500),
    status(503),
    status(404),
    status(429, extra="retry-after: 7\r\n"),
    status(401),
    status(402),
    status(403),
    reset_at_once,
    close_at_once,
    garbage,
    truncated_head,
    reset_after_role,
    malformed_first_event,
    error_event,
    not_a_stream,
    ends_before_content,
]
WHOLE_FAULTS = [
    status(500),
    status(429),
    status(401),
    reset_at_once,
    close_at_once,
    garbage,
    truncated_head,
    not_json,
    impossible_usage,
]


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_what_fails_before_the_first_content_of_a_stream_is_unseen_by_its_client(fault: Script) -> None:
    async def test() -> None:
        async with rig(fault, well) as r:
            a = await r.ask(STREAM)
            assert a.status == 200 and a.text == "hello" and a.headers["x-wattmill-pool"] == "p1"
            assert a.chunks[-1] == b"data: [DONE]\n\n"
            first, second = r.journal.ends
            assert (first.status, first.charge_nusd) == ("failed", 0) and first.error
            assert (second.status, second.charge_nusd) == ("finished", 90_000)
            one, two = r.journal.intents
            assert (one.request, one.attempt, two.request, two.attempt) == (one.seq, 0, one.seq, 1)
            assert one.route is not None and two.route is None
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("fault", WHOLE_FAULTS)
def test_a_whole_answer_fails_over_too(fault: Script) -> None:
    async def test() -> None:
        async with rig(fault, well) as r:
            a = await r.ask()
            assert a.status == 200 and a.headers["x-wattmill-pool"] == "p1"
            assert [e.status for e in r.journal.ends] == ["failed", "finished"]
            assert r.gateway.snapshot()["wattmill_failovers_total"] == [[["p1"], 1]]
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize(
    ("fault", "http", "code", "retry"),
    [
        (status(500, "boom"), 502, "upstream_failed", True),
        (status(429, "slow down", "retry-after: 7\r\n"), 429, "upstream_rate_limited", True),
        (status(401, "bad key Bearer factory-secret"), 502, "provider_auth", False),
        (status(402), 502, "provider_auth", False),
        (status(403), 502, "provider_auth", False),
        (status(400, "temperature must be below 2"), 400, "upstream_rejected", False),
        (status(422, "no"), 400, "upstream_rejected", False),
        (reset_at_once, 502, "upstream_failed", True),
        (garbage, 502, "upstream_failed", True),
        (malformed_first_event, 502, "upstream_failed", True),
        (error_event, 502, "upstream_failed", True),
    ],
)
@pytest.mark.parametrize("adapter", ["openai-compatible", "llama.cpp"])
def test_the_last_candidates_failure_is_told_in_openais_shape(
    fault: Script, http: int, code: str, retry: bool, adapter: str
) -> None:
    async def test() -> None:
        async with rig(fault, adapter=adapter) as r:
            a = await r.ask(STREAM)
            assert (a.status, a.error["code"]) == (http, code)
            assert ("retry-after" in a.headers) == retry
            assert ("x-should-retry" in a.headers) == (not retry)
            assert "factory-secret" not in a.body.decode()
            if code == "upstream_rate_limited":
                assert a.headers["retry-after"] == "7"
            if http == 400:
                assert r.engines[0].seen[0].body and (
                    "temperature" in a.body.decode() or "no" in a.body.decode()
                )
            (end,) = r.journal.ends
            assert end.status == "failed" and end.charge_nusd == 0
            r.assert_balanced()

    run(test())


def test_an_engines_refusal_is_final_and_quotes_it_without_the_factorys_key() -> None:
    async def test() -> None:
        async with rig(status(400, "your key factory-secret may not use top_k"), well) as r:
            a = await r.ask()
            assert (a.status, a.error["code"]) == (400, "upstream_rejected")
            assert "your key [redacted] may not use top_k" in a.error["message"]
            assert len(r.engines[1].seen) == 0
            r.assert_balanced()

    run(test())


def test_a_place_that_refuses_connections_is_passed_over_and_probed_until_it_is_back() -> None:
    async def test() -> None:
        async with rig(well, well) as r:
            port = r.engines[0].port
            await r.engines[0].stop()
            a = await r.ask()
            assert a.headers["x-wattmill-pool"] == "p1"
            assert [e.usage_source for e in r.journal.ends] == ["none", "measured"]
            assert not r.gateway.state("p0").healthy
            await r.ask()
            assert len(r.journal.intents) == 3  # no second try at the place that is down
            await r.engines[0].start(port=port)
            await until(lambda: r.gateway.state("p0").healthy)
            assert (await r.ask()).headers["x-wattmill-pool"] == "p0"
            r.assert_balanced()

    run(test())


def test_a_place_that_hangs_is_left_after_its_first_byte_time() -> None:
    async def hang(wire: Wire) -> None:
        await wire.until_left()

    async def test() -> None:
        async with rig(hang, well, first_byte_timeout_s=0.15) as r:
            a = await r.ask(STREAM)
            assert a.headers["x-wattmill-pool"] == "p1"
            await asyncio.wait_for(r.engines[0].left.wait(), 2)
            first = r.journal.ends[0]
            assert (first.status, first.error, first.charge_nusd) == ("failed", "timeout", 0)
            assert (
                first.usage_source == "estimated" and first.cost_nusd > 0
            )  # it may have worked on the prompt
            r.assert_balanced()

    run(test())


def test_a_connection_that_cannot_be_made_in_time_counts_as_down() -> None:
    async def test() -> None:
        async with rig(well, well, connect_timeout_s=0.1) as r:
            up = r.gateway.upstreams["p0"]

            async def never() -> Any:
                await asyncio.sleep(60)

            up.open = never  # type: ignore[method-assign]
            a = await r.ask()
            assert a.headers["x-wattmill-pool"] == "p1"
            assert "connect_timeout_s" in (r.gateway.state("p0").last_error or "")
            r.assert_balanced()

    run(test())


def stream_then(end: Script, chunks: int = 3) -> Script:
    async def script(wire: Wire) -> None:
        await wire.stream_head()
        for i in range(chunks):
            await wire.chunk(f"w{i} ")
        await asyncio.sleep(0.02)
        await end(wire)

    return script


async def bad_event(wire: Wire) -> None:
    await wire.event(b"data: {\n\n")
    await wire.until_left()


async def no_event(wire: Wire) -> None:
    await wire.event(b"what is this\n\n")
    await wire.until_left()


async def bad_chunking(wire: Wire) -> None:
    await wire.send(b"zz\r\n")
    await wire.until_left()


async def early_end(wire: Wire) -> None:
    await wire.send(b"0\r\n\r\n")


@pytest.mark.parametrize("end", [reset_at_once, close_at_once, bad_event, no_event, bad_chunking, early_end])
@pytest.mark.parametrize("chunks", [1, 3])
def test_after_the_first_content_a_failure_is_an_error_event_and_no_done(end: Script, chunks: int) -> None:
    async def test() -> None:
        async with rig(stream_then(end, chunks), well) as r:
            a = await r.ask(STREAM)
            assert a.status == 200
            assert a.text == "".join(f"w{i} " for i in range(chunks))
            error = a.events[-1]["error"]
            assert (error["code"], error["type"]) == ("upstream_failed", "upstream_error")
            assert error["request_id"] == a.headers["x-request-id"]
            assert b"[DONE]" not in a.body
            (end_fact,) = r.journal.ends
            assert (end_fact.status, end_fact.usage_source) == ("failed", "estimated")
            assert end_fact.usage is not None and end_fact.usage.output_tok == chunks
            assert end_fact.charge_nusd > 0  # what was delivered is paid
            assert not r.engines[1].seen
            r.assert_balanced()

    run(test())


def test_an_engine_that_falls_silent_in_mid_stream_is_cut_off() -> None:
    async def silent(wire: Wire) -> None:
        await wire.until_left()

    async def test() -> None:
        async with rig(stream_then(silent), idle_timeout_s=0.15) as r:
            a = await r.ask(STREAM)
            assert a.events[-1]["error"]["code"] == "upstream_timeout"
            await asyncio.wait_for(r.engines[0].left.wait(), 2)
            r.assert_balanced()

    run(test())


def test_a_slow_but_steady_engine_is_not_cut_off() -> None:
    async def steady(wire: Wire) -> None:
        await wire.stream_head()
        for i in range(6):
            await wire.chunk(f"{i}")
            await asyncio.sleep(0.1)
        await wire.chunk(None, finish="stop")
        await wire.usage_chunk(1, 6)
        await wire.done()

    async def test() -> None:
        async with rig(steady, idle_timeout_s=0.35, first_byte_timeout_s=0.35) as r:
            a = await r.ask(STREAM)
            assert a.text == "012345" and a.chunks[-1] == b"data: [DONE]\n\n"
            r.assert_balanced()

    run(test())
