"""Parts that fail, and carbon from before the first watt: by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.site.availability.model import at_least, enough_up, site_up, unit_up
from wattmill.site.availability.spec import Part
from wattmill.site.embodied.model import embodied_t, score
from wattmill.site.embodied.spec import Built


def part(**fields: object) -> Part:
    return Part(**{"name": "p", "mtbf_h": 990.0, "repair_h": 10.0, "source": "test", **fields})  # type: ignore[arg-type]


def test_one_unit_is_up_between_its_failures() -> None:
    assert unit_up(part()) == pytest.approx(0.99)
    assert site_up([part()]).down_h_per_year == pytest.approx(87.6)


def test_one_more_than_needed_squares_the_trouble_of_two() -> None:
    # Two of which one is needed: down 0.01^2. Three of which two are: 3 x 0.01^2 x 0.99 + 0.01^3.
    assert enough_up(part(built=2)) == pytest.approx(1 - 1e-4)
    assert enough_up(part(needed=2, built=3)) == pytest.approx(1 - (3 * 1e-4 * 0.99 + 1e-6))


def test_a_site_needs_all_of_its_parts_and_names_the_worst() -> None:
    up = site_up([part(), part(name="q", built=2)])
    assert up.availability == pytest.approx(0.99 * 0.9999)
    assert up.worst == "p"


def test_three_sites_lose_a_third_where_one_loses_everything() -> None:
    assert at_least([0.99], [1.0], 2 / 3) == pytest.approx(0.99)
    assert at_least([0.99] * 3, [1 / 3] * 3, 2 / 3) == pytest.approx(0.99**3 + 3 * 0.99**2 * 0.01)
    assert at_least([0.99] * 3, [1 / 3] * 3, 1.0) == pytest.approx(0.99**3)


def test_more_needed_than_built_is_refused() -> None:
    with pytest.raises(ValueError, match="part p: 3 are needed, 2 are built"):
        enough_up(part(needed=3, built=2))


@given(st.floats(1, 1e6), st.floats(0, 1e4), st.integers(1, 8), st.integers(0, 4))
def test_building_more_never_lowers_availability(mtbf: float, repair: float, needed: int, more: int) -> None:
    some = part(mtbf_h=mtbf, repair_h=repair, needed=needed, built=needed + more)
    extra = part(mtbf_h=mtbf, repair_h=repair, needed=needed, built=needed + more + 1)
    assert 0.0 <= enough_up(some) <= enough_up(extra) + 1e-12 <= 1.0 + 1e-12


def test_embodied_carbon_is_spread_over_life_and_share_and_divided_by_tokens() -> None:
    # 10 racks of 150 t over 5 years: 300 t a year; half of a 1,000 t hall over 20 years: 25 t.
    things = [
        Built(name="racks", count=10, kg_co2e=150e3, life_years=5, source="test"),
        Built(name="hall", kg_co2e=1e6, life_years=20, share=0.5, source="test"),
    ]
    assert embodied_t(things, 8760) == pytest.approx(325.0)
    got = score(things, hours=8760, operation_t=675.0, tok=2e12)
    assert got.g_per_mtok == pytest.approx(1000e6 / 2e6)
    assert score(things, hours=8760, operation_t=None, tok=2e12).g_per_mtok is None
