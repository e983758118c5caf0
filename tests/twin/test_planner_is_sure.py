"""How sure a plan is, what owning is worth beside renting, and whether the programme earns its keep."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from planning_house import answer, demand, given, straight_law
from typer.testing import CliRunner

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.cli.plan import plan_app
from wattmill.twin.planning.breakeven import Alternative, break_even, crossing
from wattmill.twin.planning.pareto import break_even_svg, front_svg, spots, sureness_svg
from wattmill.twin.planning.performance import declared_power
from wattmill.twin.planning.spread import NoCluster, mapped
from wattmill.twin.planning.sweep import planned, variations
from wattmill.twin.planning.uncertainty import sureness

ROOT = Path(__file__).parents[2]
RUN = CliRunner()
RENTALS = {
    "reserved": {"candidate": "b200", "usd_per_gpu_h": given(2.9)},
    "on-demand": {"candidate": "b200", "usd_per_gpu_h": given(6.69), "on_demand": True},
    "other": {"candidate": "h100", "usd_per_gpu_h": given(1.3)},
}
APIS = {"api": {"usd_per_mtok_input": 0.1, "usd_per_mtok_output": 0.5, "source": "the test"}}


def test_the_same_seed_draws_the_same_intervals_and_another_seed_others() -> None:
    found = answer(demand())
    one, two = sureness(found, draws=500, seed=7), sureness(found, draws=500, seed=7)
    assert one == two
    other = sureness(found, draws=500, seed=8)
    assert other.margin_usd_per_year != one.margin_usd_per_year
    spread = one.margin_usd_per_year
    assert spread.p10 < spread.p50 < spread.p90


def test_where_nothing_is_open_every_draw_is_the_plan() -> None:
    sure_world = demand(
        site={"name": "here", "pue": given(1.25), "usd_per_mwh": given(40.0)},
        candidates={
            "b200": {
                "accelerator": "B200-SXM",
                "all_in_kw_per_gpu": given(2.17),
                "own": {
                    "pay": "all-in",
                    "usd_per_gpu_h": given(2.3),
                    "energy_inside_usd_per_mwh": given(80.0),
                },
            }
        },
        availability={"target": 0.999, "failures_per_gpu_year": given(0.0), "repair_h": given(24.0)},
    )
    found = answer(sure_world, straight_law(wide=1.0))
    sure = sureness(found, draws=200, seed=1)
    # What is left over of nodes serves too, so the draws may serve a trifle more than was planned.
    for spread in (sure.cost_usd_per_year, sure.margin_usd_per_year, sure.requests_per_s):
        assert spread.p10 == pytest.approx(spread.planned, rel=0.005)
        assert spread.p10 == spread.p90
    for tier in found.plan.tiers:
        assert sure.usd_per_mtok_output[tier.tier].p50 == pytest.approx(tier.usd_per_mtok_output, rel=0.005)
    assert set(sure.as_planned.values()) == set(sure.promise_can_be_kept.values()) == {1.0}
    assert sure.enough_nodes_up == 1.0
    assert sure.influences == ()


def _sure(candidate: dict[str, Any], **site: Any) -> dict[str, Any]:
    """A world in which nothing but the site is open."""
    own = {"pay": "all-in", "usd_per_gpu_h": given(2.3), "energy_inside_usd_per_mwh": given(80.0)}
    return {
        "site": {"name": "here", "usd_per_mwh": given(40.0), **site},
        "candidates": {"b200": {"accelerator": "B200-SXM", "own": own, **candidate}},
        "availability": {"target": 0.999, "failures_per_gpu_year": given(0.0), "repair_h": given(24.0)},
    }


def test_it_power_follows_the_pue_and_an_all_in_figure_keeps_the_overhead_that_it_holds() -> None:
    wide = {"value": 1.25, "low": 1.125, "high": 1.375, "source": "the test"}
    law = straight_law(wide=1.0)
    it = answer(demand(**_sure({"it_kw_per_gpu": given(1.6)}, pue=wide)), law)
    drawn = sureness(it, draws=4_000, seed=1).drawn_mw
    assert drawn.p10 / drawn.planned == pytest.approx(0.9, abs=0.01)
    assert drawn.p90 / drawn.planned == pytest.approx(1.1, abs=0.01)
    half = answer(demand(**_sure({"all_in_kw_per_gpu": given(2.0)}, pue=wide)), law, power=declared_power)
    kept = sureness(half, draws=4_000, seed=1).drawn_mw
    # 2.0 kW each hold the overhead; of what the accelerators draw below that, the tenth goes the other way.
    below = half.plan.totals.provisioned_mw - kept.planned
    assert below > 0.1 * kept.planned
    assert kept.p10 == pytest.approx(kept.planned - 0.1 * below, abs=0.02 * below)
    assert kept.p90 == pytest.approx(kept.planned + 0.1 * below, abs=0.02 * below)


def test_the_feed_is_for_the_highest_hour_and_the_energy_for_the_year() -> None:
    law = straight_law(wide=1.0)
    kw = {"it_kw_per_gpu": given(1.6)}
    steep = answer(demand(**_sure(kw, pue=given(1.1), peak_pue=given(1.32))), law)
    nodes = steep.plan.purchases[0].nodes
    assert steep.plan.totals.provisioned_mw == pytest.approx(nodes * 8 * 1.6e-3 * 1.32)
    assert steep.plan.totals.drawn_mw == pytest.approx(nodes * 8 * 1.6e-3 * 1.1), "no curve: drawn in full"


def test_tonnes_are_drawn_from_the_interval_of_the_intensity_and_are_none_without_one() -> None:
    law, kw = straight_law(wide=1.0), {"it_kw_per_gpu": given(1.6)}
    grams = {"value": 400.0, "low": 300.0, "high": 440.0, "source": "the test"}
    found = answer(demand(**_sure(kw, pue=given(1.2), g_per_kwh=grams)), law)
    tonnes = sureness(found, draws=4_000, seed=2).tonnes_co2_per_year
    assert tonnes is not None
    assert tonnes.planned == pytest.approx(found.plan.totals.drawn_mw * 8_760 * 400.0 / 1e3, rel=0.01)
    assert tonnes.p10 / tonnes.planned == pytest.approx(0.75, abs=0.01)
    assert tonnes.p90 / tonnes.planned == pytest.approx(1.1, abs=0.01)
    assert (
        sureness(answer(demand(**_sure(kw, pue=given(1.2)))), draws=200, seed=2).tonnes_co2_per_year is None
    )


@pytest.mark.parametrize(("narrow", "more"), [(1.02, 1.1), (1.1, 1.2), (1.2, 1.5)])
def test_a_law_that_is_less_sure_makes_a_cost_that_is_less_sure(narrow: float, more: float) -> None:
    spreads = [
        sureness(answer(demand(), straight_law(wide=wide)), draws=400, seed=3).usd_per_mtok_output["all"]
        for wide in (narrow, narrow * more)
    ]
    assert spreads[1].p90 - spreads[1].p10 > spreads[0].p90 - spreads[0].p10


def test_a_law_that_may_be_wrong_by_a_tenth_keeps_the_planned_batch_half_of_the_time() -> None:
    sure = sureness(answer(demand()), draws=2_000, seed=1)
    assert sure.as_planned["slow"] == pytest.approx(0.5, abs=0.08)
    assert sure.promise_can_be_kept["slow"] > 0.99
    assert sure.influences[0].of.startswith("law: time per token")
    assert sure.influences[0].correlation < -0.5


def test_owning_is_held_against_renting_and_buying_at_four_utilisations() -> None:
    found = answer(demand(rentals=RENTALS, apis=APIS, candidates={"b200": _b200()} | {"h100": _idle()}))
    even = break_even(found)
    assert even is not None
    ways = {a.name: a for a in even.alternatives}
    assert list(ways["this plan"].usd_per_mtok_output) == ["5%", "40%", "60%", "100%"]
    own, reserved, hourly, api = (ways[n] for n in ("this plan", "reserved", "on-demand", "api"))
    totals = found.plan.totals
    at = (own.fixed_usd_per_year / totals.utilisation_mean + own.used_usd_per_year) * totals.utilisation_mean
    assert at == pytest.approx(totals.cost_usd_per_year), "the plan's own utilisation gives the plan's cost"
    mtok = even.capacity_output_tok_per_s * 31.536
    for level, share in (("5%", 0.05), ("40%", 0.4), ("60%", 0.6), ("100%", 1.0)):
        usd = own.fixed_usd_per_year + own.used_usd_per_year * share
        assert own.usd_per_mtok_output[level] == pytest.approx(usd / (mtok * share))
    assert reserved.owning_pays_from == 0.0, "at 2.90 against 2.30 an hour, whether used or not"
    assert hourly.usd_per_mtok_output["5%"] == pytest.approx(hourly.usd_per_mtok_output["100%"])
    assert api.usd_per_mtok_output["5%"] == pytest.approx((1000 * 0.1 + 200 * 0.5) / 200)
    assert hourly.owning_pays_from is not None and 0.2 < hourly.owning_pays_from < 0.5
    assert even.left == ("other: the plan does not stand on h100 alone",)


def _b200() -> dict[str, Any]:
    return {
        "accelerator": "B200-SXM",
        "all_in_kw_per_gpu": given(2.17),
        "own": {"pay": "all-in", "usd_per_gpu_h": given(2.3), "energy_inside_usd_per_mwh": given(80.0)},
    }


def _idle() -> dict[str, Any]:
    own = {"pay": "all-in", "usd_per_gpu_h": given(9.0), "energy_inside_usd_per_mwh": given(80.0)}
    return {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": own}


def test_two_lines_cross_where_a_hand_says() -> None:
    own = Alternative(
        name="own",
        way="own",
        fixed_usd_per_year=80.0,
        used_usd_per_year=20.0,
        usd_per_mtok_output={},
        owning_pays_from=None,
        source="",
    )
    assert crossing(own, 0.0, 200.0) == pytest.approx(80 / 180)
    assert crossing(own, 0.0, 90.0) is None  # 100 at full use against 90
    assert crossing(own, 100.0, 20.0) == 0.0


def test_a_sweep_begins_with_the_plan_as_it_is_and_moves_as_it_must() -> None:
    asking = load_demand(ROOT / "examples" / "demand-scarce.toml")
    assert isinstance(asking, Asking)
    moved = ("as declared", "electricity", "accelerators", "the law", "promised tok/s x 1", "1.5 MW", "6 MW")
    by_name = {
        v.what: planned(v)
        for v in variations(asking.demand, asking.trace, extrapolate=True)
        if v.what.startswith(moved)
    }
    base = by_name["as declared"].objective_usd_per_year
    assert base is not None

    def goal(what: str) -> float:
        value = by_name[what].objective_usd_per_year
        assert value is not None
        return value

    assert goal("electricity x 2") < base < goal("electricity x 0.5")
    assert goal("accelerators' price x 1.25") < base < goal("accelerators' price x 0.75")
    assert (
        goal("the law's times x 1.25") < goal("the law's times x 1.1") < base < goal("the law's times x 0.9")
    )
    assert goal("promised tok/s x 1.25") < base
    assert goal("1.5 MW") - 1.0 <= base <= goal("6 MW") + 1.0  # to a dollar a year


def test_the_programme_beats_a_grid_search_in_three_cases() -> None:
    spec = importlib.util.spec_from_file_location("plan_grid", ROOT / "benchmarks" / "plan_against_grid.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_grid"] = module
    spec.loader.exec_module(module)
    for wanted in _three_cases():
        found = answer(wanted)
        grid = module.grid_search(found.chosen.problem)
        assert grid is not None
        proof = found.plan.proof
        assert proof.objective_usd_per_year > grid.usd_per_year
        assert grid.usd_per_year <= proof.bound_usd_per_year, (
            "the grid's answer is no plan, or the bound none"
        )
        assert proof.gap <= 1e-6


def _three_cases() -> list[Any]:
    """One limit of power; a short supply; a given demand under a short supply."""
    rate = {"from": "rate", "utilisation": 0.8, "input_tok": 1e3, "output_tok": 200.0, "peak_to_mean": 1.5}
    few = {
        "h100": {
            "accelerator": "H100-SXM",
            "all_in_kw_per_gpu": given(1.73),
            "own": {"pay": "all-in", "usd_per_gpu_h": given(1.6), "energy_inside_usd_per_mwh": given(80.0)},
        },
        "b200": {**_b200(), "most_nodes": 11},
    }
    scarce = {**few, "b200": {**_b200(), "most_nodes": 2}}
    return [
        demand(),
        demand(candidates=few),
        demand(goal="cost", limits={}, candidates=scarce, load={**rate, "requests_per_s": 1500.0}),
    ]


def test_plots_are_pictures_and_the_front_is_not_beaten() -> None:
    found = answer(demand(apis=APIS))
    even = break_even(found)
    assert even is not None
    for text in (front_svg(found), break_even_svg(even), sureness_svg(sureness(found, draws=200, seed=1))):
        assert ET.fromstring(text).tag.endswith("svg")
    all_spots = spots(found)
    for spot in all_spots:
        beaten = any(
            o.tok_per_s_per_user >= spot.tok_per_s_per_user
            and o.output_tok_per_s_per_mw > spot.output_tok_per_s_per_mw
            for o in all_spots
        )
        assert not (spot.front and beaten)


def test_the_command_answers_people_and_programs_alike(tmp_path: Path) -> None:
    file = str(ROOT / "examples" / "demand-scarce.toml")
    people = RUN.invoke(plan_app, [file, "--extrapolate", "--draws", "200", "--plots", str(tmp_path)])
    assert people.exit_code == 0, people.output
    for words in (
        "What to buy",
        "What a token costs",
        "What binds",
        "How sure: 200 draws",
        "Own, rent or buy",
    ):
        assert words in people.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["break-even.svg", "cost.svg", "pareto.svg"]
    programs = RUN.invoke(plan_app, [file, "--extrapolate", "--draws", "200", "--json"])
    data = json.loads(programs.stdout)
    (nodes,) = [p["nodes"] for p in data["plan"]["purchases"] if p["offer"] == "b200/own"]
    assert f"{nodes:,}" in people.stdout


def test_a_wrong_use_of_the_command_says_the_way_out(tmp_path: Path) -> None:
    file = str(ROOT / "examples" / "demand-scarce.toml")
    for args, words in (
        ([file, "--on", "moon"], "must be here or ray"),
        ([file, "--on", "ray"], "add --sweep"),
        ([str(tmp_path / "none.toml")], "cannot be read"),
    ):
        ran = RUN.invoke(plan_app, args)
        assert ran.exit_code == 1
        assert words in ran.output


def test_without_ray_the_way_out_is_named() -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.fail("Ray is no part of the developers' environment; `make test-ray` has its own")
    with pytest.raises(NoCluster, match=r"wattmill\[scale\]"):
        list(mapped(abs, [1], on="ray"))
    assert list(mapped(abs, [-1, 2], on="here")) == [1, 2]
