"""vLLM's OpenAI server.

What its release 0.32 (CPU build) does, found by experiment and pinned by `tests/engines`, and our remedy:

- The usage that comes with each chunk is that of one choice of several, and leaves cached tokens out: the
  tally adds the choices up, and only the last usage, which comes by itself, is "measured".
- It stops within two steps when its client leaves, streamed or not, but of an answer that is not streamed
  nobody then knows how much was made: `always_stream`. Assembled answers are those that it gives unstreamed,
  but for the white space in the arguments of calls.
- `prompt_tokens_total` holds cached tokens (`prompt_counter_holds_cached`), counts a prompt once for each of
  its choices, and moves with the first output token: a prefill that was given up is in no counter.
- `num_requests_running` says 0 during the first step of a prefill, and 1 until the step after an abort.
- `stream_interval` holds back what was made; a client that left before would be charged nothing: not sent on.
- `max_completion_tokens` wins over `max_tokens` in chat and is unknown to completions: not sent.
- `best_of` is ignored, `use_beam_search` computes more than is counted, `prompt_logprobs` excludes streams,
  `priority` is obeyed, any `service_tier` is accepted and ignored: refused.
- The arguments of a forced call fit their schema only if the function says `"strict": true`; without it they
  may be a bare string. That is left to the caller.
- Without `--enable-prompt-tokens-details` cached tokens are not told, and are paid as computed ones.
- A server generates or embeds, as its model does; the other door answers 404: name the pool's `capabilities`.
"""

from __future__ import annotations

import msgspec

from wattmill.models.engines.continuing import by_flag
from wattmill.models.engines.contract import (
    BOUNDED,
    CAP,
    DROP,
    Adapter,
    checked_by,
    function_tools,
    no_template,
    only,
    refuse,
)

_LENGTH = "is another name for the length; send 'max_tokens'"

VLLM = Adapter(
    name="vllm",
    always_stream=True,
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
        "ec_transfer_params": refuse("is a setting of the engine"),
        "vllm_xargs": refuse("is a setting of the engine"),
        "mm_processor_kwargs": refuse("could make any number of tokens of an image"),
        "media_io_kwargs": refuse("could make any number of tokens of a film"),
        "logits_processors": refuse("is a setting of the engine"),
        "chat_template": refuse("could make any number of tokens of a message"),
        "chat_template_kwargs": checked_by(no_template),
        "prompt_embeds": refuse("cannot be counted before it is sent"),
        "prompt_logprobs": refuse("is not told in a stream, and this engine is always asked for one"),
        "stream_interval": DROP,
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
    continues=by_flag,
    counters_path="/metrics",
    counter_names={
        "vllm:prompt_tokens_total": "prompt_tok",
        "vllm:prompt_tokens_cached_total": "cached_tok",
        "vllm:generation_tokens_total": "output_tok",
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
    },
    prompt_counter_holds_cached=True,
)
