"""What a site takes at its meter for what its chips do: chain, plant, and everything beside, hour by hour."""

from __future__ import annotations

from math import floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattmill.site.climate.spec import Weather
from wattmill.site.conversion.model import flow, shared
from wattmill.site.conversion.presets import chains
from wattmill.site.conversion.spec import Chain, Flow, Overload
from wattmill.site.cooling.model import Carried, both, sold_w
from wattmill.site.yearly.spec import Site
from wattmill.units import W_PER_KW, W_PER_MW

Hours = NDArray[np.float64]


class Built(NamedTuple):
    """A site that was worked out once: how many loads it has, and what its plant is built for."""

    site: Site
    chain: Chain
    units: int  # loads of the chain
    unit_w: float  # of one load in full
    full: Flow  # of one load in full
    rated_liquid_w: float
    rated_air_w: float

    @property
    def chip_w(self) -> float:
        """Return the power of all loads in full, where the chain ends."""
        return self.units * self.unit_w

    @property
    def equipment_w(self) -> float:
        """Return the same at the equipment's inlets."""
        return self.units * self.full.equipment_w


def built(site: Site) -> Built:
    """Return `site` with its loads counted. Raises `ValueError` for what cannot be built, in words."""
    known = chains()
    if site.chain.preset not in known:
        raise ValueError(f"chain.preset is {site.chain.preset!r}, must be one of {', '.join(sorted(known))}")
    chain = known[site.chain.preset]
    if site.chain.redundancy is not None:
        chain = shared(chain, site.chain.redundancy, needed=site.chain.units_needed)
    unit_w = site.work.unit_kw * W_PER_KW if site.work.unit_kw is not None else chain.load_w
    if unit_w is None:
        raise ValueError(
            f"work.unit_kw is missing, and chain {chain.name!r} does not say what its load draws"
        )
    full = flow(chain, unit_w)
    if isinstance(full, Overload):
        raise ValueError(
            f"{full.stage} would have to deliver {full.unit_w:.0f} W a unit, rated "
            f"{full.rated_w:.0f} W: lower "
            f"work.unit_kw ({unit_w / W_PER_KW:g}), or build more units (chain.redundancy)"
        )
    units = floor(site.work.mw * W_PER_MW / full.equipment_w)
    if units < 1:
        raise ValueError(
            f"work.mw is {site.work.mw}, and one load alone takes {full.equipment_w / W_PER_MW:.6f} MW"
        )
    inside_w = units * sum(s.loss_w for s in full.stages if not s.in_equipment and not s.outdoors)
    air_share = site.cooling.air_share
    return Built(
        site=site,
        chain=chain,
        units=units,
        unit_w=unit_w,
        full=full,
        rated_liquid_w=units * full.equipment_w * (1.0 - air_share),
        rated_air_w=units * full.equipment_w * air_share + inside_w,
    )


class Facility(NamedTuple):
    """Watts of each hour. `total_w` is what grid, sun and battery have to deliver."""

    chip_w: Hours
    equipment_w: Hours  # at its inlets: what PUE divides by
    losses_w: dict[str, Hours]  # by stage of the chain
    carried: Carried
    plant_feed_w: Hours  # lost on the way to fans, pumps and chillers
    heat_pump_w: Hours
    taken_w: Hours  # heat that left with somebody
    delivered_w: Hours  # the same with the heat pump's electricity
    fixed_w: float

    @property
    def inside_w(self) -> Hours:
        """Return what the site itself takes: all but the heat pump, which serves the buyer."""
        losses = sum(self.losses_w.values(), np.zeros_like(self.chip_w))
        return self.chip_w + losses + self.carried.electricity_w + self.plant_feed_w + self.fixed_w

    @property
    def total_w(self) -> Hours:
        return self.inside_w + self.heat_pump_w


def facility(b: Built, share: Hours, weather: Weather) -> Facility:
    """Return what site `b` takes while its chips draw `share` (0 to 1) of their full power.

    All loads are alike and share the work evenly. Heat of the equipment leaves by water and air as the plant
    says; what the chain loses indoors leaves by air; outdoors nobody cools it.
    """
    site = b.site
    flows = _flows(b.chain, share * b.unit_w)
    losses = {
        stage.name: b.units * np.array([each.stages[at].loss_w for each in flows])
        for at, stage in enumerate(b.chain.stages)
    }
    inside = [stage.name for stage in b.chain.stages if not stage.in_equipment and not stage.outdoors]
    equipment_w = b.units * np.array([each.equipment_w for each in flows])
    liquid_w = equipment_w * (1.0 - site.cooling.air_share)
    air_w = equipment_w * site.cooling.air_share + sum(
        (losses[name] for name in inside), np.zeros_like(share)
    )
    nothing = np.zeros_like(share)
    delivered_w, pump_w = nothing, nothing
    if site.heat is not None:
        loop = site.cooling.liquid
        delivered_w, pump_w = sold_w(
            site.heat,
            liquid_w,
            return_c=loop.supply_c + loop.rise_k,
            cooled_to_c=loop.supply_c,
            month=weather.month,
        )
    taken_w = delivered_w - pump_w
    carried = both(
        site.cooling,
        liquid_w=liquid_w - taken_w,
        air_w=air_w,
        rated_liquid_w=b.rated_liquid_w * (1 + 1e-9),
        rated_air_w=b.rated_air_w * (1 + 1e-9),
        dry_bulb_c=weather.dry_bulb_c,
        wet_bulb_c=weather.wet_bulb_c,
    )
    lost = site.chain.plant_feed_loss
    return Facility(
        chip_w=b.chip_w * share,
        equipment_w=equipment_w,
        losses_w=losses,
        carried=carried,
        plant_feed_w=carried.electricity_w * lost / (1.0 - lost),
        heat_pump_w=pump_w,
        taken_w=taken_w,
        delivered_w=delivered_w,
        fixed_w=site.fixed_kw * W_PER_KW,
    )


def _flows(chain: Chain, loads_w: Hours) -> list[Flow]:
    """Return the chain at each hour's load; hours that are alike are worked out once."""
    known: dict[float, Flow] = {}
    out: list[Flow] = []
    for load_w in loads_w.tolist():
        found = known.get(load_w)
        if found is None:
            worked = flow(chain, load_w)
            assert isinstance(worked, Flow), "a part of a load that fits in full cannot be too much"
            found = known[load_w] = worked
        out.append(found)
    return out
