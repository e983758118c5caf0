"""Faults that a second reading of the planner found: each a promise that it did not keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planning_house import answer, demand, given, own, straight_law

from wattmill.app.declared.demand_file import decoded_demand
from wattmill.cli.plan_tables import show_plan
from wattmill.twin.planning import sweep as sweeping
from wattmill.twin.planning.breakeven import Alternative, break_even, crossing, until
from wattmill.twin.planning.pareto import spots
from wattmill.twin.planning.relation import Relation
from wattmill.twin.planning.sweep import Variation, planned
from wattmill.twin.planning.uncertainty import sureness

ROOT = Path(__file__).parents[2]
RATE = {"from": "rate", "utilisation": 0.8, "input_tok": 1000.0, "output_tok": 200.0, "peak_to_mean": 1.5}
JOB = {"kind": "training", "params": 8e9, "tokens": 2e11, "days": 30.0, "mfu": given(0.4)}
STILL = {"target": 0.999, "failures_per_gpu_year": given(0.0), "repair_h": given(24.0)}


def rented(usd: float, **more: Any) -> dict[str, Any]:
    rent = {"usd_per_gpu_h": given(usd)} | more
    return {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "rent": rent}


def exact(usd: float) -> dict[str, Any]:
    return {"pay": "all-in", "usd_per_gpu_h": given(usd), "energy_inside_usd_per_mwh": given(80.0)}


def test_runs_that_overlap_need_as_many_nodes_more() -> None:
    """48 2/3 runs of 30 days are four years of work in a year: four run at once."""
    candidates = {"h100": {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": exact(1.3)}}
    limits = {"power_mw": 5.0}

    def job(runs: float) -> Any:
        (done,) = answer(
            demand(candidates=candidates, limits=limits, jobs={"a": {**JOB, "runs_per_year": runs}})
        ).plan.jobs
        return done

    one, four = job(1.0), job(4 * 365 / 30)
    need = one.flop / (30 * 86_400) / (8 * 0.4 * 989.4e12)
    assert one.nodes - 1 <= need * 1.01 <= one.nodes
    assert 4 * need <= four.nodes <= 4 * need * 1.01 + 1
    assert four.usd_per_run == pytest.approx(one.usd_per_run * four.nodes / one.nodes / 4)


def test_what_is_rented_elsewhere_has_no_joules_here_and_does_not_count_by_megawatt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    candidates = {
        "b200": {
            "accelerator": "B200-SXM", "all_in_kw_per_gpu": given(2.17), "own": own(2.3), "most_nodes": 4,
        },
        "h100": rented(2.0) | {"most_nodes": 30},
    }  # fmt: skip
    wanted = demand(candidates=candidates, limits={"usd_per_year": 4e6})
    found = answer(wanted)
    assert {p.offer for p in found.plan.purchases} == {"b200/own", "h100/rent"}
    totals = found.plan.totals
    ours = sum(flow.per_s * flow.tier.output_tok for flow in found.flows if flow.offer.own)
    assert 0 < ours < totals.output_tok_per_s
    assert totals.output_tok_per_s_per_mw == pytest.approx(ours / totals.provisioned_mw)
    elsewhere = {flow.tier.name for flow in found.flows if not flow.offer.own}
    for tier in found.plan.tiers:
        assert (tier.j_per_output_tok is None) == (tier.tier in elsewhere)
        assert (tier.g_per_mtok_output is None) == (tier.tier in elsewhere)
    assert any("h100/rent stands elsewhere" in note for note in found.plan.notes)
    show_plan(wanted, found.plan, why=True)
    assert "h100/rent stands elsewhere" in capsys.readouterr().out


def test_hours_on_demand_are_paid_as_they_are_used_in_every_draw() -> None:
    wanted = demand(
        goal="cost",
        limits={},
        availability=STILL,
        load={**RATE, "requests_per_s": 50.0, "growth": given(1.0, 0.5, 1.1)},
        candidates={"h100": rented(2.0, on_demand=True) | {"most_nodes": 200}},
    )
    sure = sureness(answer(wanted, straight_law(wide=1.0001)), draws=500, seed=1)
    cost, requests = sure.cost_usd_per_year, sure.requests_per_s
    assert requests.p10 == pytest.approx(0.5 * requests.planned, rel=0.1)
    assert cost.p10 / cost.planned == pytest.approx(requests.p10 / requests.planned, rel=0.01)


def test_a_plan_by_the_slow_end_keeps_its_batch_nine_times_of_ten() -> None:
    careful = demand(law="slow end", availability=STILL)
    sure = sureness(answer(careful), draws=4_000, seed=1)
    assert sure.as_planned["slow"] == pytest.approx(0.9, abs=0.03)
    bold = sureness(answer(demand(availability=STILL)), draws=4_000, seed=1)
    assert sure.as_planned["slow"] > bold.as_planned["slow"] + 0.3


def test_each_tier_bears_the_price_of_its_own_accelerators_in_the_draws_too() -> None:
    tiers = {
        "slow": {"share": 0.9, "tok_per_s_per_user": 20.0, "ttft_s": 9.0, "usd_per_mtok_output": 2.0},
        "fast": {"share": 0.1, "tok_per_s_per_user": 230.0, "ttft_s": 2.0, "usd_per_mtok_output": 90.0},
    }
    candidates = {
        "h100": {
            "accelerator": "H100-SXM",
            "all_in_kw_per_gpu": given(1.73),
            "own": exact(0.9),
            "tp": [1, 2],
        },
        "b200": {"accelerator": "B200-SXM", "all_in_kw_per_gpu": given(2.17), "own": exact(9.0), "tp": [8]},
    }
    found = answer(
        demand(
            goal="cost", limits={}, tiers=tiers, candidates=candidates, availability=STILL,
            site={"name": "here", "pue": given(1.25), "usd_per_mwh": given(40.0)},
            load={**RATE, "requests_per_s": 200.0},
        ),
        straight_law(wide=1.0 + 1e-9),
    )  # fmt: skip
    where = [{f.offer.name for f in found.flows if f.tier.name == tier} for tier in ("slow", "fast")]
    assert where[1] == {"b200/own"} != where[0]
    for spread in sureness(found, draws=200, seed=1).usd_per_mtok_output.values():
        assert spread.p50 == pytest.approx(spread.planned, rel=1e-3)


def test_tokens_are_compared_without_the_nodes_that_train() -> None:
    candidates = {"b200": {"accelerator": "B200-SXM", "all_in_kw_per_gpu": given(2.17), "own": exact(2.3)}}
    load = {**RATE, "requests_per_s": 100.0}
    ways = {}
    for jobs in ({}, {"a": JOB}):
        found = answer(demand(goal="cost", candidates=candidates, load=load, jobs=jobs))
        even = break_even(found)
        assert even is not None
        serving = sum(tier.cost_usd_per_year for tier in found.plan.tiers)
        mine = even.alternatives[0]
        at = mine.fixed_usd_per_year + mine.used_usd_per_year * even.planned_utilisation
        assert at == pytest.approx(serving, rel=1e-6)
        ways[len(jobs)] = at
    assert ways[1] == pytest.approx(ways[0], rel=0.05), "a job beside it makes no token dearer"


def test_owning_that_use_makes_dearer_pays_up_to_where_a_hand_says() -> None:
    mine = Alternative(
        name="own", way="own", fixed_usd_per_year=80.0, used_usd_per_year=30.0, usd_per_mtok_output={},
        owning_pays_from=None, source="",
    )  # fmt: skip
    assert (crossing(mine, 100.0, 0.0), until(mine, 100.0, 0.0)) == (0.0, pytest.approx(20 / 30))
    assert (crossing(mine, 120.0, 0.0), until(mine, 120.0, 0.0)) == (0.0, None)
    assert until(mine, 0.0, 200.0) is None


def test_every_configuration_is_a_point_of_the_front_not_only_those_that_the_plan_may_use() -> None:
    found = answer(demand())
    seen = {spot.config for spot in spots(found)}
    could = {str(option.config) for option in found.choice.options}
    assert could < seen == set(found.choice.configs)


def test_a_variation_for_which_the_solver_has_no_time_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise RuntimeError("HiGHS ended with Time limit reached after 60 s; declare fewer candidates")

    monkeypatch.setattr(sweeping, "answered", never)
    row = planned(Variation("as declared", demand(), None, 1.0, False))
    assert row.objective_usd_per_year is None and "Time limit reached" in row.buys


def test_a_rate_below_its_own_energy_is_refused_and_free_hardware_is_not() -> None:
    bad = {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": exact(0.1)}
    with pytest.raises(
        ValueError, match=r"usd_per_gpu_h is 0.1, must be at least the energy inside it, 0.138"
    ):
        answer(demand(candidates={"h100": bad}))
    free = {
        "accelerator": "H100-SXM",
        "all_in_kw_per_gpu": given(1.73),
        "own": {"pay": "capital", "usd_per_gpu": given(0.0), "life_years": 4.0},
    }
    found = answer(demand(candidates={"h100": free}, limits={"power_mw": 1.0, "usd_per_year": 1e9}))
    assert found.plan.totals.fixed_usd_per_year == 0.0 < found.plan.totals.requests_per_s
    assert sureness(found, draws=100, seed=1).cost_usd_per_year.p50 > 0.0


def test_a_forecast_of_nothing_is_told() -> None:
    text = (ROOT / "examples" / "demand-assistants.toml").read_text(encoding="utf-8")
    begin = text.index("[load]")
    end = text.index("\n[", begin + 1)
    load = (
        '[load]\nfrom = "forecast"\nutilisation = 0.8\ninput_tok = 10.0\noutput_tok = 10.0\n'
        f"hourly_requests_per_s = {[0.0] * 24}\n"
    )
    found = decoded_demand(text[:begin] + load + text[end:], file="d.toml", folder=ROOT / "examples")
    assert isinstance(found, list)
    assert any("is 0 in every hour: nothing is asked" in str(problem) for problem in found)


def test_a_power_of_nothing_is_a_division_by_zero_and_no_crash() -> None:
    from wattmill.twin.planning.quantity import quantity

    with pytest.raises(ValueError, match="divides by zero"):
        Relation("a ** -1").of({"a": quantity("=0")})
