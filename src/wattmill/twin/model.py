"""The service law in closed form: what a step, many steps, and one request alone take. All exact integers."""

from __future__ import annotations

from math import isqrt

from wattmill.scheduling.spec import Pool
from wattmill.twin.spec import BLOCK_TOK, Place, StepLaw, StreamLaw, Work
from wattmill.units import J_PER_KWH, TOK_PER_MTOK, UG_PER_G

_ATTENTION_SHIFT = 11  # 2 x 1024, see StepLaw


def prompt_ps(law: StepLaw, from_tok: int, to_tok: int) -> int:
    """Return the time that prompt tokens `from_tok` to `to_tok` add to their steps, however they are cut."""
    attention = law.attention_ps_per_ktok
    return (
        law.prefill_ps_per_tok * (to_tok - from_tok)
        + (attention * to_tok * to_tok >> _ATTENTION_SHIFT)
        - (attention * from_tok * from_tok >> _ATTENTION_SHIFT)
    )


def decode_ps(law: StepLaw, context_tok: int, steps: int) -> int:
    """Return the time that one request adds to `steps` steps, reading `context_tok` in the first of them."""
    return steps * (law.decode_ps + law.kv_ps_per_tok * context_tok) + law.kv_ps_per_tok * (
        steps * (steps - 1) // 2
    )


def steps_ps(law: StepLaw, decoding: int, context_tok: int, steps: int) -> int:
    """Return how long `steps` decode steps last together: each context grows by a token a step."""
    first = law.step_ps + decoding * law.decode_ps + law.kv_ps_per_tok * context_tok
    return steps * first + law.kv_ps_per_tok * decoding * (steps * (steps - 1) // 2)


def steps_until(law: StepLaw, decoding: int, context_tok: int, ps: int) -> int:
    """Return the fewest decode steps that last at least `ps`: the step that runs at an instant ends then."""
    first = law.step_ps + decoding * law.decode_ps + law.kv_ps_per_tok * context_tok
    growth = law.kv_ps_per_tok * decoding
    if growth == 0:
        return -(-ps // first)
    # growth/2 n^2 + (first - growth/2) n >= ps, with everything doubled to stay whole.
    half = 2 * first - growth
    steps = max(0, (isqrt(half * half + 8 * growth * ps) - half) // (2 * growth))
    while steps_ps(law, decoding, context_tok, steps) < ps:
        steps += 1
    return steps


def steps_within(law: StepLaw, decoding: int, context_tok: int, ps: int) -> int:
    """Return how many decode steps have ended after `ps`."""
    if ps <= 0:
        return 0
    steps = steps_until(law, decoding, context_tok, ps)
    return steps if steps_ps(law, decoding, context_tok, steps) <= ps else steps - 1


def whole_blocks_tok(blocks: int, input_tok: int) -> int:
    """Return the prompt tokens that `blocks` cached blocks save: at least one token is always computed."""
    return min(blocks * BLOCK_TOK, input_tok - 1)


def alone_ps(place: Place, work: Work, cached_tok: int = 0) -> int:
    """Return how long `work` takes at an empty place, from the decision to the last token."""
    match place.law:
        case StepLaw() as law:
            chunks = -(-(work.input_tok - cached_tok) // law.budget_tok)
            steps = chunks + work.output_tok - 1
            busy_ps = (
                steps * law.step_ps
                + prompt_ps(law, cached_tok, work.input_tok)
                + decode_ps(law, work.input_tok + 1, work.output_tok - 1)
            )
        case StreamLaw() as law:
            busy_ps = law.prefill_ps_per_tok * work.input_tok + law.decode_ps * (work.output_tok - 1)
    return place.overhead_ps + busy_ps


def charge_nusd(pool: Pool, model: str, work: Work, cached_tok: int) -> int:
    """Return what `work` costs at `pool`: whole nano-dollars, each class at its rate, rounded half up
    once."""
    in_rate = pool.charge_in_nusd_per_mtok[model]
    cached_rate = pool.charge_cached_nusd_per_mtok.get(model, in_rate)
    out_rate = pool.charge_out_nusd_per_mtok[model]
    nusd_mtok = (
        (work.input_tok - cached_tok) * in_rate + cached_tok * cached_rate + work.output_tok * out_rate
    )
    return (nusd_mtok + TOK_PER_MTOK // 2) // TOK_PER_MTOK


def carbon_ug(pool: Pool, work: Work, cached_tok: int) -> int | None:
    """Return micrograms of CO2 on the declared joules per token; None where the place does not declare
    them."""
    if pool.carbon_g_per_kwh is None or pool.energy_j_per_tok is None or pool.energy_j_per_in_tok is None:
        return None
    joules = pool.energy_j_per_tok * work.output_tok + pool.energy_j_per_in_tok * (
        work.input_tok - cached_tok
    )
    return round(joules * pool.carbon_g_per_kwh * UG_PER_G / J_PER_KWH)
