"""From a configuration to operators' sums: the terms of the law, with tables in the place of datasheets.

The mean work between two tokens of a run is two kinds of steps: such as only decode, and such as compute
prompts, too. Each is walked once at its mean sizes. A part's time (products, attention ...) stands in the
place of the datasheet's time of bytes and FLOPs; starts of layers and steps, the host and the way to it stay
counts.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import Work
from wattmill.twin.law.features import MIDSTEP, batching, loop_of
from wattmill.twin.law.rows import Configuration
from wattmill.twin.operators.grid import OffGrid
from wattmill.twin.operators.tables import Tables, basis
from wattmill.twin.operators.walk import PARTS, Step, operators

_NONE = 1e-9  # steps

COUNTS = ("layer", "step", "sequence", "mixed", "request", "prompt")
NAMES: tuple[str, ...] = (*PARTS, *COUNTS)
"""Seconds by the tables, then counts as in the law (`step_time.Terms`, `law.features.NAMES`)."""

START: tuple[float, ...] = (*[1.0] * len(PARTS), 5e-6, 1e-3, 1e-5, 2e-3, 0.03, 1e-6)
"""Where a fit starts: tables as they are, and a host that takes little beside them."""


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Terms of time to first token and of time per token; or why there are none."""

    first: Any = None
    each: Any = None
    basis: str = ""
    missing: str = ""  # what no table holds


def sums(tables: Tables, c: Configuration, *, first_wave: bool = True, was_run: bool = True) -> Sums:
    """Return the operators' sums of a configuration; `was_run` as in `law.features.loop_of`."""
    if "model" in c.missing or "gpu" in c.missing:
        return Sums(missing="its model or accelerator is not known")
    borrowed: set[tuple[str, str]] = set()
    try:
        loop = loop_of(c, first_wave=first_wave, was_run=was_run)
        each = _terms(tables, c, c.deployment(c.decode), loop.per_token, borrowed)
        before = _terms(tables, c, c.deployment(c.prefill), loop.to_first_token, borrowed)
    except OffGrid as error:
        return Sums(missing=str(error))
    before[-2:] = 1.0, float(c.isl)
    return Sums(first=before + MIDSTEP * each, each=each, basis=basis(c.accelerator, c.engine, borrowed))


def _terms(
    tables: Tables, c: Configuration, d: Deployment, work: Work, borrowed: set[tuple[str, str]]
) -> Any:
    found = np.zeros(len(NAMES))
    for count, step in _steps(c, work):
        for operator in operators(d, step):
            at = PARTS.index(operator.part)
            found[at] += count * tables.seconds(d.accelerator, d.engine, operator)
            whose = tables.found(d.accelerator, d.engine, operator).engine
            if whose != d.engine and operator.kind != "nccl":
                borrowed.add((operator.kind, whose))
    counts = (d.architecture.layers * work.steps, work.steps, work.decode_n, work.mixed_steps)
    found[len(PARTS) : len(PARTS) + len(counts)] = counts
    return found


def _steps(c: Configuration, work: Work) -> list[tuple[float, Step]]:
    """Return (how many, mean sizes) of steps that only decode, and of such as compute prompts."""
    context = max(work.context_tok / work.decode_n, 1.0) if work.decode_n else 1.0
    pure, mixed = work.steps - work.mixed_steps, work.mixed_steps
    kind, _ = batching(c.engine, isl=c.isl, concurrency=c.concurrency)
    apart = kind == "prefill first" or c.disaggregated
    decoding = pure if apart else work.steps
    decode_n = work.decode_n / decoding if decoding > _NONE else 0.0
    padded = work.padded / work.steps if work.steps else 0.0
    found = []
    if pure > _NONE and decode_n > 0.0:
        found.append((pure, Step(decode_n=max(decode_n, 1.0), context_tok=context, padded=padded)))
    if mixed > _NONE and work.prefill_tok > 0.0:
        # Chunks of one length that have as many tokens, and as many pairs of tokens, as there were.
        prompt_tok = max(2.0 * work.prefill_attention_tok2 / work.prefill_tok, 1.0)
        step = Step(
            decode_n=0.0 if apart else decode_n,
            context_tok=context,
            prompt_n=work.prefill_tok / mixed / prompt_tok,
            prompt_tok=prompt_tok,
            padded=padded,
        )
        found.append((mixed, step))
    return found
