"""OpenAI itself, and any server or cloud that speaks its protocol.

Nothing is known of the software behind a compatible server, so every name under which a known one would obey
another length, count, tier or model is governed here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from wattmill.models.engines.contract import (
    BOUNDED,
    CAP,
    DROP,
    STREAM_FIELDS,
    Adapter,
    Rule,
    checked_by,
    function_tools,
    no_template,
    only,
    refuse,
)
from wattmill.models.engines.responses_dialect import ResponsesDialect
from wattmill.models.engines.speech import Speech, encode
from wattmill.vocab.request import Body

_LENGTH = "is another name for the length; send 'max_tokens' or 'max_completion_tokens'"
_MODEL = "would let the provider choose another model, at another price"
_COUNT = "more are generated, and paid, than are returned"
_SETTING = "is a setting of an engine, not of a request"

_RULES: dict[str, Rule] = {
    "max_tokens": DROP,
    "max_completion_tokens": DROP,
    "max_output_tokens": refuse(_LENGTH),
    "max_new_tokens": refuse(_LENGTH),
    "max_length": refuse(_LENGTH),
    "max_gen_len": refuse(_LENGTH),
    "num_predict": refuse(_LENGTH),
    "n_predict": refuse(_LENGTH),
    "min_tokens": CAP,
    "min_new_tokens": CAP,
    "min_length": refuse(_LENGTH),
    "generation_config": refuse("could hold another length or count"),
    "options": refuse("could hold another length or context"),
    "n": DROP,
    "n_cmpl": only(1, why=_COUNT),
    "best_of": only(1, why=_COUNT),
    "num_return_sequences": only(1, why=_COUNT),
    "num_beams": only(1, why=_COUNT),
    "use_beam_search": only(False, why=_COUNT),
    "ignore_eos": BOUNDED,
    "id_slot": refuse(_SETTING),
    "slot_id": refuse(_SETTING),
    "lora": refuse(_SETTING),
    "lora_path": refuse(_SETTING),
    "speculative.": refuse(_SETTING),
    "kv_transfer_params": refuse(_SETTING),
    "vllm_xargs": refuse(_SETTING),
    "mm_processor_kwargs": refuse(_SETTING),
    "logits_processors": refuse(_SETTING),
    "custom_logit_processor": refuse(_SETTING),
    "chat_template": refuse("could make any number of tokens of a message"),
    "chat_template_kwargs": checked_by(no_template),
    "prompt_embeds": refuse("cannot be counted before it is sent"),
    "input_embeds": refuse("cannot be counted before it is sent"),
    "priority": refuse("would change the order in which the engine serves"),
    "service_tier": only("auto", "default", why="another tier has another price"),
    "speed": only("standard", "default", why="another speed has another price"),
    "models": refuse(_MODEL),
    "route": refuse(_MODEL),
    "provider": refuse(_MODEL),
    "fallbacks": refuse(_MODEL),
    "plugins": refuse("may run paid tools at the provider"),
    "transforms": refuse("would change the prompt at the provider"),
    "web_search_options": refuse("is a paid tool of the provider"),
    "web_search": refuse("is a paid tool of the provider"),
    "search_parameters": refuse("is a paid tool of the provider"),
    "enable_search": only(False, why="is a paid tool of the provider"),
    "tools": checked_by(function_tools),
    "prediction": refuse("rejected predicted tokens are paid as output, beyond the length asked for"),
    "store": only(False, why="would keep the request at the provider"),
    "background": only(False, why="the answer would arrive where nobody meters it"),
    "response_fields": refuse("could hide the usage"),
    "stream": DROP,
    "stream_options": DROP,
    "model": DROP,
}

_KEPT_HERE = (*("previous_response_id", "metadata", "background", "stream_options", "service_tier"), "store")


def render_responses(body: Body, model: str, stream: bool, max_output_tok: int) -> bytes:
    """Send a Responses request on as it came; only what governs length, model and keeping is set.

    Nothing is stored at the provider: what a client wants kept is kept by wattmill, where its class, its
    expiry and its deletion are known. Reasoning then comes back encrypted, so that it can be sent again.
    """
    out: dict[str, Any] = {name: value for name, value in body.items() if name not in _KEPT_HERE}
    out["model"] = model
    out["max_output_tokens"] = max_output_tok
    out["stream"] = stream
    out["store"] = msgspec.Raw(b"false")
    return encode(out)


OPENAI = Adapter(
    name="openai",
    always_stream=False,
    capabilities=frozenset(
        {"chat", "completions", "embeddings", "tools", "json_schema", "logprobs", "n", "vision", "audio"}
    ),
    rules=_RULES,
    clamp_field={"chat": "max_completion_tokens", "completions": "max_tokens"},
    stream_fields=STREAM_FIELDS,
    keeps_stream_options=frozenset({"include_obfuscation"}),
    natives={"responses": Speech(path="/responses", render=render_responses, dialect=ResponsesDialect)},
)
"""api.openai.com, which refuses `max_tokens` for its reasoning models."""

OPENAI_COMPATIBLE = dataclasses.replace(
    OPENAI,
    name="openai-compatible",
    clamp_field={"chat": "max_tokens", "completions": "max_tokens"},
    keeps_stream_options=frozenset(),
    natives={},
)
"""Any other server: nearly all know `max_tokens`, many do not know `max_completion_tokens`."""
