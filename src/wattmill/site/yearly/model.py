"""A year of a site: what its chips do becomes watts at the meter, those are dispatched, paid and closed.

The dispatch is a linear programme in the meter's watts: a watt of deferrable work draws what chain and plant
add in that hour, worked out at the load of that hour (a secant, since losses are not linear). What was
decided is then worked out again by the full equations, and the meter takes the difference: `linear_error`
says how much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from wattmill.power.dispatch.program import Infeasible, solve
from wattmill.power.dispatch.rolling import outcome, roll
from wattmill.power.dispatch.spec import Battery, Dispatch, Horizon, Limits
from wattmill.power.tariff.model import billing_months, local_times, prices_usd_per_kwh
from wattmill.site.climate.spec import Hours, Weather
from wattmill.site.solar.model import panels_w
from wattmill.site.yearly.answer import Dispatched
from wattmill.site.yearly.facility import Built, Facility, built, facility
from wattmill.site.yearly.load import Load, load_of
from wattmill.site.yearly.series import Zone
from wattmill.site.yearly.spec import Site
from wattmill.units import G_PER_T, J_PER_KWH, J_PER_MWH, S_PER_DAY, S_PER_H, W_PER_MW

LEAST_MONTH_S = 2 * S_PER_DAY  # hours of a year of UTC that lie in another local month are no month
_PLANS = 8  # until one keeps the limits by the full equations
_CLOSE = 1e-3  # of a limit: what of it the meter may show above
_PROBE = 0.05  # of full power: how far the secant reaches where nothing may wait


class Lived(NamedTuple):
    """A year that was worked out: the site's watts, and where they came from. Watts of each hour."""

    built: Built
    weather: Weather
    load: Load
    facility: Facility
    dispatch: Dispatch
    import_w: Hours
    export_w: Hours
    sun_w: Hours  # used or given away
    curtailed_w: Hours
    usd_per_kwh: Hours
    g_per_kwh: Hours | None
    limits: Limits
    compared: Dispatched | None


def live(site: Site, weather: Weather, zone: Zone | None) -> Lived:
    """Return the year of `site`. Raises `ValueError` (and `Infeasible`, which is one) in words for people."""
    b = built(site)
    load = load_of(site, weather)
    if not float(load.power_share(site.work.idle_share).max()) > 0.0:
        raise ValueError(
            f"{site.name}: the chips do nothing all year and draw nothing idle (work.idle_share is 0): leave "
            "the site out"
        )
    start = weather.start(site.place.utc_offset_h)
    hours = len(weather.dry_bulb_c)
    times = local_times(site.grid.tariff, start, S_PER_H, hours)
    real_time = zone.usd_per_kwh if zone is not None and site.grid.tariff.real_time else None
    price = prices_usd_per_kwh(site.grid.tariff, times, real_time)
    carbon = zone.g_per_kwh if zone is not None else None
    if carbon is None and site.grid.g_per_kwh is not None:
        carbon = np.full(hours, site.grid.g_per_kwh)
    sun_w = np.zeros(hours)
    if site.solar is not None:
        assert site.place.latitude_deg is not None and site.place.longitude_deg is not None
        sun_w = panels_w(
            site.solar,
            weather,
            start=start,
            latitude_deg=site.place.latitude_deg,
            longitude_deg=site.place.longitude_deg,
        )
    month = billing_months(times, S_PER_H, least_s=LEAST_MONTH_S)
    horizon, plain = _horizon(b, load, weather, sun_w, price, carbon, month)
    limits = _limits(b)
    decides = limits.battery is not None or (site.work.deferrable > 0 and limits.deadline_steps > 0)
    if decides:
        done, final, taken_w = _within(b, load, weather, sun_w, horizon, limits)
    else:
        done, final = _as_it_comes(horizon, limits), plain
        taken_w = _taken_w(final, done, sun_w)
    import_w = np.clip(taken_w, 0.0, None)
    # No more can be given away than the sun gives: what a battery gave too much is a hole, and stops the run.
    curtailed_w = np.minimum(done.curtailed_w + np.clip(-taken_w, 0.0, None), sun_w)
    return Lived(
        built=b,
        weather=weather,
        load=load,
        facility=final,
        dispatch=done,
        import_w=import_w,
        export_w=done.export_w,
        sun_w=sun_w - curtailed_w,
        curtailed_w=curtailed_w,
        usd_per_kwh=price,
        g_per_kwh=carbon,
        limits=limits,
        compared=_compared(horizon, limits, done, import_w, carbon) if decides else None,
    )


