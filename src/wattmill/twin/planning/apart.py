"""Prefill and decode on replicas of their own: which splits, and how many of each, may be looked at.

A pool is then made of units: so many replicas that compute prompts, so many that decode, and links that carry
caches from one kind to the other. The law predicts a unit as a whole (`Disaggregation`). Looked at are, of
the splits that run a model at all,

- for prompts those than which none has a prompt done as soon with no more of its accelerators' time;
- for answers those that stand on the front of speed for one user against tokens of an accelerator,

and every proportion of the two up to four of either kind, or those that are declared. What a split is worth
together says enough of what it is worth apart, not all: the sieve is not a proof. Pipelines are left out: no
measured row has stages on workers of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from wattmill.models.deployment import Deployment
from wattmill.twin.law.spec import Disaggregation
from wattmill.twin.planning.performance import Curve
from wattmill.twin.planning.splits import split_of

_MOST_EACH = 4
RATIOS = tuple(
    (prefill, decode)
    for prefill in range(1, _MOST_EACH + 1)
    for decode in range(1, _MOST_EACH + 1)
    if math.gcd(prefill, decode) == 1
)
"""Prefill replicas to decode replicas, where none are declared."""


class Apart(NamedTuple):
    """The prefill side of a unit, and how its caches go over."""

    prefill: Deployment
    prefill_replicas: int
    decode_replicas: int
    prefill_gpus: int  # that all its prefill replicas take
    link_bytes_per_s: float  # of one accelerator
    latency_s: float

    @property
    def asked(self) -> Disaggregation:
        """Return it as the law is asked."""
        return Disaggregation(
            prefill=self.prefill,
            prefill_workers=self.prefill_replicas,
            decode_workers=self.decode_replicas,
            link_bytes_per_s=self.link_bytes_per_s,
            latency_s=self.latency_s,
        )

    @property
    def words(self) -> str:
        """Return the prefill side in words: `2 x TP4`."""
        return f"{self.prefill_replicas} x {split_of(self.prefill)}"


def ratios_of(declared: bool | tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return the proportions to look at: none, all up to four of either kind, or the declared ones."""
    if isinstance(declared, bool):
        return RATIOS if declared else ()
    pairs = [tuple(map(int, text.split(":"))) for text in declared]
    return tuple((prefill, decode) for prefill, decode in pairs)


def for_prompts(curves: Sequence[tuple[Curve, int]]) -> list[int]:
    """Return which of (curve, accelerators) no other beats at a prompt alone: in its time, and in that times
    the accelerators."""
    firsts = [(c.points[0].prediction.ttft_s.value, gpus) if c.points else None for c, gpus in curves]
    return [
        n
        for n, one in enumerate(firsts)
        if one is not None
        and not any(
            other is not None
            and other[0] <= one[0]
            and other[0] * other[1] <= one[0] * one[1]
            and (other != one or m < n)
            and m != n
            for m, other in enumerate(firsts)
        )
    ]


def for_answers(curves: Sequence[tuple[Curve, int]]) -> list[int]:
    """Return which of (curve, accelerators) have a point on the front of 1 / time per token against answers'
    tokens of an accelerator, prompts left out."""
    points = sorted(
        (
            (
                -1.0 / p.prediction.tpot_s.value,
                -p.concurrency / p.prediction.tpot_s.value / gpus,
                n,
            )
            for n, (curve, gpus) in enumerate(curves)
            for p in curve.points
        ),
    )
    best, found = 0.0, list[int]()
    for _, per_gpu, n in points:
        if per_gpu < best:
            best = per_gpu
            if n not in found:
                found.append(n)
    return sorted(found)
