"""Sensitivities: the same demand with one figure changed, planned anew each time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.twin.planning.answer import answered
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.load import Rate, Recorded, Users
from wattmill.twin.planning.performance import Performance, declared_power
from wattmill.twin.planning.solver import Infeasible
from wattmill.twin.planning.spread import Where, mapped
from wattmill.twin.planning.supply import AllIn, Candidate, Capital
from wattmill.twin.prediction import Interval, Prediction, predict


class Variation(NamedTuple):
    """One changed figure, ready to be planned on any machine."""

    what: str
    demand: Demand
    trace: Recorded | None
    slower: float  # factor on the law's times
    extrapolate: bool
    operators: bool = False  # take operator tables beside the law


class Varied(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    what: str
    objective_usd_per_year: float | None  # None: no plan keeps every limit
    usd_per_mtok_output: float | None  # all tiers together
    requests_per_s: float | None
    buys: str
    gap: float | None
    machine: str  # process and host that planned it


def sweep(
    demand: Demand, trace: Recorded | None, *, extrapolate: bool, on: Where, operators: bool = False
) -> Iterator[Varied]:
    """Plan every variation, in order; the first is the demand as it is."""
    every = [v._replace(operators=operators) for v in variations(demand, trace, extrapolate=extrapolate)]
    yield from mapped(planned, every, on=on)


def planned(variation: Variation) -> Varied:
    """Plan one variation with the step-time law. Deterministic."""
    import os
    import socket

    machine = f"{socket.gethostname()}:{os.getpid()}"
    law: Performance = predict
    if variation.operators:
        from wattmill.twin.operators.mixture import operators_installed  # an extra

        law = partial(predict, prior=operators_installed())
    if variation.slower != 1.0:
        law = _slower(law, variation.slower)
    try:
        plan = answered(
            variation.demand, variation.trace, law, declared_power, extrapolate=variation.extrapolate
        ).plan
    except (Infeasible, ValueError, RuntimeError) as error:  # RuntimeError: the solver's time ran out
        return Varied(
            what=variation.what,
            objective_usd_per_year=None,
            usd_per_mtok_output=None,
            requests_per_s=None,
            buys=str(error)[:120],
            gap=None,
            machine=machine,
        )
    tokens = sum(t.output_tok_per_s for t in plan.tiers)
    usd_per_s = sum(t.usd_per_mtok_output * t.output_tok_per_s for t in plan.tiers)
    return Varied(
        what=variation.what,
        objective_usd_per_year=plan.proof.objective_usd_per_year,
        usd_per_mtok_output=usd_per_s / tokens if tokens else None,
        requests_per_s=plan.totals.requests_per_s,
        buys=", ".join(f"{p.nodes} x {p.offer}" for p in plan.purchases) or "nothing",
        gap=plan.proof.gap,
        machine=machine,
    )


def _slower(usual: Performance, factor: float) -> Performance:
    def law(deployment: Deployment, *, isl: int, osl: int, concurrency: int, **more: Any) -> Prediction:
        found = usual(deployment, isl=isl, osl=osl, concurrency=concurrency, **more)
        return msgspec.structs.replace(
            found,
            ttft_s=_times(found.ttft_s, factor),
            tpot_s=_times(found.tpot_s, factor),
            output_tok_per_s=_times(found.output_tok_per_s, 1.0 / factor),
        )

    return law


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(value=interval.value * factor, low=interval.low * factor, high=interval.high * factor)


def variations(demand: Demand, trace: Recorded | None, *, extrapolate: bool) -> Iterator[Variation]:
    """Return the demand as it is, then with each figure that matters moved both ways."""

    def one(what: str, changed: Demand, slower: float = 1.0) -> Variation:
        return Variation(what, changed, trace, slower, extrapolate)

    replace = msgspec.structs.replace
    site, load, limits = demand.site, demand.load, demand.limits
    yield one("as declared", demand)
    for factor in (0.5, 2.0):
        changed = replace(site, usd_per_mwh=site.electricity.scaled(factor))
        yield one(f"electricity x {factor:g}", replace(demand, site=changed))
    for factor in (0.75, 1.25):
        dearer = {key: _priced(c, factor) for key, c in demand.candidates.items()}
        yield one(f"accelerators' price x {factor:g}", replace(demand, candidates=dearer))
    for factor in (0.9, 1.1, 1.25):
        yield one(f"the law's times x {factor:g}", demand, factor)
    for factor in (0.8, 1.25):
        tiers = {
            name: replace(t, tok_per_s_per_user=t.tok_per_s_per_user * factor)
            for name, t in demand.tiers.items()
        }
        yield one(f"promised tok/s x {factor:g}", replace(demand, tiers=tiers))
    for level in (0.6, 0.9):
        yield one(f"peak fills {level:.0%}", replace(demand, load=replace(load, utilisation=level)))
    if isinstance(load, Rate | Users) or (
        not isinstance(load, Rate | Users) and hasattr(load, "peak_to_mean")
    ):
        peak = getattr(load, "peak_to_mean", None)
        if peak is not None:
            for factor in (0.8, 1.25):
                value = max(1.0, peak * factor)
                yield one(
                    f"peak to mean {value:.2f}", replace(demand, load=replace(load, peak_to_mean=value))
                )
    if limits.power_mw is not None:
        for factor in (0.5, 2.0):
            mw = limits.power_mw * factor
            yield one(f"{mw:g} MW", replace(demand, limits=replace(limits, power_mw=mw)))
    for target in (0.99, 0.9999):
        kept = replace(demand.availability, target=target)
        yield one(f"enough nodes up {target:.2%}", replace(demand, availability=kept))


def _priced(candidate: Candidate, factor: float) -> Candidate:
    own = candidate.own
    if isinstance(own, AllIn):
        own = msgspec.structs.replace(own, usd_per_gpu_h=own.usd_per_gpu_h.scaled(factor))
    elif isinstance(own, Capital):
        own = msgspec.structs.replace(own, usd_per_gpu=own.usd_per_gpu.scaled(factor))
    rent = candidate.rent
    if rent is not None:
        rent = msgspec.structs.replace(rent, usd_per_gpu_h=rent.usd_per_gpu_h.scaled(factor))
    return msgspec.structs.replace(candidate, own=own, rent=rent)
