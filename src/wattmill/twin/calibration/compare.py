"""A sweep in figures, the same sweep on the simulated engine, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np

from wattmill.twin.calibration.spec import Figures, Sweep
from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import PS_PER_S, S_PER_H, TOK_PER_MTOK

FIGURES = ("output_tok_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")
GOAL = 0.10


class Rates(msgspec.Struct, frozen=True):
    """What a declared machine draws and costs; None: nobody declared it."""

    busy_w: float | None = None
    idle_w: float = 0.0
    usd_per_hour: float | None = None


def figures(
    at_s: Sequence[float],
    first_s: Sequence[float],
    end_s: Sequence[float],
    output_tok: Sequence[int],
    rates: Rates,
) -> Figures:
    """Return what a client saw. Joules are declared watts while anything was in flight, idle watts else."""
    at, first, end = (np.asarray(x, float) for x in (at_s, first_s, end_s))
    tokens = np.asarray(output_tok, float)
    lasted = float(end.max() - at.min())
    many = tokens > 1
    tpot = (end - first)[many] / (tokens[many] - 1)
    total = float(tokens.sum())
    joules = None
    if rates.busy_w is not None:
        busy = _covered(at, end)
        joules = (rates.busy_w * busy + rates.idle_w * (lasted - busy)) / total
    return Figures(
        output_tok_per_s=total / lasted,
        ttft_p50_s=float(np.percentile(first - at, 50)),
        ttft_p95_s=float(np.percentile(first - at, 95)),
        tpot_p50_s=float(np.percentile(tpot, 50)) if many.any() else 0.0,
        tpot_p95_s=float(np.percentile(tpot, 95)) if many.any() else 0.0,
        j_per_tok=joules,
        usd_per_mtok=None
        if rates.usd_per_hour is None
        else rates.usd_per_hour * lasted / S_PER_H / total * TOK_PER_MTOK,
    )


def _covered(at: np.ndarray[tuple[int], np.dtype[np.float64]], end: object) -> float:
    """Return the time in which at least one of the intervals ran."""
    busy, until = 0.0, -np.inf
    for start, stop in sorted(zip(at.tolist(), np.asarray(end).tolist(), strict=True)):
        if stop > until:
            busy += stop - max(start, until)
            until = stop
    return float(busy)


def measured(sweep: Sweep, rates: Rates) -> Figures:
    return figures(
        [one.at_s for one in sweep.seen],
        [one.first_s for one in sweep.seen],
        [one.end_s for one in sweep.seen],
        [one.output_tok for one in sweep.seen],
        rates,
    )


def predicted(sweep: Sweep, cost: StepCost, limits: EngineLimits, rates: Rates) -> Figures:
    """Play the sweep's requests, with the lengths that the engine counted, on a simulated engine.

    The open loop is asked at the instants at which the client really asked.
    """
    order = range(len(sweep.seen))
    at_ps = None
    if not sweep.concurrency:
        order = sorted(order, key=lambda i: sweep.seen[i].at_s)  # type: ignore[assignment]
        at_ps = [round(sweep.seen[i].at_s * PS_PER_S) for i in order]
    output_tok = [max(1, sweep.seen[i].output_tok) for i in order]
    ran = simulate(
        [(cost, limits)],
        Requests(
            at_ps=at_ps,
            input_tok=[max(1, sweep.seen[i].prompt_tok - sweep.seen[i].cached_tok) for i in order],
            output_tok=output_tok,
        ),
        clients=Clients(concurrency=sweep.concurrency) if sweep.concurrency else None,
    )
    return figures(
        (ran.at_ps / PS_PER_S).tolist(),
        (ran.first_ps / PS_PER_S).tolist(),
        (ran.end_ps / PS_PER_S).tolist(),
        output_tok,
        rates,
    )


def errors(pairs: Sequence[tuple[Figures, Figures]]) -> list[float]:
    """Return predicted / measured - 1 of every figure of every (predicted, measured) pair."""
    return [
        getattr(told, name) / getattr(real, name) - 1
        for told, real in pairs
        for name in FIGURES
        if getattr(real, name) > 0
    ]


def median_error(pairs: Sequence[tuple[Figures, Figures]]) -> float:
    return median(abs(error) for error in errors(pairs))


def spread(values: Sequence[float]) -> float:
    """Return how far repeats of one figure are apart, as a share of their mean: (most - least) / mean."""
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean else 0.0
