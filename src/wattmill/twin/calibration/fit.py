"""The step cost with which the simulated engine does what the measured one did.

The sweeps themselves are played on the compiled engine, requests and concurrency as they were, and the costs
moved until every request's first token and tokens come as measured: no separate experiment per coefficient
is needed, and what the scheduler does in between (queues, chunks beside decoding) is in the fit as in life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wattmill.twin.calibration.compare import FIGURES, Rates, measured, median_error, played, predicted
from wattmill.twin.calibration.shapes import shape_of
from wattmill.twin.calibration.spec import Covers, Sweep
from wattmill.twin.engine.spec import EngineLimits, StepCost

LEAST_REQUESTS = 12
_NO_RATES = Rates()
_LEAST_S = 1e-6
_USUAL = 0.1  # a request that is off by more than this share counts by its size, no more by the square of it
_LOOKS = ((1.0, 0.2), (0.3, 0.06), (0.1, 0.02), (0.1, 0.1), (0.1, 0.005))  # (that share, how far to look)
_STEPS, _ROUNDS = (0.3, 0.1, 0.03, 0.01), 6
_SURE_TOK = 16  # tokens from which on a time per token is as sure as a time to the first

Logs = np.ndarray[tuple[int], np.dtype[np.float64]]


def fit(
    sweeps: Sequence[Sweep], limits: EngineLimits, *, figures: Sequence[str] = FIGURES
) -> tuple[StepCost, float]:
    """Return the fitted cost, and the median error of `figures` on the sweeps of the fit.

    What is fitted is said by `shape_of(limits)`. Raises `ValueError` where there are too few requests.
    """
    from scipy.optimize import least_squares

    seen = [one for sweep in sweeps for one in sweep.seen if not one.company]
    requests = len(seen)
    if requests < LEAST_REQUESTS:
        raise ValueError(
            f"{requests} requests are too few to fit an engine's coefficients: {LEAST_REQUESTS} are the least"
        )
    shape = shape_of(limits)
    streamed = [(one, one.first_s) for one in seen if one.first_s is not None]
    answers = [(one.end_s - first) / (one.output_tok - 1) for one, first in streamed if one.output_tok > 1]
    if not answers:
        raise ValueError("no streamed answer has more than one token: nothing says what decoding costs")
    tpot_s = max(_LEAST_S, float(np.percentile(answers, 10)))
    to_first = [(first - one.at_s) / max(1, one.prompt_tok - one.cached_tok) for one, first in streamed]
    start = np.log(shape.start(tpot_s, max(_LEAST_S, float(np.percentile(to_first, 25)))))

    def cost_of(logs: Logs) -> StepCost:
        return shape.cost(np.exp(logs).tolist())

    def off(logs: Logs) -> list[float]:
        cost = cost_of(logs)
        apart: list[float] = []
        for sweep in sweeps:
            apart += _apart(sweep, cost, limits)
        # Weak ties to the start: a coefficient that no sweep tells of stays where physics put it.
        return [*apart, *(0.02 * float(x) for x in logs - start)]

    # Who shares a step with whom changes by jumps, so a slope over one distance may lead nowhere: look over
    # shorter and shorter ones, from the best place until then.
    def worth_of(logs: Logs) -> float:
        return float(np.sum(np.hypot(1.0, np.asarray(off(logs)) / _USUAL) - 1.0))

    best, least = start, worth_of(start)
    for scale, reach in _LOOKS:
        found = least_squares(
            off, best, diff_step=[reach / 20] * len(start), loss="soft_l1", f_scale=scale, max_nfev=40
        )
        worth = worth_of(found.x)
        if worth < least:
            best, least = found.x, worth
    cost = cost_of(_by_turns(worth_of, best, least))
    return cost, median_error(
        [(predicted(sweep, cost, limits, _NO_RATES), measured(sweep, _NO_RATES)) for sweep in sweeps],
        figures,
    )


def covered(sweeps: Sequence[Sweep], *, at_once: int) -> Covers:
    """Return which lengths a fit to `sweeps` has seen; `at_once` is the most requests at once in them."""
    seen = [one for sweep in sweeps for one in sweep.seen]
    prompts = [one.prompt_tok - one.cached_tok for one in seen]
    answers = [one.output_tok for one in seen]
    return Covers(
        prompt_tok=(min(prompts), max(prompts)), output_tok=(min(answers), max(answers)), at_once=at_once
    )


def _by_turns(worth_of: Callable[[Logs], float], best: Logs, least: float) -> Logs:
    """Move one coefficient at a time while that helps, in smaller and smaller steps: no slopes needed."""
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = least
            for at in range(len(best)):
                for way in (step, -step):
                    moved = best.copy()
                    moved[at] += way
                    worth = worth_of(moved)
                    if worth < least:
                        best, least = moved, worth
                        break
            if least == before:
                break
    return best


def _apart(sweep: Sweep, cost: StepCost, limits: EngineLimits) -> list[float]:
    """Return log(played / measured) of each request's time to the first token, and of its time per token; of
    one that was not streamed, of its whole time."""
    ran = played(sweep, cost, limits)
    apart: list[float] = []
    for i, at_s, first_s, end_s in zip(ran.order, ran.at_s, ran.first_s, ran.end_s, strict=True):
        one = sweep.seen[i]
        if one.company:
            continue
        if one.first_s is None:
            apart.append(_log(end_s - at_s, one.end_s - one.at_s))
            continue
        apart.append(_log(first_s - at_s, one.first_s - one.at_s))
        if one.output_tok > 1:
            sure = min(1.0, (one.output_tok - 1) / _SURE_TOK) ** 0.5
            apart.append(sure * _log(end_s - first_s, one.end_s - one.first_s))
    return apart


def _log(told_s: float, real_s: float) -> float:
    return float(np.log(max(told_s, _LEAST_S) / max(real_s, _LEAST_S)))
