"""vLLM's OpenAI server."""

from __future__ import annotations

import msgspec

from wattmill.models.engines.contract import (
    BOUNDED,
    CAP,
    DROP,
    Adapter,
    checked_by,
    function_tools,
    only,
    refuse,
)

_LENGTH = "is another name for the length; send 'max_tokens'"

VLLM = Adapter(
    name="vllm",
    always_stream=False,
    capabilities=frozenset(
        {"chat", "completions", "embeddings", "tools", "json_schema", "logprobs", "n", "vision"}
    ),
    rules={
        "max_tokens": DROP,
        "max_completion_tokens": DROP,
        "n_predict": refuse(_LENGTH),
        "max_new_tokens": refuse(_LENGTH),
        "min_tokens": CAP,
        "n": DROP,
        "best_of": only(1, why="more are generated than are counted"),
        "use_beam_search": only(False, why="more tokens are computed than are counted"),
        "tools": checked_by(function_tools),
        "ignore_eos": BOUNDED,
        "priority": refuse("would change the order in which the engine serves"),
        "request_id": DROP,
        "kv_transfer_params": refuse("is a setting of the engine"),
        "vllm_xargs": refuse("is a setting of the engine"),
        "mm_processor_kwargs": refuse("could make any number of tokens of an image"),
        "logits_processors": refuse("is a setting of the engine"),
        "chat_template": refuse("could make any number of tokens of a message"),
        "prompt_embeds": refuse("cannot be counted before it is sent"),
        "stream": DROP,
        "stream_options": DROP,
        "service_tier": only("auto", "default", why="an owned engine has no price tiers"),
        "model": DROP,
    },
    clamp_field={"chat": "max_tokens", "completions": "max_tokens"},
    stream_fields={
        "stream": msgspec.Raw(b"true"),
        "stream_options": msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}'),
    },
    counts_in="usage",
    counters_path="/metrics",
    counter_names={
        "vllm:prompt_tokens_total": "prompt_tok",
        "vllm:generation_tokens_total": "output_tok",
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
    },
)
