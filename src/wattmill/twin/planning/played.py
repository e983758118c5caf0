"""A few points of the front on the simulated engine: does the closed form say what the steps say?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from wattmill.twin.engine.experiment import Clients, HandOver, Requests, simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST
from wattmill.twin.lowering import limits, lower
from wattmill.twin.operators.levelled import levelled
from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.options import Config
from wattmill.twin.planning.pareto import Spot, spots
from wattmill.twin.prediction import Prior
from wattmill.units import PS_PER_S

MOST = 8


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration at one batch, as the engine's steps gave it. Modelled, by events."""

    config: str
    batch: int
    requests: int
    tok_per_s_per_user: float  # 1 / mean time per token after the first
    output_tok_per_s_per_gpu: float
    ttft_s: float  # mean
    law_tok_per_s_per_user: float
    law_output_tok_per_s_per_gpu: float


def to_play(found: Answered, most: int = MOST) -> list[Spot]:
    """Return at most `most` points of the front by accelerator, evenly taken, both ends included."""
    front = [s for s in spots(found) if s.front_gpu]
    if len(front) <= most:
        return front
    return [front[round(n * (len(front) - 1) / (most - 1))] for n in range(most)]


def played(
    found: Answered, chosen: Sequence[Spot], *, seed: int = 0, prior: Prior | None = None
) -> Iterator[Played]:
    """Yield each point as the event simulation gives it, in the order of `chosen`; `prior`: that of the plan.

    The client is the law's: it holds its concurrency, `PROMPTS` requests for each place; lengths uniform from
    `SHORTEST` of the first tier's to those. Throughput is that of a full batch: concurrency x tokens over the
    time that a request takes, as the closed form counts it.
    """
    tier = found.chosen.problem.tiers[0]
    configs = found.choice.configs
    isl, osl = max(1, round(tier.input_tok)), max(2, round(tier.output_tok))
    for spot in chosen:
        config = configs[spot.config]
        count = spot.batch * PROMPTS
        rng = np.random.default_rng(seed)
        inputs = rng.integers(max(1, int(isl * SHORTEST)), isl + 1, count)
        outputs = rng.integers(max(2, int(osl * SHORTEST)), osl + 1, count)
        law = stored()
        if prior is not None and config.apart is None and config.speculation is None:  # as `predict` has it
            law, _ = levelled(config.deployment, prior, isl=isl, osl=osl, concurrency=spot.batch)
        replicas, hand_over = replicas_of(config, isl=isl, osl=osl, users=spot.batch, law=law)
        run = simulate(
            replicas,
            Requests(input_tok=inputs, output_tok=outputs),
            clients=Clients(concurrency=spot.batch),
            hand_over=hand_over,
        )
        tpot_s = float(((run.end_ps - run.first_ps) / (outputs - 1)).mean()) / PS_PER_S
        ttft_s = float((run.first_ps - run.at_ps).mean()) / PS_PER_S
        per_s = spot.batch * tier.output_tok / (ttft_s + tpot_s * (tier.output_tok - 1.0))
        yield Played(
            config=spot.config,
            batch=spot.batch,
            requests=count,
            tok_per_s_per_user=1.0 / tpot_s,
            output_tok_per_s_per_gpu=per_s / config.gpus,
            ttft_s=ttft_s,
            law_tok_per_s_per_user=spot.tok_per_s_per_user,
            law_output_tok_per_s_per_gpu=spot.output_tok_per_s_per_gpu,
        )


def replicas_of(
    config: Config, *, isl: int, osl: int, users: int, law: Calibration | None = None
) -> tuple[list[tuple[StepCost, EngineLimits]], HandOver | None]:
    """Return one replica, or a unit of those that compute prompts and those that decode."""
    d, apart, drafts = config.deployment, config.apart, config.speculation
    bounds = limits(d, isl=isl, osl=osl, concurrency=users)
    if drafts is not None:
        verified = users * (1 + drafts.drafted) + 1
        bounds = replace(bounds, budget_tok=max(bounds.budget_tok, verified))
    if apart is None:
        return [(lower(d, isl=isl, concurrency=users, calibration=law, speculation=drafts), bounds)], None
    own = apart.prefill
    one_s = d.distinct_kv_bytes_per_tok / (apart.link_bytes_per_s * own.tp * own.attn_dp)
    prompts = replace(
        lower(own, isl=isl, concurrency=-(-users // apart.prefill_replicas), calibration=law),
        handover_ps=round(apart.latency_s * PS_PER_S) or 1,
        handover_ps_per_tok=round(one_s * PS_PER_S),
    )
    first = prompts, limits(own, isl=isl, osl=osl, concurrency=users)
    each = -(-users // apart.decode_replicas)
    then = lower(d, isl=isl, concurrency=each, calibration=law, speculation=drafts), bounds
    over = HandOver(prefill=apart.prefill_replicas)
    return [first] * apart.prefill_replicas + [then] * apart.decode_replicas, over
