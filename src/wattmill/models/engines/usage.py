"""From each wire format's words to ours: the only place that knows how an engine or provider writes usage.

Streamed and not streamed go through the same functions, so the same work gives the identical `Usage`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from wattmill.units import MS_PER_S, US_PER_S
from wattmill.vocab.usage import ImpossibleUsage, Usage, checked

MOST_TOK = 1 << 40  # beyond this a count is a defect of the engine, whatever the model
_MOST_MS = 1e9  # beyond eleven days a time is one, too
_US_PER_MS = US_PER_S // MS_PER_S


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None  # OpenRouter
    cache_creation_tokens: int | None = None  # LiteLLM's and some clouds' name for the same
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class OpenAIUsage(msgspec.Struct):
    """The `usage` object of chat, completions and embeddings, with the dialects of it that are known.

    - OpenAI: details are parts of the totals.
    - OpenRouter [1] adds `cache_write_tokens`; usage comes with the last message of every stream.
    - DeepSeek [2] names cached input `prompt_cache_hit_tokens`; Moonshot puts `cached_tokens` at the top.
    - xAI [3] and Gemini's compatible door [4] leave reasoning out of `completion_tokens`, not of the total.

    [1] openrouter.ai/docs/use-cases/usage-accounting
    [2] docs.stigg.io/documentation/ai-agents/providers/deepseek; github.com/prism-php/prism/pull/1021
    [3] github.com/vercel/ai/pull/12425, which quotes docs.x.ai
    [4] github.com/mozilla-ai/any-llm/issues/1290, github.com/router-for-me/CLIProxyAPI/issues/5733
    All read in November 2026.
    """

    prompt_tokens: int
    completion_tokens: int | None = None  # absent in embeddings
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None


Counted = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOK)]


class Timings(msgspec.Struct):
    """llama.cpp's own measurement of one request. `prompt_ms` excludes queueing."""

    prompt_n: Counted = 0  # computed
    cache_n: Counted = 0  # taken from the cache
    predicted_n: Counted = 0
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


def us_of(told_ms: float) -> int | None:
    """Return a time that an engine told, in microseconds; None if it cannot be one. Books hold 64 bits."""
    return int(told_ms * _US_PER_MS) if 0.0 <= told_ms <= _MOST_MS else None


def from_openai(wire: OpenAIUsage) -> Usage:
    """Return checked usage; raises `ImpossibleUsage` with the numbers."""
    prompt_tok = wire.prompt_tokens
    output_tok = wire.completion_tokens or 0
    cached_tok = wire.prompt_cache_hit_tokens or wire.cached_tokens or 0
    cache_write_tok = audio_in_tok = reasoning_tok = audio_out_tok = 0
    if (into := wire.prompt_tokens_details) is not None:
        cached_tok = into.cached_tokens or cached_tok
        cache_write_tok = into.cache_write_tokens or into.cache_creation_tokens or 0
        audio_in_tok = into.audio_tokens or 0
    if (out := wire.completion_tokens_details) is not None:
        reasoning_tok = out.reasoning_tokens or 0
        audio_out_tok = out.audio_tokens or 0
    if wire.total_tokens is not None and (gap := wire.total_tokens - prompt_tok - output_tok):
        if gap < 0 or reasoning_tok not in (0, gap):
            raise ImpossibleUsage(
                f"invalid usage: total_tokens {wire.total_tokens} is not prompt_tokens {prompt_tok} + "
                f"completion_tokens {output_tok}, with or without reasoning_tokens {reasoning_tok}"
            )
        output_tok += gap
        reasoning_tok = gap
    if prompt_tok > MOST_TOK or output_tok > MOST_TOK:
        raise ImpossibleUsage(
            f"invalid usage: {prompt_tok} input and {output_tok} output tokens cannot be true"
        )
    other = cache_write_tok or audio_in_tok or reasoning_tok or audio_out_tok
    if not other and 0 <= cached_tok <= prompt_tok and output_tok >= 0:
        return Usage(prompt_tok, output_tok, cached_tok)  # the usual shape: nothing to contradict
    return checked(
        Usage(
            prompt_tok,
            output_tok,
            cached_tok,
            cache_write_tok,
            audio_in_tok,
            reasoning_tok,
            audio_out_tok,
        )
    )


