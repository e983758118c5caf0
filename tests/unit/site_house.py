"""Sites for tests: small, flat, with the weather of the shipped tables."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from wattmill.power.tariff.spec import Tariff
from wattmill.site.climate.reading import weather
from wattmill.site.climate.spec import Weather
from wattmill.site.cooling.spec import Loop, Plant
from wattmill.site.yearly.spec import Chain, Grid, Place, Site, Work

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
TYPICAL = DATA / "weather_tmy_us7.csv.gz"
OF_2024 = DATA / "weather_2024_hourly.csv.gz"
ENERGY = DATA / "energy_2024_hourly.csv.gz"
AIR = Loop(supply_c=23, inside_fan_w_per_w=0.03)
FLAT = Tariff(name="flat", usd_per_kwh=0.05, source="test", provenance="declared")


@cache
def typical(place: str) -> Weather:
    return weather(TYPICAL, place)


def steady(hours: int = 48, *, dry_c: float = 20.0, wet_c: float = 15.0) -> Weather:
    """Return days that are all alike, written as those of a real year."""
    at = np.arange(hours)
    return Weather(
        place="nowhere",
        climate="",
        year=2024,
        clock="utc",
        dry_bulb_c=np.full(hours, dry_c),
        wet_bulb_c=np.full(hours, wet_c),
        month=np.ones(hours, dtype=np.int64),
        hour=at % 24,
        sun_w_m2=np.where((at % 24 >= 6) & (at % 24 < 18), 500.0, 0.0),
        cloud=None,
        filled_hours=0,
    )


def a_site(**parts: object) -> Site:
    """Return a site of 8 MW, 80 % busy, no idle power, W45 by dry coolers; `parts` replace whole tables."""
    site = Site(
        name="test",
        place=Place(weather="", name="", latitude_deg=39.0, longitude_deg=-77.5),
        chain=Chain(preset="ac-480"),
        work=Work(mw=8.0, idle_share=0.0, busy=0.8),
        cooling=Plant(liquid=Loop(supply_c=45), air=AIR),
        grid=Grid(tariff=FLAT),
        fixed_kw=50.0,
    )
    return replace(site, **parts)


def with_water(site: Site, **fields: object) -> Site:
    return replace(site, cooling=replace(site.cooling, liquid=replace(site.cooling.liquid, **fields)))
