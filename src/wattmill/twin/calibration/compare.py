"""A sweep in figures, the same sweep on the simulated engine, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np

from wattmill.power.model import host_power_w
from wattmill.power.spec import HostPower
from wattmill.twin.calibration.spec import Figures, Sweep
from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import PS_PER_S, S_PER_H, TOK_PER_MTOK

FIGURES = ("output_tok_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")


class Rates(msgspec.Struct, frozen=True):
    """What a declared machine draws and costs; None: nobody declared it."""

    host: HostPower | None = None
    usd_per_hour: float | None = None
    threads: int = 1  # of the engine: cores that a step keeps busy


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's requests on the simulated engine, in order of arrival. Seconds since the sweep began."""

    order: tuple[int, ...]  # index in the sweep
    at_s: list[float]
    first_s: list[float]
    end_s: list[float]
    output_tok: list[int]
    busy_s: float  # in which steps ran


def figures(
    at_s: Sequence[float],
    first_s: Sequence[float | None],
    end_s: Sequence[float],
    output_tok: Sequence[int],
    rates: Rates,
    cpu_s: float | None = None,
    company: Sequence[bool] | None = None,
) -> Figures:
    """Return what a client saw. `company` marks requests that were served beside those that are looked at.

    Joules are modelled: the host's declared power at the share of its cores that `cpu_s` is over the time
    that all took, idle power included. Where nobody knows the CPU time it is taken as `threads` cores while
    anything was in flight.
    """
    at, end = np.asarray(at_s, float), np.asarray(end_s, float)
    first = np.asarray([np.nan if one is None else one for one in first_s], float)
    tokens = np.asarray(output_tok, float)
    own = np.ones(len(at), bool) if company is None else ~np.asarray(company, bool)
    lasted = float(end[own].max() - at[own].min())
    seen = own & ~np.isnan(first)
    many = seen & (tokens > 1)
    total, served_s = float(tokens[own].sum()), _covered(at, end)
    joules = None
    if rates.host is not None:
        used_s = served_s * rates.threads if cpu_s is None else cpu_s
        joules = host_power_w(rates.host, used_s / (lasted * rates.host.cores)) * lasted / total
    ttft_p50, ttft_p95 = _percentiles((first - at)[seen])
    tpot_p50, tpot_p95 = _percentiles((end - first)[many] / (tokens[many] - 1))
    return Figures(
        output_tok_per_s=total / lasted,
        ttft_p50_s=ttft_p50,
        ttft_p95_s=ttft_p95,
        tpot_p50_s=tpot_p50,
        tpot_p95_s=tpot_p95,
        j_per_tok=joules,
        usd_per_mtok=None
        if rates.usd_per_hour is None
        else rates.usd_per_hour * lasted / S_PER_H / total * TOK_PER_MTOK,
        served_tok_per_s=float(tokens.sum()) / served_s if served_s > 0 else None,
    )


def _percentiles(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    if not len(values):
        return None, None
    return float(np.percentile(values, 50)), float(np.percentile(values, 95))


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
        sweep.engine_cpu_s,
        [one.company for one in sweep.seen],
    )


def played(sweep: Sweep, cost: StepCost, limits: EngineLimits) -> Played:
    """Play the sweep's requests, with the lengths that the engine counted, on a simulated engine.

    The open loop is asked at the instants at which the client really asked, a closed one when the simulated
    engine lets it.
    """
    trace = trace_of(sweep)
    ran = simulate([(cost, limits)], trace.requests, clients=trace.clients)
    return Played(
        order=trace.order,
        at_s=(ran.at_ps / PS_PER_S).tolist(),
        first_s=(ran.first_ps / PS_PER_S).tolist(),
        end_s=(ran.end_ps / PS_PER_S).tolist(),
        output_tok=np.asarray(trace.requests.output_tok).tolist(),
        busy_s=float(ran.busy_ps.sum()) / PS_PER_S,
    )


class Trace(NamedTuple):
    """A sweep as the simulated engine takes it: made once where it is played again and again."""

    order: tuple[int, ...]  # index in the sweep
    requests: Requests
    clients: Clients | None


def trace_of(sweep: Sweep) -> Trace:
    """Return a sweep's requests in order of arrival: of an open loop with their times."""
    open_loop = not sweep.concurrency
    order = list(range(len(sweep.seen)))
    if open_loop:
        order.sort(key=lambda i: sweep.seen[i].at_s)
    seen = [sweep.seen[i] for i in order]
    requests = Requests(
        at_ps=np.array([round(one.at_s * PS_PER_S) for one in seen], np.int64) if open_loop else None,
        input_tok=np.array([max(1, one.prompt_tok - one.cached_tok) for one in seen], np.int64),
        output_tok=np.array([max(1, one.output_tok) for one in seen], np.int64),
    )
    return Trace(tuple(order), requests, None if open_loop else Clients(concurrency=sweep.concurrency))


def predicted(sweep: Sweep, cost: StepCost, limits: EngineLimits, rates: Rates) -> Figures:
    """Return the figures of the sweep's requests on a simulated engine."""
    return figures_of(sweep, played(sweep, cost, limits), rates)


def figures_of(sweep: Sweep, ran: Played, rates: Rates) -> Figures:
    """Return the figures of a sweep that was played. First tokens that nobody saw live are not looked at."""
    seen = [sweep.seen[i] for i in ran.order]
    return figures(
        ran.at_s,
        [None if one.first_s is None else first for one, first in zip(seen, ran.first_s, strict=True)],
        ran.end_s,
        ran.output_tok,
        rates,
        ran.busy_s * rates.threads,
        [one.company for one in seen],
    )


def errors(pairs: Sequence[tuple[Figures, Figures]], names: Sequence[str] = FIGURES) -> list[float]:
    """Return predicted / measured - 1 of every figure of every (predicted, measured) pair; a figure that one
    of them lacks says nothing."""
    return [
        told / real - 1
        for pair in pairs
        for name in names
        if (told := getattr(pair[0], name)) is not None and (real := getattr(pair[1], name))
    ]


def median_error(pairs: Sequence[tuple[Figures, Figures]], names: Sequence[str] = FIGURES) -> float:
    """Return the median of the sizes of all errors. Raises `ValueError` where no figure can be compared."""
    found = errors(pairs, names)
    if not found:
        raise ValueError("no figure was both predicted and measured: nothing can be compared")
    return median(abs(error) for error in found)


def spread(values: Sequence[float]) -> float:
    """Return how far repeats of one figure are apart, as a share of their mean: (most - least) / mean."""
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean else 0.0
