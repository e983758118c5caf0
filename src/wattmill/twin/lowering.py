"""From a deployment and its calibration to what the compiled engine plays: the law in whole picoseconds.

The same law that `validate` scores. What depends on the tokens of a step goes into a table; what the engine's
integers cannot say is taken at a typical step: the surplus of the slowest rank and of the fullest expert
rank, a cache whose windows are full, and the cost of mixing prompts in, spread over the prompt tokens. A
stage of a pipeline takes the part of all layers that the fullest of the stages has, as in
`step_time.pipelined`; its bubbles come out of the events.
"""

from __future__ import annotations

from math import ceil

from msgspec.structs import replace

from wattmill.models.deployment import Deployment
from wattmill.models.graphs import paddings
from wattmill.models.step_time import Coefficients, Work, seconds, terms, tokens_per_step
from wattmill.twin.engine.spec import ONE, EngineLimits, SchedulerKind, StepCost
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.features import batching, kv_tok
from wattmill.twin.law.spec import Speculation
from wattmill.units import PS_PER_S

_KTOK = 1024
_BLOCK_TOK = 16


def lower(
    deployment: Deployment,
    *,
    isl: int,
    concurrency: int,
    calibration: Calibration | None = None,
    speculation: Speculation | None = None,
    table_tok: int = 8192,
) -> StepCost:
    """Return the step cost of one replica.

    Args:
        deployment: what runs. Of a pipeline the cost is that of one of its stages.
        isl: a typical prompt, for the front end and for how many tokens share the cost of mixing.
        concurrency: sequences at work; a typical step has all of them, or those of one batch of a pipeline.
        calibration: other coefficients than the stored ones.
        speculation: off by default.
        table_tok: tokens of a step up to which the table goes; beyond, it goes on straight.
    """
    law = calibration or stored()
    k = law.coefficients(deployment)
    request_s, prompt_s = law.front_end_s(deployment)
    in_step = ceil(concurrency / deployment.pp)
    layers = deployment.architecture.layers
    part = ceil(layers / deployment.pp) / layers
    budget = batching(deployment.engine, isl=isl, concurrency=in_step)[1]
    n = float(in_step)
    typical = _cost(deployment, k, Work(decode_n=n, touched=deployment.architecture.experts_touched(n)))

    def per_sequence(work: Work, only: Coefficients) -> float:
        return seconds(terms(deployment, work), only)

    decode = _only(k, "decode_flop", "sequence", "kv")
    context = _only(k, "kv", "latent")
    prompt = _only(k, "prefill_flop", "attention")
    long = 1 << 20  # windows are full, whatever the window
    fixed_s = per_sequence(Work(decode_n=n, context_tok=n * long), decode) / n
    growth_s = (
        per_sequence(Work(decode_n=n, context_tok=n * 2 * long), context)
        - per_sequence(Work(decode_n=n, context_tok=n * long), context)
    ) / (n * long)
    kv_growth_s = (
        per_sequence(Work(decode_n=n, context_tok=n * 2 * long), _only(k, "kv"))
        - per_sequence(Work(decode_n=n, context_tok=n * long), _only(k, "kv"))
    ) / (n * long)
    chunk = float(max(min(isl, budget), 1))
    prefill_s = per_sequence(Work(prefill_tok=chunk), prompt) / chunk
    attention_s = per_sequence(Work(prefill_attention_tok2=1.0), _only(k, "attention"))
    fills = paddings(deployment.graph_sizes, ranks=deployment.attn_dp)
    table = [
        _cost(deployment, k, _tokens(deployment, tok, fills[tok] if tok < len(fills) else 0))
        for tok in range(1, table_tok + 1)
    ]
    slope = max(table[-1] - table[-2], 0.0) if len(table) > 1 else 0.0
    drafted = speculation.drafted if speculation else 0
    given = (
        tokens_per_step(drafted=drafted, acceptance=speculation.acceptance)
        if speculation is not None
        else 1.0
    )
    return StepCost(
        step_ps=(_ps(part * typical), *(max(_ps(part * s), 1) for s in table)),
        beyond_ps_per_tok=_ps(part * slope),
        decode_ps=_ps(part * max(fixed_s - kv_growth_s * long, 0.0)),
        context_ps_per_tok=_ps(part * growth_s),
        prefill_ps_per_tok=_ps(part * (prefill_s + k.mixed / chunk)),
        attention_ps_per_ktok=_ps(part * attention_s * _KTOK),
        stages=deployment.pp,
        verify_tok=1 + drafted,
        tokens_per_step=int(given * ONE),
        overhead_ps=_ps(request_s + prompt_s * isl),
    )


def limits(deployment: Deployment, *, isl: int, osl: int, concurrency: int) -> EngineLimits:
    """Return what one replica may hold and do, as the law's own schedule assumes it: a place for every
    request, the engine's budget, and the cache that its memory leaves."""
    in_step = ceil(concurrency / deployment.pp)
    kind, budget = batching(deployment.engine, isl=isl, concurrency=in_step)
    scheduler: dict[str, SchedulerKind] = {"prefill first": "sglang", "whole prompts": "trtllm"}
    return EngineLimits(
        scheduler=scheduler.get(kind, "vllm"),
        max_num_seqs=concurrency,
        budget_tok=max(budget * deployment.attn_dp, concurrency + 1),
        kv_blocks=min(kv_tok(deployment, isl=isl, osl=osl), 1 << 40) // _BLOCK_TOK + concurrency,
        block_tok=_BLOCK_TOK,
        # TensorRT-LLM's step has room for one prompt, but not for one that comes back with its answer after
        # a preemption; the engine refuses that, so prompts may be cut here.
        chunked_prefill=True,
        prefix_cache=False,
    )


def _tokens(d: Deployment, tok: int, fill: int) -> Work:
    return Work(decode_n=float(tok), touched=d.architecture.experts_touched(tok + fill), padded=float(fill))


def _cost(d: Deployment, k: Coefficients, work: Work) -> float:
    """Return the part of a step that depends on its number of tokens only: what fills a recorded graph is
    multiplied for nothing."""
    shared = replace(k, kv=0.0, latent=0.0, decode_flop=0.0, sequence=0.0)
    found = seconds(terms(d, work), shared)
    if work.padded:
        found += seconds(terms(d, Work(padded=work.padded)), _only(k, "decode_flop"))
    return found


def _only(k: Coefficients, *names: str) -> Coefficients:
    return Coefficients(**{name: getattr(k, name) if name in names else 0.0 for name in k.__struct_fields__})


def _ps(seconds_: float) -> int:
    return round(seconds_ * PS_PER_S)
