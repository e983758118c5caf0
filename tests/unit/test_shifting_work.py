"""Work moved in time and between places: by hand on two days and two places, and by the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from wattmill.cli.site import site_app
from wattmill.power.dispatch.shifting import by_place, by_time


def test_between_two_places_the_cheaper_fills_up_to_its_nameplate_and_not_beyond() -> None:
    # Load 80 %, 30 % of it moves: 56 % stays; the cheap place takes 44 % of the 48 % that move, the rest 4 %.
    prices, carbons = np.array([[1.0], [3.0]]), np.array([[5.0], [5.0]])
    got = by_place(prices, carbons, load=0.8, deferrable=0.3, grams=False)
    assert got.mean_load.tolist() == pytest.approx([1.0, 0.6])
    assert got.saving.usd == pytest.approx(1 - (1.0 * 1 + 0.6 * 3) / (0.8 * 1 + 0.8 * 3))
    assert got.saving.grams == pytest.approx(0.0)
    # What moves is done at (0.44 x 1 + 0.04 x 3) / 0.48 = 1.1667: the dear place saves, the cheap one pays.
    mean = (0.44 * 1 + 0.04 * 3) / 0.48
    cheap, dear = got.of_place
    assert dear.usd == pytest.approx(1 - (0.56 * 3 + 0.24 * mean) / (0.8 * 3))
    assert cheap.usd == pytest.approx(1 - (0.56 * 1 + 0.24 * mean) / 0.8)
    assert 0.8 * (1 - cheap.usd) + 2.4 * (1 - dear.usd) == pytest.approx(3.2 * (1 - got.saving.usd))


def test_in_time_the_cheap_hour_fills_up_and_what_cannot_be_seen_costs_something() -> None:
    rng = np.random.default_rng(1)
    price = np.tile(np.r_[np.full(12, 0.1), np.full(12, 0.3)], 14)
    carbon = 300 + 100 * rng.standard_normal(len(price))
    got = by_time(price, carbon, load=0.8, deferrable=0.3, deadline_h=24)
    assert got.foresight.usd >= got.forecast.usd - 1e-9
    assert got.forecast_error == pytest.approx(0.0, abs=1e-9)  # every day is like the others
    grams = by_time(price, carbon, load=0.8, deferrable=0.3, deadline_h=24, usd_per_kg=None)
    assert grams.foresight.grams > grams.forecast.grams
    assert grams.forecast_error > 0.1


def test_the_command_says_nothing_of_a_series_that_a_zone_has_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    hours = range(24 * 10)
    rows = [f"{at},{20 + at % 24},{30 + at % 24},{300 + at % 7}" for at in hours]
    table = tmp_path / "energy.csv"
    table.write_text("\n".join(["hour,A:usd_per_mwh,B:usd_per_mwh,B:g_per_kwh", *rows]) + "\n")
    done = CliRunner().invoke(site_app, ["shift", str(table), "--json"])
    assert done.exit_code == 0, done.output
    said = {row["zone"]: row for row in json.loads(done.output)["zones"]}
    assert said["A"]["for_g"] is None
    assert said["A"]["for_usd"]["forecast"]["grams"] is None
    assert said["B"]["for_usd"]["forecast"]["usd"] > 0
    wrong = CliRunner().invoke(site_app, ["shift", str(table), "--zone", "C"])
    assert wrong.exit_code == 1
    assert "it has A, B" in wrong.output
