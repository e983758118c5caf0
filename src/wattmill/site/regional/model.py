"""Where demand goes, how far that is, and what all sites together cost.

Distance on the great circle (haversine; a sphere of 6,371 km: 0.5 % off at the most). Light in fibre at 4.9
us a kilometre, on a way longer than the great circle by `detour`, both ways. Demand goes to the nearest site
that has room, nearest pairs first: what an anycast or a latency-based resolver does. Building cost with a
power of its size is the rule of capacity (Williams, Chemical Engineering 54, 1947); modular sites lie near an
exponent of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import asin, cos, radians, sin, sqrt

from msgspec.structs import replace

from wattmill.site.availability.model import at_least, site_up
from wattmill.site.climate.spec import Weather
from wattmill.site.interconnect.model import FIBRE_S_PER_M
from wattmill.site.regional.spec import (
    Comparison,
    House,
    Network,
    OptionAnswer,
    Served,
    SiteAnswer,
    Users,
)
from wattmill.site.yearly.account import year
from wattmill.site.yearly.answer import YearAnswer
from wattmill.site.yearly.series import Zone
from wattmill.site.yearly.spec import Site
from wattmill.units import MS_PER_S, TOK_PER_MTOK

_EARTH_M = 6.371e6
_DAY_H = 24
Standing = tuple[Site, Weather, Zone | None]


def distance_m(users: Users, site: Site) -> float:
    """Return the great circle between users and a site."""
    place = site.place
    assert place.latitude_deg is not None and place.longitude_deg is not None, "the declaration was checked"
    a, b = radians(users.latitude_deg), radians(place.latitude_deg)
    across = radians(place.longitude_deg - users.longitude_deg)
    half = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(across / 2) ** 2
    return 2.0 * _EARTH_M * asin(sqrt(half))


def rtt_ms(network: Network, metres: float) -> float:
    """Return there and back, in milliseconds."""
    return 2.0 * metres * network.detour * FIBRE_S_PER_M * MS_PER_S + network.fixed_ms


def assigned(asked: Comparison, sites: Mapping[str, Site]) -> tuple[tuple[Served, ...], float]:
    """Return which demand goes to which site, and what finds no room, in tokens per second."""
    left = {name: users.tok_per_s for name, users in asked.users.items()}
    room = {name: _room(site, asked.fullest) for name, site in sites.items()}
    pairs = sorted(
        (rtt_ms(asked.network, distance_m(users, site)), who, where)
        for who, users in asked.users.items()
        for where, site in sites.items()
    )
    out: list[Served] = []
    for ms, who, where in pairs:
        took = min(left[who], room[where])
        if took > 0:
            out.append(Served(users=who, site=where, tok_per_s=took, rtt_ms=ms))
            left[who] -= took
            room[where] -= took
    return tuple(out), sum(left.values())


def option(name: str, asked: Comparison, sites: Mapping[str, Standing]) -> OptionAnswer:
    """Return an option with each of its sites lived through its year. Raises `ValueError` in words."""
    served, unserved = assigned(asked, {where: each[0] for where, each in sites.items()})
    if not served:
        raise ValueError(f"option {name}: no site has room for anybody")
    done: list[SiteAnswer] = []
    for where, (site, weather, zone) in sites.items():
        tok_per_s = sum(each.tok_per_s for each in served if each.site == where)
        lived = year(replace(site, work=replace(site.work, tok_per_s=tok_per_s, busy=None)), weather, zone)
        limit, share = _nearest(lived)
        done.append(
            SiteAnswer(
                name=where,
                year=lived,
                house_usd=_house_usd(asked.house, site.work.mw),
                nearest_limit=limit,
                nearest_share=share,
            )
        )
    return _summed(name, asked, sites, tuple(done), served, unserved)


def _room(site: Site, fullest: float) -> float:
    """Return the mean demand that a site can take: its busiest hour must fit."""
    assert site.work.tok_per_s_full is not None, "the declaration was checked"
    day = site.work.day
    peak = max(day) * _DAY_H / sum(day) if day else 1.0
    return site.work.tok_per_s_full * fullest / peak


def _house_usd(house: House, mw: float) -> float:
    building = house.usd_per_mw_year * house.at_mw * float((mw / house.at_mw) ** house.exponent)
    return house.usd_per_site_year + building


def _nearest(lived: YearAnswer) -> tuple[str, float]:
    found = [(each.used / each.allowed, each.limit) for each in lived.binding if each.allowed > 0]
    share, limit = max(found)
    return limit, share


def _summed(
    name: str,
    asked: Comparison,
    sites: Mapping[str, Standing],
    done: tuple[SiteAnswer, ...],
    served: tuple[Served, ...],
    unserved: float,
) -> OptionAnswer:
    total = sum(each.tok_per_s for each in served)
    years = [each.year for each in done]
    power = sum(y.money.usd for y in years)
    house = sum(each.house_usd for each in done)
    per_token = [y.per_token for y in years if y.per_token is not None]
    tok = sum(each.tok for each in per_token)
    equipment = [_equipment_mwh(y) for y in years]
    inside = sum(y.ratios.pue * e for y, e in zip(years, equipment, strict=True))
    ups = [site_up(each[0].parts).availability for each in sites.values() if each[0].parts]
    full = [each[0].work.tok_per_s_full or 0.0 for each in sites.values()]
    shares = [each / sum(full) for each in full]
    known = len(ups) == len(sites)
    location = [y.carbon.location_t for y in years]
    market = [y.carbon.market_t for y in years]
    embodied = [None if y.sci is None else y.sci.embodied_t for y in years]
    return OptionAnswer(
        name=name,
        sites=done,
        served=served,
        unserved_tok_per_s=unserved,
        rtt_mean_ms=sum(each.rtt_ms * each.tok_per_s for each in served) / total,
        rtt_worst_ms=max(each.rtt_ms for each in served),
        power_usd=power,
        house_usd=house,
        location_t=_sum(location),
        market_t=_sum(market),
        embodied_t=_sum(embodied),
        heat_mwh=sum(y.heat_sold_mwh for y in years),
        heat_usd=sum(y.money.heat_usd for y in years),
        pue=inside / sum(equipment),
        peak_mw=sum(y.peak_mw for y in years),
        j_per_tok=sum(each.j_per_tok * each.tok for each in per_token) / tok,
        usd_per_mtok=(power + house) / tok * TOK_PER_MTOK,
        all_up=at_least(ups, shares, 1.0) if known else None,
        enough_up=at_least(ups, shares, asked.enough) if known else None,
    )


def _equipment_mwh(lived: YearAnswer) -> float:
    return sum(row.mwh for row in lived.energy.rows if row.boundary == "computing")


def _sum(values: list[float | None]) -> float | None:
    """Return the sum, or None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
