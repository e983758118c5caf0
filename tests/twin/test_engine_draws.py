"""Speculation drawn in the compiled engine: by hand, in the mean, by seed. (The slow simulator: see core.)"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from slow_engine import mixed

from wattmill.models.step_time import tokens_per_step as closed_law
from wattmill.twin.engine.experiment import Outcome, Requests, simulate
from wattmill.twin.engine.spec import CERTAIN, ONE, EngineLimits, StepCost, tokens_per_step

MS_PS = 1_000_000_000
LIMITS = EngineLimits(max_num_seqs=64, budget_tok=512, kv_blocks=4_096)


def drafting(drafted: int, acceptance: float, seed: int = 0) -> StepCost:
    accept = round(acceptance * CERTAIN)
    return StepCost(
        step_ps=(10 * MS_PS,),
        verify_tok=1 + drafted,
        tokens_per_step=tokens_per_step(drafted=drafted, accept=accept),
        accept=accept,
        draw_seed=seed,
        power_mw=(1, 300),
    )


def played(cost: StepCost, requests: int = 200, output_tok: int = 400) -> Outcome:
    return simulate(
        [(cost, LIMITS)],
        Requests(at_ps=[0] * requests, input_tok=[4] * requests, output_tok=[output_tok] * requests),
    )


def test_draws_by_hand() -> None:
    """One drafted token, accepted every other time; 10 ms a step. The first step gives one token; each
    later one two where the low 31 bits of the draw are below a half, else one, until seven are there."""
    given, steps = 1, 1
    while given < 7:
        given += 2 if mixed(mixed(5, 0), given) & (CERTAIN - 1) < CERTAIN // 2 else 1
        steps += 1
    assert 4 < steps < 7  # of this seed neither all nor none
    ran = played(drafting(1, 0.5, seed=5), requests=1, output_tok=7)
    assert ran.end_ps.tolist() == [steps * 10 * MS_PS]
    assert ran.draws.tolist() == [steps - 1] and ran.drawn_tok.tolist() == [given - 1]


@pytest.mark.parametrize(("drafted", "acceptance"), [(1, 0.3), (3, 0.7), (5, 0.9), (7, 0.05), (2, 1.0)])
def test_in_the_mean_a_drawn_step_gives_what_the_closed_law_says(drafted: int, acceptance: float) -> None:
    ran = played(drafting(drafted, acceptance))
    draws, mean = int(ran.draws.sum()), float(ran.drawn_tok.sum() / ran.draws.sum())
    law = closed_law(drafted=drafted, acceptance=acceptance)
    # E[T^2] of 1 + accepted: sum of (2 j + 1) a^j over j; four standard errors.
    second = sum((2 * j + 1) * acceptance**j for j in range(drafted + 1))
    assert draws > 5_000
    assert abs(mean - law) <= 4 * ((second - law * law) / draws) ** 0.5 + 1e-6


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    once, again, other = (played(drafting(3, 0.7, seed)) for seed in (1, 1, 2))
    assert (once.end_ps == again.end_ps).all()
    assert (once.end_ps != other.end_ps).any()


def test_requests_draw_each_for_itself_in_any_company() -> None:
    """Steps of equal length: alone, or with 199 others, a request ends after as many steps."""
    crowd, alone = played(drafting(3, 0.7)), played(drafting(3, 0.7), requests=1)
    assert int(crowd.end_ps[0] - crowd.first_ps[0]) == int(alone.end_ps[0] - alone.first_ps[0])
    assert len(np.unique(crowd.end_ps)) > 10


def test_certain_acceptance_is_the_closed_form_to_the_picosecond() -> None:
    drawn = drafting(2, 1.0)
    jumped = msgspec.structs.replace(drawn, accept=0, tokens_per_step=3 * ONE)
    one, other = played(drawn), played(jumped)
    assert (one.end_ps == other.end_ps).all() and (one.energy_uj == other.energy_uj).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accept": CERTAIN + 1}, "it is a probability"),
        ({"verify_tok": 1, "tokens_per_step": ONE}, "nothing is drafted"),
        ({"tokens_per_step": ONE}, "tokens_per_step is 1.00000, must be 1.87500: the mean of the draws"),
        ({"draw_seed": -1}, "draw_seed is -1, must be between 0"),
    ],
)
def test_draws_that_say_no_law_are_refused(change: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        played(msgspec.structs.replace(drafting(3, 0.5), **change))
