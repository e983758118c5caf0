"""A grid event rehearsed on a simulated site: the live governor, tiers that give way in their order."""

from __future__ import annotations

import msgspec
import pytest
from planning_house import answer, demand

from wattmill.app.running import flexer
from wattmill.power.signal.policy import Governor
from wattmill.power.signal.spec import FlexRules
from wattmill.twin.rehearsal import run as rehearsal_run
from wattmill.twin.rehearsal.fluid import FluidPool, interpolated
from wattmill.twin.rehearsal.planned import site_of
from wattmill.twin.rehearsal.run import Ask, rehearse
from wattmill.twin.rehearsal.spec import At, NodesOff, Rehearsal, Site, SitePool, TierFlow

POINTS = (At(1.0, 0.010, 0.1, 1_700.0), At(10.0, 0.012, 0.2, 1_900.0), At(50.0, 0.020, 0.4, 2_000.0))
RULES = FlexRules(lead_s=120.0)


def tier(name: str, rank: int, per_s: float, **more: object) -> TierFlow:
    flow = TierFlow(
        name=name, rank=rank, protected=False, per_s=per_s, input_tok=1000.0, output_tok=200.0,
        tok_per_s=50.0, ttft_s=5.0, usd_per_request=0.001 * rank, patience_s=60.0,
    )  # fmt: skip
    return msgspec.structs.replace(flow, **more)


def site(nodes_off: NodesOff | None = None) -> Site:
    """About 8 MW at its hour: two pools of 2,000 single accelerators each."""

    def pool(name: str, tiers: dict[str, float]) -> SitePool:
        return SitePool(
            name=name, replicas=2000, gpus=1, batch=50, idle_w=1000.0, points=POINTS, tiers=tiers
        )  # fmt: skip

    return Site(
        name="site",
        pools=(pool("top", {"premium": 1.0}), pool("low", {"medium": 1.0, "free": 1.0})),
        tiers=(
            tier("premium", 2, 12_000.0, protected=True),
            tier("medium", 1, 9_000.0),
            tier("free", 0, 9_000.0, deferrable=0.3),
        ),
        other_w=50_000.0,
        provisioned_w=8.5e6,
        nodes_off=nodes_off,
    )


def short(**more: object) -> Rehearsal:
    ask = Ask(reduce=0.2, notice_s=300.0, duration_s=900.0, after_s=1500.0)._replace(**more)  # type: ignore[arg-type]
    return rehearse(site(NodesOff(wake_s=120.0)), ask, RULES)


def test_the_twin_asks_the_governor_of_the_live_factory() -> None:
    assert rehearsal_run.Governor is flexer.Governor is Governor


def test_the_limit_is_met_the_protected_tier_does_not_notice_and_the_lowest_gives_way_first() -> None:
    run = short()
    got = run.reached
    assert got.met and got.mean_w <= got.limit_w and run.infeasible_floor_w is None
    premium, medium, free = run.tiers
    assert premium.kept == pytest.approx(1.0) and premium.refused == 0.0
    assert medium.refused <= free.refused
    # What was put off comes back without a new peak.
    assert free.deferred_tok > 0.0
    assert got.peak_before_w is not None and got.peak_after_w is not None
    assert got.peak_after_w <= 1.005 * got.peak_before_w


def test_it_repeats_with_its_seed_and_differs_with_another() -> None:
    assert short() == short()
    assert short(seed=2) != short()


def test_where_idle_machines_stay_on_a_deep_event_is_infeasible_and_says_what_was_reached() -> None:
    run = rehearse(site(None), Ask(reduce=0.45, duration_s=600.0, after_s=300.0), RULES)
    assert run.infeasible_floor_w is not None and run.infeasible_floor_w > run.reached.limit_w
    assert run.most_replicas_off == 0
    premium = run.tiers[0]
    assert premium.kept == pytest.approx(1.0)  # it is not asked to pay for the impossible


def test_a_pool_in_balance_holds_what_littles_law_says() -> None:
    spec = site().pools[0]
    flow = tier("premium", 2, 12_000.0)
    pool = FluidPool(spec, {"premium": flow})
    for _ in range(600):
        pool.advance(1.0)
        pool.inside["premium"] += flow.per_s
    # Filled replicas work at the batch limit: 0.4 + 0.020 x 199 = 4.38 s in the pool.
    assert pool.total == pytest.approx(12_000.0 * 4.38, rel=0.02)
    assert pool.working == -(-pool.total // 50)
    busy, idle = pool.working, 2000 - pool.working
    b = interpolated(POINTS, pool.total / busy)
    assert pool.watts(1.0) == pytest.approx(busy * b.gpu_w + idle * 1000.0)


def test_what_was_woken_up_works_even_if_it_is_not_needed_any_more() -> None:
    spec = msgspec.structs.replace(site().pools[0], replicas=10)
    pool = FluidPool(spec, {"premium": tier("premium", 2, 1.0)})
    off = NodesOff(off_after_s=1e9, wake_s=60.0, ready_share=0.1)
    pool.off = 5
    pool.inside["premium"] = 250.0  # five replicas: one more is wanted in reserve
    pool.switch(0.0, short=True, off=off)
    pool.inside["premium"] = 100.0
    pool.switch(61.0, short=True, off=off)
    assert pool.off < 5
    idle_w = (10 - pool.off + pool.off * off.draw_share - 2) * 1000.0
    assert pool.watts(1.0) == pytest.approx(2 * interpolated(POINTS, 50.0).gpu_w + idle_w)


def test_capped_accelerators_draw_what_they_may_and_take_longer() -> None:
    pool = FluidPool(site().pools[0], {"premium": tier("premium", 2, 1.0)})
    pool.inside["premium"] = 50_000.0  # half of all replicas, full
    free_w = pool.watts(1.0)
    capped_w = pool.watts(0.5)
    assert free_w - capped_w == pytest.approx(1000 * 0.5 * (2000.0 - 1000.0))
    # Dynamic power goes with the square of the clock: sqrt(1/2); half of a step follows the clock.
    assert pool.slowdown == pytest.approx(0.5 + 0.5 / 0.5**0.5)
    assert not pool.keeps("premium")


def test_ask_for_one_thing() -> None:
    with pytest.raises(ValueError, match="either"):
        rehearse(site(), Ask(), RULES)


def test_one_configuration_bought_for_two_promises_is_two_pools_and_no_request_is_lost_between_them() -> None:
    """Both tiers on single B200, at 419 and 319 at once: as one pool, the last flow's share of a tier stood
    for all of it, and the rest of the tier was refused."""

    def promise(tok_per_s: float, usd: float) -> dict[str, float]:
        return {"share": 0.5, "tok_per_s_per_user": tok_per_s, "ttft_s": 2.0, "usd_per_mtok_output": usd}

    found = answer(demand(tiers={"slow": promise(25.0, 3.0), "fast": promise(32.0, 20.0)}))
    seen = site_of(found, load=1.0, protect=(), patience_s=60.0, deferrable=0.0, nodes_off=None)
    configurations = {str(flow.option.config) for flow in found.flows}
    assert len(configurations) == 1 and len({pool.batch for pool in seen.pools}) == len(seen.pools) == 2
    assert sum(pool.replicas for pool in seen.pools) == sum(pool.replicas for pool in found.plan.pools)
    for flow in seen.tiers:
        assert sum(pool.tiers.get(flow.name, 0.0) for pool in seen.pools) == pytest.approx(1.0)
