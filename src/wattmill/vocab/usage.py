"""What one attempt consumed and produced, in tokens by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Provenance = Literal["measured", "modelled", "estimated", "declared", "unknown"]

_LESS_SURE: tuple[Provenance, ...] = ("measured", "declared", "modelled", "estimated", "unknown")


def weakest(seen: Iterable[Provenance]) -> Provenance:
    """Return how a sum is known: as the least sure of its parts; "unknown" without any."""
    return max(seen, key=_LESS_SURE.index, default="unknown")


TOKEN_CLASSES = (
    "input",  # computed prompt tokens: not cached, not written to a cache at a price, not audio
    "cached_input",
    "cache_write",
    "audio_input",
    "output",  # visible text: neither reasoning nor audio
    "reasoning",
    "audio_output",
)
"""The classes in which tokens are priced and booked. They are disjoint, and this order is part of every
stored price (`Price.rates_nusd_per_mtok`) and of every journal: append, never reorder."""

INPUT_CLASSES = TOKEN_CLASSES[:4]
OUTPUT_CLASSES = TOKEN_CLASSES[4:]


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens of one attempt, totals first, parts after: `prompt_tok` contains the three input parts and
    `output_tok` the two output parts, as OpenAI counts. Make one with `checked`, which proves that."""

    prompt_tok: int
    output_tok: int
    cached_tok: int = 0
    cache_write_tok: int = 0
    audio_in_tok: int = 0
    reasoning_tok: int = 0
    audio_out_tok: int = 0

    def by_class(self) -> tuple[int, int, int, int, int, int, int]:
        """Return disjoint counts in the order of `TOKEN_CLASSES`; they sum to prompt + output."""
        return (
            self.prompt_tok - self.cached_tok - self.cache_write_tok - self.audio_in_tok,
            self.cached_tok,
            self.cache_write_tok,
            self.audio_in_tok,
            self.output_tok - self.reasoning_tok - self.audio_out_tok,
            self.reasoning_tok,
            self.audio_out_tok,
        )

    @property
    def total_tok(self) -> int:
        return self.prompt_tok + self.output_tok


class ImpossibleUsage(ValueError):
    """An engine reported numbers that cannot be true; the message has them."""


def checked(usage: Usage) -> Usage:
    """Return `usage` unchanged, or raise `ImpossibleUsage` naming the figures that contradict each other."""
    figures = msgspec.structs.astuple(usage)
    if min(figures) < 0:
        name, value = next(f for f in zip(usage.__struct_fields__, figures, strict=True) if f[1] < 0)
        raise ImpossibleUsage(f"invalid usage: {name} is {value}, must be >= 0")
    parts_in = usage.cached_tok + usage.cache_write_tok + usage.audio_in_tok
    if parts_in > usage.prompt_tok:
        raise ImpossibleUsage(
            f"invalid usage: cached {usage.cached_tok} + cache write {usage.cache_write_tok} + audio "
            f"{usage.audio_in_tok} = {parts_in} input tokens cannot exceed prompt_tok {usage.prompt_tok}"
        )
    parts_out = usage.reasoning_tok + usage.audio_out_tok
    if parts_out > usage.output_tok:
        raise ImpossibleUsage(
            f"invalid usage: reasoning {usage.reasoning_tok} + audio {usage.audio_out_tok} = {parts_out} "
            f"output tokens cannot exceed output_tok {usage.output_tok}"
        )
    return usage
