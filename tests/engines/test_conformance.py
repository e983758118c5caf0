"""One suite for every engine: what the gateway relies on, asked of the engine itself."""

from __future__ import annotations

import json
import threading
import time

import pytest
from asking import ask, bare, going_on, long_prompt, same_each_time
from engine_under_test import EngineUnderTest, RefusedByEngine, fields_of

from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.tally import Tally
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

pytestmark = pytest.mark.engine


# --- streamed and not are the same ------------------------------------------------------------------------


def test_a_stream_assembled_is_the_engines_own_whole_answer(engine: EngineUnderTest) -> None:
    body = ask(**same_each_time(engine))
    tally, assembled, _ = engine.streamed("chat", body, clamp=12)
    reading, whole = engine.whole("chat", body, clamp=12)
    assert tally.failure is None and tally.done == engine.known.ends_with_done
    assert tally.reading() == (reading.usage, "measured")
    assert tally.finish_reason == reading.finish_reason == "length"
    assert bare(assembled) == bare(whole)


@pytest.mark.needs("completions")
def test_a_completion_streamed_and_not_is_the_same(engine: EngineUnderTest) -> None:
    body = {"prompt": "The mill by the river", "temperature": 0, **same_each_time(engine)}
    tally, assembled, _ = engine.streamed("completions", body, clamp=8)
    reading, whole = engine.whole("completions", body, clamp=8)
    assert tally.reading() == (reading.usage, "measured")
    assert assembled["choices"][0]["text"] == whole["choices"][0]["text"]
    assert set(bare(assembled)) >= {"choices", "model", "object", "usage"}
    assert assembled["object"] == whole["object"] == "text_completion"


@pytest.mark.needs("logprobs")
def test_logprobs_survive_assembly(engine: EngineUnderTest) -> None:
    body = ask(logprobs=True, top_logprobs=2, **same_each_time(engine))
    _, assembled, _ = engine.streamed("chat", body, clamp=4)
    _, whole = engine.whole("chat", body, clamp=4)
    tokens = [t["token"] for t in assembled["choices"][0]["logprobs"]["content"]]
    assert tokens == [t["token"] for t in whole["choices"][0]["logprobs"]["content"]]
    assert len(tokens) == 4


@pytest.mark.needs("json_schema")
def test_a_schema_is_enforced(engine: EngineUnderTest) -> None:
    schema = {
        "type": "object",
        "properties": {"rivers": {"type": "integer"}},
        "required": ["rivers"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema, "strict": True}}
    _, answer, _ = engine.streamed("chat", ask(response_format=form), clamp=40)
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert list(said) == ["rivers"] and isinstance(said["rivers"], int)


def test_stop_ends_the_answer(engine: EngineUnderTest) -> None:
    tally, answer, _ = engine.streamed("chat", ask("Name three rivers.", stop=["e"]), clamp=60)
    assert tally.finish_reason == "stop" and tally.output_tok_so_far < 60
    assert ("e" not in (answer["choices"][0]["message"]["content"] or "")) == engine.known.stop_text_is_cut


def test_a_client_that_did_not_ask_sees_no_usage_and_no_timings(engine: EngineUnderTest) -> None:
    tally, _, got = engine.streamed("chat", ask(), clamp=5, show_usage=False)
    text = b"".join(got)
    for hidden in (b'"usage"', b'"timings"', b"prompt_progress"):
        assert hidden not in text
    usage, source = tally.reading()
    assert usage is not None and source == "measured" and usage.output_tok == 5
    assert got[-1] == b"data: [DONE]\n\n"
    for event in got[:-1]:
        assert json.loads(event[6:])["choices"]


def test_a_client_that_asked_sees_usage_once_and_last(engine: EngineUnderTest) -> None:
    _, _, got = engine.streamed("chat", ask(), clamp=5, show_usage=True)
    with_usage = [i for i, event in enumerate(got[:-1]) if json.loads(event[6:]).get("usage")]
    assert with_usage == [len(got) - 2]


# --- counting ---------------------------------------------------------------------------------------------


@pytest.mark.needs("counts in chunks")
def test_the_count_in_each_chunk_is_exact(engine: EngineUnderTest) -> None:
    tally = Tally(engine.adapter, "chat", show_usage=False)
    counts: list[int] = []
    with engine.open("chat", ask(ignore_eos=True), clamp=10, stream=True) as answering:
        for event in answering.events():
            tally.feed(event)
            counts.append(tally.output_tok_so_far)
    assert counts == sorted(counts)
    assert set(range(1, 11)) <= set(counts)
    usage, _ = tally.reading()
    assert usage is not None and usage.output_tok == counts[-1] == 10