def _within(
    b: Built, load: Load, weather: Weather, sun_w: Hours, horizon: Horizon, limits: Limits
) -> tuple[Dispatch, Facility, Hours]:
    """Return a plan that keeps the limits of the grid by the full equations too, and what it takes.

    The programme's meter is a straight line; shifted work reaches beyond it, where losses grow. Where that
    passes a limit, the plan is made again with a limit that is lower by as much.
    """
    planned = limits
    for _ in range(_PLANS):
        done = roll(horizon, planned)
        final = facility(b, _share(b, load, done), weather)
        taken_w = _taken_w(final, done, sun_w)
        import_w = np.clip(taken_w, 0.0, None)
        over_w = 0.0 if limits.import_w is None else float(import_w.max()) - limits.import_w
        step_w = float(np.abs(np.diff(import_w)).max(initial=0.0))
        steep_w = 0.0 if limits.ramp_w_per_step is None else step_w - limits.ramp_w_per_step
        most_w, most_step_w = limits.import_w or 0.0, limits.ramp_w_per_step or 0.0
        if over_w <= _CLOSE * most_w and steep_w <= _CLOSE * most_step_w:
            return done, final, taken_w
        if planned.import_w is not None:
            planned = replace(planned, import_w=max(0.0, planned.import_w - max(0.0, over_w)))
        if planned.ramp_w_per_step is not None and steep_w > 0.0:
            planned = replace(planned, ramp_w_per_step=max(1.0, planned.ramp_w_per_step - steep_w))
    raise Infeasible(
        f"no plan keeps grid.import_mw and grid.ramp_mw_per_h: after {_PLANS} of them the worst hour takes "
        f"{import_w.max() / W_PER_MW:.3f} MW and the worst step {step_w / W_PER_MW:.3f} MW. Lower work.mw, "
        "or add a battery"
    )


def _taken_w(final: Facility, done: Dispatch, sun_w: Hours) -> Hours:
    """Return what the meter takes, below 0 where there is more than is used."""
    return np.asarray(
        final.total_w + done.charge_w - done.discharge_w + done.export_w - (sun_w - done.curtailed_w)
    )


def _horizon(
    b: Built,
    load: Load,
    weather: Weather,
    sun_w: Hours,
    price: Hours,
    carbon: Hours | None,
    month: NDArray[np.int64],
) -> tuple[Horizon, Facility]:
    """Return the hours as the programme sees them, and the site with everything done as it comes."""
    site = b.site
    idle = site.work.idle_share
    plain = facility(b, load.power_share(idle), weather)
    base_share = idle + (1.0 - idle) * load.base
    waits = (1.0 - idle) * load.deferrable
    step = np.where(waits > 0, waits, np.minimum(_PROBE, 1.0 - base_share))
    base = facility(b, base_share, weather)
    more = facility(b, base_share + step, weather)
    draw = (more.total_w - base.total_w) / np.where(step > 0, step * b.chip_w, 1.0)
    return (
        Horizon(
            step_s=S_PER_H,
            base_w=base.total_w,
            deferrable_w=waits * b.chip_w,
            solar_w=sun_w,
            import_usd_per_kwh=price,
            export_usd_per_kwh=np.full(len(price), site.grid.tariff.export_usd_per_kwh),
            carbon_g_per_kwh=np.zeros(len(price)) if carbon is None else carbon,
            month=month,
            demand_usd_per_kw=site.grid.tariff.demand_usd_per_kw,
            usd_per_kg=site.grid.usd_per_kg,
            base_work_w=base_share * b.chip_w,
            draw_w_per_w=np.where(step > 0, draw, 1.0),
        ),
        plain,
    )


