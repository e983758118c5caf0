"""Captured graphs: an engine computes a step of few tokens as the next larger size that it has recorded.

What is added is computed for nothing, but saves the launches. Which sizes are recorded is a setting of the
engine; measured rows do not say it, so nothing is padded unless it is declared.

Valid for engines that pad every step up to the largest size. Of a mixture of experts it is an upper bound:
what fills a step is taken to choose experts of its own, though tokens that are all alike choose the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Declared = tuple[int, ...] | Literal["shipped"]
"""Sizes in tokens of a step, ascending, or those that the engine records unless told otherwise."""

_LARGEST = 512


def shipped(engine: str, *, max_num_seqs: int) -> tuple[int, ...]:
    """Return the sizes that `engine` records by default.

    vLLM (`vllm/config/vllm.py`, `cudagraph_capture_sizes`; read 2026-11): 1, 2, 4, then every 8th below 256
    and every 16th from there on, up to twice `max_num_seqs` and 512.

    Raises `ValueError` for the others: their defaults depend on the device's memory and on switches.
    """
    if engine != "vllm":
        raise ValueError(
            f"the sizes that {engine} records are not known here; declare them as a list of tokens "
            "(its log prints them when it starts)"
        )
    most = min(2 * max_num_seqs, _LARGEST)
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, _LARGEST + 1, 16))
    return tuple(size for size in sizes if size <= most)


def sizes_of(declared: Declared | None, engine: str, *, max_num_seqs: int) -> tuple[int, ...]:
    """Return the sizes that are declared; none where nothing is. Raises `ValueError` where they are no
    rising list of tokens."""
    if declared is None:
        return ()
    if declared == "shipped":
        return shipped(engine, max_num_seqs=max_num_seqs)
    check(tuple(declared))
    return tuple(declared)


def check(sizes: Sequence[int]) -> None:
    """Raise `ValueError` where sizes do not rise from at least 1."""
    for before, size in zip((0, *sizes), sizes, strict=False):
        if size <= before:
            raise ValueError(
                f"graph_sizes has {size} after {before}, must be tokens of a step, rising from at least 1"
            )


def padding(tokens: int, sizes: Sequence[int]) -> int:
    """Return how many tokens a step of `tokens` is short of the next recorded size; 0 above the largest, and
    where there is nothing to compute. Hand check: 9 of (8, 16, 32) is 7 short, 33 is not padded."""
    at = bisect_left(sizes, tokens)
    return sizes[at] - tokens if tokens > 0 and at < len(sizes) else 0


@lru_cache(maxsize=256)
def paddings(sizes: tuple[int, ...], *, ranks: int = 1, each: int = 1) -> tuple[int, ...]:
    """Return by sequences in a step the tokens that are computed for nothing, as far as any are.

    Each of `ranks` attention ranks has its own step, as many sequences of it as the fullest, and `each`
    tokens for a sequence (more than one where drafts are verified).
    """
    if not sizes:
        return ()
    found = []
    for n in range(sizes[-1] // each * ranks + 1):
        tokens = -(-n // ranks) * each
        found.append(ranks * (tokens + padding(tokens, sizes)) - n * each if n else 0)
    return tuple(found)
