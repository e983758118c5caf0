"""One suite for every engine: what the gateway relies on, asked of the engine itself."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from engine_under_test import EngineUnderTest, RefusedByEngine

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.tally import Tally
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

pytestmark = pytest.mark.engine


def ask(text: str = "Name three rivers.", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 7, **more}


def same_each_time(engine: EngineUnderTest) -> dict[str, Any]:
    """What makes two runs of the same work report the same cached tokens."""
    return {"cache_prompt": False} if engine.adapter.name == "llama.cpp" else {}


def long_prompt(words: int = 260) -> str:
    return f"{time.monotonic_ns()} " + " ".join(f"w{i * 7919 % 10007}" for i in range(words))


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answer.items() if k not in ("id", "created", "timings", "system_fingerprint")}


def needs(engine: EngineUnderTest, capability: str) -> None:
    if capability not in engine.adapter.capabilities:
        pytest.skip(f"{engine.name} does not offer {capability}")


# --- streamed and not are the same ------------------------------------------------------------------------


def test_a_stream_assembled_is_the_engines_own_whole_answer(engine: EngineUnderTest) -> None:
    body = ask(**same_each_time(engine))
    tally, assembled, _ = engine.streamed("chat", body, clamp=12)
    reading, whole = engine.whole("chat", body, clamp=12)
    assert tally.failure is None and tally.done
    assert tally.reading() == (reading.usage, "measured")
    assert tally.finish_reason == reading.finish_reason == "length"
    if engine.adapter.name == "llama.cpp":
        assert bare(assembled) == bare(whole)
    else:
        assert assembled["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"]


def test_a_completion_streamed_and_not_is_the_same(engine: EngineUnderTest) -> None:
    needs(engine, "completions")
    body = {"prompt": "The mill by the river", "temperature": 0, **same_each_time(engine)}
    tally, assembled, _ = engine.streamed("completions", body, clamp=8)
    reading, whole = engine.whole("completions", body, clamp=8)
    assert tally.reading() == (reading.usage, "measured")
    assert assembled["choices"][0]["text"] == whole["choices"][0]["text"]
    assert set(bare(assembled)) >= {"choices", "model", "object", "usage"}
    assert assembled["object"] == whole["object"] == "text_completion"


def test_logprobs_survive_assembly(engine: EngineUnderTest) -> None:
    needs(engine, "logprobs")
    body = ask(logprobs=True, top_logprobs=2, **same_each_time(engine))
    _, assembled, _ = engine.streamed("chat", body, clamp=4)
    _, whole = engine.whole("chat", body, clamp=4)
    tokens = [t["token"] for t in assembled["choices"][0]["logprobs"]["content"]]
    assert tokens == [t["token"] for t in whole["choices"][0]["logprobs"]["content"]]
    assert len(tokens) == 4


def test_a_schema_is_enforced(engine: EngineUnderTest) -> None:
    needs(engine, "json_schema")
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
    tally, answer, _ = engine.streamed("chat", ask("Count: 1 2 3 4 5 6", stop=["3"]), clamp=60)
    assert "3" not in (answer["choices"][0]["message"]["content"] or "")
    assert tally.finish_reason == "stop" or tally.output_tok_so_far == 60


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


def test_the_count_in_each_chunk_is_exact(engine: EngineUnderTest) -> None:
    if engine.adapter.counts_in is None:
        pytest.skip("this engine counts at the end only")
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


def test_finished_requests_equal_the_engines_counters(engine: EngineUnderTest) -> None:
    """At rest, the sum of what was read is what the engine counted, class by class."""
    if engine.adapter.counters_path is None:
        pytest.skip("this engine keeps no counters")
    before = engine.at_rest()
    usages: list[Usage] = []
    for number in range(3):
        tally, _, _ = engine.streamed("chat", ask(f"Say {number % 2}."), clamp=4 + number)
        usage, source = tally.reading()
        assert usage is not None and source == "measured"
        usages.append(usage)
    reading, _ = engine.whole("chat", ask("Say 1."), clamp=3)
    assert reading.usage is not None
    usages.append(reading.usage)
    after = engine.at_rest()
    assert before.output_tok is not None and after.output_tok is not None
    assert after.output_tok - before.output_tok == sum(u.output_tok for u in usages)
    if engine.adapter.name == "llama.cpp":
        assert before.prompt_tok is not None and after.prompt_tok is not None
        assert before.cached_tok is not None and after.cached_tok is not None
        assert after.prompt_tok - before.prompt_tok == sum(u.prompt_tok - u.cached_tok for u in usages)
        assert after.cached_tok - before.cached_tok == sum(u.cached_tok for u in usages)
        assert any(u.cached_tok for u in usages)


def test_many_at_once_are_counted_apart(engine: EngineUnderTest) -> None:
    counted: dict[int, Usage | None] = {}

    def one(number: int) -> None:
        tally, _, _ = engine.streamed("chat", ask(f"Story {number}.", ignore_eos=True), clamp=5 + number)
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


def test_leaving_in_decode_stops_the_engine(engine: EngineUnderTest) -> None:
    """What it made after the last chunk that was read is in its counters, and little."""
    if engine.adapter.counters_path is None:
        pytest.skip("nothing says when this engine is free again")
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
    if engine.adapter.name == "llama.cpp":
        assert 0 <= unread < 300, f"{unread} tokens were made for nobody in {free_after_s:.2f} s"
        assert before.prompt_tok is not None and after.prompt_tok is not None
        assert after.prompt_tok - before.prompt_tok == usage.prompt_tok - usage.cached_tok


def test_leaving_in_prefill_stops_the_engine_between_two_batches(engine: EngineUnderTest) -> None:
    if engine.adapter.name != "llama.cpp":
        pytest.skip("measured for llama.cpp, which otherwise goes on to the prompt's end")
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


def test_a_request_after_a_departure_is_served(engine: EngineUnderTest) -> None:
    for _ in range(3):
        with engine.open("chat", ask(), clamp=50, stream=True) as answering:
            next(iter(answering.events()))
        tally, _, _ = engine.streamed("chat", ask("Hello"), clamp=2)
        assert tally.failure is None and tally.output_tok_so_far <= 2


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [{"messages": "no list"}, {"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}],
    ids=["messages", "temperature"],
)
def test_a_bad_request_is_refused_with_a_message(engine: EngineUnderTest, body: dict[str, Any]) -> None:
    with pytest.raises(RefusedByEngine) as caught:
        engine.streamed("chat", body, clamp=3)
    assert 400 <= caught.value.status < 600
    assert b"message" in caught.value.body


def test_a_prompt_beyond_the_context_is_refused_and_costs_nothing(engine: EngineUnderTest) -> None:
    if engine.adapter.name == "transformers":
        pytest.skip("it accepts any length")
    before = engine.at_rest()
    with pytest.raises(RefusedByEngine) as caught:
        engine.streamed("chat", ask(long_prompt(900)), clamp=3)
    assert caught.value.status == 400
    assert engine.at_rest() == before


# --- no field exceeds the clamp ---------------------------------------------------------------------------

CLAMP = 3
NAMES = sorted(
    {name for adapter in ADAPTERS.values() for name in adapter.rules if not name.endswith(".")}
    - {"model", "stream", "stream_options", "prompt", "tools"}
    | {
        "speculative.n_max", "speculative.n_min", "n_keep", "n_discard", "n_probs", "n_indent", "min_keep",
        "t_max_predict_ms", "t_max_prompt_ms", "n_cache_reuse", "return_tokens", "return_progress", "verbose",
        "__verbose", "max_output_tokens", "max_completion_tokens_", "length", "limit", "n_ctx", "ctx_size",
        "num_ctx", "repeat_last_n", "dry_allowed_length", "post_sampling_probs", "reasoning_budget",
        "thinking_budget_tokens", "continue_final_message", "add_generation_prompt", "samplers", "grammar",
        "parse_tool_calls", "infinite", "predict", "n_gen", "max_gen_tokens", "completion_tokens", "unknown",
        "reasoning_format", "enable_thinking", "echo", "logit_bias", "top_k", "truncate", "keep_alive",
    }
)  # fmt: skip


def values_for(name: str) -> list[Any]:
    if name in ("options", "generation_config"):
        return [{"num_predict": 40, "max_new_tokens": 40}]
    return [40, -1] if name not in ("n", "n_cmpl", "best_of") else [4, -1]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_no_field_makes_the_engine_exceed_its_clamp(engine: EngineUnderTest, endpoint: Any) -> None:
    """Each governed and many other fields, through check and render; the engine's own counters judge."""
    needs(engine, endpoint)
    counts = engine.adapter.counters_path is not None
    subject = ask() if endpoint == "chat" else {"prompt": "Once upon a time", "temperature": 0}
    served = 0
    for name in NAMES:
        for value in values_for(name):
            body = {**subject, "ignore_eos": True, name: value}
            if isinstance(engine.check(endpoint, body), Refusal):
                continue
            before = engine.at_rest() if counts else None
            try:
                tally, _, _ = engine.streamed(endpoint, body, clamp=CLAMP)
            except RefusedByEngine:
                continue
            served += 1
            assert tally.output_tok_so_far <= CLAMP, f"{name}={value!r} made {tally.output_tok_so_far} tokens"
            if before is not None and before.output_tok is not None:
                made = (engine.at_rest().output_tok or 0) - before.output_tok
                assert made <= CLAMP, f"{name}={value!r} made {made} tokens by the engine's own count"
    assert served > 20, "the fuzz reached the engine too seldom to say anything"


