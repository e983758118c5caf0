"""llama.cpp's server (and xllamacpp, which is that server in a wheel)."""

from __future__ import annotations

import msgspec

from wattmill.models.engines.contract import (
    BOUNDED,
    DROP,
    STREAM_FIELDS,
    Adapter,
    checked_by,
    function_tools,
    only,
    refuse,
)

_LENGTH = "is another name for the length; send 'max_tokens'"
_SLOT = "would choose or change a slot of the engine, which wattmill gives out"


def _one_prompt(value: object) -> str | None:
    """One prompt: a text, one list of token ids, or a list of one text. It counts one of several only."""
    if isinstance(value, list) and not all(isinstance(part, int) for part in value) and len(value) != 1:
        return "must be one prompt: this engine counts the tokens of one only; send one request for each"
    return None


LLAMA_CPP = Adapter(
    name="llama.cpp",
    always_stream=True,
    capabilities=frozenset({"chat", "completions", "embeddings", "tools", "json_schema", "logprobs"}),
    rules={
        "max_tokens": DROP,
        "max_completion_tokens": DROP,
        "n_predict": refuse(_LENGTH),
        "max_new_tokens": refuse(_LENGTH),
        "n": only(1, why="this engine counts the tokens of one choice only"),
        "n_cmpl": only(1, why="this engine counts the tokens of one choice only"),
        "best_of": only(1, why="this engine counts the tokens of one choice only"),
        "prompt": checked_by(_one_prompt),
        "tools": checked_by(function_tools),
        "ignore_eos": BOUNDED,
        "cache_prompt": BOUNDED,
        "id_slot": refuse(_SLOT),
        "slot_id": refuse(_SLOT),
        "lora": refuse("would change the weights that are served"),
        "speculative.": refuse("is a setting of the engine"),
        "chat_template": refuse("could make any number of tokens of a message"),
        "response_fields": refuse("could hide the usage"),
        "timings_per_token": DROP,
        "return_progress": DROP,
        "stream": DROP,
        "stream_options": DROP,
        "service_tier": only("auto", "default", why="an owned engine has no price tiers"),
        "model": DROP,
    },
    clamp_field={"chat": "max_tokens", "completions": "max_tokens"},
    stream_fields={**STREAM_FIELDS, "timings_per_token": msgspec.Raw(b"true")},
    counts_in="timings",
    counters_path="/metrics",
    counter_names={
        "llamacpp:prompt_tokens_total": "prompt_tok",
        "llamacpp:prompt_tokens_cached_total": "cached_tok",
        "llamacpp:tokens_predicted_total": "output_tok",
        "llamacpp:requests_processing": "running",
        "llamacpp:requests_deferred": "waiting",
    },
)
