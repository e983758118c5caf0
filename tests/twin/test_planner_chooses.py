"""The planner buys what keeps every promise and limit, proves how near to the best it is, says what binds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from planning_house import answer, demand, given, own, straight_law

from wattmill.twin.planning.answer import _reasons, answered
from wattmill.twin.planning.options import Choice, Left
from wattmill.twin.planning.performance import Curve, Point, batches, declared_power, slow_end
from wattmill.twin.planning.solver import Infeasible
from wattmill.twin.planning.spares import carried_by_spares, down_share, enough_up
from wattmill.twin.planning.supply import AllIn, Capital, fixed_usd_per_gpu_h, yearly_capital_usd

RATE = {"from": "rate", "utilisation": 0.8, "input_tok": 1000.0, "output_tok": 200.0, "peak_to_mean": 1.5}


def test_every_limit_and_promise_holds_and_nothing_is_lost_between_tiers_and_pools() -> None:
    wanted = demand()
    found = answered(wanted, None, straight_law(), declared_power)
    plan, totals = found.plan, found.plan.totals
    assert 0.95 < totals.provisioned_mw <= 1.0
    assert totals.utilisation_peak <= wanted.load.utilisation + 1e-9
    for tier in plan.tiers:
        promised = wanted.tiers[tier.tier]
        assert tier.tok_per_s_per_user.value >= promised.tok_per_s_per_user
        assert tier.ttft_s.value <= promised.ttft_s
        assert promised.share is not None
        assert tier.requests_per_s == pytest.approx(promised.share * totals.requests_per_s)
    assert sum(t.cost_usd_per_year for t in plan.tiers) == pytest.approx(totals.cost_usd_per_year)
    joules = sum(t.j_per_output_tok * t.output_tok_per_s for t in plan.tiers)
    assert joules == pytest.approx(totals.drawn_mw * 1e6), "every joule is on a token"
    assert plan.proof.objective_usd_per_year == pytest.approx(totals.margin_usd_per_year)


def test_nothing_is_better_than_the_bound_and_fractions_are_never_worse() -> None:
    proof = answer(demand()).plan.proof
    assert proof.objective_usd_per_year <= proof.bound_usd_per_year * (1 + 1e-9)
    assert proof.bound_usd_per_year <= proof.relaxed_usd_per_year * (1 + 1e-9)
    assert proof.gap <= 1e-6


@settings(max_examples=12, deadline=None)
@over(mw=st.floats(0.1, 3.0), share=st.floats(0.05, 0.95), peak=st.floats(1.0, 4.0))
def test_more_power_never_earns_less_and_is_never_passed(mw: float, share: float, peak: float) -> None:
    tiers: dict[str, Any] = {
        "slow": {"share": share, "tok_per_s_per_user": 25.0, "ttft_s": 5.0, "usd_per_mtok_output": 2.0},
        "fast": {"share": 1 - share, "tok_per_s_per_user": 100.0, "ttft_s": 2.0, "usd_per_mtok_output": 20.0},
    }
    load = {**RATE, "peak_to_mean": peak}
    small = answer(demand(limits={"power_mw": mw}, tiers=tiers, load=load)).plan
    large = answer(demand(limits={"power_mw": 1.3 * mw}, tiers=tiers, load=load)).plan
    assert small.totals.provisioned_mw <= mw * (1 + 1e-9)
    assert small.totals.utilisation_peak <= 0.8 + 1e-9
    assert large.totals.margin_usd_per_year >= small.totals.margin_usd_per_year - 1.0


def test_the_price_of_power_is_what_a_little_more_of_it_brings() -> None:
    """The shadow price is of the relaxation: 5 MW more bring it to within what whole nodes cost."""
    at = answer(demand(limits={"power_mw": 20.0})).plan
    more = answer(demand(limits={"power_mw": 22.0})).plan
    (power,) = [b for b in at.binding if b.limit == "power at the meter"]
    assert power.binds
    brought = (more.totals.margin_usd_per_year - at.totals.margin_usd_per_year) / 2.0
    assert brought == pytest.approx(power.worth_usd_per_year, rel=0.03)


def test_a_given_demand_is_met_at_the_least_cost_and_its_marginal_cost_is_near_its_mean_cost() -> None:
    plan = answer(demand(goal="cost", limits={}, load={**RATE, "requests_per_s": 40_000.0})).plan
    assert plan.totals.requests_per_s == pytest.approx(40_000.0)
    for tier in plan.tiers:  # the mean carries spares, leftovers of nodes and the same room for the peak
        assert tier.marginal_usd_per_mtok_output <= tier.usd_per_mtok_output * 1.001
        assert tier.marginal_usd_per_mtok_output > 0.95 * tier.usd_per_mtok_output


def test_a_demand_beyond_every_limit_is_refused() -> None:
    with pytest.raises(Infeasible):
        answer(demand(goal="cost", limits={"power_mw": 0.2}, load={**RATE, "requests_per_s": 1e5}))


def test_a_budget_in_dollars_and_one_in_grams_are_kept_and_say_that_they_bind() -> None:
    free = answer(demand()).plan
    for limits, used in (
        ({"power_mw": 1.0, "usd_per_year": free.totals.cost_usd_per_year / 2}, "dollars of a year"),
        (
            {"power_mw": 1.0, "tonnes_co2_per_year": (free.totals.tonnes_co2_per_year or 0) / 2},
            "CO2e of a year",
        ),
    ):
        held = answer(demand(limits=limits)).plan
        by_name = {b.limit: b for b in held.binding}
        assert by_name[used].used <= by_name[used].allowed * (1 + 1e-9)
        assert by_name[used].binds
        assert not by_name["power at the meter"].binds
        assert held.totals.margin_usd_per_year < free.totals.margin_usd_per_year


def test_predictions_beyond_what_was_measured_are_refused_unless_asked_for() -> None:
    with pytest.raises(ValueError, match="--extrapolate"):
        answer(demand(), straight_law(klass="extrapolated"))
    plan = answer(demand(), straight_law(klass="extrapolated"), extrapolate=True).plan
    assert {pool.klass for pool in plan.pools} == {"extrapolated"}


def test_whole_racks_are_bought_where_nothing_less_is_sold() -> None:
    candidates = {
        "h100": {
            "accelerator": "H100-SXM",
            "all_in_kw_per_gpu": given(1.73),
            "own": own(1.3),
            "nodes_per_rack": 5,
            "whole_racks": True,
        }
    }
    (bought,) = answer(demand(candidates=candidates)).plan.purchases
    assert bought.nodes % 5 == 0
    assert bought.racks == bought.nodes // 5


def test_weights_that_do_not_fit_are_left_out_with_the_reason() -> None:
    left = answer(demand()).plan.left
    assert re.search(r"7\d GB of weights leave no room .* 80 GB", left["llama on h100, vllm fp8 TP1"])


def test_training_and_serving_share_one_limit_of_power() -> None:
    job = {
        "kind": "training",
        "params": 70e9,
        "tokens": 2e11,
        "days": 60.0,
        "mfu": given(0.4, 0.3, 0.5),
        "tasks": 1e6,
    }
    alone = answer(demand()).plan
    both = answer(demand(jobs={"base": job})).plan
    (done,) = both.jobs
    (power,) = [b for b in both.binding if b.limit == "power at the meter"]
    assert both.totals.provisioned_mw <= 1.0
    assert done.flop == pytest.approx(6 * 70e9 * 2e11)
    assert done.nodes * 8 * 0.4 * 60 * 86_400 * 2.25e15 >= done.flop * 0.43  # H100s are 0.44 of a B200
    assert both.totals.requests_per_s < alone.totals.requests_per_s
    lost = alone.totals.margin_usd_per_year - both.totals.margin_usd_per_year
    assert lost == pytest.approx(done.mw * power.worth_usd_per_year, rel=0.35)
    cheap = answer(demand(jobs={"base": {**job, "usd_value": lost * 0.5}})).plan
    dear = answer(demand(jobs={"base": {**job, "usd_value": lost * 2.0}})).plan
    assert [j.done for j in (*cheap.jobs, *dear.jobs)] == [False, True]


def test_a_multiple_of_a_job_keeps_the_interval_of_the_claim() -> None:
    jobs = {
        "base": {"kind": "training", "params": 8e9, "tokens": 1e11, "days": 90.0, "mfu": given(0.4)},
        "after": {
            "kind": "multiple",
            "of": "base",
            "times": given(30.0, 3.0, 60.0),
            "days": 300.0,
            "mfu": given(0.3),
        },
    }
    base, after = answer(demand(jobs=jobs)).plan.jobs
    assert base.flop == pytest.approx(4.8e21)
    assert after.flop == pytest.approx(30 * 4.8e21)
    assert (after.flop_low, after.flop_high) == (pytest.approx(3 * 4.8e21), pytest.approx(60 * 4.8e21))
    assert after.law == "30 x 6 x 8e+09 x 1e+11"


def test_long_thinking_multiplies_the_tokens_of_a_task_and_what_it_costs() -> None:
    tier = {"share": 1.0, "tok_per_s_per_user": 25.0, "ttft_s": 5.0, "usd_per_mtok_output": 2.0}
    short = answer(demand(tiers={"one": tier})).plan.tiers[0]
    long = answer(demand(tiers={"one": {**tier, "thinking_x": given(100.0, 10.0, 200.0)}})).plan.tiers[0]
    assert long.output_tok == pytest.approx(100 * short.output_tok)
    per_task = long.usd_per_mtok_output * long.output_tok / (short.usd_per_mtok_output * short.output_tok)
    # The prompt is paid once, but long contexts leave room in memory for a smaller batch.
    assert 100 < per_task < 150


# --- the parts ---------------------------------------------------------------------------------------------


def test_an_all_in_rate_loses_its_energy_before_a_tariff_is_added() -> None:
    rate = AllIn(
        usd_per_gpu_h=demand().candidates["h100"].own.usd_per_gpu_h,  # type: ignore[union-attr]
        energy_inside_usd_per_mwh=demand().candidates["h100"].own.energy_inside_usd_per_mwh,  # type: ignore[union-attr]
    )
    assert fixed_usd_per_gpu_h(rate, all_in_kw=1.73) == pytest.approx(1.3 - 1.73 * 0.080)
    assert answer(demand()).plan.purchases[0].drawn_usd_per_gpu_h == pytest.approx(2.17 * 0.040)


def test_capital_is_an_annuity_less_what_is_left() -> None:
    usd = demand().candidates["h100"].own.usd_per_gpu_h  # type: ignore[union-attr]
    cost = Capital(usd_per_gpu=usd, life_years=4, residual_share=0.2, rate_per_year=0.1)
    assert yearly_capital_usd(cost, 100.0) == pytest.approx(27.237, abs=1e-3)
    straight = Capital(usd_per_gpu=usd, life_years=4, residual_share=0.2, rate_per_year=0.0)
    assert yearly_capital_usd(straight, 100.0) == pytest.approx(20.0)


def test_spares_are_as_many_as_the_target_needs_and_no_more() -> None:
    down = down_share(failures_per_gpu_year=0.173, gpus_per_node=8, repair_h=24.0)
    assert down == pytest.approx(0.003777, abs=1e-6)
    upto = carried_by_spares(down=down, target=0.999, most=600)
    for spare, nodes in enumerate(upto[:-1]):
        assert enough_up(nodes, spare, down) >= 0.999 or nodes == 0
        assert enough_up(nodes + 1, spare, down) < 0.999
    assert upto[-1] == 600
    assert len(upto) - 1 == 8  # 600 x 0.38 % = 2.3 are down in the mean


@settings(max_examples=60, deadline=None)
@over(nodes=st.integers(1, 12), spare=st.integers(0, 4), down=st.floats(0.001, 0.5))
def test_how_often_enough_nodes_are_up_is_the_binomial_sum(nodes: int, spare: int, down: float) -> None:
    total = nodes + spare
    ways = [1.0]  # number of nodes down -> probability, one node after the other
    for _ in range(total):
        ways = [
            (ways[k] if k < len(ways) else 0.0) * (1 - down) + (ways[k - 1] * down if k else 0.0)
            for k in range(len(ways) + 1)
        ]
    assert enough_up(nodes, spare, down) == pytest.approx(sum(ways[: spare + 1]))


@settings(max_examples=40, deadline=None)
@over(
    alone=st.floats(2.0, 30.0),
    each=st.floats(0.01, 2.0),
    tok_per_s=st.floats(5.0, 200.0),
    slower=st.floats(0.7, 1.5),
)
def test_the_batch_at_a_promise_keeps_it_and_the_next_one_breaks_it(
    alone: float, each: float, tok_per_s: float, slower: float
) -> None:
    law = straight_law(alone_ms=alone, each_ms=each)
    part = answer_deployment()
    points = [Point(c, law(part, isl=1000, osl=200, concurrency=c)) for c in batches(256)]
    at = Curve(tuple(points), 200.0).at_promise(ttft_s=1e9, tok_per_s=tok_per_s, slower=slower)
    limit_ms = 1e3 / tok_per_s / slower
    if alone + each > limit_ms * (1 + 1e-9):
        assert at is None or at.batch == 1
        return
    assert at is not None
    assert at.tpot_s.value <= 1 / tok_per_s * (1 + 1e-6)
    assert at.batch == 256 or alone + each * (at.batch + 1) > limit_ms * (1 - 1e-6)


def answer_deployment() -> Any:
    from wattmill.compute.catalogue import accelerator
    from wattmill.models.architectures import architecture
    from wattmill.models.deployment import Deployment

    return Deployment(
        architecture=architecture("Llama-3.1-70B"),
        accelerator=accelerator("H100-SXM"),
        engine="vllm",
        weight_bits=8.0,
        kv_bits=8.0,
        tp=1,
    )


def test_planning_with_the_slow_end_buys_more_for_the_same_demand() -> None:
    part = answer_deployment()
    fast, slow = straight_law(), slow_end(straight_law())
    asked = {"isl": 1000, "osl": 200, "concurrency": 8}
    assert slow(part, **asked).tpot_s.value == fast(part, **asked).tpot_s.high
    cost = demand(goal="cost", limits={}, load={**RATE, "requests_per_s": 400.0})
    careful = demand(goal="cost", limits={}, load={**RATE, "requests_per_s": 400.0}, law="slow end")
    assert answer(careful).plan.totals.cost_usd_per_year > answer(cost).plan.totals.cost_usd_per_year


def test_a_tier_that_nobody_keeps_is_told_each_reason_once() -> None:
    left = tuple(Left(w, y) for w, y in (("a", "far"), ("b", "full"), ("c", "far"), ("d", "far")))
    assert _reasons(Choice((), (), {}, left, {})) == "a and 2 more: far; b: full"
    assert _reasons(Choice((), (), {}, left[:3], {})) == "a and one more: far; b: full"
