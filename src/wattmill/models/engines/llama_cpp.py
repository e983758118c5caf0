"""llama.cpp's server (and xllamacpp, which is that server in a wheel).

What its release of October 2026 does, found by experiment and pinned by `tests/engines`:

- A streamed request whose client leaves is stopped within 0.1 s in decode. In prefill it looks at the socket
  only when it has something to send: with `return_progress` that is after each batch, without it at the end
  of the prompt (26 s were seen). So progress is always asked for, and embedded engines have small batches.
- A request that is not streamed goes on to its end whatever its client does: `always_stream`.
- After each streamed answer it closes the connection, a moment after the last chunk and against its own
  `Keep-Alive`. A request that was put on it in that moment was read by nobody: such connections are not kept.
- `timings_per_token` gives the exact cumulative count with each chunk, `prompt_progress` that of the prompt.
- `prompt_tokens_total` (without cached ones) moves at the end of prefill, `tokens_predicted_total` when the
  slot is free again; what was produced for a client that had left is in both. At rest (`running` and
  `waiting` 0) they equal the sums of `usage`, plus what was produced after the last chunk that anybody read.
- A waiting request whose client left is started all the same: never send more than there are slots.
- `usage` counts one choice of `n` > 1, and one prompt of several: both are refused. Several inputs of an
  embeddings request are counted rightly. Embedded inputs must fit one batch.
- `n_predict` and `max_completion_tokens` both win over `max_tokens`; 0 means 1; any model name is accepted.
- It answers `/v1/responses` and `/v1/messages` too, with the right final usage, but without counts in their
  chunks (of an aborted answer nobody would know how much was made), and its Responses events lack indices,
  sequence numbers and `response.incomplete`: both protocols are translated here, not passed through.
- `/v1/chat/completions/input_tokens` counts a chat's prompt exactly, and moves no counter.
- `tool_choice` is ignored where the model's template has no tools (SmolLM2's has none: its pool should not
  declare the capability "tools"). A forced call is refused; a `response_format` with a schema is enforced.
"""

from __future__ import annotations

import msgspec

from wattmill.models.engines.continuing import by_last_message
from wattmill.models.engines.contract import (
    BOUNDED,
    DROP,
    STREAM_FIELDS,
    Adapter,
    checked_by,
    free_choice,
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
    closes_after_stream=True,
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
        "tool_choice": checked_by(free_choice),
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
    stream_fields={
        **STREAM_FIELDS,
        "timings_per_token": msgspec.Raw(b"true"),
        "return_progress": msgspec.Raw(b"true"),
    },
    counts_in="timings",
    continues=by_last_message,
    counters_path="/metrics",
    count_path="/chat/completions/input_tokens",
    counter_names={
        "llamacpp:prompt_tokens_total": "prompt_tok",
        "llamacpp:prompt_tokens_cached_total": "cached_tok",
        "llamacpp:tokens_predicted_total": "output_tok",
        "llamacpp:requests_processing": "running",
        "llamacpp:requests_deferred": "waiting",
    },
)
