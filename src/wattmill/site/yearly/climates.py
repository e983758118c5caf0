"""The same site in other climates, with other water: everything done as it comes, nothing else changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from wattmill.site.climate.spec import Weather
from wattmill.site.yearly.facility import built, facility
from wattmill.site.yearly.load import load_of
from wattmill.site.yearly.spec import Site
from wattmill.units import J_PER_KWH, J_PER_MWH, S_PER_H


class InClimate(msgspec.Struct, frozen=True, kw_only=True):
    place: str
    climate: str
    supply_c: float
    exchanger_k: float
    chiller_hours: int  # of the water loop
    air_chiller_hours: int
    too_warm_hours: int
    pue: float
    wue_l_per_kwh: float
    cooling_mwh: float


def in_each_climate(
    site: Site, years: Iterable[Weather], *, supplies_c: Sequence[float], exchangers_k: Sequence[float]
) -> list[InClimate]:
    """Return a row for each place, supply and loss in the distribution unit. Sun, battery and tariff play no
    part: they change who delivers the watts, not how many."""
    loop = site.cooling.liquid
    return [
        in_climate(
            replace(
                site,
                cooling=replace(
                    site.cooling, liquid=replace(loop, supply_c=supply_c, exchanger_k=exchanger_k)
                ),
            ),
            year,
        )
        for year in years
        for supply_c in supplies_c
        for exchanger_k in exchangers_k
    ]


def in_climate(site: Site, year: Weather) -> InClimate:
    """Return what chain and plant of `site` do in a year."""
    b = built(site)
    f = facility(b, load_of(site, year).power_share(site.work.idle_share), year)
    carried = f.carried
    equipment_j = float(f.equipment_w.sum()) * S_PER_H
    return InClimate(
        place=year.place,
        climate=year.climate,
        supply_c=site.cooling.liquid.supply_c,
        exchanger_k=site.cooling.liquid.exchanger_k,
        chiller_hours=int((carried.liquid.chiller_share > 0).sum()),
        air_chiller_hours=int((carried.air.chiller_share > 0).sum()),
        too_warm_hours=int(((carried.liquid.too_warm_k > 0) | (carried.air.too_warm_k > 0)).sum()),
        pue=float(f.inside_w.sum()) * S_PER_H / equipment_j,
        wue_l_per_kwh=float(carried.water_l_per_s.sum()) * S_PER_H / (equipment_j / J_PER_KWH),
        cooling_mwh=float(carried.electricity_w.sum()) * S_PER_H / J_PER_MWH,
    )


def worst_overhead(site: Site, year: Weather) -> float:
    """Return watts at the meter for each watt at the equipment's inlets, in the year's worst hour with
    everything at work: what a connection has to be built for. Heat for a buyer is not in it."""
    b = built(site)
    f = facility(b, np.ones_like(year.dry_bulb_c), year)
    return float((f.inside_w / f.equipment_w).max())
