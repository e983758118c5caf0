"""The step-time law: how long one step of a continuous batch takes, as one sum over resources.

Every term is the time that a resource would take at its datasheet figure, or a count (of steps, layers,
sequences). The law is the sum of each term times its coefficient: a factor on the datasheet's time (1 / its
efficiency), or seconds for each count. Because the law is linear in the terms, and nearly so in what happens
in the steps, the time of many steps is the law of their summed `Work`: `validate`, `simulate` and `plan` use
this one function.
"""

from __future__ import annotations

from math import ceil, inf, log, sqrt

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.models.graphs import paddings

_BITS_PER_BYTE = 8.0
_ACTIVATION_BYTES = 2.0  # bf16 between layers
_COLLECTIVES_PER_LAYER = 2  # after attention and after the feed-forward


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one step does, or the sum over many steps. Means per step of a mix of steps serve as well."""

    steps: float = 1.0
    decode_n: float = 0.0  # sequences that get their next token
    context_tok: float = 0.0  # cached tokens that these sequences read, all together
    prefill_tok: float = 0.0  # prompt tokens computed
    prefill_attention_tok2: float = 0.0  # pairs of a computed prompt token and one before it
    touched: float = 0.0  # experts of a layer that at least one token of the step uses
    mixed_steps: float = 0.0  # steps with prompt tokens in them
    padded: float = 0.0  # tokens computed for nothing, to fill a captured graph


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The law's terms: seconds at the datasheet's figures, or counts. As `Coefficients`: factors on them."""

    weights: float  # s: dense and shared weights read
    experts: float  # s: routed experts read
    kv: float  # s: cache read
    decode_flop: float  # s: matrix products of decoded tokens
    prefill_flop: float  # s: matrix products of prompt tokens
    attention: float  # s: attention of prompt tokens
    latent: float  # s: attention of decoded tokens over a latent cache, which is bound by FLOPs
    link: float  # s: bytes through the scale-up fabric
    collective: float  # count: collectives that wait for the slowest device, times log2 of devices
    layer: float  # count: layers started
    step: float  # count: steps
    sequence: float  # count: sequences the host handles
    mixed: float  # count: steps that also prefill


Coefficients = Terms
"""Factor (s per s) or seconds (per count) of each term; see `TERMS` for the order."""

TERMS: tuple[str, ...] = Terms.__struct_fields__

DATASHEET = Coefficients(
    weights=1.25,
    experts=1.25,
    kv=1.25,
    decode_flop=1.5,
    prefill_flop=1.6,
    attention=2.0,
    latent=2.0,
    link=1.5,
    collective=4e-6,
    layer=2.5e-5,
    step=1e-3,
    sequence=1e-5,
    mixed=2e-3,
)
"""What the fit starts from: typical efficiencies, not fitted ones."""


def terms(deployment: Deployment, work: Work) -> Terms:
    """Return the time that `work` would take of each resource at its datasheet figure, and the counts.

    Valid for steps in which the batch is spread evenly over the attention ranks; the slowest rank's surplus
    and the fullest expert rank's are added as their expectation. Prompt tokens of sliding layers see one
    window. Pipeline stages run one after the other within a step: `work` is then what one of the batches
    does that fill the pipeline, see `pipelined`.
    """
    a, g, d = deployment.architecture, deployment.accelerator, deployment
    stage = d.stage_gpus
    bandwidth = g.bandwidth_bytes_per_s
    tokens = work.decode_n + work.padded + work.prefill_tok
    per_step = tokens / work.steps if work.steps else 0.0
    slowest = _slowest(work.decode_n / work.steps / d.attn_dp if work.steps else 0.0, d.attn_dp)
    fullest = _slowest(per_step * a.active_experts / d.ep, d.ep) if a.experts else 1.0

    dense = (d.dense_bytes + d.head_bytes) / d.tp  # the input table is looked up, not read
    expert_bytes = a.expert_params * d.weight_bits / _BITS_PER_BYTE
    routed = expert_bytes / stage * (work.touched / a.experts) if a.experts else 0.0

    mean_context = work.context_tok / work.decode_n if work.decode_n else 0.0
    cache = work.decode_n / d.attn_dp * a.kv_elements(mean_context) / d.kv_split
    expert_flop = 2.0 * a.expert_params * a.active_experts / a.experts if a.experts else 0.0
    dense_flop = max(a.linear_flop_per_tok - expert_flop, 0.0)
    per_tok = (
        expert_flop / g.flop_per_s(d.flop_bits) * fullest
        + dense_flop / g.flop_per_s(16.0 if d.flop_bits == 16.0 else d.dense_bits)
    ) / stage
    wide_flop_per_s = g.flop_per_s(16) * stage
    sliding = a.window_attention_flop(work.prefill_tok)
    latent_dims = 2 * a.kv_lora_rank + a.qk_rope_dim if a.kv_lora_rank else 0
    latent_flop = 2.0 * a.heads * latent_dims * a.growing_layers * work.context_tok
    moved = _moved_bytes(d, tokens)
    link = g.link_bytes_per_s or 0.0
    between_s = _between_stages_bytes(d, tokens) / (d.stage_link_bytes_per_s or inf)
    waits = _COLLECTIVES_PER_LAYER * a.layers * work.steps
    return Terms(
        weights=dense / bandwidth * work.steps,
        experts=routed / bandwidth,
        kv=cache * d.kv_bits / _BITS_PER_BYTE / bandwidth * slowest,
        decode_flop=per_tok * (work.decode_n + work.padded),
        prefill_flop=per_tok * work.prefill_tok,
        attention=(a.attention_flop_per_tok2 * work.prefill_attention_tok2 + sliding) / wide_flop_per_s,
        latent=latent_flop / wide_flop_per_s * slowest,
        link=(moved / link if link and stage > 1 else 0.0) + between_s,
        collective=waits * log(stage, 2) if stage > 1 else 0.0,
        layer=a.layers * work.steps,
        step=work.steps,
        sequence=work.decode_n,
        mixed=work.mixed_steps,
    )


