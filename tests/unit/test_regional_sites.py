"""Small sites near their users: where demand goes, how far that is, and what the sites cost together."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from site_house import a_site, steady

from wattmill.site.availability.spec import Part
from wattmill.site.regional.model import assigned, distance_m, option, rtt_ms
from wattmill.site.regional.spec import Comparison, House, Network, Option, Users
from wattmill.site.yearly.spec import Place, Site, Work

NEW_YORK = Users(latitude_deg=40.7, longitude_deg=-74.0, tok_per_s=1e6)
LOS_ANGELES = Users(latitude_deg=34.0, longitude_deg=-118.2, tok_per_s=1e6)


def at(latitude: float, longitude: float, full: float = 2e6, mw: float = 3.0) -> Site:
    place = Place(weather="", name="", latitude_deg=latitude, longitude_deg=longitude)
    return a_site(place=place, work=Work(mw=mw, idle_share=0.3, tok_per_s=1.0, tok_per_s_full=full))


def asked(**fields: object) -> Comparison:
    given = {
        "name": "c",
        "users": {"east": NEW_YORK, "west": LOS_ANGELES},
        "options": {"o": Option(sites={"s": ""})},
    }
    return Comparison(**{**given, **fields})  # type: ignore[arg-type]


def test_new_york_and_los_angeles_are_3936_kilometres_and_62_milliseconds_apart() -> None:
    metres = distance_m(NEW_YORK, at(34.0, -118.2))
    assert metres == pytest.approx(3.94e6, rel=5e-3)
    assert rtt_ms(Network(detour=1.6, fixed_ms=0.0), metres) == pytest.approx(
        2 * metres * 1.6 * 4.9e-6, rel=1e-9
    )


def test_demand_goes_to_the_nearest_site_with_room_and_the_rest_is_told() -> None:
    sites = {"east": at(40.7, -74.0, full=5e5), "west": at(34.0, -118.2, full=1.2e6)}
    served, left = assigned(asked(fullest=1.0), sites)
    took = {(each.users, each.site): each.tok_per_s for each in served}
    assert took == {
        ("east", "east"): 5e5,
        ("west", "west"): 1e6,
        ("east", "west"): pytest.approx(2e5),
    }
    assert left == pytest.approx(3e5)


def test_small_houses_cost_more_for_each_megawatt_by_the_rule_of_capacity() -> None:
    house = House(usd_per_site_year=1e5, usd_per_mw_year=1e6, at_mw=9.0, exponent=0.9)
    compare = asked(house=house)
    sites = {"east": (at(40.7, -74.0, full=3e6), steady(24), None)}
    got = option("o", compare, sites)
    assert got.house_usd == pytest.approx(1e5 + 9e6 * (3 / 9) ** 0.9)


def test_three_of_three_are_up_less_often_than_one_and_two_of_three_more_often() -> None:
    part = Part(name="p", mtbf_h=990, repair_h=10, source="test")
    east, west = (replace(at(40.7, lon, full=3e6), parts=(part,)) for lon in (-74.0, -118.2))
    one = option("one", asked(enough=0.5), {"a": (east, steady(24), None)})
    two = option("two", asked(enough=0.5), {"a": (east, steady(24), None), "b": (west, steady(24), None)})
    assert one.all_up == pytest.approx(0.99)
    assert two.all_up == pytest.approx(0.99**2)
    assert two.enough_up == pytest.approx(1 - 0.01**2)
    assert two.rtt_worst_ms < one.rtt_worst_ms
