"""A year as it is lived: each day a plan of the next hours with what is known, of which a day is carried out.

What is known: prices of the coming `known_steps` (the day-ahead market has closed). Everything later, and all
carbon intensity beyond the present step, is forecast from the past alone: the mean of the same hour on the
seven days before. Against the plan that knew the whole year the difference is the regret.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattmill.power.dispatch.program import solve
from wattmill.power.dispatch.spec import Dispatch, Horizon, Limits, State
from wattmill.units import G_PER_KG, J_PER_KWH, W_PER_KW

Series = NDArray[np.float64]


class Outcome(NamedTuple):
    """What a dispatch cost by the prices that came."""

    energy_usd: float
    demand_usd: float
    carbon_kg: float

    @property
    def usd(self) -> float:
        return self.energy_usd + self.demand_usd


def outcome(horizon: Horizon, done: Dispatch) -> Outcome:
    kwh = horizon.step_s / J_PER_KWH
    energy_usd = float((done.import_w * horizon.import_usd_per_kwh).sum()) * kwh
    energy_usd -= float((done.export_w * horizon.export_usd_per_kwh).sum()) * kwh
    peaks = [float(done.import_w[horizon.month == month].max()) for month in np.unique(horizon.month)]
    return Outcome(
        energy_usd=energy_usd,
        demand_usd=sum(peaks) / W_PER_KW * horizon.demand_usd_per_kw,
        carbon_kg=float((done.import_w * horizon.carbon_g_per_kwh).sum()) * kwh / G_PER_KG,
    )


def forecast(series: Series, now: int, count: int, *, day_steps: int, days: int = 7) -> Series:
    """Return `count` steps from `now` on, from what came before `now`: the mean of the same step of the day
    over the last `days` days; without a past, the one value known (`series[now]`)."""
    values = np.empty(count)
    for ahead in range(count):
        same = [
            series[at]
            for day in range(1, days + 1)
            if 0 <= (at := now + ahead - day * day_steps * (1 + ahead // day_steps)) < now
        ]
        values[ahead] = float(np.mean(same)) if same else float(series[now])
    return values


def roll(
    horizon: Horizon, limits: Limits, *, look_steps: int = 48, stride_steps: int = 24, known_steps: int = 24
) -> Dispatch:
    """Return the dispatch that plans `look_steps` ahead every `stride_steps`.

    Work and sun of the window are taken as known (they are the site's own); prices and carbon are not, see
    above. The last window ends with the horizon.
    """
    total = len(horizon.base_w)
    state = State()
    parts: list[Dispatch] = []
    for now in range(0, total, stride_steps):
        until = min(total, now + look_steps)
        count, known = until - now, min(known_steps, until - now)
        window = slice(now, until)

        def seen(series: Series, known: int, now: int = now, count: int = count) -> Series:
            ahead = forecast(series, now, count, day_steps=stride_steps)
            ahead[:known] = series[now : now + known]
            return ahead

        month = horizon.month[window] - horizon.month[now]
        plan = solve(
            horizon._replace(
                base_w=horizon.base_w[window],
                deferrable_w=horizon.deferrable_w[window],
                solar_w=horizon.solar_w[window],
                import_usd_per_kwh=seen(horizon.import_usd_per_kwh, known),
                export_usd_per_kwh=seen(horizon.export_usd_per_kwh, known),
                carbon_g_per_kwh=seen(horizon.carbon_g_per_kwh, 1),
                month=month,
                base_work_w=None if horizon.base_work_w is None else horizon.base_work_w[window],
                draw_w_per_w=None if horizon.draw_w_per_w is None else horizon.draw_w_per_w[window],
            ),
            limits,
            state,
        )
        keep = min(stride_steps, count)
        parts.append(_joined([plan], keep))
        state = _after(horizon, limits, state, parts[-1], now, now + keep)
    return _joined(parts, total)


def _joined(parts: list[Dispatch], keep: int) -> Dispatch:
    """Return the first `keep` steps of `parts` one after the other."""
    return Dispatch(
        import_w=np.concatenate([part.import_w for part in parts])[:keep],
        export_w=np.concatenate([part.export_w for part in parts])[:keep],
        charge_w=np.concatenate([part.charge_w for part in parts])[:keep],
        discharge_w=np.concatenate([part.discharge_w for part in parts])[:keep],
        stored_j=np.concatenate([part.stored_j for part in parts])[:keep],
        deferred_w=np.concatenate([part.deferred_w for part in parts])[:keep],
        waiting_j=np.concatenate([part.waiting_j for part in parts])[:keep],
        curtailed_w=np.concatenate([part.curtailed_w for part in parts])[:keep],
        objective_usd=None,
    )


def _after(horizon: Horizon, limits: Limits, state: State, done: Dispatch, now: int, then: int) -> State:
    """Return the state at `then`: what is stored, what still waits by age, the month's peak."""
    waiting = [*state.waiting, *(horizon.deferrable_w[now:then] * horizon.step_s)]
    left = float(done.deferred_w.sum()) * horizon.step_s
    for at, joules in enumerate(waiting):
        took = min(joules, left)
        waiting[at] -= took
        left -= took
    peak = 0.0
    if then < len(horizon.month):
        same = horizon.month[now:then] == horizon.month[then]
        carried = state.peak_w if horizon.month[now] == horizon.month[then] else 0.0
        peak = max(carried, float(done.import_w[same].max(initial=0.0)))
    return State(
        stored_j=float(done.stored_j[-1]),
        waiting=tuple(waiting[-limits.deadline_steps :]) if limits.deadline_steps else (),
        peak_w=peak,
        import_w=float(done.import_w[-1]),
    )
