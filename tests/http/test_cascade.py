"""Small first: a poor answer goes on to a larger model, with a reservation of its own; nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from gateway_engine import Wire, answer_body, well
from gateway_rig import CHAT, STREAM, Rig, rig, run, until

from wattmill.scheduling.cascade import Signals, escalates
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route

JSON = CHAT | {"response_format": {"type": "json_object"}}


def from_small(
    request: Request, route: Route, pool: str, answer: bytes, clamp_tok: int, wanted: msgspec.Raw | None
) -> tuple[str, int] | None:
    """p0 is the small model, p1 the larger one."""
    if pool != "p0":
        return None
    schema = None if wanted is None else msgspec.json.decode(wanted)
    why = escalates(Signals(), answer, clamp_tok=clamp_tok, asked_tok=request.max_output_tok, schema=schema)
    return None if why is None else (why, 1)


async def cascading(r: Rig) -> None:
    r.more = {"cascade": from_small}
    r.gateway.use(r.services())


def saying(text: str, output: int = 2) -> Any:
    async def script(wire: Wire) -> None:
        if not wire.body.get("stream"):
            await wire.json(answer_body(text, output=output))
            return
        await wire.stream_head()
        await wire.chunk(text)
        await wire.chunk(None, finish="stop")
        await wire.usage_chunk(5, output)
        await wire.done()

    return script


async def failing(wire: Wire) -> None:
    await wire.json({"error": {"message": "broken"}}, status=500)


@pytest.mark.parametrize("adapter", ["openai-compatible", "vllm"])  # whole, and assembled from a stream
def test_a_poor_answer_goes_on_and_both_attempts_are_charged_and_told(adapter: str) -> None:
    async def test() -> None:
        async with rig(saying("no json", 3), saying('{"a": 1}', 4), adapter=adapter) as r:
            await cascading(r)
            a = await r.ask(JSON)
            assert a.status == 200 and a.headers["x-wattmill-pool"] == "p1"
            assert a.json["choices"][0]["message"]["content"] == '{"a": 1}'
            small, large = r.journal.ends
            assert (small.status, small.error) == ("finished", "escalated: schema: the answer is no JSON")
            assert (large.status, large.error) == ("finished", None)
            assert small.charge_nusd > 0 and large.charge_nusd > 0
            told = round(float(a.headers["x-wattmill-charge-usd"]) * 1e9)
            assert told == small.charge_nusd + large.charge_nusd == r.purse.spent_nusd
            assert [i.attempt for i in r.journal.intents] == [0, 1]
            assert len(r.purse.grants) == 2
            r.assert_balanced()

    run(test())


def test_a_good_answer_stays() -> None:
    async def test() -> None:
        async with rig(saying('{"a": 1}'), saying('{"b": 1}')) as r:
            await cascading(r)
            a = await r.ask(JSON)
            assert a.headers["x-wattmill-pool"] == "p0" and len(r.journal.ends) == 1
            assert r.journal.ends[0].error is None
            r.assert_balanced()

    run(test())


def test_the_header_says_how_many_smaller_answers_were_not_good_enough() -> None:
    async def test() -> None:
        async with rig(well) as r:
            good = await r.ask(headers=[("x-wattmill-escalate", "2")])
            assert good.status == 200 and r.journal.intents[0].terms.steps == 2
            for value in ("", "-1", "10", "two"):
                bad = await r.ask(headers=[("x-wattmill-escalate", value)])
                assert bad.status == 400 and bad.error["code"] == "bad_header", value
            r.assert_balanced()

    run(test())


def test_a_stream_is_never_taken_back() -> None:
    async def test() -> None:
        async with rig(saying(""), well) as r:
            await cascading(r)
            a = await r.ask(STREAM | {"response_format": {"type": "json_object"}})
            assert a.status == 200 and len(r.journal.ends) == 1
            r.assert_balanced()

    run(test())


def test_the_small_answer_is_told_where_the_caps_do_not_allow_the_larger_one() -> None:
    async def test() -> None:
        async with rig(saying("no json", 10), well) as r:
            await cascading(r)
            await r.ask(JSON)
            first = r.journal.intents[0].reserved_nusd
            charged = r.journal.ends[0].charge_nusd
            r.purse.cap_nusd = r.purse.spent_nusd + first  # one more attempt at its worst, and not one token
            a = await r.ask(JSON)
            assert a.status == 200 and a.json["choices"][0]["message"]["content"] == "no json"
            assert a.headers["x-wattmill-pool"] == "p0"
            assert round(float(a.headers["x-wattmill-charge-usd"]) * 1e9) == charged
            r.assert_balanced()

    run(test())


def test_the_small_answer_is_told_where_the_larger_place_fails() -> None:
    async def test() -> None:
        async with rig(saying("no json"), failing) as r:
            await cascading(r)
            a = await r.ask(JSON)
            assert a.status == 200 and a.json["choices"][0]["message"]["content"] == "no json"
            assert [e.status for e in r.journal.ends] == ["finished", "failed"]
            told = round(float(a.headers["x-wattmill-charge-usd"]) * 1e9)
            assert told == r.purse.spent_nusd - r.journal.ends[1].kept_nusd
            r.assert_balanced()

    run(test())


def test_a_client_who_leaves_in_the_middle_pays_for_both_and_nothing_leaks() -> None:
    at_large = asyncio.Event()

    async def hanging(wire: Wire) -> None:
        at_large.set()
        await wire.until_left()

    async def test() -> None:
        async with rig(saying("no json"), hanging) as r:
            await cascading(r)
            client = await r.connect()
            await client.send(JSON)
            await at_large.wait()
            client.abort()
            await until(lambda: len(r.journal.ends) == 2)
            assert [e.status for e in r.journal.ends] == ["finished", "aborted"]
            await until(lambda: r.gateway.in_flight == 0)
            r.assert_balanced()

    run(test())
