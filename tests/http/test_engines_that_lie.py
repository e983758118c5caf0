"""Engines that pass their clamp, count wrongly or give what is no answer: what is passed on, and booked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gateway_rig import CHAT, STREAM, Wire, answer_body, rig, run

from wattmill.distribution.spec import Limits
from wattmill.vocab.fact import Progress

Script = Callable[[Wire], Awaitable[None]]


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
