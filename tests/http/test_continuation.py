"""A stream that breaks after its first content goes on at another place, if that is declared."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_rig import STREAM, Rig, Wire, rig, run, until, well

from wattmill.distribution.resilience import Resilience

VLLM = {"adapter": "vllm"}
USAGE = STREAM | {"stream_options": {"include_usage": True}}


def use(r: Rig, **rules: Any) -> None:
    r.more = {**r.more, "resilience": Resilience(**({"continuation": True} | rules))}
    r.gateway.use(r.services())


def said(wire: Wire) -> list[str]:
    """The words that the conversation already ends with."""
    last = wire.body["messages"][-1]
    return last["content"].split() if last["role"] == "assistant" else []


def counting(stop_after: int | None = None, *, how: str = "reset") -> Any:
    """An engine that counts to its limit, goes on where the answer stopped, and may break off."""

    async def script(wire: Wire) -> None:
        first, wanted = len(said(wire)), wire.body["max_tokens"]
        prompt = len(json.dumps(wire.body["messages"]))
        await wire.stream_head()
        for n in range(wanted):
            if n == stop_after:
                if how == "garbage":
                    await wire.event(b"data: {nonsense\n\n")
                if how == "silent":
                    await wire.until_left()
                wire.reset()
                return
            usage = {"prompt_tokens": prompt, "completion_tokens": n + 1, "total_tokens": prompt + n + 1}
            finish = "length" if n == wanted - 1 else None
            event = {
                "id": f"eng-{wire.engine.port}",
                "choices": [{"index": 0, "delta": {"content": f"w{first + n} "}, "finish_reason": finish}],
                "usage": usage,
            }
            await wire.event(event)
        await wire.usage_chunk(prompt, wanted)
        await wire.done()

    return script


WHOLE = "".join(f"w{n} " for n in range(10))


@pytest.mark.parametrize("how", ["reset", "garbage", "silent"])
def test_a_broken_stream_goes_on_and_no_word_is_lost_or_said_twice(how: str) -> None:
    async def test() -> None:
        async with rig(counting(4, how=how), counting(), idle_timeout_s=0.3, **VLLM) as r:
            use(r)
            answer = await r.ask(USAGE)
            assert answer.text == WHOLE
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert b": wattmill continued_by=p1 after_tok=4\n\n" in answer.body
            ids = {event["id"] for event in answer.events if isinstance(event, dict) and "id" in event}
            assert ids - {"e-1"} == {f"eng-{r.engines[0].port}"}  # one answer, one id
            first, second = r.journal.ends
            assert (first.status, second.status) == ("failed", "finished")
            assert first.usage is not None and second.usage is not None
            assert (first.usage.output_tok, second.usage.output_tok) == (4, 6)
            assert second.usage.prompt_tok > first.usage.prompt_tok  # the beginning is read again, and billed
            assert first.charge_nusd and second.charge_nusd
            usage = answer.events[-3]["usage"]
            assert usage["completion_tokens"] == 10
            assert usage["prompt_tokens"] == first.usage.prompt_tok + second.usage.prompt_tok
            told = answer.body.split(b"charge_usd=")[1].split(b" ")[0]
            total = first.charge_nusd + second.charge_nusd
            assert told == b"%d.%09d" % divmod(total, 10**9)
            r.assert_balanced()

    run(test())


def test_what_was_said_is_sent_as_the_answers_beginning_and_reserved_again() -> None:
    async def test() -> None:
        async with rig(counting(4), counting(), **VLLM) as r:
            use(r)
            assert (await r.ask(USAGE)).text == WHOLE
            again = r.engines[1].seen[0].body
            assert again["messages"][-1] == {"role": "assistant", "content": "w0 w1 w2 w3 "}
            assert (again["continue_final_message"], again["add_generation_prompt"]) == (True, False)
            assert again["max_tokens"] == 6
            first, second = r.journal.intents
            assert second.input_bound_tok > first.input_bound_tok
            assert (first.output_clamp_tok, second.output_clamp_tok) == (10, 6)
            assert second.reserved_nusd > 0 and second.request == first.seq
            r.assert_balanced()

    run(test())


def test_it_may_break_again_and_go_on_again() -> None:
    async def test() -> None:
        async with rig(counting(2), counting(3), counting(), **VLLM) as r:
            use(r)
            answer = await r.ask(USAGE)
            assert answer.text == WHOLE
            assert answer.body.count(b"continued_by=") == 2
            assert [end.usage.output_tok for end in r.journal.ends if end.usage] == [2, 3, 5]
            r.assert_balanced()

    run(test())


def test_a_place_that_fails_before_its_first_word_is_passed_over() -> None:
    async def no(wire: Wire) -> None:
        await wire.json({"error": {"message": "no"}}, status=503)

    async def test() -> None:
        async with rig(counting(4), no, counting(), **VLLM) as r:
            use(r)
            assert (await r.ask(USAGE)).text == WHOLE
            r.assert_balanced()

    run(test())


def test_where_no_place_is_left_the_stream_ends_with_a_word_and_is_marked() -> None:
    async def test() -> None:
        async with rig(counting(4), counting(0), **VLLM) as r:
            use(r)
            answer = await r.ask(USAGE)
            assert answer.text == "w0 w1 w2 w3 "
            assert b"[DONE]" not in answer.body
            assert answer.events[-1]["error"]["code"] == "upstream_failed"
            r.assert_balanced()

    run(test())


def test_without_the_declaration_a_broken_stream_ends_with_a_word() -> None:
    async def test() -> None:
        async with rig(counting(4), counting(), **VLLM) as r:
            use(r, continuation=False)
            answer = await r.ask(USAGE)
            assert answer.text == "w0 w1 w2 w3 " and answer.events[-1]["error"]["code"] == "upstream_failed"
            assert not r.engines[1].seen
            r.assert_balanced()

    run(test())


def test_a_place_that_cannot_go_on_is_not_asked() -> None:
    async def test() -> None:
        async with rig(counting(4), counting(), adapter="openai-compatible") as r:
            use(r)
            answer = await r.ask(USAGE)
            assert answer.text == "w0 w1 w2 w3 " and "error" in answer.events[-1]
            assert not r.engines[1].seen
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
    ],
)
def test_tools_schemas_and_several_choices_do_not_go_on(more: dict[str, Any]) -> None:
    async def test() -> None:
        async with rig(counting(4), counting(), **VLLM) as r:
            use(r)
            answer = await r.ask(USAGE | more)
            assert "error" in answer.events[-1] and not r.engines[1].seen
            r.assert_balanced()

    run(test())


def test_a_cap_that_does_not_hold_the_rest_ends_it_there() -> None:
    async def test() -> None:
        async with rig(counting(4), counting(), **VLLM) as r:
            use(r)
            assert (await r.ask(USAGE | {"max_tokens": 1})).status == 200
            r.purse.cap_nusd = r.purse.spent_nusd + r.journal.intents[0].reserved_nusd + 9 * 20_000
            answer = await r.ask(USAGE)
            assert answer.text.startswith("w0 w1 w2 w3 ") and answer.text != WHOLE
            assert r.purse.spent_nusd <= r.purse.cap_nusd
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_while_it_goes_on_is_booked() -> None:
    async def hangs(wire: Wire) -> None:
        await wire.until_left()

    async def test() -> None:
        async with rig(counting(4), hangs, **VLLM) as r:
            use(r)
            client = await r.connect()
            await client.send(USAGE)
            await until(lambda: r.engines[1].seen)
            client.abort()
            await until(lambda: len(r.journal.ends) == 2)
            assert [end.status for end in r.journal.ends] == ["failed", "aborted"]
            await until(lambda: r.gateway.in_flight == 0)
            r.assert_balanced()

    run(test())


def test_a_stream_that_does_not_break_is_the_same_with_and_without_it() -> None:
    async def test() -> None:
        async with rig(well, **VLLM) as r:
            use(r, continuation=False)
            without = (await r.ask(STREAM)).events[:-2]
            use(r)
            assert (await r.ask(STREAM)).events[:-2] == without
            await asyncio.sleep(0)
            r.assert_balanced()

    run(test())