@pytest.mark.needs("counters")
def test_finished_requests_equal_the_engines_counters(engine: EngineUnderTest) -> None:
    """At rest, the sum of what was read is what the engine counted, class by class."""
    before = engine.at_rest()
    usages: list[Usage] = []
    again = long_prompt(100)
    for number in range(3):
        tally, _, _ = engine.streamed("chat", ask(f"{again} Say {number % 2}."), clamp=4 + number)
        usage, source = tally.reading()
        assert usage is not None and source == "measured"
        usages.append(usage)
    reading, _ = engine.whole("chat", ask(f"{again} Say 1."), clamp=3)
    assert reading.usage is not None
    usages.append(reading.usage)
    after = engine.at_rest()
    assert before.output_tok is not None and after.output_tok is not None
    assert after.output_tok - before.output_tok == sum(u.output_tok for u in usages)
    assert before.prompt_tok is not None and after.prompt_tok is not None
    assert before.cached_tok is not None and after.cached_tok is not None
    assert after.prompt_tok - before.prompt_tok == sum(u.prompt_tok - u.cached_tok for u in usages)
    assert after.cached_tok - before.cached_tok == sum(u.cached_tok for u in usages)
    assert any(u.cached_tok for u in usages)


def test_many_at_once_are_counted_apart(engine: EngineUnderTest) -> None:
    counted: dict[int, Usage | None] = {}

    def one(number: int) -> None:
        body = going_on(engine, f"Tell a long story of {number + 3} mills.")
        tally, _, _ = engine.streamed("chat", body, clamp=5 + number)
        counted[number] = tally.reading()[0]

    before = engine.at_rest() if engine.adapter.counters_path else None
    threads = [threading.Thread(target=one, args=(n,)) for n in range(2 * engine.slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    usages = {n: u for n, u in counted.items() if u is not None}
    assert {n: u.output_tok for n, u in usages.items()} == {n: 5 + n for n in range(2 * engine.slots)}
    if before is not None and before.output_tok is not None:
        after = engine.at_rest()
        assert after.output_tok is not None
        assert after.output_tok - before.output_tok == sum(u.output_tok for u in usages.values())


# --- leaving ----------------------------------------------------------------------------------------------


@pytest.mark.needs("counters")
def test_leaving_in_decode_stops_the_engine(engine: EngineUnderTest) -> None:
    """What it made after the last chunk that was read is in its counters, and little."""
    before = engine.at_rest()
    tally = Tally(engine.adapter, "chat", show_usage=False)
    with engine.open("chat", ask(ignore_eos=True), clamp=600, stream=True) as answering:
        for event in answering.events():
            tally.feed(event)
            if tally.output_tok_so_far >= 8:
                break
    left = time.monotonic()
    after = engine.at_rest()
    free_after_s = time.monotonic() - left
    usage, source = tally.reading()
    assert usage is not None and source == "estimated" and tally.has_content and not tally.done
    assert before.output_tok is not None and after.output_tok is not None
    unread = after.output_tok - before.output_tok - usage.output_tok
    assert 0 <= unread <= engine.known.unread_tok, f"{unread} tokens for nobody in {free_after_s:.2f} s"
    assert before.prompt_tok is not None and after.prompt_tok is not None
    assert after.prompt_tok - before.prompt_tok == usage.prompt_tok - usage.cached_tok


@pytest.mark.needs("n")
def test_leaving_several_choices_leaves_all_of_them_counted(engine: EngineUnderTest) -> None:
    assert engine.known.counts_each_choice_in_chunks
    before = engine.at_rest()
    tally = Tally(engine.adapter, "chat", show_usage=False, n=2)
    with engine.open(
        "chat", {**ask(ignore_eos=True), "temperature": 0.8}, clamp=600, stream=True, n=2
    ) as answering:
        for event in answering.events():
            tally.feed(event)
            if tally.output_tok_so_far >= 8:
                break
    after = engine.at_rest()
    usage, source = tally.reading()
    assert usage is not None and source == "estimated"
    assert before.output_tok is not None and after.output_tok is not None
    assert 0 <= after.output_tok - before.output_tok - usage.output_tok <= 2 * engine.known.unread_tok


@pytest.mark.needs("counters")
def test_leaving_an_answer_that_is_not_streamed(engine: EngineUnderTest) -> None:
    """Whether the engine stops or not, nobody knows what it made: so all of them are asked for streams."""
    assert engine.adapter.always_stream
    before = engine.at_rest()
    with engine.open("chat", ask(ignore_eos=True), clamp=150, stream=False):
        time.sleep(0.2)
    after = engine.at_rest()
    assert before.output_tok is not None and after.output_tok is not None
    assert (after.output_tok - before.output_tok < 100) == engine.known.stops_unstreamed


@pytest.mark.needs("progress")
def test_leaving_in_prefill_stops_the_engine_between_two_batches(engine: EngineUnderTest) -> None:
    before = engine.at_rest()
    tally = Tally(engine.adapter, "chat", show_usage=False)
    prompt = long_prompt()
    with engine.open("chat", ask(prompt), clamp=20, stream=True) as answering:
        for event in answering.events():
            assert tally.feed(event) is None or not tally.has_content
            if (tally.prompt_tok or 0) >= engine.batch:
                break
    after = engine.at_rest()
    usage, source = tally.reading()
    assert usage is not None and source == "estimated" and usage.output_tok == 0
    assert not tally.has_content
    assert before.prompt_tok is not None and after.prompt_tok is not None
    computed = after.prompt_tok - before.prompt_tok
    unread = computed - (usage.prompt_tok - usage.cached_tok)
    assert unread >= 0
    whole = len(engine.post("/tokenize", {"content": prompt})["tokens"])
    assert computed < 0.75 * whole, f"{computed} of {whole} tokens were computed, {unread} of them for nobody"
    assert after.output_tok == before.output_tok


@pytest.mark.only_for("vllm")
def test_a_prefill_that_was_given_up_is_not_in_every_engines_counters(engine: EngineUnderTest) -> None:
    assert not engine.known.counts_prompts_exactly
    before = engine.at_rest()
    with engine.open("chat", ask(long_prompt()), clamp=20, stream=True):
        time.sleep(0.2)
    served, _, _ = engine.streamed("chat", ask("Are you there?"), clamp=1)  # waits for the step to end
    usage, _ = served.reading()
    after = engine.at_rest()
    assert usage is not None and before.prompt_tok is not None and after.prompt_tok is not None
    assert after.prompt_tok - before.prompt_tok == usage.prompt_tok - usage.cached_tok


def test_a_request_after_a_departure_is_served(engine: EngineUnderTest) -> None:
    for _ in range(3):
        with engine.open("chat", ask(), clamp=50, stream=True) as answering:
            next(iter(answering.events()))
        tally, _, _ = engine.streamed("chat", ask("Hello"), clamp=2)
        assert tally.failure is None and tally.output_tok_so_far <= 2


# --- errors -----------------------------------------------------------------------------------------------


BAD = {
    "messages": {"messages": "no list"},
    "temperature": {"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_with_a_message(engine: EngineUnderTest, what: str) -> None:
    """By the engine; or, where it breaks on it, by us before it is sent."""
    known = engine.known.bad_messages_status if what == "messages" else engine.known.bad_value_status
    with pytest.raises(RefusedByEngine) as caught:
        engine.streamed("chat", BAD[what], clamp=3)
    assert caught.value.status == known
    if known < 500:
        assert b"message" in caught.value.body
    else:
        bound = input_bound_tok("chat", fields_of(BAD[what]), TokenizerBound())
        assert isinstance(bound, Refusal) or isinstance(engine.check("chat", BAD[what]), Refusal)


def test_a_model_that_it_does_not_have(engine: EngineUnderTest) -> None:
    status, _ = engine.post_bare("/v1/chat/completions", {**ask(), "model": "no/such", "max_tokens": 1})
    assert status == engine.known.unknown_model_status


@pytest.mark.needs("a limit of its own")
def test_a_prompt_beyond_the_context_is_refused_and_costs_nothing(engine: EngineUnderTest) -> None:
    before = engine.at_rest()
    with pytest.raises(RefusedByEngine) as caught:
        engine.streamed("chat", ask(long_prompt(900)), clamp=3)
    assert caught.value.status == 400
    assert engine.at_rest() == before
