"""Golden vectors: each known way to end an answer, streamed and not, gives one identical row.

`llama_cpp_*` were recorded from the embedded engine (xllamacpp 2026.10, SmolLM2-135M). The others were not
recorded: they are written by hand in the shape of each provider. For xAI, DeepSeek, Gemini and OpenRouter the
sources stand beside `OpenAIUsage` in `models/engines/usage.py`; OpenAI, Mistral and vLLM as their client
libraries and servers define the objects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.assemble import Assembler
from wattmill.models.engines.tally import Tally, read_answer
from wattmill.vocab.request import Endpoint
from wattmill.vocab.usage import Usage

FOLDER = Path(__file__).parent / "fixtures" / "usage"

PAIRS: dict[str, tuple[str, Endpoint, Usage]] = {
    "openai_chat_cached": ("openai", "chat", Usage(1117, 46, cached_tok=1024)),
    "openai_chat_reasoning": ("openai", "chat", Usage(75, 1186, reasoning_tok=1024)),
    "openai_chat_audio": ("openai", "chat", Usage(120, 90, audio_in_tok=100, audio_out_tok=60)),
    "openai_chat_tools": ("openai", "chat", Usage(82, 17)),
    "openai_completions": ("openai", "completions", Usage(5, 7)),
    "vllm_chat": ("vllm", "chat", Usage(31, 4, cached_tok=16)),
    "llama_cpp_chat_cached": ("llama.cpp", "chat", Usage(34, 6, cached_tok=33)),
    "llama_cpp_completions": ("llama.cpp", "completions", Usage(2, 6)),
    "usage_in_last_content_chunk": ("openai-compatible", "chat", Usage(13, 7)),
    "xai_reasoning_beside_output": (
        "openai-compatible",
        "chat",
        Usage(32, 319, cached_tok=6, reasoning_tok=310),
    ),
    "deepseek_cache_hit": ("openai-compatible", "chat", Usage(640, 10, cached_tok=576)),
    "gemini_thoughts_only_in_total": ("openai-compatible", "chat", Usage(9, 512, reasoning_tok=500)),
    "openrouter_cache_write": ("openai-compatible", "chat", Usage(2100, 8, cache_write_tok=2048)),
}


def events_of(name: str) -> list[bytes]:
    return [e for e in (FOLDER / f"{name}.sse").read_bytes().split(b"\n\n") if e]


def read_stream(name: str, adapter: str, endpoint: Endpoint = "chat", *, show_usage: bool = False) -> Any:
    tally = Tally(ADAPTERS[adapter], endpoint, show_usage=show_usage)
    sent = [out for event in events_of(name) if (out := tally.feed(event)) is not None]
    return tally, sent


@pytest.mark.parametrize("name", PAIRS)
def test_streamed_and_not_streamed_give_the_identical_usage(name: str) -> None:
    adapter, endpoint, expected = PAIRS[name]
    tally, _ = read_stream(name, adapter, endpoint)
    assert tally.failure is None
    assert tally.reading() == (expected, "measured")
    reading = read_answer(ADAPTERS[adapter], endpoint, (FOLDER / f"{name}.json").read_bytes())
    assert (reading.usage, reading.source, reading.failure) == (expected, "measured", None)
    assert reading.finish_reason == tally.finish_reason is not None
    assert tally.engine_id is not None


@pytest.mark.parametrize("name", PAIRS)
def test_usage_is_hidden_from_who_did_not_ask_and_nothing_else_is_lost(name: str) -> None:
    adapter, endpoint, _ = PAIRS[name]
    _, shown = read_stream(name, adapter, endpoint, show_usage=True)
    _, hidden = read_stream(name, adapter, endpoint, show_usage=False)
    assert b'"usage"' not in b"".join(hidden) and b'"timings"' not in b"".join(hidden)
    assert sum(b'"usage":{' in event for event in shown) == 1
    assert hidden[-1] == shown[-1] == b"data: [DONE]\n\n"
    assert text_of(hidden) == text_of(shown)


@pytest.mark.parametrize("name", PAIRS)
def test_a_stream_assembles_to_what_the_whole_answer_says(name: str) -> None:
    adapter, endpoint, _ = PAIRS[name]
    _, sent = read_stream(name, adapter, endpoint, show_usage=True)
    assembler = Assembler(endpoint)
    for event in sent:
        assembler.add(event)
    made = json.loads(assembler.answer())
    told = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert made["usage"] == told["usage"]
    assert made["object"] == told["object"]
    for mine, theirs in zip(made["choices"], told["choices"], strict=True):
        assert mine["finish_reason"] == theirs["finish_reason"]
        assert mine["index"] == theirs["index"]
        assert mine.get("text") == theirs.get("text")
        for field, value in theirs.get("message", {}).items():
            if value not in (None, []):
                assert mine["message"][field] == value, field


def text_of(events: list[bytes]) -> str:
    text = ""
    for event in events:
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return text


def test_embeddings_have_no_output() -> None:
    reading = read_answer(ADAPTERS["openai"], "embeddings", (FOLDER / "openai_embeddings.json").read_bytes())
    assert (reading.usage, reading.source) == (Usage(8, 0), "measured")


def test_of_two_usage_chunks_the_last_counts_and_they_are_never_summed() -> None:
    tally, _ = read_stream("two_usage_chunks", "openai-compatible")
    assert tally.reading() == (Usage(10, 2), "measured")


def test_missing_usage_is_estimated_from_chunks_or_visible_as_unmetered() -> None:
    tally, _ = read_stream("usage_missing", "openai-compatible")
    assert tally.done and tally.failure is None
    assert tally.reading(prompt_tok=40) == (Usage(40, 2), "estimated")
    assert tally.reading() == (None, "unmetered")
    whole = read_answer(ADAPTERS["openai-compatible"], "chat", (FOLDER / "usage_missing.json").read_bytes())
    assert (whole.usage, whole.source) == (None, "unmetered")


def test_an_error_in_mid_stream_is_a_failure_with_what_was_produced() -> None:
    tally, sent = read_stream("error_in_mid_stream", "openai")
    assert tally.failure == (
        "the engine sent an error: The server had an error while processing your request"
    )
    assert tally.has_content and not tally.done
    assert tally.reading(prompt_tok=12) == (Usage(12, 1), "estimated")
    assert b"error" not in b"".join(sent)


@pytest.mark.parametrize("form", ["sse", "json"])
def test_impossible_usage_is_an_error_with_its_numbers(form: str) -> None:
    if form == "sse":
        tally, _ = read_stream("impossible_usage", "openai")
        failure = tally.failure
        assert tally.reading(prompt_tok=12) == (Usage(12, 1), "estimated")
    else:
        body = (FOLDER / "impossible_usage.json").read_bytes()
        failure = read_answer(ADAPTERS["openai"], "chat", body).failure
    assert failure is not None
    assert "cached 11" in failure and "cannot exceed prompt_tok 10" in failure


@pytest.mark.parametrize(
    ("name", "adapter", "expected"),
    [
        ("vllm_chat_aborted", "vllm", Usage(31, 2)),
        ("llama_cpp_aborted_in_decode", "llama.cpp", Usage(34, 4, cached_tok=33)),
        ("llama_cpp_aborted_in_prefill", "llama.cpp", Usage(127, 0)),
    ],
)
def test_an_aborted_stream_has_the_engines_last_count(name: str, adapter: str, expected: Usage) -> None:
    tally, _ = read_stream(name, adapter)
    assert not tally.done
    assert tally.reading() == (expected, "estimated")
    assert tally.has_content == (expected.output_tok > 0)
