"""Demand files: all that is wrong is said at once, with file, line, key, value, rule and way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill.app.declared.demand_file import Asking, decoded_demand, load_demand
from wattmill.app.declared.site_file import Standing, load_site
from wattmill.site.yearly.account import year
from wattmill.twin.planning.load import Forecast, Users, asked, recorded
from wattmill.twin.planning.supply import AllIn
from wattmill.twin.planning.tiers import asked_of, tier_asks

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("demand-*.toml"))
TEXT = (ROOT / "examples" / "demand-virginia-10mw.toml").read_text(encoding="utf-8")


def problems(text: str) -> list[str]:
    found = decoded_demand(text, file="d.toml", folder=ROOT / "examples")
    assert isinstance(found, list), "the text is right"
    return [str(p) for p in found]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_shipped_demand_file_holds_together(path: Path) -> None:
    assert isinstance(load_demand(path), Asking)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("utilisation = 0.8", "utilisation = 1.0", ["load.utilisation = 1.0", "< 1", "Never 1"]),
        ("share = 0.2", "shar = 0.2", ["tiers.premium.shar", "Did you mean `share`?"]),
        ("share = 0.2", "share = 0.3", ["shares sum to 1.1, must be 1"]),
        (
            'name = "Llama-3.1-70B"',
            'name = "Llama-3.1-71B"',
            ["models.llama-70b.name", "Near it: llama-3.1-70b", "twin known models` lists them."],
        ),
        ('accelerator = "B200-SXM"', 'accelerator = "B20"', ["candidates.b200.accelerator", "B200"]),
        (
            "value = 36.16",
            "value = 56.16",
            ["site.usd_per_mwh", "must lie inside its interval (27.22 to 47.32)"],
        ),
        ("as_many_as_fit = true", "", []),
        ('goal = "margin"', 'goal = "cost"', ["the least cost of as many requests as fit is that of none"]),
        ('goal = "margin"', 'goal = "profit"', ["goal", '"profit"', '"margin"', '"cost"']),
        ("azure_llm_2023_conv.csv.gz", "none.csv.gz", ["load.file", "No such file"]),
        (
            'candidate = "h200"',
            'candidate = "h20"',
            ["rentals.h200-reserved.candidate", "Did you mean `h200`?"],
        ),
        (', source = "declared" }\n\n# Wholesale', "}\n\n# Wholesale", ["site.pue", "`source` is missing"]),
        (
            'kind = "tco_neocloud"',
            'kind = "tco_neoclud"',
            ["candidates.h100.own.kind", '"tco_hyperscaler"'],
        ),
        ("power_mw = 10.0", "power_mw = 0", ["limits.power_mw = 0"]),
    ],
)
def test_each_fault_is_named_with_its_place_and_way_out(old: str, new: str, words: list[str]) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    if not words:
        assert isinstance(decoded_demand(text, file="d.toml", folder=ROOT / "examples"), Asking)
        return
    said = " | ".join(problems(text))
    assert all(word in said for word in words), said
    assert "d.toml:" in said


SITED = (ROOT / "examples" / "demand-virginia-site.toml").read_text(encoding="utf-8")


def sited(text: str) -> Asking:
    found = decoded_demand(text, file="d.toml", folder=ROOT / "examples")
    assert isinstance(found, Asking), found
    return found


def test_a_site_gives_what_the_demand_leaves_open_and_no_more() -> None:
    own = sited(SITED).demand
    stands = load_site(ROOT / "examples" / "site-virginia-9mw-plain.toml")
    assert isinstance(stands, Standing)
    lived = year(*stands)
    site = own.site
    assert site.overhead.value == lived.ratios.pue < lived.ratios.peak_pue
    assert site.peak_pue is not None and site.peak_pue.value == lived.ratios.peak_pue
    assert site.electricity.value * lived.energy.in_mwh == pytest.approx(
        lived.money.usd + lived.money.heat_usd
    )
    assert site.g_per_kwh is not None and lived.carbon.location_t is not None
    assert site.g_per_kwh.value * lived.energy.in_mwh / 1e3 == pytest.approx(lived.carbon.location_t)
    for given in (site.overhead, site.electricity, site.g_per_kwh):
        assert given.low is not None and given.high is not None and given.low < given.value < given.high
        assert "2024" in given.source
    # 8.989 MW of equipment at the PUE of the highest hour is less than the interconnection of 10.8 MW.
    assert own.limits.power_mw == pytest.approx(lived.equipment_mw * lived.ratios.peak_pue)
    assert own.limits.power_mw is not None and own.limits.power_mw < 10.8

    file = 'file = "site-virginia-9mw-plain.toml"\n'
    declared = f'{file}pue = {{ value = 1.5, source = "ours" }}\n[limits]\npower_mw = 3.0\n'
    told = sited(SITED.replace(file, declared)).demand
    assert told.site.overhead.value == 1.5 and told.site.peak_pue is None and told.limits.power_mw == 3.0
    assert told.site.electricity == site.electricity


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("", ["site", "`pue` is missing", "name a site's file", "`usd_per_mwh` is missing"]),
        ('file = "no.toml"', ["no.toml", "No such file"]),
        ('file = "demand-scarce.toml"', ["demand-scarce.toml", "unknown key"]),
    ],
)
def test_a_site_that_is_not_there_or_no_site_is_named(new: str, words: list[str]) -> None:
    said = " | ".join(problems(SITED.replace('file = "site-virginia-9mw-plain.toml"', new)))
    assert all(word in said for word in words), said


def test_a_listed_price_brings_its_kw_and_its_source() -> None:
    asking = decoded_demand(TEXT, file="d.toml", folder=ROOT / "examples")
    assert isinstance(asking, Asking)
    b200 = asking.demand.candidates["b200"]
    assert isinstance(b200.own, AllIn)
    assert (b200.own.usd_per_gpu_h.value, b200.own.usd_per_gpu_h.low) == (2.34, pytest.approx(2.34 * 0.85))
    assert b200.all_in_kw_per_gpu is not None and b200.all_in_kw_per_gpu.value == pytest.approx(2.17)
    assert "tco_neocloud" in b200.own.usd_per_gpu_h.source


def test_the_trace_gives_lengths_and_the_file_gives_the_peak() -> None:
    asking = decoded_demand(TEXT, file="d.toml", folder=ROOT / "examples")
    assert isinstance(asking, Asking)
    load = asked_of(asking.demand, asking.trace)
    assert load.requests_per_s is None
    assert (round(load.input_tok, 1), round(load.output_tok, 1), load.peak_to_mean) == (1154.7, 211.1, 1.8)
    premium = tier_asks(asking.demand, load)[-1]
    assert premium.usd_per_request == pytest.approx(211.126e-6 * 45, rel=1e-5)


def test_a_trace_says_its_rate_and_its_busiest_window() -> None:
    at_s = [float(s) for s in range(0, 100, 10)] + [50.0 + s for s in range(10)] + [100.0]
    found = recorded(at_s, [1.0] * 21, [2.0] * 21, window_s=10.0)
    assert found.requests_per_s == pytest.approx(0.21)
    assert found.peak_to_mean == pytest.approx(11 / 2.0)
    with pytest.raises(ValueError, match="two windows"):
        recorded([0.0, 5.0], [1.0] * 2, [1.0] * 2, window_s=10.0)


def test_a_forecast_grows_and_users_add_up() -> None:
    day = tuple([10.0] * 12 + [30.0] * 12)
    forecast = Forecast(
        utilisation=0.8, hourly_requests_per_s=day, growth_per_year=2.0, years=2.0, input_tok=1, output_tok=2
    )
    assert asked(forecast, None, None)[:2] == (80.0, 1.5)
    users = Users(utilisation=0.8, input_tok=1, output_tok=2, peak_to_mean=2.0)
    assert asked(users, None, 3.5)[:2] == (3.5, 2.0)
