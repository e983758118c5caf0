"""What each adapter sends, and what it refuses to send."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.models.engines.adapter import ADAPTERS, Counters

EVERY = sorted(ADAPTERS)


def fields_of(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw])


def sent(
    adapter: str, body: dict[str, Any], *, stream: bool = True, most: int = 7, n: int = 1
) -> dict[str, Any]:
    text = ADAPTERS[adapter].render(
        "chat", fields_of(body), model="upstream", stream=stream, max_output_tok=most, choices=n
    )
    out = json.loads(text)
    assert isinstance(out, dict)
    return out


BODY = {"model": "asked", "messages": [{"role": "user", "content": "hé\n"}], "temperature": 0.5}


@pytest.mark.parametrize("adapter", EVERY)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_clamp_stands_in_the_one_field_that_the_engine_obeys(adapter: str, name: str) -> None:
    out = sent(adapter, {**BODY, name: 5000})
    field = "max_completion_tokens" if adapter == "openai" else "max_tokens"
    assert out[field] == 7
    assert not {"max_tokens", "max_completion_tokens", "n_predict"} - {field} & set(out)
    assert out["model"] == "upstream"


@pytest.mark.parametrize("adapter", EVERY)
def test_usage_is_asked_of_every_stream(adapter: str) -> None:
    out = sent(adapter, {**BODY, "stream": False, "stream_options": {"include_usage": False, "junk": 1}})
    assert out["stream"] is True
    assert out["stream_options"]["include_usage"] is True
    assert "junk" not in out["stream_options"]
    whole = sent(adapter, {**BODY, "stream": True, "stream_options": {}}, stream=False)
    assert whole["stream"] is False and "stream_options" not in whole


def test_per_chunk_counts_are_asked_where_they_are_given() -> None:
    llama = sent("llama.cpp", BODY)
    assert llama["timings_per_token"] is True and llama["return_progress"] is True
    assert sent("vllm", BODY)["stream_options"]["continuous_usage_stats"] is True
    assert sent("openai", {**BODY, "stream_options": {"include_obfuscation": False}})["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


@pytest.mark.parametrize("adapter", EVERY)
@given(value=st.text(max_size=40))
def test_values_that_are_not_governed_keep_their_bytes(adapter: str, value: str) -> None:
    raw = json.dumps([{"role": "user", "content": value}], ensure_ascii=len(value) % 2 == 0).encode()
    try:
        raw.decode("utf-8")
    except UnicodeError:
        return
    body = {
        "messages": msgspec.Raw(raw),
        "seed": msgspec.Raw(b"1e0"),
        "unheard_of": msgspec.Raw(b'{"a" : 1}'),
    }
    text = ADAPTERS[adapter].render("chat", body, model="m", stream=True, max_output_tok=1, choices=1)
    assert raw in text and b'"seed":1e0' in text and b'{"a" : 1}' in text


REFUSED: list[tuple[str, str, Any]] = [
    ("llama.cpp", "n_predict", 100),
    ("llama.cpp", "n", 2),
    ("llama.cpp", "n_cmpl", 2),
    ("llama.cpp", "best_of", 2),
    ("llama.cpp", "id_slot", 0),
    ("llama.cpp", "lora", [{"id": 0, "scale": 1}]),
    ("llama.cpp", "speculative.n_max", 16),
    ("llama.cpp", "response_fields", ["content"]),
    ("llama.cpp", "chat_template", "{{ 'x' * 100000 }}"),
    ("llama.cpp", "prompt", ["a", "b"]),
    ("llama.cpp", "prompt", [[1, 2], [3]]),
    ("llama.cpp", "service_tier", "priority"),
    ("llama.cpp", "tool_choice", "required"),
    ("llama.cpp", "tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("transformers", "tool_choice", "required"),
    ("transformers", "temperature", "hot"),
    ("transformers", "top_p", 7),
    ("transformers", "logit_bias", {"5": 1}),
    ("transformers", "stop", 5),
    ("transformers", "echo", True),
    ("transformers", "prompt", ["a", "b"]),
    ("transformers", "chat_template_kwargs", {"padding": "max_length"}),
    ("transformers", "chat_template_kwargs", {"chat_template": "x"}),
    ("openai-compatible", "chat_template_kwargs", {"chat_template": "x"}),
    ("vllm", "chat_template_kwargs", {"chat_template": "x"}),
    ("vllm", "prompt_logprobs", 1),
    ("vllm", "media_io_kwargs", {"video": {"num_frames": 10_000}}),
    ("vllm", "use_beam_search", True),
    ("vllm", "best_of", 3),
    ("vllm", "priority", -5),
    ("vllm", "prompt_embeds", "AAAA"),
    ("openai", "service_tier", "priority"),
    ("openai", "service_tier", "flex"),
    ("openai", "web_search_options", {}),
    ("openai", "tools", [{"type": "web_search"}]),
    ("openai", "tools", [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]),
    ("openai", "tools", ["web_search"]),
    ("openai", "store", True),
    ("openai", "prediction", {"type": "content", "content": "x"}),
    ("openai", "best_of", 5),
    ("openai-compatible", "models", ["a", "b"]),
    ("openai-compatible", "route", "fallback"),
    ("openai-compatible", "provider", {"order": []}),
    ("openai-compatible", "options", {"num_predict": 1000}),
    ("openai-compatible", "generation_config", "{}"),
    ("openai-compatible", "num_beams", 4),
    ("transformers", "n", 2),
]


@pytest.mark.parametrize(("adapter", "name", "value"), REFUSED)
def test_a_field_beyond_our_control_is_refused_by_name(adapter: str, name: str, value: Any) -> None:
    refusal = ADAPTERS[adapter].check("chat", fields_of({**BODY, name: value}))
    assert refusal is not None
    assert refusal.code == "field_refused" and refusal.param == name
    assert repr(name) in refusal.message and adapter in refusal.message


@pytest.mark.parametrize(
    ("adapter", "name", "value"),
    [
        ("llama.cpp", "n", 1),
        ("llama.cpp", "n", None),
        ("llama.cpp", "prompt", "a"),
        ("llama.cpp", "prompt", ["a"]),
        ("llama.cpp", "prompt", [1, 2, 3]),
        ("llama.cpp", "tool_choice", "auto"),
        ("llama.cpp", "ignore_eos", True),
        ("llama.cpp", "tools", [{"type": "function", "function": {"name": "f"}}]),
        ("llama.cpp", "dry.unknown", 1),
        ("openai", "service_tier", "default"),
        ("openai", "service_tier", "auto"),
        ("openai", "store", False),
        ("openai", "n", 3),
        ("openai", "reasoning_effort", "low"),
        ("openai", "tools", None),
        ("openai-compatible", "unheard_of", {"a": 1}),
    ],
)
def test_what_changes_nothing_passes(adapter: str, name: str, value: Any) -> None:
    assert ADAPTERS[adapter].check("chat", fields_of({**BODY, name: value})) is None


def test_a_tier_is_never_left_to_the_provider() -> None:
    assert "service_tier" not in sent("openai", {**BODY, "service_tier": "auto"})


def test_a_least_length_is_capped_by_the_clamp() -> None:
    assert sent("vllm", {**BODY, "min_tokens": 500})["min_tokens"] == 7
    assert sent("vllm", {**BODY, "min_tokens": 3})["min_tokens"] == 3


def test_embeddings_are_sent_without_a_clamp_or_a_stream() -> None:
    body = fields_of({"model": "x", "input": "hi", "stream": True, "dimensions": 8})
    text = ADAPTERS["llama.cpp"].render(
        "embeddings", body, model="m", stream=False, max_output_tok=0, choices=1
    )
    assert json.loads(text) == {"input": "hi", "dimensions": 8, "model": "m"}


def test_counters_are_read_from_an_engines_metrics() -> None:
    text = (
        b"# TYPE vllm:num_requests_running gauge\n"
        b'vllm:num_requests_running{engine="0",model_name="m"} 2.0\n'
        b'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0\n'
        b'vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+03\n'
        b'vllm:generation_tokens_total{engine="0",model_name="m"} 40.0\n'
        b'vllm:generation_tokens_total{engine="1",model_name="m"} 2.0\n'
        b'vllm:prompt_tokens_created{engine="0"} 1.7e+09\n'
    )
    found = ADAPTERS["vllm"].counters(text)
    assert found == Counters(prompt_tok=1200, output_tok=42, running=2, waiting=1)
    cached = b'vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 200.0\n'
    found = ADAPTERS["vllm"].counters(text + cached)
    assert found == Counters(prompt_tok=1000, output_tok=42, running=2, waiting=1, cached_tok=200)
    assert ADAPTERS["vllm"].counters(b"<html>") is None
    assert ADAPTERS["llama.cpp"].counters(b"llamacpp:requests_processing NaN") is None


@pytest.mark.parametrize("adapter", EVERY)
def test_no_value_of_a_governed_field_makes_check_or_render_raise(adapter: str) -> None:
    for name in ADAPTERS[adapter].rules:
        for raw in (b"null", b"1", b"-1", b'"x"', b"[]", b"{}", b"[{}]", b"true", b"1e999", b'"\\ud800"'):
            body = {"messages": msgspec.Raw(b"[]"), name: msgspec.Raw(raw)}
            ADAPTERS[adapter].check("chat", body)
            ADAPTERS[adapter].render("chat", body, model="m", stream=True, max_output_tok=1, choices=1)


@pytest.mark.parametrize("adapter", EVERY)
def test_what_a_status_proves_is_said_once_and_a_filter_of_content_proves_nothing(adapter: str) -> None:
    said = ADAPTERS[adapter].made_nothing
    assert said(400, b'{"error": {"message": "temperature must be a number"}}')
    assert said(429, b"")
    assert not said(500, b'{"error": {"message": "out of memory"}}')
    # Billed by some providers: the answer was made, read, and withheld.
    assert not said(400, b'{"error": {"code": "content_filter", "message": "withheld"}}')
