"""Engines that refuse, hang, break off and lie: what the client sees, and that the books close each time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gateway_rig import CHAT, STREAM, Answer, Rig, Wire, answer_body, rig, run, until, well

from wattmill.distribution.spec import Limits
from wattmill.vocab.fact import Progress
from wattmill.vocab.usage import Usage

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


# ---- clients that leave


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


# ---- the clamp, and numbers that lie


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_passes_its_clamp_is_cut_and_its_client_gets_a_proper_end(stream: bool) -> None:
    async def chatter(wire: Wire) -> None:
        await wire.stream_head()
        with_timings = {"prompt_n": 5, "prompt_ms": 1, "predicted_ms": 1}
        for i in range(1, 1_000):
            await wire.chunk("x", timings=with_timings | {"predicted_n": i})
            await asyncio.sleep(0)

    async def test() -> None:
        async with rig(chatter, adapter="llama.cpp") as r:
            asked = CHAT | {"stream": stream, "max_tokens": 4}
            if stream:
                asked["stream_options"] = {"include_usage": True}
            a = await r.ask(asked)
            assert a.status == 200
            (end,) = r.journal.ends
            assert (end.status, end.error) == ("cut", "clamp")
            assert end.usage is not None and end.usage.output_tok >= 5  # booked in full
            if stream:
                assert a.text == "xxxx" and a.chunks[-1] == b"data: [DONE]\n\n"
                events = [e for e in a.events if isinstance(e, dict)]
                assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1] == "length"
                assert events[-1]["usage"]["completion_tokens"] == end.usage.output_tok
            else:
                choice = a.json["choices"][0]
                assert (choice["message"]["content"], choice["finish_reason"]) == ("xxxx", "length")
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("adapter", ["openai-compatible", "llama.cpp"])
@pytest.mark.parametrize("stream", [False, True])
def test_usage_beyond_the_reservation_is_booked_and_the_excess_is_the_operators(
    adapter: str, stream: bool
) -> None:
    async def liar(wire: Wire) -> None:
        if wire.body.get("stream"):
            await wire.stream_head()
            await wire.chunk("a")
            await wire.chunk(None, finish="stop")
            await wire.usage_chunk(1_000_000, 1)
            await wire.done()
        else:
            await wire.json(answer_body(prompt=1_000_000, output=1))

    async def test() -> None:
        async with rig(liar, adapter=adapter) as r:
            a = await r.ask(CHAT | {"stream": stream})
            assert a.status == 200
            (end,), (intent,) = r.journal.ends, r.journal.intents
            assert end.usage is not None and end.usage.prompt_tok == 1_000_000
            assert end.charge_nusd == intent.reserved_nusd
            assert end.charge_nusd + end.overrun_nusd == 1_000_000 * 10_000 + 20_000
            assert r.gateway.snapshot()["wattmill_overrun_nusd_total"] == [[["p0"], end.overrun_nusd]]
            r.assert_balanced()

    run(test())


def test_an_answer_without_usage_is_unmetered_and_stays_charged_at_its_reservation() -> None:
    async def silent(wire: Wire) -> None:
        body = answer_body()
        del body["usage"]
        await wire.json(body)

    async def test() -> None:
        async with rig(silent) as r:
            a = await r.ask()
            (end,), (intent,) = r.journal.ends, r.journal.intents
            assert a.status == 200 and (end.usage, end.usage_source) == (None, "unmetered")
            assert end.charge_nusd == intent.reserved_nusd
            assert r.gateway.snapshot()["wattmill_unmetered_total"] == [[["p0"], 1]]
            r.assert_balanced()

    run(test())


def test_a_stream_without_done_that_finished_is_finished() -> None:
    async def forgetful(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a", finish="stop")
        await wire.usage_chunk(1, 1)
        await wire.send(b"0\r\n\r\n")

    async def test() -> None:
        async with rig(forgetful) as r:
            a = await r.ask(STREAM)
            assert a.text == "a" and a.chunks[-1] == b"data: [DONE]\n\n"
            assert r.journal.ends[0].status == "finished"
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("cut", [1, 2, 7, 50])
def test_events_may_be_cut_anywhere_and_lines_may_end_in_crlf(cut: int) -> None:
    async def ragged(wire: Wire) -> None:
        chunk = {"id": "e", "choices": [{"index": 0, "delta": {"content": "é"}, "finish_reason": None}]}
        last = {"id": "e", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"id": "e", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
        text = "".join(
            f"data: {json.dumps(c, ensure_ascii=False)}\r\n\r\n" for c in (chunk, chunk, chunk, last, usage)
        )
        data = (text + "data: [DONE]\r\n\r\n").encode()
        await wire.stream_head()
        for at in range(0, len(data), cut):
            part = data[at : at + cut]
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        await wire.send(b"0\r\n\r\n")

    async def test() -> None:
        async with rig(ragged) as r:
            a = await r.ask(STREAM)
            assert a.text == "ééé" and a.chunks[-1] == b"data: [DONE]\n\n"
            assert r.journal.ends[0].usage.output_tok == 3  # type: ignore[union-attr]
            r.assert_balanced()

    run(test())


def test_a_very_long_whole_answer_passes_through_and_is_still_metered() -> None:
    for usage_first in (False, True):

        async def long(wire: Wire, usage_first: bool = usage_first) -> None:
            body = answer_body("x" * 300_000, prompt=7, output=9)
            if usage_first:
                body = {"usage": body.pop("usage"), **body}
            await wire.json(body)

        async def test(script: Script = long) -> None:
            async with rig(script, limits=Limits(answer_buffer_bytes=100_000)) as r:
                a = await r.ask()
                assert len(a.json["choices"][0]["message"]["content"]) == 300_000
                assert "x-wattmill-charge-usd" not in a.headers
                (end,) = r.journal.ends
                assert end.usage is not None and (end.usage.prompt_tok, end.usage.output_tok) == (7, 9)
                r.assert_balanced()

        run(test())


def _typed(kind: str, body: bytes) -> Script:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def script(wire: Wire) -> None:
        await wire.send(head + body)

    return script


_PAGE = _typed("text/html; charset=utf-8", b"<!doctype html><title>It works!</title>")
_EVENTS = b'data: {"choices":[]}\n\n' * 10_000


@pytest.mark.parametrize(
    ("ask", "path", "fault", "says"),
    [
        (STREAM, "/v1/chat/completions", _PAGE, "a web page; does its pool's base_url"),
        (CHAT, "/v1/chat/completions", _PAGE, "a web page; does its pool's base_url"),
        (CHAT, "/v1/chat/completions", _typed("application/json", b""), "answer is empty"),
        (CHAT, "/v1/chat/completions", _typed("text/event-stream", _EVENTS[:40]), "sent a stream of events"),
        (CHAT, "/v1/chat/completions", _typed("application/json", _EVENTS), "sent a stream of events"),
        (CHAT, "/v1/chat/completions", _typed("text/plain", b"Hello"), "begins with 'Hello'"),
        (CHAT, "/v1/messages", _PAGE, "a web page; does its pool's base_url"),
    ],
)
def test_what_is_no_answer_is_named_by_what_it_is_and_never_passed_on(
    ask: dict[str, Any], path: str, fault: Script, says: str
) -> None:
    async def test() -> None:
        async with rig(fault, limits=Limits(answer_buffer_bytes=100_000)) as r:
            a = await r.ask(ask, path=path)
            assert a.status == 502 and says in a.error["message"]
            assert [e.status for e in r.journal.ends] == ["failed"]
            r.assert_balanced()

    run(test())


_DEEP = b'{"choices":[],"more":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adapter", ["openai-compatible", "anthropic", "llama.cpp"])
def test_an_answer_nested_without_end_is_a_bad_answer_and_no_defect(
    path: str, stream: bool, adapter: str
) -> None:
    async def deep(wire: Wire) -> None:
        if not wire.body.get("stream"):
            await wire.json(_DEEP)
            return
        await wire.stream_head()
        await wire.event(b"data: %b\n\n" % _DEEP)
        await wire.until_left()

    async def test() -> None:
        async with rig(deep, adapter=adapter) as r:
            a = await r.ask(STREAM if stream else CHAT, path=path)
            assert a.status == 502 and a.error.get("code", "upstream_failed") == "upstream_failed"
            assert not any(n for _, n in r.gateway.snapshot()["wattmill_defects_total"])
            assert [e.status for e in r.journal.ends] == ["failed"]
            r.assert_balanced()

    run(test())


def test_progress_of_a_long_stream_is_marked_each_second() -> None:
    async def slow(wire: Wire) -> None:
        await wire.stream_head()
        for i in range(5):
            await wire.chunk(str(i))
        await asyncio.sleep(1.3)
        await wire.chunk(None, finish="stop")
        await wire.usage_chunk(1, 5)
        await wire.done()

    async def test() -> None:
        async with rig(slow) as r:
            await r.ask(STREAM)
            marks = r.journal.of(Progress)
            assert marks and all(m.output_tok == 5 and m.seq == 1 for m in marks)

    run(test())


# ---- defects of our own


def broken(r: Rig, where: str) -> None:
    """Plant a defect that raises where it is reached."""

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"planted in {where}")

    services = r.gateway.services
    if where == "end":
        r.journal.ends_fail = True
    elif where in ("identify", "route", "rate", "worst_case", "energy", "admit"):
        setattr(services, where, boom)
    elif where == "reserve":
        r.purse.reserve = boom  # type: ignore[method-assign]
    elif where == "lease":
        r.purse.lease_first = True
        r.purse.lease = boom  # type: ignore[method-assign]
    elif where == "intent":
        r.journal.append_intent = boom  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "where", ["identify", "route", "rate", "worst_case", "energy", "admit", "reserve", "lease", "intent"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_is_a_logged_500_and_leaks_nothing(where: str, stream: bool) -> None:
    async def test() -> None:
        async with rig() as r:
            broken(r, where)
            a: Answer = await r.ask(CHAT | {"stream": stream})
            if a.status == 200:  # the stream had begun
                assert a.events[-1]["error"]["code"] == "internal"
            else:
                assert (a.status, a.error["code"]) == (500, "internal")
            assert [str(e) for e in r.logged] == [f"planted in {where}"]
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("method", ["feed", "reading"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_in_an_adapter_leaks_nothing(
    method: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wattmill.models.engines.tally import Tally

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Tally, method, boom)

    async def test() -> None:
        async with rig(adapter="llama.cpp") as r:
            a = await r.ask(CHAT | {"stream": stream})
            code = a.events[-1]["error"]["code"] if a.status == 200 else a.error["code"]
            assert code == "internal" and len(r.logged) == 1
            r.assert_balanced()
            monkeypatch.undo()
            assert (await r.ask()).status == 200

    run(test())


def test_an_end_that_cannot_be_written_keeps_its_reservation_charged() -> None:
    async def test() -> None:
        async with rig() as r:
            r.journal.ends_fail = True
            a = await r.ask()
            assert a.status == 200
            (intent,) = r.journal.intents
            assert r.purse.held_nusd == 0 and r.purse.spent_nusd == intent.reserved_nusd
            assert r.gateway.snapshot()["wattmill_journal_failures_total"] == [[[], 1]]

    run(test())
