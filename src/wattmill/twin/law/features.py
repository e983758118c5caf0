"""From a configuration to the law's terms: what its mean time to first token and per token consist of."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from wattmill.models.deployment import Deployment
from wattmill.models.graphs import paddings
from wattmill.models.step_time import TERMS, Work, pipelined, terms
from wattmill.twin.law.closed_loop import Batching, Loop, closed_loop
from wattmill.twin.law.disaggregated import disaggregated_loop
from wattmill.twin.law.rows import Configuration

NAMES: tuple[str, ...] = (*TERMS, "request", "prompt")
"""Terms of the step, then two of the way to the first token: a count, and prompt tokens on the host."""

_LEAST_ROOM = 0.03
MIDSTEP = 0.5
"""A prompt arrives on average in the middle of a step, and its engine looks at it at the next."""


def batching(engine: str, *, isl: int, concurrency: int) -> tuple[Batching, int]:
    """Return how an engine fills a step, and its budget of tokens.

    Rows do not record budgets. These are the engines' defaults, and for TensorRT-LLM the rule of the public
    benchmark recipes: room for one prompt beside the decoding requests.
    """
    match engine:
        case "sglang":
            return "prefill first", 8192
        case "trtllm" | "tensorrt-llm" | "tensorrt":
            return "whole prompts", concurrency + isl + 64
        case _:
            return "mixed", 8192


def loop_of(c: Configuration, *, first_wave: bool = True, was_run: bool = False, drafted: int = 0) -> Loop:
    """Return the mean work of a configuration's requests; see `closed_loop` for the client.

    `was_run`: it was measured, so that a cache which our count leaves next to nothing was larger. `drafted`:
    tokens that each sequence verifies besides its own; only what fills a recorded graph depends on them here.
    """
    decode = c.deployment(c.decode)
    if c.disaggregated:
        return disaggregated_loop(
            c.deployment(c.prefill),
            decode,
            prefill_workers=c.prefill_workers,
            decode_workers=c.decode_workers,
            isl=c.isl,
            osl=c.osl,
            concurrency=c.concurrency,
            drafted=drafted,
        )
    # A pipeline is filled by as many batches as it has stages, each with its part of the users and of memory.
    users = -(-c.concurrency // c.pp)
    kind, budget = batching(c.engine, isl=c.isl, concurrency=users)
    a = c.architecture
    loop = closed_loop(
        isl=c.isl,
        osl=c.osl,
        concurrency=users,
        budget_tok=max(budget * decode.attn_dp, users + 1),
        batching=kind,
        experts=a.experts,
        active_experts=a.active_experts,
        kv_tok=max(kv_tok(decode, isl=c.isl, osl=c.osl, was_run=was_run) // c.pp, c.isl + c.osl),
        padded=paddings(c.graph_sizes, ranks=decode.attn_dp, each=1 + drafted),
        first_wave=first_wave,
    )
    if c.pp == 1:
        return loop
    # Most of the work before a first token is its own prompt, which does not wait for itself.
    return Loop(
        to_first_token=pipelined(loop.to_first_token, stages=c.pp, layers=a.layers, held_by_others=False),
        per_token=pipelined(loop.per_token, stages=c.pp, layers=a.layers),
    )


def kv_tok(d: Deployment, *, isl: int, osl: int, was_run: bool = False) -> int:
    """Return the cache in tokens, enough for two requests at least; unbounded where the weights do not fit by
    our count: the run was made, so the count is wrong. The same where weights fit and leave less than 3 % of
    the memory, if `was_run`: it is the small rest of two large numbers (no measured row here has one)."""
    found = d.kv_tokens()
    if was_run and found * d.kv_bytes_per_tok_per_gpu / d.attn_dp < _LEAST_ROOM * d.accelerator.memory_bytes:
        found = 0
    return max(found, 2 * (isl + osl)) if found else 1 << 60


def features(c: Configuration) -> tuple[Any, Any]:
    """Return (time to first token, time per token): the law's terms, in the order of `NAMES`."""
    loop = loop_of(c, was_run=True)
    return terms_of(c, loop.to_first_token, loop.per_token)


def terms_of(c: Configuration, to_first_token: Work, per_token: Work) -> tuple[Any, Any]:
    """Return the terms of both kinds of work, with the way from the client to the engine."""
    each = np.array([*msgspec.structs.astuple(terms(c.deployment(c.decode), per_token)), 0.0, 0.0])
    first = msgspec.structs.astuple(terms(c.deployment(c.prefill), to_first_token))
    before = np.array([*first, 1.0, float(c.isl)])
    return before + MIDSTEP * each, each
