"""What a site does with its watts: nothing is lost, deadlines hold, knowing more never costs more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.power.dispatch.program import Infeasible, solve
from wattmill.power.dispatch.rolling import forecast, outcome, roll
from wattmill.power.dispatch.spec import Battery, Dispatch, Horizon, Limits

HOUR = 3600


def horizon(price: list[float], deferrable: list[float], *, demand: float = 0.0) -> Horizon:
    count = len(price)
    return Horizon(
        step_s=HOUR,
        base_w=np.full(count, 4e6),
        deferrable_w=np.array(deferrable) * 1e6,
        solar_w=np.zeros(count),
        import_usd_per_kwh=np.array(price),
        export_usd_per_kwh=np.zeros(count),
        carbon_g_per_kwh=np.full(count, 300.0),
        month=np.zeros(count, dtype=np.int64),
        demand_usd_per_kw=demand,
    )


def check(site: Horizon, limits: Limits, done: Dispatch) -> None:
    """Energy closes each hour; work is done once, not before it came, in time, and never above nameplate."""
    taken = done.import_w + site.solar_w - done.curtailed_w + done.discharge_w
    used = site.base_w + done.deferred_w + done.charge_w + done.export_w
    assert taken == pytest.approx(used, rel=1e-7, abs=1.0)
    came, did = np.cumsum(site.deferrable_w), np.cumsum(done.deferred_w)
    assert did[-1] == pytest.approx(came[-1], rel=1e-7, abs=1.0)
    assert (did <= came + 1.0).all()
    late = limits.deadline_steps
    due = np.concatenate([np.zeros(late), came[: len(came) - late]]) if late else came
    assert (did >= due[: len(did)] - 1.0).all()
    if limits.load_w is not None:
        assert (site.base_w + done.deferred_w <= limits.load_w * (1 + 1e-7)).all()
    assert (done.stored_j >= -1.0).all()


steps = st.lists(
    st.tuples(st.floats(0.001, 1.0), st.floats(0, 3)).map(
        lambda pair: (round(pair[0], 3), round(pair[1], 2))
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(steps, st.integers(0, 8), st.booleans())
def test_energy_closes_and_every_deadline_holds(
    hours: list[tuple[float, float]], deadline: int, stored: bool
) -> None:
    site = horizon([price for price, _ in hours], [work for _, work in hours], demand=5.0)
    battery = Battery(capacity_j=2e6 * HOUR, charge_w=1e6, discharge_w=1e6) if stored else None
    limits = Limits(load_w=7e6, deadline_steps=deadline, battery=battery)
    check(site, limits, solve(site, limits))


@settings(max_examples=15, deadline=None)
@given(steps, st.integers(0, 6))
def test_a_year_lived_day_by_day_keeps_every_law_and_never_beats_foresight(
    hours: list[tuple[float, float]], deadline: int
) -> None:
    site = horizon([price for price, _ in hours], [work for _, work in hours])
    limits = Limits(load_w=8e6, deadline_steps=deadline)
    lived = roll(site, limits, look_steps=8, stride_steps=4, known_steps=4)
    check(site, limits, lived)
    assert outcome(site, lived).usd >= outcome(site, solve(site, limits)).usd - 1e-6


def test_the_programme_finds_what_trying_everything_finds() -> None:
    # One unit of work in each of four hours, deadline two hours, room for two units an hour: all schedules.
    price = [0.3, 0.1, 0.5, 0.2]
    site = horizon(price, [1.0, 1.0, 1.0, 1.0])
    limits = Limits(load_w=6e6, deadline_steps=2)
    best = min(
        sum(price[at] for at in starts)
        for starts in itertools.product(*(range(came, min(came + 2, 3) + 1) for came in range(4)))
        if max(starts.count(at) for at in range(4)) <= 2
    )
    got = solve(site, limits)
    assert float((got.deferred_w / 1e6 * np.array(price)).sum()) == pytest.approx(best)


def test_a_battery_buys_cheap_and_pays_for_its_losses() -> None:
    # 1 MWh stored at 0.10 costs 1 / 0.9 MWh; it gives 0.9 MWh at 0.30. By hand: saves 270 - 111.11 = 158.89.
    site = horizon([0.10, 0.30], [0.0, 0.0])
    battery = Battery(
        capacity_j=1e6 * HOUR, charge_w=2e6, discharge_w=2e6, charge_efficiency=0.9, discharge_efficiency=0.9
    )
    flat, with_it = solve(site, Limits()), solve(site, Limits(battery=battery))
    assert flat.objective_usd is not None and with_it.objective_usd is not None
    assert flat.objective_usd - with_it.objective_usd == pytest.approx(0.9 * 300 - 100 / 0.9, abs=1e-6)


def test_a_peak_is_bought_only_if_the_hours_below_it_are_worth_it() -> None:
    # Half of the work in the dear hour halves the peak: 500 kW less, for 0.5 MWh x 200 USD = 100 USD more.
    site = horizon([0.30, 0.10], [1.0, 0.0])
    limits = Limits(deadline_steps=1)
    worth_it = site._replace(demand_usd_per_kw=0.21)  # saves 105 USD
    not_worth_it = site._replace(demand_usd_per_kw=0.19)  # saves 95 USD
    assert solve(worth_it, limits).deferred_w == pytest.approx([5e5, 5e5])
    assert solve(not_worth_it, limits).deferred_w == pytest.approx([0.0, 1e6], abs=1.0)


def test_a_site_that_cannot_be_supplied_says_where_to_look() -> None:
    with pytest.raises(Infeasible, match="import_w"):
        solve(horizon([0.1, 0.1], [0.0, 0.0]), Limits(import_w=3e6))
    with pytest.raises(Infeasible, match="above load_w"):
        solve(horizon([0.1, 0.1], [0.0, 0.0]), Limits(load_w=3e6))


def test_a_forecast_knows_nothing_that_comes_after_its_instant() -> None:
    series = np.arange(96, dtype=float)
    seen = forecast(series, 48, 24, day_steps=24)
    changed = series.copy()
    changed[48:] = -1e9
    assert (forecast(changed, 48, 24, day_steps=24) == seen).all()
    assert seen[0] == pytest.approx((series[24] + series[0]) / 2)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-0.3, 0.3).map(lambda v: round(v, 3)),
            st.floats(-0.1, 0.4).map(lambda v: round(v, 3)),
            st.floats(0, 9).map(lambda v: round(v, 1)),
        ),
        min_size=4,
        max_size=30,
    ),
    st.booleans(),
)
def test_no_hour_buys_and_sells_nor_fills_and_drains(
    hours: list[tuple[float, float, float]], waits: bool
) -> None:
    """One meter and one battery each go one way at a time, whatever prices say: also below nothing, and where
    energy is worth more going out than coming in."""
    site = horizon([price for price, _, _ in hours], [1.0 if waits else 0.0 for _ in hours])._replace(
        export_usd_per_kwh=np.array([price for _, price, _ in hours]),
        solar_w=np.array([sun for _, _, sun in hours]) * 1e6,
    )
    battery = Battery(capacity_j=2e6 * HOUR, charge_w=1e6, discharge_w=1e6)
    limits = Limits(load_w=7e6, deadline_steps=3, battery=battery, export_w=3e6)
    for done in (solve(site, limits), roll(site, limits, look_steps=8, stride_steps=4, known_steps=4)):
        check(site, limits, done)
        assert (np.minimum(done.charge_w, done.discharge_w) <= 10.0).all()
        assert (np.minimum(done.import_w, done.export_w) <= 10.0).all()


def test_a_price_below_nothing_pays_for_what_the_battery_holds_and_no_more() -> None:
    # By hand: 4 MWh of work and 1 / 0.95 MWh into a battery of 1 MWh at -50 USD: no energy goes round in it.
    site = horizon([-0.05, 0.10], [0.0, 0.0])
    battery = Battery(capacity_j=1e6 * HOUR, charge_w=2e6, discharge_w=2e6)
    done = solve(site, Limits(battery=battery))
    assert done.import_w == pytest.approx([4e6 + 1e6 / 0.95, 4e6 - 0.95e6], rel=1e-6)
    assert done.objective_usd == pytest.approx(-50 * (4 + 1 / 0.95) + 100 * (4 - 0.95), rel=1e-6)
