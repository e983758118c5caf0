"""Prices that a demand file takes from the shipped list: looked up once, with their source."""

from __future__ import annotations

import msgspec

from wattmill.compute.catalogue import accelerator
from wattmill.compute.prices import GpuPrice, PriceKind, prices_of
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.given import Given
from wattmill.twin.planning.supply import AllIn, Candidate, Listed
from wattmill.units import W_PER_KW


def with_listed_prices(demand: Demand) -> Demand:
    """Return the demand with every `pay = "listed"` as the all-in rate that it stands for.

    Raises LookupError, naming the candidate, where the list has no such price or states no power.
    """
    candidates = {key: _looked_up(key, candidate) for key, candidate in demand.candidates.items()}
    return msgspec.structs.replace(demand, candidates=candidates)


def _looked_up(key: str, candidate: Candidate) -> Candidate:
    own = candidate.own
    if not isinstance(own, Listed):
        return candidate
    price = _price(key, accelerator(candidate.accelerator).name, own.kind)
    rate = price.usd_per_gpu_h
    wide = own.spread > 0.0
    replaced = msgspec.structs.replace(
        candidate,
        own=AllIn(
            usd_per_gpu_h=Given(
                value=rate,
                low=rate * (1.0 - own.spread) if wide else None,
                high=rate * (1.0 + own.spread) if wide else None,
                source=_source(price),
            ),
            energy_inside_usd_per_mwh=own.energy_inside_usd_per_mwh,
        ),
    )
    if candidate.all_in_kw_per_gpu is not None or candidate.it_kw_per_gpu is not None:
        return replaced
    if price.all_in_w_per_gpu is None:
        raise LookupError(f"the list states no power for {key!r}; declare `all_in_kw_per_gpu`")
    kw = Given(value=price.all_in_w_per_gpu / W_PER_KW, source=_source(price))
    return msgspec.structs.replace(replaced, all_in_kw_per_gpu=kw)


def _price(key: str, name: str, kind: PriceKind) -> GpuPrice:
    found = prices_of(name, kind)
    if not found:
        raise LookupError(
            f"the list has no {kind} price of {name} for {key!r}; declare `all-in` or `capital`"
        )
    return found[0]


def _source(price: GpuPrice) -> str:
    note = f"; {price.note}" if price.note else ""
    return f"{price.provider}, {price.kind}: {price.source}{note}"
