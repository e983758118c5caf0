"""How many racks a hall takes, what binds it, and what of its power nobody can use: by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from wattmill.site.racks.model import filled, flow_l_per_min
from wattmill.site.racks.spec import Hall, Rack

RACK = Rack(nameplate_kw=132.0, peak_kw=120.0, mean_kw=90.0, kg=1600.0)
HALL = Hall(rack=RACK, positions=80, feed_kw=140.0, row_positions=8, row_kw=1000.0)


def test_water_for_a_rack_is_its_heat_over_what_a_litre_takes_up() -> None:
    # 100 kW over 10 K: 100e3 / (0.992 x 4179 x 10) = 2.412 l/s = 144.7 l/min.
    assert flow_l_per_min(100e3, 10.0) == pytest.approx(144.73, abs=0.01)


def test_a_row_that_takes_seven_and_a_half_racks_takes_seven() -> None:
    # 1000 / 132 = 7.58: seven racks a row, ten rows: 70 x 132 = 9,240 of 10,000 kW: 760 stranded.
    got = filled(HALL)
    assert (got.racks, got.binds) == (70, "busway of a row")
    assert got.stranded_kw == pytest.approx(760.0)
    assert got.unused_kw == pytest.approx(70 * 12.0)


def test_counting_measured_peaks_lets_more_racks_in_and_says_how_far_names_are_oversold() -> None:
    # 1000 / 120 = 8.33: all eight; nameplates 80 x 132 = 10,560 kW on 10,000.
    got = filled(replace(HALL, counted="peak"))
    assert got.racks == 80
    assert got.oversubscription == pytest.approx(1.056)


def test_peaks_that_do_not_come_together_leave_room() -> None:
    # A rack counts 90 + 0.5 x (132 - 90) = 111 kW: nine would fit, the row has eight positions.
    assert filled(replace(HALL, together=0.5)).racks == 80


def test_a_floor_that_does_not_carry_a_rack_strands_all_of_the_power() -> None:
    got = filled(replace(HALL, floor_kg_per_m2=800.0))  # 1600 kg on 1.8 m2: 889
    assert (got.racks, got.binds) == (0, "floor")
    assert got.stranded_kw == got.provisioned_kw


def test_racks_of_600_kw_need_water_that_a_position_for_132_kw_has_not() -> None:
    kyber = Rack(nameplate_kw=600.0, kg=3000.0, volts=800.0, tiles_m2=3.0)
    hall = Hall(rack=kyber, positions=10, feed_kw=650.0, row_positions=2, flow_l_per_min=180.0)
    got = filled(hall)
    assert (got.racks, got.binds) == (0, "water of a position")
    assert filled(replace(hall, flow_l_per_min=800.0)).racks == 10
    assert got.amperes == pytest.approx(750.0)


@given(st.floats(10, 600), st.integers(1, 200), st.floats(10, 700), st.integers(1, 12), st.floats(50, 5000))
def test_nothing_is_stranded_twice_and_nothing_drawn_beyond_what_was_built(
    kw: float, positions: int, feed_kw: float, in_row: int, row_kw: float
) -> None:
    rack = Rack(nameplate_kw=kw, kg=1000.0)
    got = filled(Hall(rack=rack, positions=positions, feed_kw=feed_kw, row_positions=in_row, row_kw=row_kw))
    assert got.stranded_kw >= -1e-6 and got.unused_kw >= -1e-6
    drawn = min(got.peak_kw, got.provisioned_kw - got.stranded_kw)
    assert drawn + got.stranded_kw + got.unused_kw == pytest.approx(got.provisioned_kw)