def step_s(
    deployment: Deployment,
    coefficients: Coefficients,
    *,
    decode_n: float,
    context_tok: float,
    prefill_tok: float = 0.0,
    prefill_attention_tok2: float = 0.0,
) -> float:
    """Return the seconds of one step.

    Args:
        deployment: the replica that runs it.
        coefficients: the fitted ones of its (accelerator, engine, architecture).
        decode_n: sequences that get their next token.
        context_tok: cached tokens that they read, all together.
        prefill_tok: prompt tokens computed in the step.
        prefill_attention_tok2: pairs of a computed prompt token and one before it: for a chunk that starts
            at token a and ends at b, (b^2 - a^2) / 2.

    A step of no more tokens than the largest recorded graph (`deployment.graph_sizes`) is padded to the next.
    """
    padded = padding_of(deployment, decode_n + prefill_tok)
    work = Work(
        decode_n=decode_n,
        context_tok=context_tok,
        prefill_tok=prefill_tok,
        prefill_attention_tok2=prefill_attention_tok2,
        touched=deployment.architecture.experts_touched(decode_n + padded + prefill_tok),
        mixed_steps=1.0 if prefill_tok else 0.0,
        padded=padded,
    )
    return seconds(terms(deployment, work), coefficients)


def seconds(found: Terms, coefficients: Coefficients) -> float:
    """Return the law's sum: each term times its coefficient."""
    values, factors = msgspec.structs.astuple(found), msgspec.structs.astuple(coefficients)
    return float(sum(value * factor for value, factor in zip(values, factors, strict=True)))


def padding_of(deployment: Deployment, tokens: float) -> float:
    """Return the tokens that a step of `tokens` (a mean of steps; rounded) computes for nothing, to fill a
    recorded graph on each attention rank; 0 where none are declared or the step is larger than all."""
    found = paddings(deployment.graph_sizes, ranks=deployment.attn_dp)
    n = round(tokens)
    return float(found[n]) if n < len(found) else 0.0


def tokens_per_step(*, drafted: int, acceptance: float) -> float:
    """Return the expected tokens of a sequence per step under speculation.

    Each of `drafted` tokens is accepted with probability `acceptance` if those before it were, and the
    verifying step always yields one of its own: (1 - a^(k+1)) / (1 - a) [1].

    [1] Leviathan, Kalman, Matias: Fast Inference from Transformers via Speculative Decoding, 2023, eq. 1.
    """
    if not 0.0 <= acceptance <= 1.0 or drafted < 0:
        raise ValueError(
            f"acceptance must lie in 0..1 and drafted be at least 0, got {acceptance} and {drafted}"
        )
    if acceptance == 1.0:
        return drafted + 1.0
    left: float = acceptance ** (drafted + 1)
    return (1.0 - left) / (1.0 - acceptance)


