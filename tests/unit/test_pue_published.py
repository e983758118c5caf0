"""Two constants from two published points; the others are predicted, and fleets only lie in a range."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from wattmill.app.declared.site_file import load_points
from wattmill.site.climate.spec import Weather
from wattmill.site.published.model import checked
from wattmill.site.published.spec import Checked, Points

EXAMPLE = Path(__file__).parents[2] / "examples" / "pue-published.toml"


@pytest.fixture(scope="module")
def given() -> tuple[Points, dict[str, Weather]]:
    found = load_points(EXAMPLE)
    assert isinstance(found, tuple)
    return found


@pytest.fixture(scope="module")
def done(given: tuple[Points, dict[str, Weather]]) -> Checked:
    return checked(*given)


def test_two_points_calibrate_and_meet_their_figures_exactly(done: Checked) -> None:
    fitted = {v.name: v for v in done.verdicts if v.role.startswith("calibrates")}
    assert set(fitted) == {"prineville-design", "esif"}
    assert all(v.pue == pytest.approx(v.low, abs=1e-6) for v in fitted.values())


def test_the_constant_of_air_is_what_the_chain_leaves_of_the_published_figure(done: Checked) -> None:
    # By hand: 0.07 - busway 0.0035 - transformer 0.02 x 1.0035 - light 0.003 = 0.0434; heat 1.0035.
    assert done.air == pytest.approx(0.0434 / 1.0035, abs=0.0002)
    # Cambridge says of its own fans: less than 5 kW for 90 kW.
    assert done.air < 5 / 90


def test_four_predicted_points_are_met_to_two_hundredths(done: Checked) -> None:
    told = {v.name: v.within for v in done.verdicts if v.role == "predicted"}
    assert told == dict.fromkeys(("forest-city", "prineville-operation", "google-ohio", "cambridge"), True), (
        "what is only told second-hand is not among them"
    )


def test_frontiers_factor_is_the_share_of_heat_in_its_water_and_no_pue(
    given: tuple[Points, dict[str, Weather]], done: Checked
) -> None:
    assert given[0].designs["exascale-towers"].air_share == pytest.approx(1 - 0.945)
    (frontier,) = (v for v in done.verdicts if v.name == "frontier")
    assert frontier.role == "second-hand" and frontier.pue == pytest.approx(1.034, abs=0.001)


def test_no_point_that_is_predicted_moves_a_constant(
    given: tuple[Points, dict[str, Weather]], done: Checked
) -> None:
    points, years = given
    kept = {name: p for name, p in points.points.items() if p.role.startswith("calibrates")}
    alone = checked(replace(points, points=kept), years)
    assert (alone.air, alone.water) == (done.air, done.water)


def test_fleets_are_set_against_all_seven_climates(done: Checked) -> None:
    fleets = [v for v in done.verdicts if v.role == "range"]
    assert fleets and all(v.climate == "all" for v in fleets)
    assert any(v.pue_high > v.pue_low for v in fleets)


def test_a_figure_that_its_design_cannot_have_is_refused(given: tuple[Points, dict[str, Weather]]) -> None:
    points, years = given
    name = "prineville-design"
    wrong = {**points.points, name: replace(points.points[name], low=1.01, high=1.01)}
    with pytest.raises(ValueError, match=r"point prineville-design: PUE 1\.010 lies outside"):
        checked(replace(points, points=wrong), years)


def test_two_points_for_one_constant_are_refused(given: tuple[Points, dict[str, Weather]]) -> None:
    points, years = given
    twice = {**points.points, "again": points.points["esif"]}
    with pytest.raises(ValueError, match="2 points have role 'calibrates water'"):
        checked(replace(points, points=twice), years)