class _AnthropicDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class AnthropicUsage(msgspec.Struct):
    """The `usage` object of Anthropic's Messages, and of servers that speak it.

    Here `input_tokens` leaves out what a cache had a part in: the prompt is the sum of the three input counts
    (the SDK's `types/message.py`: "total input tokens in a request is the summation of ..."). In a stream
    `message_start` tells the input and `message_delta` what changed; each field's last value holds.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _AnthropicDetails | None = None

    def merged(self, later: AnthropicUsage) -> AnthropicUsage:
        """Return the usage after a later event: counts are cumulative, absent ones stay as they were."""
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(later)
        return AnthropicUsage(*(b if b is not None else a for a, b in zip(mine, theirs, strict=True)))


def from_anthropic(wire: AnthropicUsage) -> Usage:
    """Return checked usage; raises `ImpossibleUsage` with the numbers."""
    cached_tok, cache_write_tok = wire.cache_read_input_tokens or 0, wire.cache_creation_input_tokens or 0
    computed_tok = wire.input_tokens or 0
    told = {
        "input_tokens": computed_tok,
        "output_tokens": wire.output_tokens or 0,
        "cache_read_input_tokens": cached_tok,
        "cache_creation_input_tokens": cache_write_tok,
    }
    for name, value in told.items():
        if not 0 <= value <= MOST_TOK:
            raise ImpossibleUsage(f"invalid usage: {name} is {value}, which cannot be true")
    details = wire.output_tokens_details
    return checked(
        Usage(
            computed_tok + cached_tok + cache_write_tok,
            wire.output_tokens or 0,
            cached_tok,
            cache_write_tok,
            reasoning_tok=(details.thinking_tokens or 0) if details is not None else 0,
        )
    )


class _ResponsesInput(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _ResponsesOutput(msgspec.Struct):
    reasoning_tokens: int | None = None


class ResponsesUsage(msgspec.Struct):
    """The `usage` object of OpenAI's Responses: details are parts of the totals."""

    input_tokens: int
    output_tokens: int
    total_tokens: int | None = None
    input_tokens_details: _ResponsesInput | None = None
    output_tokens_details: _ResponsesOutput | None = None


def from_responses(wire: ResponsesUsage) -> Usage:
    """Return checked usage; raises `ImpossibleUsage` with the numbers."""
    into, out = wire.input_tokens_details, wire.output_tokens_details
    if wire.total_tokens is not None and wire.total_tokens != wire.input_tokens + wire.output_tokens:
        raise ImpossibleUsage(
            f"invalid usage: total_tokens {wire.total_tokens} is not input_tokens {wire.input_tokens} + "
            f"output_tokens {wire.output_tokens}"
        )
    if wire.input_tokens > MOST_TOK or wire.output_tokens > MOST_TOK:
        raise ImpossibleUsage(
            f"invalid usage: {wire.input_tokens} input and {wire.output_tokens} output tokens cannot be true"
        )
    return checked(
        Usage(
            wire.input_tokens,
            wire.output_tokens,
            (into.cached_tokens or 0) if into is not None else 0,
            (into.cache_write_tokens or 0) if into is not None else 0,
            reasoning_tok=(out.reasoning_tokens or 0) if out is not None else 0,
        )
    )


def to_openai(usage: Usage) -> dict[str, object]:
    """Return usage as a chat's `usage` object: `from_openai` of it is `usage` again (no audio)."""
    return {
        "prompt_tokens": usage.prompt_tok,
        "completion_tokens": usage.output_tok,
        "total_tokens": usage.total_tok,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tok,
            "cache_write_tokens": usage.cache_write_tok,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tok},
    }


def to_responses(usage: Usage) -> dict[str, object]:
    """Return usage in the words of Responses."""
    return {
        "input_tokens": usage.prompt_tok,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tok,
            "cache_write_tokens": usage.cache_write_tok,
        },
        "output_tokens": usage.output_tok,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tok},
        "total_tokens": usage.total_tok,
    }


def to_anthropic(usage: Usage) -> dict[str, object]:
    """Return usage in the words of Messages: the three kinds of input add up to the prompt."""
    told: dict[str, object] = {
        "input_tokens": usage.prompt_tok - usage.cached_tok - usage.cache_write_tok,
        "cache_creation_input_tokens": usage.cache_write_tok,
        "cache_read_input_tokens": usage.cached_tok,
        "output_tokens": usage.output_tok,
    }
    if usage.reasoning_tok:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tok}
    return told


def from_timings(timings: Timings) -> Usage:
    """Return what llama.cpp had done when it wrote `timings`; its whole prompt is `cache_n + prompt_n`."""
    return checked(Usage(timings.prompt_n + timings.cache_n, timings.predicted_n, timings.cache_n))