def speculated(work: Work, deployment: Deployment, *, drafted: int, acceptance: float) -> Work:
    """Return the work per token of pure decode steps if each step verifies `drafted` tokens more.

    A step computes 1 + `drafted` tokens of each sequence, reads each cache once, and gives
    `tokens_per_step`; the drafting itself is left out (heads of the model, or a draft model of its own).
    """
    given = tokens_per_step(drafted=drafted, acceptance=acceptance)
    extra = work.decode_n * drafted
    per_step = (work.decode_n + extra) / work.steps if work.steps else 0.0
    return Work(
        steps=work.steps / given,
        decode_n=work.decode_n / given,
        context_tok=work.context_tok / given,
        prefill_tok=work.prefill_tok,
        prefill_attention_tok2=work.prefill_attention_tok2,
        touched=deployment.architecture.experts_touched(per_step) * work.steps / given,
        mixed_steps=work.mixed_steps,
        padded=(work.padded + extra) / given,
    )


def pipelined(work: Work, *, stages: int, layers: int, held_by_others: bool = True) -> Work:
    """Return the mean work of one of `stages` equal batches that go round a pipeline of as many stages.

    Each batch passes every stage in a step, and while it is at one, the others are at the others. So a step
    lasts as long as one of its `work` does through all stages, with two kinds of bubbles:

    - Layers come in whole: the fullest of the stages has ceil(layers / stages) of them and sets the pace of
      all. Everything takes stages x ceil(layers / stages) / layers times as long.
    - Nobody overtakes: a step with prompt tokens at any of the batches holds up all. With a share q of such
      steps, at least one of the batches has one in 1 - (1 - q)^stages of the rounds, so a token waits for
      (1 - (1 - q)^stages) / q times the prompt work of its own batch (`held_by_others`).

    Valid for a full pipeline with room between stages for what waits. The experts that prompt tokens of other
    batches touch are left out. Hand check: 80 layers in 3 stages: 27 x 3 / 80 = 1.0125; with prompts in half
    of the steps of 2 batches, (1 - 0.25) / 0.5 = 1.5 times their prompt work.
    """
    if stages <= 1:
        return work
    uneven = stages * ceil(layers / stages) / layers
    share = min(1.0, work.mixed_steps / work.steps) if work.steps else 0.0
    held = (1.0 - (1.0 - share) ** stages) / share if held_by_others and share > 0.0 else 1.0
    return Work(
        steps=work.steps * uneven,
        decode_n=work.decode_n * uneven,
        context_tok=work.context_tok * uneven,
        prefill_tok=work.prefill_tok * uneven * held,
        prefill_attention_tok2=work.prefill_attention_tok2 * uneven * held,
        touched=work.touched * uneven,
        mixed_steps=work.mixed_steps * uneven * held,
        padded=work.padded * uneven,
    )


def _slowest(mean: float, ranks: int) -> float:
    """Return how much more than its share the fullest of `ranks` gets of things that fall evenly at random.

    The maximum of n normal deviates is near sqrt(2 ln n) standard deviations, and a Poisson count of mean m
    has a relative one of 1 / sqrt(m). No more than all of it on one rank.
    """
    if ranks <= 1 or mean <= 0.0:
        return 1.0
    return min(1.0 + sqrt(2.0 * log(ranks) / mean), float(ranks))


def _moved_bytes(d: Deployment, tokens: float) -> float:
    """Return bytes that each device sends in a ring all-reduce per layer, or to the experts and back."""
    a = d.architecture
    activation = a.hidden * _ACTIVATION_BYTES
    reduced = 0.0
    if d.tp > 1:
        per_rank = tokens / d.attn_dp * activation
        reduced = _COLLECTIVES_PER_LAYER * a.layers * 2.0 * (d.tp - 1) / d.tp * per_rank
    spread = 0.0
    if d.ep > 1 and d.attn_dp > 1:
        reached = min(float(a.active_experts), float(d.ep))
        spread = 2.0 * a.moe_layers * reached * (d.ep - 1) / d.ep * tokens / d.stage_gpus * activation
    return reduced + spread


def _between_stages_bytes(d: Deployment, tokens: float) -> float:
    """Return bytes that each device hands to the same rank of the next stage, over all stages: the hidden
    state of its attention rank's tokens, a copy from each of the `tp` devices."""
    return (d.pp - 1) * tokens / d.attn_dp * d.architecture.hidden * _ACTIVATION_BYTES
