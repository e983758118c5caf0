"""A site over a year: energy closes, bills are the tariff's, knowing more never costs more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from site_house import FLAT, a_site, steady, typical

from wattmill.power.dispatch.program import Infeasible
from wattmill.site.conversion.model import flow
from wattmill.site.conversion.presets import chains
from wattmill.site.conversion.spec import Flow
from wattmill.site.cooling.spec import Buyer
from wattmill.site.solar.spec import Panels
from wattmill.site.yearly.account import CLOSES_TO, year
from wattmill.site.yearly.answer import YearAnswer
from wattmill.site.yearly.series import Zone
from wattmill.site.yearly.spec import Chain, Grid, Store, Work


def mwh(answer: YearAnswer, name: str) -> float:
    return sum(row.mwh for row in answer.energy.rows if row.name == name)


def a_zone(hours: int, *, cheap_at: int = 3) -> Zone:
    price = np.where(np.arange(hours) % 24 == cheap_at, 0.02, 0.10)
    return Zone(name="Z", usd_per_kwh=price, g_per_kwh=np.full(hours, 400.0))


def test_a_flat_day_is_what_chain_plant_and_tariff_say_by_hand() -> None:
    # 80 % of each tray's 10 kW, no fixed power, nothing decided: the chain's own answer, hour for hour.
    answer = year(a_site(fixed_kw=0.0), steady(24), None)
    one = flow(chains()["ac-480"], 8_000)
    assert isinstance(one, Flow)
    chain_mwh = answer.units * one.in_w * 24 / 1e6
    cooling = sum(row.mwh for row in answer.energy.rows if row.boundary == "cooling")
    assert answer.energy.in_mwh == pytest.approx(chain_mwh + cooling / 0.98)
    assert answer.money.usd == pytest.approx(answer.energy.in_mwh * 50.0)
    assert answer.ratios.pue == pytest.approx(
        answer.energy.in_mwh / (answer.units * one.equipment_w * 24 / 1e6)
    )


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(sorted(set(chains()) - {"frontier"})),
    st.floats(0.05, 0.9),
    st.floats(0.0, 0.5),
    st.floats(-10, 45),
    st.booleans(),
    st.booleans(),
)
def test_energy_closes_whatever_is_built(
    preset: str, busy: float, idle: float, dry_c: float, stored: bool, sunny: bool
) -> None:
    site = a_site(
        chain=Chain(preset=preset),
        work=Work(mw=4.0, idle_share=idle, busy=busy, deferrable=0.3, deadline_h=6),
        solar=Panels(peak_mw=6.0) if sunny else None,
        battery=Store(mwh=4.0, mw=2.0) if stored else None,
        heat=Buyer(at_c=60, months=(1,), most_w=1e6, usd_per_mwh=20),
        grid=Grid(tariff=replace(FLAT, real_time=True, demand_usd_per_kw=5.0), export_mw=1.0),
    )
    answer = year(site, steady(30, dry_c=dry_c, wet_c=dry_c - 5), a_zone(30))
    assert answer.energy.gap < 1e-6 < CLOSES_TO
    assert answer.dispatch is not None
    assert answer.dispatch.foresight_usd <= answer.dispatch.lived_usd + 1e-3
    assert answer.dispatch.foresight_usd <= answer.dispatch.as_it_comes_usd + 1e-3


def test_a_hole_in_the_account_is_a_defect_and_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from wattmill.site.yearly import account

    honest = account.energy_of

    def forgetful(lived: account.Lived) -> account.Energy:
        energy = honest(lived)
        return replace(energy, out_mwh=energy.out_mwh * 0.998)

    monkeypatch.setattr(account, "energy_of", forgetful)
    with pytest.raises(account.DoesNotClose, match="accounted for"):
        year(a_site(), steady(24), None)


def test_work_that_may_wait_goes_to_the_cheap_hour_and_the_nameplate_holds() -> None:
    work = Work(mw=8.0, idle_share=0.0, busy=0.5, deferrable=0.4, deadline_h=24)
    site = a_site(work=work, grid=Grid(tariff=replace(FLAT, usd_per_kwh=0.0, real_time=True)))
    answer = year(site, steady(72), a_zone(72))
    assert answer.dispatch is not None
    assert answer.dispatch.lived_usd < answer.dispatch.as_it_comes_usd * 0.97
    (equipment,) = [b for b in answer.binding if b.limit == "equipment at work"]
    assert equipment.used <= equipment.allowed * (1 + 1e-6)
    assert equipment.binds  # the cheap hour is full


def test_more_redundancy_costs_more_and_is_seen_in_the_stage_that_is_doubled() -> None:
    one, two = (
        year(a_site(chain=Chain(preset="ac-480", redundancy=how)), steady(24), None) for how in ("N", "2N")
    )
    name = "UPS, double conversion"
    assert mwh(two, name) > mwh(one, name)
    assert two.ratios.pue > one.ratios.pue
    assert mwh(two, "VRM to 0.8 V") == mwh(one, "VRM to 0.8 V")


def test_too_small_an_interconnection_is_refused_with_the_hour_that_does_not_fit() -> None:
    with pytest.raises(Infeasible, match=r"grid\.import_mw is 5, and the worst hour takes"):
        year(a_site(grid=Grid(tariff=FLAT, import_mw=5.0)), steady(24), None)


def test_what_the_meter_takes_keeps_the_interconnection_by_the_full_equations_too() -> None:
    """Work that moves into cheap hours reaches beyond the straight line that the programme plans by."""
    work = Work(mw=4.0, idle_share=0.3, busy=0.5, deferrable=0.5, deadline_h=6)
    grid = Grid(tariff=replace(FLAT, usd_per_kwh=0.0, real_time=True), import_mw=5.5)
    zone = Zone(name="Z", usd_per_kwh=np.where(np.arange(72) % 24 < 12, 0.02, 0.20), g_per_kwh=None)
    store = Store(mwh=60.0, mw=12.0)
    answer = year(a_site(work=work, grid=grid, battery=store), steady(72), zone)
    assert answer.peak_mw <= 5.5 * (1 + 1e-3)


def test_a_site_that_does_nothing_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="leave the site out"):
        year(a_site(work=Work(mw=8.0, idle_share=0.0, tok_per_s=0.0, tok_per_s_full=1e4)), steady(24), None)


def test_market_based_grams_follow_the_contract_and_location_based_ones_do_not() -> None:
    grid = Grid(
        tariff=FLAT,
        g_per_kwh=400.0,
        carbon_source="test",
        contract_share=0.75,
        contract_g_per_kwh=0.0,
    )
    carbon = year(a_site(grid=grid), steady(24), None).carbon
    assert carbon.location_t is not None and carbon.market_t is not None
    assert carbon.market_t == pytest.approx(carbon.location_t * 0.25)
    assert year(a_site(), steady(24), None).carbon.location_t is None


def test_tokens_carry_the_joules_of_the_meter() -> None:
    work = Work(mw=8.0, idle_share=0.3, tok_per_s=1e6, tok_per_s_full=2e6)
    answer = year(a_site(work=work), steady(24), None)
    assert answer.per_token is not None
    assert answer.per_token.tok == 1e6 * 24 * 3600
    assert answer.per_token.j_per_tok == pytest.approx(answer.energy.in_mwh * 3.6e9 / answer.per_token.tok)


def test_heat_that_is_sold_lowers_ere_and_not_pue() -> None:
    heat = Buyer(at_c=50, months=(1,), most_w=2e6, usd_per_mwh=20)  # the return is at 55 °C: no heat pump
    without, with_it = year(a_site(), steady(24), None), year(a_site(heat=heat), steady(24), None)
    assert with_it.heat_pump_cop is None
    assert with_it.heat_sold_mwh == pytest.approx(48.0)
    assert with_it.ratios.pue <= without.ratios.pue
    assert with_it.ratios.ere < without.ratios.ere - 0.2
    assert with_it.money.heat_usd == pytest.approx(48.0 * 20)


def test_a_year_in_phoenix_gives_the_sun_that_phoenix_has() -> None:
    # PVWatts gives some 1,750 kWh for each kWp of fixed panels in Phoenix.
    from wattmill.site.solar.model import panels_w

    year_there = typical("Phoenix")
    got = panels_w(
        Panels(peak_mw=1.0),
        year_there,
        start=year_there.start(-7),
        latitude_deg=33.4,
        longitude_deg=-112.0,
    )
    assert 1_650 < got.sum() / 1e6 < 1_900
    assert got[np.isin(year_there.hour, (0, 1, 2, 23))].max() == 0
