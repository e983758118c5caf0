"""How much electricity and water it takes to carry heat outside, hour by hour. Arrays in, arrays out.

Fans and pumps follow the affinity laws: power goes with the cube of speed. A cooler's air flow that carries a
given heat is taken as inversely proportional to (water - outside), which is exact for a cooler of constant
effectiveness; below `least_speed` fans cycle. A trim chiller takes what the outside could not: the share of
the rise that lies above what the cooler reaches. A wet cooler is taken to lose all of its heat by
evaporation, which is an upper bound of its water: in cold hours air carries up to a third. Outside air that
is blown over equipment is wetted only where it is warmer than asked: water = heat / rise x (dry bulb -
supply) / latent heat, by the balance of the wetted air.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattmill.site.cooling.spec import Buyer, Loop, Plant

Hours = NDArray[np.float64]

_KELVIN = 273.15
_LEAST_LIFT_K = 10.0  # of a heat pump: exchangers at both ends leave no less
_MOST_LIFT_K = 80.0  # of one stage; beyond it the share of Carnot's is another
_LEAST_COP = 1.5  # below it a resistor does nearly as well
_LEAST_W = 1e-9  # a loop that carries nothing still has a rating
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
    if loop.cooler == "direct":  # air that is cool enough is not wetted
        reached_c = np.minimum(reached_c, dry_bulb_c)
    missing_k = np.clip(reached_c - water_c, 0.0, None)
    share = np.clip(missing_k / loop.rise_k, 0.0, 1.0) if loop.chiller else np.zeros_like(missing_k)
    condensing_k = (wet_bulb_c if loop.cooler == "wet" else dry_bulb_c) + loop.condenser_k + _KELVIN
    evaporating_k = water_c - _EVAPORATOR_K + _KELVIN
    lift_k = np.maximum(condensing_k - evaporating_k, loop.least_lift_k)
    chiller_w = share * heat_w * lift_k / (loop.chiller_carnot * evaporating_k)

    part = heat_w / rated_heat_w
    rejected_w = heat_w + chiller_w
    asked = loop.approach_k / np.maximum(water_c - outside_c, loop.approach_k) * part
    if loop.cooler == "direct":  # the rise of the air is given, so its flow is
        asked = part
    fan_w = loop.fan_w_per_w * rated_heat_w * np.clip(asked, loop.least_speed, 1.0) ** 3
    # Below the least speed fans run a part of the time only.
    fan_w = fan_w * np.clip(asked / loop.least_speed, 0.0, 1.0)
    flow = np.maximum(part, loop.least_speed)
    if loop.cooler == "wet":
        water_l_per_s = rejected_w / EVAPORATION_J_PER_KG * cycles / (cycles - 1.0)
    elif loop.cooler == "direct":
        wetted_k = np.clip(dry_bulb_c - np.maximum(water_c, reached_c), 0.0, None)
        water_l_per_s = heat_w / loop.rise_k * wetted_k / EVAPORATION_J_PER_KG * cycles / (cycles - 1.0)
    else:
        water_l_per_s = np.zeros_like(heat_w)
    return Cooling(
        fan_w=fan_w,
        pump_w=loop.pump_w_per_w * rated_heat_w * flow**3,
        inside_fan_w=loop.inside_fan_w_per_w * rated_heat_w * flow**3,
        chiller_w=chiller_w,
        chiller_share=share,
        too_warm_k=np.zeros_like(missing_k) if loop.chiller else missing_k,
        water_l_per_s=water_l_per_s,
    )


def sold_w(
    buyer: Buyer, heat_w: Hours, *, return_c: float, cooled_to_c: float, month: NDArray[np.int64]
) -> tuple[Hours, Hours]:
    """Return (heat that the buyer takes, electricity of the heat pump that lifts it), for each hour.

    Without a lift heat flows as it is; with one, the pump's electricity arrives at the buyer as heat too:
    delivered = taken + electricity, electricity = delivered / COP, and the COP is a share of Carnot's between
    what the buyer needs and `cooled_to_c`, to which the pump has to cool the water so that it may be used
    again (not its return: the evaporator is as cold as what leaves it). Valid for lifts of 10 to 80 K.
    """
    open_ = np.isin(month, buyer.months)
    need_c = buyer.at_c + buyer.pinch_k
    if return_c >= need_c:
        return np.where(open_, np.minimum(heat_w, buyer.most_w), 0.0), np.zeros_like(heat_w)
    if need_c - cooled_to_c > _MOST_LIFT_K:
        raise ValueError(
            f"a heat pump from {cooled_to_c:g} to {need_c:g} °C lifts by {need_c - cooled_to_c:g} K; the law "
            f"holds to {_MOST_LIFT_K:g} K: find a buyer of cooler heat, or warmer water"
        )
    cop = buyer.heat_pump_carnot * (need_c + _KELVIN) / max(need_c - cooled_to_c, _LEAST_LIFT_K)
    if cop <= _LEAST_COP:
        raise ValueError(
            f"a heat pump from {cooled_to_c:g} to {need_c:g} °C has a COP of {cop:.2f} at heat_pump_carnot "
            f"{buyer.heat_pump_carnot:g}; above {_LEAST_COP:g} is needed for it to be one: find a buyer of "
            "cooler heat, or warmer water"
        )
    delivered = np.where(open_, np.minimum(buyer.most_w, heat_w * cop / (cop - 1.0)), 0.0)
    return delivered, delivered / cop


class Carried(NamedTuple):
    """What both loops of a plant take."""

    liquid: Cooling
    air: Cooling

    @property
    def electricity_w(self) -> Hours:
        return self.liquid.electricity_w + self.air.electricity_w

    @property
    def water_l_per_s(self) -> Hours:
        return self.liquid.water_l_per_s + self.air.water_l_per_s


def both(
    plant: Plant,
    *,
    liquid_w: Hours,
    air_w: Hours,
    rated_liquid_w: float,
    rated_air_w: float,
    dry_bulb_c: Hours,
    wet_bulb_c: Hours,
) -> Carried:
    """Return what a plant takes to carry the heat of its liquid loop and of its air loop outside."""
    loops = ((plant.liquid, liquid_w, rated_liquid_w), (plant.air, air_w, rated_air_w))
    return Carried(
        *(
            carry(
                loop,
                heat_w,
                rated_heat_w=max(rated_w, _LEAST_W),
                dry_bulb_c=dry_bulb_c,
                wet_bulb_c=wet_bulb_c,
                cycles=plant.cycles,
            )
            for loop, heat_w, rated_w in loops
        )
    )
