"""Weights of a token, learnt from windows whose weights are known."""

from __future__ import annotations

import random

import pytest

from wattmill.ledger.learning import Observation, fit, weights_of


def windows(
    n: int,
    *,
    seed: int,
    noise: float = 0.03,
    context_uj: float = 0.0,
    prompts: bool = True,
    tied: bool = False,
) -> list[Observation]:
    """A prefill token of 3,000 uJ, a decode token of 40,000; idle was measured 2 W too low and rises by 6 W
    an hour; all joules of a window carry `noise`."""
    rng = random.Random(seed)
    seen = []
    for second in range(n):
        decode = rng.uniform(0, 200)
        prefill = 4 * decode if tied else rng.choice((0, 0, rng.uniform(0, 3000))) if prompts else 0.0
        context = decode * rng.uniform(50, 2000)
        clean = 3_000 * prefill + 40_000 * decode + context_uj * context
        idle = (2.0 + 6.0 * second / 3600) * 1e6
        uj = round((clean + idle) * (1 + rng.gauss(0, noise)))
        seen.append(Observation(float(second), 1.0, prefill, decode, context, uj))
    return seen


@pytest.mark.parametrize("seed", range(20))
def test_prefill_and_decode_weights_come_back_within_5_percent_under_noise_and_a_drifting_idle(seed: int):
    found = fit(windows(600, seed=seed))
    assert found is not None
    assert abs(found.prefill_uj / 3_000 - 1) < 0.05 and abs(found.decode_uj / 40_000 - 1) < 0.05
    assert found.condition < 10 and found.r2 > 0.9
    learnt = weights_of(found)
    assert learnt is not None and abs(learnt.decode / learnt.prefill / (40 / 3) - 1) < 0.07


def test_without_noise_the_fit_is_exact_and_says_what_idle_was_measured_wrong_by():
    found = fit(windows(300, seed=1, noise=0.0, context_uj=12.0))
    assert found is not None
    assert (found.prefill_uj, found.decode_uj, found.context_uj) == pytest.approx(
        (3_000, 40_000, 12), rel=1e-5
    )
    assert found.base_w == pytest.approx(2 + 6 * 149.5 / 3600, abs=1e-3)
    assert found.drift_w_per_h == pytest.approx(6, rel=1e-3)


def test_no_weight_is_ever_negative():
    rng = random.Random(3)
    seen = [
        Observation(float(t), 1.0, rng.uniform(0, 9), d := rng.uniform(0, 9), d * 50, rng.randrange(10**6))
        for t in range(200)
    ]
    found = fit(seen)
    assert found is not None and min(found.prefill_uj, found.decode_uj, found.context_uj) >= 0
    assert weights_of(found) is None, "nothing was learnt from noise"


def test_prompts_and_answers_that_always_come_together_are_not_told_apart():
    tied = fit(windows(600, seed=4, tied=True, noise=0.0))
    assert weights_of(tied) is None and tied is not None and tied.condition > 30, tied
    assert fit(windows(600, seed=5, prompts=False)) is None
    assert weights_of(fit(windows(40, seed=6))) is None, "too few windows"
