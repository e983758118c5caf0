"""What a step of an engine costs, and what the engine may hold and do in it. Whole picoseconds and tokens."""

from __future__ import annotations

from typing import Literal

import msgspec

SchedulerKind = Literal["vllm", "sglang", "trtllm", "llamacpp"]

ONE = 1 << 16
"""Speculation's fixed point: this many parts are one token."""

CERTAIN = 1 << 31
"""A probability's fixed point: this many parts are certainty."""


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """The step-time law of one deployment, lowered to integers. A step lasts, in picoseconds,

        at(tokens) + decoding x decode_ps + context read x context_ps_per_tok
      + prompt tokens x prefill_ps_per_tok + attention of these prompt tokens to those before them,

    where `tokens` are the tokens computed in the step (prompt tokens, and `verify_tok` for each decoding
    request), and `at(n)` is `step_ps[n]`, continued after its end by `beyond_ps_per_tok` a token. The table
    holds what depends on the number of tokens only: weights read, experts touched, launches, padding to
    captured sizes, all-reduce.

    In a pipeline of `stages` all of this is what one stage takes. As many batches are in flight as there are
    stages, one behind the other, and none overtakes: each begins at a stage when it has left the one before,
    and when the batch before it has left (`wattmill.twin.engine.pipeline`).

    The attention of a prompt up to its x-th token is `attention_ps_per_ktok` x x^2 / 2048 in all (each token
    takes that many picoseconds for each 1,024 tokens before it); a chunk pays the difference between its
    ends. Of k steps the context grows by whole tokens, so their sum is exact and in closed form.

    llama.cpp with memory for each slot (its default) computes a step in pieces where `piece_tok` is set: each
    takes equally many tokens of neighbouring slots, `piece_tok` at most, until nothing is left. The table is
    then of one piece, and a step pays it for each: a prompt beside an answer reads the weights twice.

    Speculation gives each decoding request `tokens_per_step` in each step, or, where `accept` is set, what is
    drawn for it: one token, and each of the `verify_tok` - 1 drafted ones, while those before it were
    accepted, with probability `accept` / `CERTAIN` (`wattmill.twin.engine.draws`). In the mean that is the
    same.

    Tensor and expert parallelism, quantisation and attention-DP are inside these figures: whoever lowers a
    deployment (`wattmill.twin.lowering`) puts them there.
    """

    step_ps: tuple[int, ...]  # by tokens in the step; index 0 is unused, the last goes on
    beyond_ps_per_tok: int = 0
    decode_ps: int = 0
    context_ps_per_tok: int = 0
    prefill_ps_per_tok: int = 0
    attention_ps_per_ktok: int = 0
    stages: int = 1  # of a pipeline; power and busy time are then of all stages while each has its part
    verify_tok: int = 1  # tokens computed for a decoding request: 1 + drafted ones under speculation
    tokens_per_step: int = ONE  # expected tokens that a step gives to a decoding request, in parts of `ONE`
    accept: int = 0  # of a drafted token, in parts of `CERTAIN`; 0: nothing is drawn, `tokens_per_step` holds
    draw_seed: int = 0  # what is drawn follows from it, the request and the place in its answer
    piece_tok: int = 0  # llama.cpp's n_ubatch, where a step is computed slot by slot; 0: in one go
    overhead_ps: int = 0  # from the client to the engine's queue: network, tokenizer, front end
    handover_ps: int = 0  # of one request's memory from a prefill replica to a decode replica: fixed part
    handover_ps_per_tok: int = 0  # and per token of context: its KV bytes / the link's bytes per second
    idle_mw: int = 0  # power while nothing runs, milliwatts
    power_mw: tuple[int, ...] = ()  # power in a step by sequences in it; the last entry goes on


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica may hold and do. `wattmill.twin.engine.defaults` has each engine's shipped values."""

    scheduler: SchedulerKind = "vllm"
    max_num_seqs: int  # running at once; llama.cpp: slots
    budget_tok: int  # tokens in one step; SGLang: of a prefill step; llama.cpp: n_batch
    kv_blocks: int  # in memory, shared by running requests and what the prefix cache keeps
    block_tok: int = 16
    chunked_prefill: bool = True  # false: a prompt enters only a step that holds all of it
    prefix_cache: bool = True  # requests without prefix ids share nothing either way
    prefix_tok: int = 512  # tokens that one prefix id stands for; a multiple of `block_tok`