def test_every_length_name_that_the_engine_obeys_is_governed(engine: EngineUnderTest) -> None:
    """The fuzz can fail: sent bare, past the adapter, these fields do make more than the clamp."""
    if engine.adapter.name != "llama.cpp":
        pytest.skip("known for llama.cpp")
    body = {**ask(), "max_tokens": CLAMP, "ignore_eos": True, "n_predict": 9}
    assert engine.post("/v1/chat/completions", body)["usage"]["completion_tokens"] == 9
    refusal = engine.check("chat", body)
    assert refusal is not None and refusal.param == "n_predict"


# --- what this engine cannot do is refused, not done wrongly ----------------------------------------------


def test_llama_cpp_still_counts_one_choice_of_several(engine: EngineUnderTest) -> None:
    """Why `n` is no capability of it. When this fails, the engine has learned to count: give it back."""
    if engine.adapter.name != "llama.cpp":
        pytest.skip("a fault of llama.cpp")
    before = engine.at_rest()
    told = engine.post("/v1/chat/completions", {**ask(), "max_tokens": 4, "ignore_eos": True, "n": 2})
    after = engine.at_rest()
    assert told["usage"]["completion_tokens"] == 4
    assert (after.output_tok or 0) - (before.output_tok or 0) == 8
    assert engine.check("chat", {**ask(), "n": 2}) is not None
    assert engine.check("completions", {"prompt": ["a", "b"]}) is not None
    assert engine.check("completions", {"prompt": ["a"]}) is None


