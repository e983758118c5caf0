"""Two overhead constants from two published points, and every other point predicted with them.

The constants: electricity of the air movers and of the pumps per watt of heat at rated flow. Nothing else is
fitted: chains, supplies, approaches and the share of air are design inputs, the weather is that of the
nearest place in the table. A point that calibrates meets its figure by construction and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from wattmill.power.tariff.spec import Tariff
from wattmill.site.climate.spec import Weather
from wattmill.site.cooling.spec import Plant
from wattmill.site.published.spec import Checked, Design, Point, Points, Verdict
from wattmill.site.yearly.climates import InClimate, in_climate
from wattmill.site.yearly.spec import Chain, Grid, Place, Site, Work
from wattmill.units import W_PER_KW

_MW = 10.0  # PUE of these equations does not change with size
_MOST = 0.5  # W/W: no plant that anybody published takes more
_NO_TARIFF = Tariff(name="none", source="not asked", provenance="declared")


def checked(points: Points, years: Mapping[str, Weather]) -> Checked:
    """Return constants and verdicts. Raises `ValueError` where the two points that calibrate are not there,
    or no constant meets them."""
    air_point = _only(points, "calibrates air")
    water_point = _only(points, "calibrates water")
    air = _solved(air_point, lambda value: _pue(points, air_point[1], years, air=value, water=0.0))
    water = _solved(water_point, lambda value: _pue(points, water_point[1], years, air=air, water=value))
    verdicts = [
        _verdict(name, point, points.designs[point.design], years, air=air, water=water)
        for name, point in points.points.items()
    ]
    return Checked(air=air, water=water, verdicts=tuple(verdicts))


def site_of(design: Design, *, air: float, water: float) -> Site:
    """Return the design as a site of ten megawatts, with the constants put in."""
    blown = design.air.cooler == "direct"
    return Site(
        name="published",
        place=Place(weather="", name=""),
        chain=Chain(preset=design.chain, redundancy=design.redundancy, plant_feed_loss=0.0),
        work=Work(mw=_MW, idle_share=0.0, busy=design.busy),
        cooling=Plant(
            liquid=replace(design.liquid, pump_w_per_w=water),
            air=replace(design.air, inside_fan_w_per_w=air, pump_w_per_w=0.0 if blown else water),
            air_share=design.air_share,
        ),
        grid=Grid(tariff=_NO_TARIFF),
        fixed_kw=design.fixed_share * _MW * W_PER_KW,
    )


def _verdict(
    name: str, point: Point, design: Design, years: Mapping[str, Weather], *, air: float, water: float
) -> Verdict:
    site = site_of(design, air=air, water=water)
    places = list(years) if point.climate is None else [_named(years, point.climate)]
    found: list[InClimate] = [in_climate(site, years[place]) for place in places]
    pues = [each.pue for each in found]
    middle = sum(pues) / len(pues)
    if point.low <= middle <= point.high:
        off = 0.0
    else:
        off = middle - (point.high if middle > point.high else point.low)
    return Verdict(
        name=name,
        role=point.role,
        low=point.low,
        high=point.high,
        design=point.design,
        climate="all" if point.climate is None else places[0],
        pue=middle,
        pue_low=min(pues),
        pue_high=max(pues),
        wue_l_per_kwh=sum(each.wue_l_per_kwh for each in found) / len(found),
        off=off,
    )


def _pue(points: Points, point: Point, years: Mapping[str, Weather], *, air: float, water: float) -> float:
    assert point.climate is not None, "what calibrates stands somewhere"
    site = site_of(points.designs[point.design], air=air, water=water)
    return in_climate(site, years[_named(years, point.climate)]).pue


def _named(years: Mapping[str, Weather], climate: str) -> str:
    found = [name for name in years if climate in name]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} places named {climate!r} in the weather: there are {', '.join(years)}"
        )
    return found[0]


def _only(points: Points, role: str) -> tuple[str, Point]:
    found = [(name, point) for name, point in points.points.items() if point.role == role]
    if len(found) != 1:
        raise ValueError(f"{len(found)} points have role {role!r}: one calibrates, the others are predicted")
    return found[0]


def _solved(named: tuple[str, Point], pue: Callable[[float], float]) -> float:
    """Return the constant at which the point's PUE is met: more electricity is more PUE, so by halves."""
    name, point = named
    goal = (point.low + point.high) / 2.0
    low, high = 0.0, _MOST
    if not pue(low) <= goal <= pue(high):
        raise ValueError(
            f"point {name}: PUE {goal:.3f} lies outside of what its design can have, {pue(low):.3f} to "
            f"{pue(high):.3f}"
        )
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        low, high = (middle, high) if pue(middle) < goal else (low, middle)
    return (low + high) / 2.0
