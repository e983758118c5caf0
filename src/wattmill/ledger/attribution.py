"""Whose joules: the dynamic energy of a pool in a window, split over its attempts by their work in it.

Work is counted in tokens with weights: computed prompt tokens (and, for little, those from a cache) spread
evenly from the attempt's start to its first token, decode tokens from there to its end, each heavier with the
context that it reads. Everything is whole microjoules, and the parts sum to the window exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wattmill.vocab.fact import MeterWindow
from wattmill.vocab.shares import largest_remainder

SCALE = 1 << 20
"""Weights are whole numbers; a computed prompt token weighs this much by declaration."""


class Weights(NamedTuple):
    """Energy of a token; only their ratios within one pool count. All >= 0, not all zero."""

    prefill: int  # computed prompt token
    decode: int  # output token, before what it reads
    context: int  # output token, for each token of context that it reads
    cached: int  # prompt token that came from a cache
    source: str

    @property
    def ratios(self) -> str:
        """Return what counts of fitted weights, in words that the next fit of the same load repeats: the
        books keep each text that they hear for ever."""
        per = 1.0 / max(1, self.prefill)
        return f"fitted prefill:decode 1:{self.decode * per:.2g}, context {self.context * per:.0e}"


DECLARED = Weights(SCALE, 4 * SCALE, SCALE // 2048, SCALE // 50, "declared prefill:decode 1:4")
"""Before windows have taught better. Decode reads all weights for each token of a small batch, prefill once
for many: 4; with 8,192 tokens of context a decoded token counts double; a prompt token from a cache is moved
and read, not computed: a fiftieth. Figures of one machine do not carry over to another."""

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
    cached_tok: int = 0


class Amount(NamedTuple):
    """What an attempt did within a window, in fractions of `_FINE` of a token (`context`: token x token)."""

    prefill: int
    decode: int
    context: int
    cached: int

    def weighed(self, weights: Weights) -> int:
        return (
            self.prefill * weights.prefill
            + self.decode * weights.decode
            + self.context * weights.context
            + self.cached * weights.cached
        )


class Split(NamedTuple):
    by_work: dict[int, int]  # attempt id -> microjoules, the host's share of them included
    host: dict[int, int]  # of these, what the factory's own processes and the host used for it
    unattributed_uj: int
    service_uj: int  # of the factory's own processes while nobody was served: stays theirs


class Tokens(NamedTuple):
    """Work of a whole pool in a window, in tokens: what weights are learnt from."""

    prefill: float
    decode: float
    context: float
    cached: float


def split(
    window: MeterWindow, works: Iterable[Work], *, weights: Mapping[str, Weights] | None = None
) -> Split:
    """Return who used the window's dynamic energy. Idle energy is not part of it and stays apart.

    The share of a pool in which nobody worked is unattributed, and so is `other_uj`. The host's share goes to
    everybody in flight at the window's pools, by the same work.

    Args:
        window: of one meter, without what meters below it have seen.
        works: attempts that may have been in flight; others are ignored.
        weights: learnt ones by pool. `DECLARED` where there are none, and wherever attempts of several pools
            share: learnt weights of two pools have no unit in common.
    """
    weights = weights or {}
    pools: dict[str, list[tuple[int, int]]] = {share: [] for share in window.shares_uj}
    everybody: list[tuple[int, int]] = []
    of_pool = {pool: share for share in pools for pool in share.split("|")}
    for work in works:
        share = of_pool.get(work.pool)
        if share is not None and work.start_us < window.end_us and work.end_us >= window.start_us:
            done = done_in(work, window.start_us, window.end_us)
            declared = done.weighed(DECLARED)
            own = done.weighed(weights[work.pool]) if share in weights else declared
            if own:
                pools[share].append((work.id, own))
            if declared:
                everybody.append((work.id, declared))
    by_work: dict[int, int] = {}
    unattributed = window.other_uj
    for share, uj in window.shares_uj.items():
        if pools[share]:
            _spread(uj, pools[share], by_work)
        else:
            unattributed += uj
    host: dict[int, int] = {}
    service = window.service_uj
    if everybody and service:
        _spread(service, everybody, host)
        service = 0
    for id, uj in host.items():
        by_work[id] = by_work.get(id, 0) + uj
    return Split(by_work, host, unattributed, service)


def work_of(pool: str, window: MeterWindow, works: Iterable[Work]) -> Tokens:
    """Return the tokens that a pool worked on in a window."""
    sums = [0, 0, 0, 0]
    for work in works:
        if work.pool == pool and work.start_us < window.end_us and work.end_us >= window.start_us:
            for place, amount in enumerate(done_in(work, window.start_us, window.end_us)):
                sums[place] += amount
    return Tokens(*(amount / _FINE for amount in sums))


def done_in(work: Work, start_us: int, end_us: int) -> Amount:
    """Return what one attempt did from `start_us` to `end_us`."""
    first = work.end_us if work.first_us is None else min(max(work.first_us, work.start_us), work.end_us)
    prefill = _part(work.prefill_tok, work.start_us, first, start_us, end_us)
    cached = _part(work.cached_tok, work.start_us, first, start_us, end_us)
    decode = _part(work.decode_tok, first, work.end_us, start_us, end_us)
    # The context of these tokens: the prompt, and the answer up to the middle of what lies in the window.
    context = work.prefill_tok + work.cached_tok
    if decode and work.end_us > first:
        middle_us = (max(first, start_us) + min(work.end_us, end_us)) // 2 - first
        context += work.decode_tok * middle_us // (work.end_us - first)
    return Amount(prefill, decode, decode * context, cached)


def _spread(uj: int, amounts: Sequence[tuple[int, int]], to: dict[int, int]) -> None:
    parts = largest_remainder(uj, [amount for _, amount in amounts])
    for (id, _), part in zip(amounts, parts, strict=True):
        to[id] = to.get(id, 0) + part


def _part(amount: int, begin: int, end: int, start_us: int, end_us: int) -> int:
    if not amount:
        return 0
    if end <= begin:  # all at one instant
        return amount * _FINE if start_us <= begin < end_us else 0
    overlap = min(end, end_us) - max(begin, start_us)
    return amount * _FINE * overlap // (end - begin) if overlap > 0 else 0