def _limits(b: Built) -> Limits:
    grid = b.site.grid
    battery: Battery | None = b.site.battery.battery() if b.site.battery is not None else None
    return Limits(
        import_w=None if grid.import_mw is None else grid.import_mw * W_PER_MW,
        export_w=grid.export_mw * W_PER_MW,
        ramp_w_per_step=None if grid.ramp_mw_per_h is None else grid.ramp_mw_per_h * W_PER_MW,
        load_w=b.chip_w,
        battery=battery,
        deadline_steps=b.site.work.deadline_h,
    )


def _as_it_comes(horizon: Horizon, limits: Limits) -> Dispatch:
    """Return the year in which nothing is decided: work is done when it comes, sun is used first."""
    nothing = np.zeros_like(horizon.base_w)
    need_w = horizon.base_w + horizon.draw * horizon.deferrable_w
    import_w = np.clip(need_w - horizon.solar_w, 0.0, None)
    over_w = np.clip(horizon.solar_w - need_w, 0.0, None)
    export_w = np.minimum(over_w, limits.export_w)
    if limits.import_w is not None and float(import_w.max()) > limits.import_w * (1 + 1e-9):
        raise Infeasible(
            f"grid.import_mw is {limits.import_w / W_PER_MW:g}, and the worst hour takes "
            f"{import_w.max() / W_PER_MW:.3f} MW: lower work.mw or work.busy, add a battery, or let work wait"
        )
    steps_w = np.abs(np.diff(import_w))
    if limits.ramp_w_per_step is not None and float(steps_w.max(initial=0.0)) > limits.ramp_w_per_step:
        raise Infeasible(
            f"grid.ramp_mw_per_h is {limits.ramp_w_per_step / W_PER_MW:g}, and the worst step is "
            f"{steps_w.max() / W_PER_MW:.3f} MW: add a battery, let work wait, or flatten work.day"
        )
    return Dispatch(
        import_w=import_w,
        export_w=export_w,
        charge_w=nothing,
        discharge_w=nothing,
        stored_j=nothing,
        deferred_w=horizon.deferrable_w,
        waiting_j=nothing,
        curtailed_w=over_w - export_w,
        objective_usd=None,
    )


def _share(b: Built, load: Load, done: Dispatch) -> Hours:
    """Return the share of full power at which the chips were, after what was decided."""
    idle = b.site.work.idle_share
    share = idle + (1.0 - idle) * load.base + done.deferred_w / b.chip_w
    return np.asarray(np.clip(share, 0.0, 1.0))  # the solver keeps limits to a part in ten million


def _compared(
    horizon: Horizon, limits: Limits, done: Dispatch, import_w: Hours, carbon: Hours | None
) -> Dispatched:
    """Set what was lived beside not deciding and beside knowing everything, all three by the programme's
    meter."""
    ideal = solve(horizon, limits)
    free = Limits(export_w=limits.export_w, load_w=limits.load_w)
    none = _as_it_comes(horizon, free)
    bills = [outcome(horizon, each) for each in (none, done, ideal)]
    known = carbon is not None
    kwh = S_PER_H / J_PER_KWH
    grams = [float((each.import_w * horizon.carbon_g_per_kwh).sum()) * kwh for each in (none, done, ideal)]
    tonnes = [g / G_PER_T if known else None for g in grams]
    waited_w = np.clip(horizon.deferrable_w - done.deferred_w, 0.0, None) * horizon.draw
    return Dispatched(
        as_it_comes_usd=bills[0].usd,
        lived_usd=bills[1].usd,
        foresight_usd=bills[2].usd,
        as_it_comes_t=tonnes[0],
        lived_t=tonnes[1],
        foresight_t=tonnes[2],
        curtailed_mwh=float(done.curtailed_w.sum()) * S_PER_H / J_PER_MWH,
        deferred_mwh=float(waited_w.sum()) * S_PER_H / J_PER_MWH,
        linear_error=float(np.abs(import_w - done.import_w).mean() / max(float(import_w.mean()), 1.0)),
        import_worth_usd=_a_unit(ideal.import_worth_usd_per_w),
        load_worth_usd=_a_unit(ideal.load_worth_usd_per_w),
    )


def _a_unit(worth_usd_per_w: float | None) -> float:
    return (worth_usd_per_w or 0.0) * W_PER_MW
