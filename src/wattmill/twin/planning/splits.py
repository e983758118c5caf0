"""Ways to split a model over accelerators: tensor, attention data, expert and pipeline parallel.

A stage, `tp` x `attn_dp` accelerators that share its layers, stays inside one scale-up fabric, for its
collectives run at every layer. Stages of a pipeline hand over once a step, so they may stand in different
nodes. What is enumerated is what engines run:

- `tp` divides the heads: each accelerator has whole ones.
- `attn_dp` > 1 only with experts, and then these are spread over the whole stage (`ep` = `tp` x `attn_dp`):
  without experts it is nothing but more replicas.
- `ep` is 1 (each expert is cut like a dense layer) or the whole stage, and divides the experts.
- `pp` > 1 only where no stage in one fabric has room for the weights and a cache, or where it is asked for:
  no measured row of serving ran in stages, so what the law says of them is extrapolated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wattmill.compute.spec import Accelerator
from wattmill.models.architecture import Architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.planning.supply import Candidate

_DEEPEST = 16


class Split(NamedTuple):
    """Of one replica, which has `tp` x `attn_dp` x `pp` accelerators."""

    tp: int = 1
    ep: int = 1
    pp: int = 1
    attn_dp: int = 1

    def __str__(self) -> str:
        parts = [f"TP{self.tp}"]
        parts += [
            f"{name}{n}" for name, n in (("DP", self.attn_dp), ("EP", self.ep), ("PP", self.pp)) if n > 1
        ]
        return " ".join(parts)


def split_of(d: Deployment) -> Split:
    return Split(d.tp, d.ep, d.pp, d.attn_dp)


def stages(candidate: Candidate, part: Accelerator, sizes: Architecture) -> Iterator[Split]:
    """Yield every stage that `candidate` allows, smallest first by `tp`, then `attn_dp`, then `ep`."""
    fabric = part.scale_up_gpus
    experts = sizes.experts
    for tp in candidate.tp or [n for n in _powers(fabric) if sizes.heads % n == 0]:
        for attn_dp in candidate.attn_dp or (_powers(fabric // tp) if experts else [1]):
            whole = tp * attn_dp
            for ep in candidate.ep or sorted({1, whole}):
                if _sensible(sizes, tp, attn_dp, ep):
                    yield Split(tp, ep, 1, attn_dp)


def depths(candidate: Candidate, sizes: Architecture, *, fits_in_one: bool) -> list[int]:
    """Return the numbers of stages to look at. `fits_in_one`: some stage has room for all of the model."""
    if candidate.pp is not None:
        return list(candidate.pp)
    return [1] if fits_in_one else [n for n in _powers(_DEEPEST) if n <= sizes.layers]


def taken_gpus(part: Accelerator, split: Split) -> int:
    """Return the accelerators that a replica takes, those included that it strands.

    A stage does not reach over from one fabric to the next: of 72 accelerators, four stages of 16 take all.
    Hand check: 72 // (72 // 16) = 18.
    """
    stage, fabric = split.tp * split.attn_dp, part.scale_up_gpus
    if stage <= part.gpus_per_node or stage > fabric:
        return stage * split.pp
    return fabric // (fabric // stage) * split.pp


def _sensible(sizes: Architecture, tp: int, attn_dp: int, ep: int) -> bool:
    if not sizes.experts:
        return ep == 1 and attn_dp == 1
    if ep > 1 and (sizes.experts % ep or (tp * attn_dp) % ep):
        return False
    return attn_dp == 1 or ep > 1


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]
