"""The step cost with which the simulated engine does what the measured one did.

The sweeps themselves are played on the compiled engine, requests and concurrency as they were, and the costs
moved until its figures are those measured: no separate experiment per coefficient is needed, and what the
scheduler does in between (queues, chunks beside decoding) is in the fit as it is in life.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wattmill.twin.calibration.compare import FIGURES, Rates, measured, median_error, predicted
from wattmill.twin.calibration.spec import Sweep
from wattmill.twin.engine.spec import EngineLimits, StepCost

_LEAST_PS, _MOST_PS = 1.0, 1e13
_NO_RATES = Rates()


def fit(sweeps: Sequence[Sweep], limits: EngineLimits) -> tuple[StepCost, float]:
    """Return the fitted cost, and the median error of the figures on the sweeps of the fit.

    Fitted are the cost of a step, of a decoding request in it, of a token of context, of a prompt token, of
    attention in prompts, and
    the time between client and engine. Raises `ValueError` where there are too few requests for six figures.
    """
    from scipy.optimize import least_squares

    requests = sum(len(sweep.seen) for sweep in sweeps)
    if requests < 12:
        raise ValueError(f"{requests} requests are too few to fit six coefficients: 12 are the least")
    real = [measured(sweep, _NO_RATES) for sweep in sweeps]
    tpot_s = min(figure.tpot_p50_s for figure in real)
    prefill_s = min(
        float(np.median([(one.first_s - one.at_s) / one.prompt_tok for one in sweep.seen]))
        for sweep in sweeps
    )
    start = np.log(
        [tpot_s * 0.7e12, tpot_s * 0.3e12, tpot_s * 1e9, prefill_s * 0.9e12, prefill_s * 2e10, 3e9]
    )

    def cost_of(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> StepCost:
        step, decode, context, prefill, attention, overhead = (
            round(float(x)) for x in np.clip(np.exp(logs), _LEAST_PS, _MOST_PS)
        )
        return StepCost(
            step_ps=(step,),
            decode_ps=decode,
            context_ps_per_tok=context,
            prefill_ps_per_tok=prefill,
            attention_ps_per_ktok=attention,
            overhead_ps=overhead,
        )

    def off(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
        cost = cost_of(logs)
        told = [predicted(sweep, cost, limits, _NO_RATES) for sweep in sweeps]
        apart = [
            float(np.log(getattr(ours, name) / getattr(theirs, name)))
            for ours, theirs in zip(told, real, strict=True)
            for name in FIGURES
        ]
        # Weak ties to the start: a coefficient that no sweep tells of stays where physics put it.
        return [*apart, *(0.02 * float(x) for x in logs - start)]

    found = least_squares(off, start, diff_step=[1e-3] * len(start), loss="soft_l1", f_scale=0.1, max_nfev=60)
    cost = cost_of(found.x)
    pairs = [(predicted(sweep, cost, limits, _NO_RATES), real[i]) for i, sweep in enumerate(sweeps)]
    return cost, median_error(pairs)
