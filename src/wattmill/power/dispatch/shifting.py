"""Work moved in time at one place, or between places in the same hour, and what it saves.

Each place runs work of `load` (share of its nameplate), `deferrable` of which may wait or go elsewhere; no
place ever runs more than its nameplate. Savings are against running everything where and when it came.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattmill.power.dispatch.program import solve
from wattmill.power.dispatch.rolling import forecast, roll
from wattmill.power.dispatch.spec import Horizon, Limits
from wattmill.units import S_PER_H, W_PER_MW

Series = NDArray[np.float64]


class Saving(NamedTuple):
    """Shares of what would have been paid or emitted; negative where it became more."""

    usd: float
    grams: float


class Shift(NamedTuple):
    """One place over the year, by time: optimised for dollars, or for grams."""

    foresight: Saving
    forecast: Saving
    # Mean absolute error of a day's forecast of what counts, over its mean: of carbon that of the day itself,
    # of
    # prices that of the day after, since the day's are known.
    forecast_error: float


class Moved(NamedTuple):
    """All places together, each hour by itself: what is saved, and where work then runs."""

    saving: Saving
    # Of each place's own work: what may move is paid at the mean of where all that moves is done.
    of_place: tuple[Saving, ...]
    mean_load: Series  # of each place, share of its nameplate


def by_time(
    price_usd_per_kwh: Series,
    carbon_g_per_kwh: Series,
    *,
    load: float,
    deferrable: float,
    deadline_h: int,
    usd_per_kg: float | None = 0.0,
) -> Shift:
    """Return what a year saves by moving deferrable work in time.

    `usd_per_kg` weighs grams against dollars; None counts grams alone. Prices of the coming day are known in
    the forecast case, carbon is not.
    """
    count = len(price_usd_per_kwh)
    nothing = np.zeros(count)
    horizon = Horizon(
        step_s=S_PER_H,
        base_w=np.full(count, load * (1 - deferrable) * _NAMEPLATE_W),
        deferrable_w=np.full(count, load * deferrable * _NAMEPLATE_W),
        solar_w=nothing,
        import_usd_per_kwh=nothing if usd_per_kg is None else price_usd_per_kwh,
        export_usd_per_kwh=nothing,
        carbon_g_per_kwh=carbon_g_per_kwh,
        month=np.zeros(count, dtype=np.int64),
        usd_per_kg=1.0 if usd_per_kg is None else usd_per_kg,
    )
    limits = Limits(load_w=_NAMEPLATE_W, deadline_steps=deadline_h)
    series = price_usd_per_kwh, carbon_g_per_kwh
    flat = np.full(count, load * _NAMEPLATE_W)
    ideal, lived = solve(horizon, limits), roll(horizon, limits)
    target = carbon_g_per_kwh if usd_per_kg is None else price_usd_per_kwh
    known = 0 if usd_per_kg is None else _DAY_H
    days = range(_DAY_H, count - known - _DAY_H + 1, _DAY_H)
    ahead = [forecast(target, now, known + _DAY_H, day_steps=_DAY_H)[known:] for now in days]
    actual = [target[now + known : now + known + _DAY_H] for now in days]
    missed = np.abs(np.array(ahead) - np.array(actual)).mean()
    return Shift(
        foresight=_saving(flat, ideal.import_w, *series),
        forecast=_saving(flat, lived.import_w, *series),
        forecast_error=float(missed / np.abs(np.array(actual)).mean()),
    )


def by_place(prices: Series, carbons: Series, *, load: float, deferrable: float, grams: bool) -> Moved:
    """Return what moving work between places in the same hour saves, all places together.

    `prices` and `carbons` have a row for each place and a column for each hour. Filling the cheapest places
    first is optimal: each hour stands alone, costs are linear, rooms are fixed.
    """
    places, hours = prices.shape
    key = carbons if grams else prices
    order = np.argsort(key, axis=0, kind="stable")
    room = 1.0 - load * (1 - deferrable)
    left = np.full(hours, places * load * deferrable)
    ran = np.full((places, hours), load * (1 - deferrable))
    for rank in range(places):
        took = np.minimum(left, room)
        ran[order[rank], np.arange(hours)] += took
        left = left - took
    flat = np.full_like(ran, load)
    moved = ran - load * (1 - deferrable)
    whole = np.maximum(moved.sum(axis=0), 1e-12)
    stays, goes = load * (1 - deferrable), load * deferrable

    def saved(weight: Series, place: int) -> float:
        was = float(weight[place].sum()) * load
        mean = (moved * weight).sum(axis=0) / whole
        now = stays * float(weight[place].sum()) + goes * float(mean.sum())
        return 1.0 - now / was if was else 0.0

    return Moved(
        saving=_saving(flat, ran, prices, carbons),
        of_place=tuple(Saving(usd=saved(prices, at), grams=saved(carbons, at)) for at in range(places)),
        mean_load=ran.mean(axis=1),
    )


_DAY_H = 24
_NAMEPLATE_W = float(W_PER_MW)  # results are shares: any size gives the same


def _saving(flat: Series, ran: Series, price: Series, carbon: Series) -> Saving:
    return Saving(usd=_share(flat, ran, price), grams=_share(flat, ran, carbon))


def _share(flat: Series, ran: Series, weight: Series) -> float:
    """Return what is saved of the flat run; nothing where the weight is unknown (all zero)."""
    was = float((flat * weight).sum())
    return 1.0 - float((ran * weight).sum()) / was if was else 0.0
