"""The file of a site: what is wrong in it is said at once, with the line, the rule and the way out."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from wattmill.app.declared.site_file import Standing, load_site

EXAMPLE = Path(__file__).parents[2] / "examples" / "site-virginia-9mw.toml"


def faults(tmp_path: Path, *changes: tuple[str, str]) -> str:
    text = EXAMPLE.read_text().replace("../benchmarks", str(EXAMPLE.parents[1] / "benchmarks"))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "site.toml"
    file.write_text(text)
    found = load_site(file)
    assert not isinstance(found, Standing)
    return "\n".join(map(str, found))


def test_the_example_holds_together() -> None:
    assert isinstance(load_site(EXAMPLE), Standing)


def test_weather_of_a_typical_year_is_never_mixed_with_prices_of_2024(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        ("weather_2024_hourly.csv.gz", "weather_tmy_us7.csv.gz"),
        ('name = "US-MIDA-PJM"', 'name = "Leesburg"'),
    )
    assert "grid.series" in said and "typical year, and prices and carbon are of a real one" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('preset = "ac-480"', 'preset = "ac-48"'), 'chain.preset = "ac-48": no such chain. Known: ac-'),
        (("tok_per_s_full = 5.0e6", ""), "work.tok_per_s"),
        (("deadline_h = 24", ""), "work that may wait has no deadline"),
        (('zone = "US-MIDA-PJM"', 'zone = "GB"'), "GB has no prices in that table"),
        (('zone = "US-MIDA-PJM"', 'zone = "Atlantis"'), "the table has no such zone. It has AU-NSW"),
        (("latitude_deg = 39.0", ""), "the sun's way over the place is not known"),
        (("fixed_kw = 40.0", "fixed_kv = 40.0"), "fixed_kv: unknown key. Did you mean `fixed_kw`?"),
        (('name = "US-MIDA-PJM"', 'name = "US"'), "several places 'US'"),
        (("supply_c = 45.0", "supply_c = 95.0"), "supply_c"),
        (
            ("usd_per_kwh = 0.012", "usd_per_kwh = nan"),
            "grid.tariff.usd_per_kwh = nan: must be a finite number",
        ),
        (("demand_usd_per_kw = 9.0", "demand_usd_per_kw = inf"), "= inf: must be a finite number"),
        (("day = [0.7,", "day = [inf,"), "work.day = inf: must be a finite number"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    said = faults(tmp_path, change)
    assert words in said
    assert "site.toml:" in said


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        (
            "weather_2024_hourly",
            "t_db_c",
            "99.9",
            "month 1, hour 4: t_db_c is 99.9, must lie between -40 and 55",
        ),
        ("weather_2024_hourly", "t_wb_c", "-273", "t_wb_c is -273"),
        ("energy_2024_hourly", "US-MIDA-PJM:usd_per_mwh", "nan", "row 101: nan must be a finite figure"),
        ("energy_2024_hourly", "US-MIDA-PJM:usd_per_mwh", "inf", "inf must be a finite figure"),
        ("energy_2024_hourly", "US-MIDA-PJM:g_per_kwh", "-5", "-5 must be a finite figure >= 0"),
    ],
)
def test_a_table_with_an_hour_that_cannot_be_is_refused_with_the_hour(
    tmp_path: Path, table: str, column: str, value: str, words: str
) -> None:
    with gzip.open(EXAMPLE.parents[1] / "benchmarks" / "data" / f"{table}.csv.gz", "rt") as lines:
        rows = [row for row in csv.reader(lines) if table[0] == "e" or row[0] in ("place", "US-MIDA-PJM")]
    rows[101][rows[0].index(column)] = value
    with open(tmp_path / "odd.csv", "w", newline="") as out:
        csv.writer(out).writerows(rows)
    whole = str(EXAMPLE.parents[1] / "benchmarks" / "data" / f"{table}.csv.gz")
    said = faults(tmp_path, (whole, str(tmp_path / "odd.csv")))
    assert words in said