def test_several_choices_are_counted_where_they_are_offered(engine: EngineUnderTest) -> None:
    needs(engine, "n")
    tally, answer, _ = engine.streamed("chat", ask(ignore_eos=True, n=2), clamp=5, n=2)
    usage, _ = tally.reading()
    assert usage is not None and usage.output_tok == 10
    assert len(answer["choices"]) == 2


def test_embeddings_of_several_inputs_are_counted(embedding_engine: EngineUnderTest) -> None:
    before = embedding_engine.at_rest()
    body = {"input": ["one two three", "four"], "encoding_format": "float", "stream": True}
    reading, answer = embedding_engine.whole("embeddings", body, clamp=0)
    after = embedding_engine.at_rest()
    assert len(answer["data"]) == 2
    assert reading.source == "measured" and reading.usage is not None
    assert reading.usage.output_tok == 0 and reading.usage.prompt_tok > 2
    assert (after.prompt_tok or 0) - (before.prompt_tok or 0) == reading.usage.prompt_tok


def test_one_engine_serves_chat_beside_embeddings(embedding_engine: EngineUnderTest) -> None:
    tally, answer, _ = embedding_engine.streamed("chat", ask("Say yes."), clamp=3)
    assert tally.reading()[1] == "measured"
    assert answer["choices"][0]["message"]["content"]