def check(cost: StepCost, limits: EngineLimits) -> None:
    """Raise `ValueError` where a replica could never work: better than a simulation that hangs."""
    if not cost.step_ps or min(cost.step_ps[1:] or cost.step_ps) < 1:
        raise ValueError("step_ps must hold at least one entry, each >= 1: steps take time")
    for name in ("beyond_ps_per_tok", "decode_ps", "context_ps_per_tok", "prefill_ps_per_tok"):
        if getattr(cost, name) < 0:
            raise ValueError(f"{name} is {getattr(cost, name)}, must be >= 0: a cost is never a gain")
    if cost.attention_ps_per_ktok < 0 or cost.overhead_ps < 0:
        raise ValueError("attention_ps_per_ktok and overhead_ps must be >= 0")
    if cost.stages < 1 or cost.verify_tok < 1:
        raise ValueError(f"stages is {cost.stages}, verify_tok is {cost.verify_tok}: both must be >= 1")
    if not ONE <= cost.tokens_per_step <= ONE * cost.verify_tok:
        raise ValueError(
            f"tokens_per_step is {cost.tokens_per_step / ONE:.2f} tokens, must be between 1 and "
            f"verify_tok, {cost.verify_tok}: a step gives what it verified at most"
        )
    if cost.accept:
        _check_draws(cost)
    if cost.handover_ps < 0 or cost.handover_ps_per_tok < 0:
        raise ValueError("handover_ps and handover_ps_per_tok must be >= 0: a link takes time")
    if cost.stages > 1 and limits.scheduler == "llamacpp":
        raise ValueError(
            f"stages is {cost.stages}, must be 1 for llamacpp: its scheduler has one batch in flight"
        )
    if cost.piece_tok and (limits.scheduler != "llamacpp" or cost.stages > 1 or cost.piece_tok < 0):
        raise ValueError(
            f"piece_tok is {cost.piece_tok}, must be >= 0, and 0 for {limits.scheduler} with {cost.stages} "
            "stages: only llama.cpp on one stage computes a step slot by slot"
        )
    if limits.max_num_seqs < 1 or limits.kv_blocks < 1 or limits.block_tok < 1:
        raise ValueError("max_num_seqs, kv_blocks and block_tok must each be >= 1")
    if limits.scheduler != "sglang" and limits.budget_tok < limits.max_num_seqs * cost.verify_tok:
        raise ValueError(
            f"budget_tok is {limits.budget_tok}, must be >= max_num_seqs x verify_tok, "
            f"{limits.max_num_seqs * cost.verify_tok}: each decoding request takes {cost.verify_tok}"
        )
    if limits.budget_tok < 1:
        raise ValueError(f"budget_tok is {limits.budget_tok}, must be >= 1")
    if limits.prefix_tok % limits.block_tok:
        raise ValueError(
            f"prefix_tok is {limits.prefix_tok}, must be a multiple of block_tok, {limits.block_tok}"
        )


def tokens_per_step(*, drafted: int, accept: int) -> int:
    """Return the expected tokens of a step, 1 + a + a^2 + ... + a^drafted, in parts of `ONE`, whole ones."""
    total, chance = 0, CERTAIN
    for _ in range(drafted + 1):
        total += chance
        chance = chance * accept // CERTAIN
    return total * ONE // CERTAIN


def _check_draws(cost: StepCost) -> None:
    if not 0 < cost.accept <= CERTAIN:
        raise ValueError(f"accept is {cost.accept}, must be between 0 and {CERTAIN}: it is a probability")
    if not 0 <= cost.draw_seed < CERTAIN:
        raise ValueError(f"draw_seed is {cost.draw_seed}, must be between 0 and {CERTAIN - 1}")
    if cost.verify_tok < 2:
        raise ValueError(
            f"accept is set, so verify_tok must be >= 2, is {cost.verify_tok}: nothing is drafted"
        )
    mean = tokens_per_step(drafted=cost.verify_tok - 1, accept=cost.accept)
    if abs(mean - cost.tokens_per_step) > 1:
        raise ValueError(
            f"tokens_per_step is {cost.tokens_per_step / ONE:.5f}, must be {mean / ONE:.5f}: the mean of the "
            "draws"
        )
