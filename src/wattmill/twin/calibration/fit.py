"""The step cost with which the simulated engine does what the measured one did.

The sweeps themselves are played on the compiled engine, requests and concurrency as they were, and the costs
moved until every request's first token and tokens come as measured: no separate experiment per coefficient
is needed, and what the scheduler does in between (queues, chunks beside decoding) is in the fit as in life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wattmill.twin.calibration.compare import FIGURES, Rates, measured, median_error, predicted, trace_of
from wattmill.twin.calibration.shapes import shape_of
from wattmill.twin.calibration.spec import Covers, Sweep
from wattmill.twin.engine.experiment import simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import PS_PER_S

LEAST_REQUESTS = 12
_NO_RATES = Rates()
_LEAST_S = 1e-6
_USUAL = 0.1  # a request that is off by more than this share counts by its size, no more by the square of it
_LOOKS = ((1.0, 0.2), (0.3, 0.06), (0.1, 0.02), (0.1, 0.1), (0.1, 0.005))  # (that share, how far to look)
_STEPS, _ROUNDS = (0.3, 0.1, 0.03, 0.01), 6
_LATEST_PS = 2.0**61  # the simulator's clock ends at 2^62: costs that come near it are no guess at all
_HOPELESS = 10.0  # log(played / measured) of such a cost
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

    lived = [_Lived(sweep) for sweep in sweeps]

    def off(logs: Logs) -> Logs:
        cost = cost_of(logs)
        # Weak ties to the start: a coefficient that no sweep tells of stays where physics put it.
        return np.concatenate([*(one.apart(cost, limits) for one in lived), 0.02 * (logs - start)])

    # Who shares a step with whom changes by jumps, so a slope over one distance may lead nowhere: look over
    # shorter and shorter ones, from the best place until then.
    def worth_of(logs: Logs) -> float:
        return float(np.sum(np.hypot(1.0, off(logs) / _USUAL) - 1.0))

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
    """Return which lengths a fit to `sweeps` has seen, company left out; `at_once` is the most requests at
    once in them."""
    seen = [one for sweep in sweeps for one in sweep.seen if not one.company]
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


class _Lived:
    """A sweep with what its requests took, ready to be played with one cost after the other."""

    def __init__(self, sweep: Sweep) -> None:
        self._trace = trace_of(sweep)
        seen = [sweep.seen[i] for i in self._trace.order]
        at, end = np.array([one.at_s for one in seen]), np.array([one.end_s for one in seen])
        first = np.array([np.nan if one.first_s is None else one.first_s for one in seen])
        tokens = np.array([one.output_tok for one in seen], float)
        judged = np.array([not one.company for one in seen])
        self._streamed = judged & ~np.isnan(first)
        self._whole = judged & np.isnan(first)
        self._many = self._streamed & (tokens > 1)
        self._sure = np.minimum(1.0, (tokens[self._many] - 1) / _SURE_TOK) ** 0.5
        self._judged = int(self._streamed.sum() + self._many.sum() + self._whole.sum())
        self._input = np.asarray(self._trace.requests.input_tok, float)
        self._output = np.asarray(self._trace.requests.output_tok, float)
        self._last_ps = float(at.max()) * PS_PER_S
        self._took = (first - at)[self._streamed], (end - first)[self._many], (end - at)[self._whole]

    def _worst_ps(self, cost: StepCost, limits: EngineLimits) -> float:
        """Return an instant before which all has ended, however it is scheduled: each step full and alone."""
        seqs, longest = limits.max_num_seqs, float((self._input + self._output).max())
        step_ps = max(cost.step_ps) * (seqs + 1.0)
        step_ps += (cost.decode_ps + cost.context_ps_per_tok * longest) * seqs
        steps = float((self._output + self._input / limits.budget_tok + 1.0).sum())
        prompts_ps = float(
            (
                self._input * cost.prefill_ps_per_tok + self._input**2 * cost.attention_ps_per_ktok / 2_048
            ).sum()
        )
        return self._last_ps + steps * step_ps + prompts_ps + len(self._input) * cost.overhead_ps

    def apart(self, cost: StepCost, limits: EngineLimits) -> Logs:
        """Return log(played / measured) of each request's time to the first token, and of its time per token;
        of one that was not streamed, of its whole time."""
        if self._worst_ps(cost, limits) > _LATEST_PS:
            return np.full(self._judged, _HOPELESS)
        ran = simulate([(cost, limits)], self._trace.requests, clients=self._trace.clients)
        to_first = (ran.first_ps - ran.at_ps)[self._streamed]
        decoding, whole = (ran.end_ps - ran.first_ps)[self._many], (ran.end_ps - ran.at_ps)[self._whole]
        first, tpot, all_of_it = self._took
        return np.concatenate(
            [_log(to_first, first), self._sure * _log(decoding, tpot), _log(whole, all_of_it)]
        )


def _log(told_ps: np.ndarray[tuple[int], np.dtype[np.int64]], real_s: Logs) -> Logs:
    return np.log(np.maximum(told_ps / PS_PER_S, _LEAST_S) / np.maximum(real_s, _LEAST_S))
