"""A run in figures: what it cost, how fast it was, what kept its promise, what it emitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from wattmill.twin.factory import Run
from wattmill.twin.model import carbon_ug, charge_nusd
from wattmill.twin.spec import Place, Work
from wattmill.units import NUSD_PER_USD, PS_PER_S, UG_PER_G


class Slo(msgspec.Struct, frozen=True):
    """What is promised for a piece of work."""

    ttft_s: float
    s_per_tok: float  # mean over the answer, after the first token


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One dispatcher on one trace. Seconds are from arrival; dollars are what tenants are charged."""

    requests: int
    served: int
    charge_usd: float
    seconds: float  # summed over what was served
    objective_usd: float  # charge + usd_per_s x seconds + refused_usd for each refusal
    ttft_s: tuple[float, float, float] | None  # p50, p95, p99 of what was served
    in_slo: int  # served, and both promises kept
    carbon_g: float  # of what went to places that declare it
    carbon_known: int  # requests of which the grams are known
    by_place: tuple[int, ...]
    busy: tuple[float, ...]  # share of the experiment in which a place computed; bought: mean slots in use


def result(
    run: Run,
    works: Sequence[Work],
    places: Sequence[Place],
    *,
    model: str,
    slo: Callable[[Work], Slo],
    usd_per_s: float,
    refused_usd: float,
) -> Result:
    charge = picoseconds = carbon = known = kept = 0
    by_place = [0] * len(places)
    ttft_s: list[float] = []
    last_ps = 1
    for one in run.served:
        work, pool = works[one.work], places[one.place].pool
        charge += charge_nusd(pool, model, work, one.cached_tok)
        picoseconds += one.end_ps - one.at_ps
        grams = carbon_ug(pool, work, one.cached_tok)
        if grams is not None:
            carbon += grams
            known += 1
        by_place[one.place] += 1
        first_s = (one.first_ps - one.at_ps) / PS_PER_S
        ttft_s.append(first_s)
        promise = slo(work)
        decode_s = (one.end_ps - one.first_ps) / PS_PER_S
        kept += first_s <= promise.ttft_s and decode_s <= promise.s_per_tok * (work.output_tok - 1)
        last_ps = max(last_ps, one.end_ps)
    seconds = picoseconds / PS_PER_S
    usd = charge / NUSD_PER_USD
    return Result(
        requests=len(works),
        served=len(run.served),
        charge_usd=usd,
        seconds=seconds,
        objective_usd=usd + usd_per_s * seconds + refused_usd * len(run.refused),
        ttft_s=_percentiles(ttft_s),
        in_slo=kept,
        carbon_g=carbon / UG_PER_G,
        carbon_known=known,
        by_place=tuple(by_place),
        busy=tuple(busy_ps / last_ps for busy_ps in run.busy_ps),
    )


def _percentiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return float(p50), float(p95), float(p99)
