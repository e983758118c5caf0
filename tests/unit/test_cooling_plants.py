"""What it takes to carry heat outside: hours, watts and litres, against hand calculations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from site_house import TYPICAL, a_site, typical, with_water

from wattmill.site.cooling.model import EVAPORATION_J_PER_KG, carry, sold_w
from wattmill.site.cooling.spec import WATER_CLASSES_C, Buyer, Loop
from wattmill.site.yearly.climates import InClimate, in_climate


def a_year(place: str, **loop: object) -> InClimate:
    return in_climate(with_water(a_site(), **loop), typical(place))


def test_water_of_45_degrees_needs_a_chiller_1056_hours_in_phoenix_and_none_in_virginia() -> None:
    assert a_year("Phoenix", supply_c=45).chiller_hours == 1056
    assert a_year("VA_Leesburg", supply_c=45).chiller_hours == 0


def test_four_kelvin_in_the_distribution_unit_double_the_hours_in_phoenix() -> None:
    assert a_year("Phoenix", supply_c=45, exchanger_k=4).chiller_hours == 2115
    assert a_year("VA_Leesburg", supply_c=45, exchanger_k=4).chiller_hours == 57


@pytest.mark.parametrize("site", ["Phoenix", "Atlanta", "Chicago", "Seattle", "San.Jose", "Dallas", "VA_"])
def test_colder_water_never_costs_less(site: str) -> None:
    pues = [a_year(site, supply_c=supply_c).pue for supply_c in sorted(WATER_CLASSES_C.values())]
    assert pues == sorted(pues, reverse=True)
    assert pues[-1] > 1.05  # conversion alone is 5 %


def test_a_trim_chiller_takes_the_part_of_the_rise_that_the_outside_could_not() -> None:
    # 42 °C outside + 8 K = 50 °C reached, 45 °C wanted, rise 10 K: half of the heat. Condensing at 52 °C,
    # evaporating at 43 °C: lift 9 K, COP 0.5 x 316.15 / 9 = 17.56.
    got = carry(
        Loop(supply_c=45),
        np.array([1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([42.0]),
        wet_bulb_c=np.array([20.0]),
        cycles=4,
    )
    assert got.chiller_share[0] == pytest.approx(0.5)
    assert got.chiller_w[0] == pytest.approx(0.5e6 / (0.5 * 316.15 / 9))
    assert got.fan_w[0] == pytest.approx(0.02 * 1e6)  # the coolers run at full speed


def test_fans_follow_the_cube_of_the_air_that_is_needed() -> None:
    # 29 °C outside: 16 K to the water instead of 8, so half the air, an eighth of the power.
    got = carry(
        Loop(supply_c=45),
        np.array([1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([29.0]),
        wet_bulb_c=np.array([20.0]),
        cycles=4,
    )
    assert got.fan_w[0] == pytest.approx(0.02 * 1e6 / 8)
    assert got.chiller_w[0] == 0


def test_a_wet_cooler_evaporates_its_heat_and_blows_down_by_its_cycles() -> None:
    got = carry(
        Loop(supply_c=32, cooler="wet"),
        np.array([1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([35.0]),
        wet_bulb_c=np.array([20.0]),
        cycles=4,
    )
    assert got.chiller_w[0] == 0
    assert got.water_l_per_s[0] == pytest.approx(1e6 / EVAPORATION_J_PER_KG * 4 / 3)


def test_without_a_chiller_the_missed_kelvins_are_told_and_no_heat_is_moved_in_secret() -> None:
    got = carry(
        replace(Loop(supply_c=45), chiller=False),
        np.array([1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([40.0]),
        wet_bulb_c=np.array([20.0]),
        cycles=4,
    )
    assert got.too_warm_k[0] == pytest.approx(3.0)
    assert got.chiller_w[0] == 0


@given(st.floats(-20, 50), st.floats(0.2, 1.0))
def test_a_warmer_hour_never_needs_less(outside_c: float, part: float) -> None:
    def needs(at_c: float) -> float:
        return float(
            carry(
                Loop(supply_c=32),
                np.array([part * 1e6]),
                rated_heat_w=1e6,
                dry_bulb_c=np.array([at_c]),
                wet_bulb_c=np.array([at_c]),
                cycles=4,
            ).electricity_w[0]
        )

    assert needs(outside_c + 1.0) >= needs(outside_c) - 1e-6


def test_heat_warmer_than_the_buyer_needs_is_sold_as_it_is_in_his_months_only() -> None:
    buyer = Buyer(at_c=50, months=(1, 12), most_w=4e5, usd_per_mwh=20)
    taken, pump = sold_w(buyer, np.array([1e6, 1e6]), return_c=55, cooled_to_c=45, month=np.array([1, 7]))
    assert taken.tolist() == [4e5, 0.0]
    assert pump.tolist() == [0.0, 0.0]


def test_a_heat_pump_lifts_what_is_too_cold_and_its_electricity_arrives_as_heat() -> None:
    # To 70 + 3 °C, water that comes at 55 and leaves at 45 °C: COP 0.5 x 346.15 / 28 = 6.181.
    buyer = Buyer(at_c=70, months=(1,), most_w=1e9, usd_per_mwh=20)
    delivered, pump = sold_w(buyer, np.array([1e6]), return_c=55, cooled_to_c=45, month=np.array([1]))
    cop = 0.5 * 346.15 / 28
    assert pump[0] == pytest.approx(delivered[0] / cop)
    assert delivered[0] - pump[0] == pytest.approx(1e6)


def test_a_pump_that_is_no_better_than_a_resistor_is_refused() -> None:
    buyer = Buyer(at_c=80, months=(1,), most_w=1e9, usd_per_mwh=20, heat_pump_carnot=0.15)
    with pytest.raises(ValueError, match="COP of 1"):
        sold_w(buyer, np.array([1e6]), return_c=40, cooled_to_c=30, month=np.array([1]))


def test_a_lift_beyond_the_laws_range_is_refused() -> None:
    buyer = Buyer(at_c=110, months=(1,), most_w=1e9, usd_per_mwh=20)
    with pytest.raises(ValueError, match="lifts by 83 K; the law holds to 80 K"):
        sold_w(buyer, np.array([1e6]), return_c=40, cooled_to_c=30, month=np.array([1]))


def test_outside_air_is_wetted_only_where_it_is_warmer_than_asked() -> None:
    # 35 °C to 27 °C: 8 K of a rise of 10 K; wet bulb 18 + 3 K lets it. Water for 0.8 of the heat, x 4 / 3.
    loop = Loop(supply_c=27, rise_k=10, cooler="direct", approach_k=3, chiller=False, inside_fan_w_per_w=0.03)
    got = carry(
        loop,
        np.array([1e6, 1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([35.0, 20.0]),
        wet_bulb_c=np.array([18.0, 18.0]),
        cycles=4,
    )
    assert got.water_l_per_s == pytest.approx([0.8e6 / EVAPORATION_J_PER_KG * 4 / 3, 0.0])
    assert got.too_warm_k.tolist() == [0.0, 0.0]


def test_air_that_cannot_be_wetted_cool_enough_is_told() -> None:
    loop = Loop(supply_c=27, rise_k=10, cooler="direct", approach_k=3, chiller=False)
    got = carry(
        loop,
        np.array([1e6]),
        rated_heat_w=1e6,
        dry_bulb_c=np.array([35.0]),
        wet_bulb_c=np.array([26.0]),
        cycles=4,
    )
    assert got.too_warm_k[0] == pytest.approx(2.0)


def test_a_class_of_water_is_a_temperature_and_what_is_none_is_refused_with_the_classes() -> None:
    from typer.testing import CliRunner

    from wattmill.cli.site import site_app

    example = str(TYPICAL.parents[2] / "examples" / "site-virginia-9mw-plain.toml")
    done = CliRunner().invoke(site_app, ["water", example, "--supply", "W99"])
    assert done.exit_code == 1
    assert "--supply is 'W99', must be 5 to 60 °C or one of W17, W27, W32, W40, W45" in done.output
    asked = ["water", example, "--supply", "w40", "--cdu", "0", "--weather", str(TYPICAL), "--json"]
    rows = json.loads(CliRunner().invoke(site_app, asked).output)
    assert {row["supply_c"] for row in rows} == {40.0}
    assert len(rows) == 7
