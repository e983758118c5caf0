"""Whose joules: the dynamic energy of a pool in a window, split over its attempts by their work in it.

Work is counted in tokens with declared weights: uncached prefill tokens spread evenly from the attempt's
start
to its first token, decode tokens from there to its end. Everything is whole microjoules, and the parts sum to
the window exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wattmill.vocab.fact import MeterWindow

PREFILL_WEIGHT = 1
DECODE_WEIGHT = 4
"""Joules of one decoded token in those of one prefilled token, declared: decode reads all weights for each
token of a small batch, prefill once for many. Figures of one machine do not carry over to another."""

_FINE = 1 << 20  # resolution of a fraction of a token


class Work(NamedTuple):
    """One attempt as far as energy is concerned. Instants are wall clock."""

    id: int  # of the attempt in the books
    key: int
    pool: str
    model: str
    start_us: int
    first_us: int | None  # first token; None: it produced none
    end_us: int
    prefill_tok: int  # not from a cache
    decode_tok: int


class Split(NamedTuple):
    by_work: dict[int, int]  # attempt id -> microjoules
    unattributed_uj: int


def split(
    window: MeterWindow, works: Iterable[Work], *, weights: tuple[int, int] = (PREFILL_WEIGHT, DECODE_WEIGHT)
) -> Split:
    """Return who used the window's dynamic energy. Idle energy is not part of it and stays apart.

    The share of a pool in which nobody worked is unattributed, and so is `other_uj`.
    """
    pools: dict[str, list[tuple[int, int]]] = {pool: [] for pool in window.shares_uj}
    for work in works:
        if work.pool in pools and work.start_us < window.end_us and work.end_us >= window.start_us:
            amount = _work_in(work, window.start_us, window.end_us, weights)
            if amount:
                pools[work.pool].append((work.id, amount))
    by_work: dict[int, int] = {}
    unattributed = window.total_uj - window.idle_uj - sum(window.shares_uj.values())
    for pool, share in window.shares_uj.items():
        if not pools[pool]:
            unattributed += share
            continue
        parts = largest_remainder(share, [amount for _, amount in pools[pool]])
        for (id, _), part in zip(pools[pool], parts, strict=True):
            by_work[id] = by_work.get(id, 0) + part
    return Split(by_work, unattributed)


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights` into integers that sum to it; ties go to the first.

    Weights are >= 0 and not all zero. A negative total is split like its positive twin.
    """
    if total < 0:
        return [-part for part in largest_remainder(-total, weights)]
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    order = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in order[:left]:
        parts[i] += 1
    return parts


def _work_in(work: Work, start_us: int, end_us: int, weights: tuple[int, int]) -> int:
    """Return the weighted work of one attempt inside a window, in fractions of a token."""
    first = work.end_us if work.first_us is None else min(max(work.first_us, work.start_us), work.end_us)
    prefill = _part(work.prefill_tok * weights[0], work.start_us, first, start_us, end_us)
    return prefill + _part(work.decode_tok * weights[1], first, work.end_us, start_us, end_us)


def _part(amount: int, begin: int, end: int, start_us: int, end_us: int) -> int:
    if not amount:
        return 0
    if end <= begin:  # all at one instant
        return amount * _FINE if start_us <= begin < end_us else 0
    overlap = min(end, end_us) - max(begin, start_us)
    return amount * _FINE * overlap // (end - begin) if overlap > 0 else 0
