"""What a cooling plant is: a liquid loop and an air loop, each with its coolers, and a trim chiller."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

WATER_CLASSES_C = {"W17": 17.0, "W27": 27.0, "W32": 32.0, "W40": 40.0, "W45": 45.0}
"""Highest facility water supply of each class, in degrees Celsius: ASHRAE TC 9.9, Thermal Guidelines for Data
Processing Environments, 5th edition, 2021."""

Share = Annotated[float, Meta(ge=0, le=1)]


class Loop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One loop of water from the heat to the outside. Valid for outdoor temperatures from -40 to 55 °C and
    supplies from 5 to 60 °C."""

    supply_c: Annotated[float, Meta(ge=5, le=60)]  # what the equipment is promised at its own inlet
    rise_k: Annotated[float, Meta(gt=0)] = 10.0  # supply to return
    exchanger_k: Annotated[float, Meta(ge=0)] = (
        0.0  # lost in the coolant distribution unit between the two waters
    )
    # "direct" blows outside air over the equipment, wetted where it is too warm: `supply_c` is the air's.
    cooler: Literal["dry", "wet", "direct"] = "dry"
    approach_k: Annotated[float, Meta(gt=0)] = (
        8.0  # cooler's outlet over dry bulb (dry) or wet bulb (wet, direct), fans at full
    )
    fan_w_per_w: Annotated[float, Meta(ge=0)] = (
        0.02  # electricity of the cooler's fans at full speed, per watt of heat
    )
    least_speed: Annotated[float, Meta(gt=0, le=1)] = 0.2  # of fans
    pump_w_per_w: Annotated[float, Meta(ge=0)] = 0.01  # at rated flow, per watt of heat
    inside_fan_w_per_w: Annotated[float, Meta(ge=0)] = (
        0.0  # air handlers, per watt of heat: an air loop has them
    )
    chiller: bool = True  # False: what is too warm is reported, not cooled
    chiller_carnot: Annotated[float, Meta(gt=0, lt=1)] = 0.5  # share of the ideal coefficient that it reaches
    condenser_k: Annotated[float, Meta(gt=0)] = 10.0  # condensing temperature over the outside
    least_lift_k: Annotated[float, Meta(gt=0)] = 8.0  # a compressor's pressure ratio never falls to nothing


class Plant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site's cooling: `air_share` of the heat leaves by air through a loop of its own."""

    liquid: Loop
    air: Loop
    air_share: Share = 0.15
    cycles: Annotated[float, Meta(gt=1)] = 4.0  # of concentration, in wet coolers: how often water is used


class Buyer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who takes heat: at a temperature, in months, up to a power, for a price."""

    at_c: Annotated[float, Meta(gt=0)]
    months: tuple[Annotated[int, Meta(ge=1, le=12)], ...]
    most_w: Annotated[float, Meta(ge=0)]
    usd_per_mwh: Annotated[float, Meta(ge=0)]
    heat_pump_carnot: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    pinch_k: Annotated[float, Meta(gt=0)] = 3.0  # across the exchanger to the buyer's water
