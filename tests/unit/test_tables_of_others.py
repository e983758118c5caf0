"""Published weather and carbon become the tables that a site reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wattmill.cli.site import site_app
from wattmill.site.climate.reading import weather
from wattmill.site.importing.model import carbon_of_mix, wet_bulb_c
from wattmill.site.yearly.series import zones


def test_the_wet_bulb_of_20_degrees_and_50_percent_is_13_7_as_its_author_says() -> None:
    assert wet_bulb_c(20.0, 50.0) == pytest.approx(13.7, abs=0.05)


def an_epw(*, hours: int = 8760) -> str:
    head = ["LOCATION,Testtown,XX,YY,TMYx,1,40,-75,-5,10", *(["X"] * 7)]
    rows = []
    for at in range(hours):
        day, hour = divmod(at, 24)
        columns = ["0"] * 35
        columns[0], columns[1], columns[2], columns[3] = (
            "2010" if at < 4000 else "2011",
            "1",
            str(day + 1),
            str(hour + 1),
        )
        columns[6], columns[8], columns[13] = "20.0", "50", "500"
        rows.append(",".join(columns))
    rows[5] = rows[5].replace("20.0", "99.9")  # missing
    return "\n".join([*head, *rows])


def test_an_epw_file_becomes_a_typical_year_and_its_missing_hour_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.epw").write_text(an_epw())
    done = CliRunner().invoke(site_app, ["import", str(tmp_path / "t.epw"), str(tmp_path / "t.csv.gz")])
    assert done.exit_code == 0, done.output
    assert "8,760 hours of weather" in done.output
    got = weather(tmp_path / "t.csv.gz", "Testtown")
    assert (got.year, got.clock, got.filled_hours) == ("typical", "local", 1)
    assert got.wet_bulb_c[0] == pytest.approx(13.7, abs=0.05)
    assert got.sun_w_m2 is not None and got.sun_w_m2[0] == 500


def test_an_hourly_mix_becomes_carbon_of_its_year_with_gaps_held(tmp_path: Path) -> None:
    text = "timestamp,NG,avg_CI\n2022-01-01 00:00:00+00:00,1,400.5\n2022-01-01 01:00:00+00:00,1,\n"
    table, filled = carbon_of_mix(text, "PJM")
    assert filled == 1
    (tmp_path / "c.csv").write_text(table)
    zone = zones(tmp_path / "c.csv")["PJM"]
    assert zone.year == 2022
    assert zone.usd_per_kwh is None
    assert zone.g_per_kwh is not None and zone.g_per_kwh.tolist() == [400.5, 400.5]


def test_what_is_no_such_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.epw").write_text("hello")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    for name, words in (("x.epw", "is no EPW file of a year"), ("x.csv", "it is no hourly mix")):
        done = CliRunner().invoke(
            site_app, ["import", str(tmp_path / name), str(tmp_path / "out.csv"), "--name", "Z"]
        )
        assert done.exit_code == 1
        assert words in done.output
    assert not (tmp_path / "out.csv").exists()
