"""No field makes an engine exceed its clamp, and what it cannot do is refused, not done wrongly."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from asking import ask, bare, going_on
from engine_under_test import EngineUnderTest, RefusedByEngine

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.vocab.refusal import Refusal

pytestmark = pytest.mark.engine

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
        "seed", "presence_penalty", "frequency_penalty", "top_p", "parallel_tool_calls", "suffix", "user",
        "metadata", "reasoning_effort", "modalities", "verbosity",
    }
)  # fmt: skip


NOT_FUZZED = {"model", "messages", "prompt", "stream", "stream_options", "tools"}


def documented_fields(engine: EngineUnderTest, endpoint: str) -> set[str]:
    """What the engine itself says it knows, if it says so."""
    try:
        schemas = json.loads(engine.get("/openapi.json"))["components"]["schemas"]
    except (ValueError, KeyError):
        return set()
    schema = schemas.get("ChatCompletionRequest" if endpoint == "chat" else "CompletionRequest", {})
    return set(schema.get("properties", ())) - NOT_FUZZED


def values_for(name: str) -> list[Any]:
    if name in ("options", "generation_config"):
        return [{"num_predict": 40, "max_new_tokens": 40}]
    return [40, -1] if name not in ("n", "n_cmpl", "best_of") else [4, -1]


@pytest.mark.needs("completions")
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_no_field_makes_the_engine_exceed_its_clamp(engine: EngineUnderTest, endpoint: Any) -> None:
    """Each governed and many other fields, through check and render; the engine's own counters judge."""
    counts = engine.adapter.counters_path is not None
    subject = going_on(engine) if endpoint == "chat" else {"prompt": "Once upon a time", "temperature": 0}
    if engine.known.ignore_eos:
        subject["ignore_eos"] = True
    served = 0
    for name in sorted({*NAMES, *documented_fields(engine, endpoint)}):
        for value in values_for(name):
            body = {**subject, name: value}
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
    assert served >= engine.known.fuzz_reaches, f"only {served} requests of the fuzz reached the engine"


@pytest.mark.only_for("llama.cpp")
def test_every_length_name_that_the_engine_obeys_is_governed(engine: EngineUnderTest) -> None:
    """The fuzz can fail: sent bare, past the adapter, these fields do make more than the clamp."""
    body = {**ask(), "max_tokens": CLAMP, "ignore_eos": True, "n_predict": 9}
    assert engine.post("/v1/chat/completions", body)["usage"]["completion_tokens"] == 9
    refusal = engine.check("chat", body)
    assert refusal is not None and refusal.param == "n_predict"


# --- what this engine cannot do is refused, not done wrongly ----------------------------------------------


@pytest.mark.only_for("llama.cpp")
def test_llama_cpp_still_counts_one_choice_of_several(engine: EngineUnderTest) -> None:
    """Why `n` is no capability of it. When this fails, the engine has learned to count: give it back."""
    before = engine.at_rest()
    told = engine.post("/v1/chat/completions", {**ask(), "max_tokens": 4, "ignore_eos": True, "n": 2})
    after = engine.at_rest()
    assert told["usage"]["completion_tokens"] == 4
    assert (after.output_tok or 0) - (before.output_tok or 0) == 8
    assert engine.check("chat", {**ask(), "n": 2}) is not None
    assert engine.check("completions", {"prompt": ["a", "b"]}) is not None
    assert engine.check("completions", {"prompt": ["a"]}) is None


@pytest.mark.needs("n")
def test_several_choices_are_counted_where_they_are_offered(engine: EngineUnderTest) -> None:
    before = engine.at_rest()
    body = {**ask(f"{time.monotonic_ns()}?", ignore_eos=True, n=2), "temperature": 0.8}
    tally, answer, _ = engine.streamed("chat", body, clamp=5, n=2)
    after = engine.at_rest()
    usage, source = tally.reading()
    assert usage is not None and source == "measured" and usage.output_tok == 10
    assert len(answer["choices"]) == 2
    assert (after.output_tok or 0) - (before.output_tok or 0) == 10
    computed = (after.prompt_tok or 0) - (before.prompt_tok or 0)
    assert computed == usage.prompt_tok * (2 if engine.known.prompt_counted_per_choice else 1)


@pytest.mark.needs("n")
def test_several_prompts_are_counted_where_they_are_offered(engine: EngineUnderTest) -> None:
    body = {"prompt": ["The mill", "A river runs by"], "temperature": 0, "ignore_eos": True}
    tally, answer, _ = engine.streamed("completions", body, clamp=3)
    reading, whole = engine.whole("completions", body, clamp=3)
    assert tally.reading() == (reading.usage, "measured")
    assert bare(answer) == bare(whole) and len(answer["choices"]) == 2


WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def forced_call(engine: EngineUnderTest, **more: Any) -> Any:
    """Demand a call, past the adapter; return its arguments, or None if it answered in words."""
    tool = {"type": "function", "function": {**WEATHER, **more}}
    body = ask("What is the weather in Paris?", tools=[tool], tool_choice="required")
    told = engine.post("/v1/chat/completions", {**body, "model": engine.model, "max_tokens": 120})
    calls = told["choices"][0]["message"].get("tool_calls")
    return json.loads(calls[0]["function"]["arguments"]) if calls else None


def test_a_forced_call_is_a_call_or_refused(engine: EngineUnderTest) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    refusal = engine.check("chat", ask(tools=tools, tool_choice="required"))
    made = forced_call(engine)
    assert (made is not None) == engine.known.forced_call
    if not engine.known.forced_call:
        assert refusal is not None and refusal.param == "tool_choice"
        return
    assert refusal is None
    assert isinstance(made, dict) == engine.known.forced_arguments_fit
    strict = forced_call(engine, strict=True)
    assert isinstance(strict, dict) and list(strict) == ["city"]


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
