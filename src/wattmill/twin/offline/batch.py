"""How many sequences an engine that is never short of work holds in decode, and what the law says of it.

In a steady state a replica decodes `batch` sequences, each for `osl` steps, and reads the prompts of as many:
one cycle is `osl` steps. The batch is bound by the cache (an engine that never evicts reserves a request's
whole length), by the engine's slots, by the tokens of a step (prompts compete with decode for them), and by
the requests of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from wattmill.compute.spec import Accelerator
from wattmill.models.deployment import Deployment
from wattmill.models.step_time import Work, terms
from wattmill.twin.offline.levels import OF_A_STEP
from wattmill.twin.offline.rows import OfflineRow, Split

GRID = 14
"""Batches from 1 to the bound at which the terms are taken, evenly in their logarithm."""

_SLOTS = 4_096  # sequences an attention rank may hold: declared; 2,048, an engine's default, fits worse
_STEP_TOKENS = 8_192  # of an attention rank and pipeline stage: the same


_FULL_CLOCK_W = 700.0  # for each PFLOP/s at 16 bits: of the SXM Hopper, which holds its clock

_LOGIT_BYTES = 4.0
_OTHER_BYTES = 2e9  # of graphs and activations on each device, as in `Deployment.kv_tokens`


class Cycle(msgspec.Struct, frozen=True):
    """One split of one row: the terms of a cycle at each batch of the grid."""

    batch: Any  # (GRID,) sequences of the replica
    terms: Any  # (GRID, terms) seconds at datasheet figures, or counts
    gpus: int
    pp: int
    ranks: int


def deployment(row: OfflineRow, split: Split) -> Deployment:
    """Return one replica of a row under one of its splits."""
    return Deployment(
        architecture=row.architecture,
        accelerator=row.accelerator,
        engine=row.engine,
        weight_bits=row.weight_bits,
        kv_bits=row.kv_bits,
        tp=split.tp,
        pp=split.pp,
        ep=split.ep,
        attn_dp=split.attn_dp,
    )


def most_sequences(row: OfflineRow, replica: Deployment) -> float:
    """Return the sequences that `replica` holds in decode at most; below 1: the model does not fit."""
    model = row.architecture
    length = row.isl + row.osl if row.engine == "trtllm" else row.isl + row.osl / 2.0
    per_tok = max(model.kv_elements_per_tok(), 1)
    reserved = model.kv_elements(length) / per_tok
    # An engine sets memory aside for the logits of a full step, in 32 bits: much for large vocabularies.
    other_bytes = _OTHER_BYTES + _STEP_TOKENS * model.vocab * _LOGIT_BYTES
    bound = min(
        replica.kv_tokens(other_bytes=other_bytes) / reserved,
        float((row.slots or _SLOTS) * replica.attn_dp),
        _STEP_TOKENS * replica.attn_dp * replica.pp / (1.0 + row.isl / row.osl),
    )
    if row.requests is not None:
        bound = min(bound, float(row.requests))
    return bound


def cycles(row: OfflineRow) -> list[Cycle]:
    """Return the splits of a row that fit into memory. Where none of the usual ones does, the widest with
    its attention split, too. Where that does not, either, the widest, at a batch of 1: a number for a row
    whose footprint we misjudge, never a refusal."""
    fits = _fitting(row, row.splits)
    if fits:
        return fits
    widest = max(row.splits, key=lambda s: s.tp * s.pp * s.attn_dp)
    if len(row.splits) > 1 and widest.attn_dp > 1:
        fits = _fitting(row, [Split(tp=widest.tp * widest.attn_dp, pp=widest.pp)])
    return fits or [_cycle(row, deployment(row, widest), 1.0)]


def _fitting(row: OfflineRow, splits: Iterable[Split]) -> list[Cycle]:
    fits = []
    for split in splits:
        replica = deployment(row, split)
        bound = most_sequences(row, replica)
        if bound >= 1.0:
            fits.append(_cycle(row, replica, bound))
    return fits


def _cycle(row: OfflineRow, replica: Deployment, bound: float) -> Cycle:
    batches = np.exp(np.linspace(0.0, np.log(max(bound, 1.0)), GRID))
    found = np.array([_terms(row, replica, float(batch) / replica.pp) for batch in batches])
    return Cycle(batches, found, replica.gpus, replica.pp, replica.attn_dp)


def _terms(row: OfflineRow, replica: Deployment, sequences: float) -> tuple[float, ...]:
    """Of the micro-batch that one pipeline stage works on; the other stages have theirs at the same time."""
    model, isl, osl = row.architecture, row.isl, row.osl
    work = Work(
        steps=osl,
        decode_n=sequences * osl,
        context_tok=sequences * osl * (isl + osl / 2.0),
        prefill_tok=sequences * isl,
        prefill_attention_tok2=sequences * isl * isl / 2.0,
        touched=osl * model.experts_touched(sequences * (1.0 + isl / osl)),
        mixed_steps=min(osl, sequences),
    )
    found = msgspec.structs.asdict(terms(replica, work))
    for name in ("decode_flop", "prefill_flop"):
        found[name] *= starved(row.accelerator)
    return (*(found[name] for name in OF_A_STEP), sequences)


def starved(part: Accelerator) -> float:
    """Return by how much matrix products take longer than at the datasheet's clock on a part whose limit of
    power is short of what its units would draw: an H100 NVL has the units of an SXM and 400 W for 700.

    Watts needed over watts allowed, at least 1; what energy per operation differs by between generations is
    left to their deviations. 1 where a figure is not published. Hand check: H100 NVL, 700 W x 0.835 PFLOP/s /
    400 W = 1.46.
    """
    if part.tdp_w is None or part.bf16_flop_per_s is None:
        return 1.0
    return max(1.0, _FULL_CLOCK_W * part.bf16_flop_per_s / 1e15 / part.tdp_w)
