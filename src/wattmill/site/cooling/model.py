"""How much electricity and water it takes to carry heat outside, hour by hour. Arrays in, arrays out.

Fans and pumps follow the affinity laws: power goes with the cube of speed. A cooler's air flow that carries a
given heat is taken as inversely proportional to (water - outside), which is exact for a cooler of constant
effectiveness; below `least_speed` fans cycle. A trim chiller takes what the outside could not: the share of
the rise that lies above what the cooler reaches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattmill.site.cooling.spec import Buyer, Loop, Plant
from wattmill.units import J_PER_KWH

Hours = NDArray[np.float64]

_KELVIN = 273.15
_EVAPORATOR_K = 2.0  # refrigerant below the water that it cools
EVAPORATION_J_PER_KG = 2.43e6  # latent heat of water at 30 °C: CRC Handbook of Chemistry and Physics


class Cooling(NamedTuple):
    """Electricity of a loop and the water it uses, for each hour; watts are means over the hour."""

    fan_w: Hours
    pump_w: Hours
    inside_fan_w: Hours
    chiller_w: Hours
    chiller_share: Hours  # of the heat that the chiller carried, 0..1
    too_warm_k: Hours  # how far the supply was missed; 0 with a chiller
    water_l_per_s: Hours

    @property
    def electricity_w(self) -> Hours:
        return self.fan_w + self.pump_w + self.inside_fan_w + self.chiller_w


def carry(
    loop: Loop, heat_w: Hours, *, rated_heat_w: float, dry_bulb_c: Hours, wet_bulb_c: Hours, cycles: float
) -> Cooling:
    """Return what it takes to carry `heat_w` outside, hour by hour.

    Args:
        rated_heat_w: what fans and pumps are built for; `heat_w` must not exceed it.
        cycles: of concentration of a wet cooler.
    """
    if float(heat_w.max(initial=0.0)) > rated_heat_w * (1 + 1e-9):
        raise ValueError(f"heat_w reaches {heat_w.max():.0f}, must be <= rated_heat_w, {rated_heat_w:.0f}")
    outside_c = dry_bulb_c if loop.cooler == "dry" else wet_bulb_c
    water_c = loop.supply_c - loop.exchanger_k  # what the outside has to deliver
    reached_c = outside_c + loop.approach_k
    missing_k = np.clip(reached_c - water_c, 0.0, None)
    share = np.clip(missing_k / loop.rise_k, 0.0, 1.0) if loop.chiller else np.zeros_like(missing_k)
    condensing_k = outside_c + loop.condenser_k + _KELVIN
    evaporating_k = water_c - _EVAPORATOR_K + _KELVIN
    lift_k = np.maximum(condensing_k - evaporating_k, loop.least_lift_k)
    chiller_w = share * heat_w * lift_k / (loop.chiller_carnot * evaporating_k)

    part = heat_w / rated_heat_w
    rejected_w = heat_w + chiller_w
    speed = np.clip(
        loop.approach_k / np.maximum(water_c - outside_c, loop.approach_k) * part, loop.least_speed, 1.0
    )
    fan_w = loop.fan_w_per_w * rated_heat_w * speed**3
    # Below the least speed fans run a part of the time only.
    asked = loop.approach_k / np.maximum(water_c - outside_c, loop.approach_k) * part
    fan_w = fan_w * np.clip(asked / loop.least_speed, 0.0, 1.0)
    flow = np.maximum(part, loop.least_speed)
    water_l_per_s = (
        rejected_w / EVAPORATION_J_PER_KG * cycles / (cycles - 1.0)
        if loop.cooler == "wet"
        else np.zeros_like(heat_w)
    )
    return Cooling(
        fan_w=fan_w,
        pump_w=loop.pump_w_per_w * rated_heat_w * flow**3,
        inside_fan_w=loop.inside_fan_w_per_w * rated_heat_w * flow**3,
        chiller_w=chiller_w,
        chiller_share=share,
        too_warm_k=np.zeros_like(missing_k) if loop.chiller else missing_k,
        water_l_per_s=water_l_per_s,
    )


class Year(NamedTuple):
    """A plant over some hours: energies in joules over all of them, ratios per joule of computing."""

    it_j: float
    conversion_j: float
    cooling_j: float
    fixed_j: float
    sold_j: float  # heat that somebody took
    chiller_hours: int  # hours in which the liquid loop's chiller ran
    air_chiller_hours: int
    too_warm_hours: int
    water_l: float

    @property
    def facility_j(self) -> float:
        return self.it_j + self.conversion_j + self.cooling_j + self.fixed_j

    @property
    def pue(self) -> float:
        """Return power usage effectiveness: ISO/IEC 30134-2, facility energy per energy of computing."""
        return self.facility_j / self.it_j

    @property
    def ere(self) -> float:
        """Return energy reuse effectiveness: The Green Grid, 2010: what was sold is taken off."""
        return (self.facility_j - self.sold_j) / self.it_j

    @property
    def wue_l_per_kwh(self) -> float:
        """Return water usage effectiveness: ISO/IEC 30134-9, litres per kWh of computing."""
        return self.water_l / (self.it_j / J_PER_KWH)


def sold_w(buyer: Buyer, heat_w: Hours, *, return_c: float, month: NDArray[np.int64]) -> tuple[Hours, Hours]:
    """Return (heat that the buyer takes, electricity of the heat pump that lifts it), for each hour.

    Without a lift heat flows as it is; with one, the pump's electricity arrives at the buyer as heat too:
    delivered = taken + electricity, electricity = delivered / COP.
    """
    open_ = np.isin(month, buyer.months)
    need_c = buyer.at_c + buyer.pinch_k
    if return_c >= need_c:
        return np.where(open_, np.minimum(heat_w, buyer.most_w), 0.0), np.zeros_like(heat_w)
    cop = buyer.heat_pump_carnot * (need_c + _KELVIN) / (need_c - return_c)
    delivered = np.where(open_, np.minimum(buyer.most_w, heat_w * cop / (cop - 1.0)), 0.0)
    return delivered, delivered / cop


def year(
    plant: Plant,
    it_w: Hours,
    *,
    conversion_w: Hours,
    fixed_w: float,
    rated_it_w: float,
    dry_bulb_c: Hours,
    wet_bulb_c: Hours,
    hour_s: float,
    sold: Hours | None = None,
) -> Year:
    """Return a plant's energy over the hours given: all that computes or is lost inside becomes heat.

    Args:
        it_w: power of computing, each hour; `conversion_w` what conversion loses beside it (indoors).
        fixed_w: lighting, controls, offices: they need no cooling here.
        rated_it_w: what the plant is built for (conversion losses are scaled with it).
        sold: heat that was sold, watts each hour.
    """
    heat_w = it_w + conversion_w
    rated_heat_w = rated_it_w * max(1.0, float((heat_w / it_w).max()))
    parts = {
        "liquid": (plant.liquid, 1.0 - plant.air_share),
        "air": (plant.air, plant.air_share),
    }
    done: dict[str, Cooling] = {}
    for name, (loop, share) in parts.items():
        done[name] = carry(
            loop,
            heat_w * share,
            rated_heat_w=max(rated_heat_w * share, 1e-9),
            dry_bulb_c=dry_bulb_c,
            wet_bulb_c=wet_bulb_c,
            cycles=plant.cycles,
        )
    liquid, air = done["liquid"], done["air"]
    return Year(
        it_j=float(it_w.sum()) * hour_s,
        conversion_j=float(conversion_w.sum()) * hour_s,
        cooling_j=float((liquid.electricity_w + air.electricity_w).sum()) * hour_s,
        fixed_j=fixed_w * hour_s * len(it_w),
        sold_j=0.0 if sold is None else float(sold.sum()) * hour_s,
        chiller_hours=int((liquid.chiller_share > 0).sum()),
        air_chiller_hours=int((air.chiller_share > 0).sum()) if plant.air_share else 0,
        too_warm_hours=int(((liquid.too_warm_k > 0) | (air.too_warm_k > 0)).sum()),
        water_l=float((liquid.water_l_per_s + air.water_l_per_s).sum()) * hour_s,
    )
