"""A bill, month by month, from the power that was taken and given in each interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wattmill.power.tariff.spec import MonthBill, Tariff
from wattmill.units import J_PER_KWH, W_PER_KW

Series = NDArray[np.float64]


def local_times(tariff: Tariff, start: datetime, step_s: int, count: int) -> list[datetime]:
    """Return the local time of the tariff at the beginning of each interval. `start` is UTC and aware."""
    if start.tzinfo is None:
        raise ValueError(f"start {start.isoformat()} has no time zone: give it in UTC")
    shift = timedelta(hours=tariff.utc_offset_h)
    first = start.astimezone(UTC) + shift
    return [first + timedelta(seconds=step_s * at) for at in range(count)]


def billing_months(times: list[datetime], step_s: int, *, least_s: int = 0) -> NDArray[np.int64]:
    """Return the index of the billing month of each interval, 0 for the first.

    Args:
        least_s: a month at either end that is shorter is billed with the one beside it: a year of UTC begins
            and ends within a month of local time, and a few hours have no demand charge of their own.
    """
    keys = np.array([at.year * 12 + at.month for at in times], dtype=np.int64)
    index = keys - keys[0]
    for end, beside in ((index[0], 1), (index[-1], -1)):
        mine = index == end
        if index[0] != index[-1] and int(mine.sum()) * step_s < least_s:
            index = np.where(mine, end + beside, index)
    return np.asarray(index - index[0], dtype=np.int64)


def prices_usd_per_kwh(tariff: Tariff, times: list[datetime], real_time: Series | None = None) -> Series:
    """Return the price of energy in each interval; `real_time` in dollars per kWh where the tariff has it."""
    if tariff.real_time != (real_time is not None):
        needed = "needs a series of prices" if tariff.real_time else "takes no series of prices"
        raise ValueError(f"tariff {tariff.name!r} {needed} (real_time = {tariff.real_time})")
    if real_time is not None:
        return np.asarray(real_time + tariff.usd_per_kwh)
    return np.array([_window_price(tariff, at) for at in times])


def bill(
    tariff: Tariff,
    *,
    start: datetime,
    step_s: int,
    import_w: Series,
    export_w: Series | None = None,
    real_time_usd_per_kwh: Series | None = None,
    peaks_before_kw: tuple[float, ...] = (),
    least_month_s: int = 0,
) -> tuple[MonthBill, ...]:
    """Return what each calendar month costs.

    Args:
        step_s: length of an interval; it divides the tariff's `demand_s` or is a multiple of it. With longer
            intervals the peak is a lower bound: a mean over an hour hides its highest quarter.
        peaks_before_kw: charged peaks of the months before, oldest first, for the ratchet.
        least_month_s: see `billing_months`; a month's name is that of its middle.
    """
    times = local_times(tariff, start, step_s, len(import_w))
    price = prices_usd_per_kwh(tariff, times, real_time_usd_per_kwh)
    out_w = np.zeros_like(import_w) if export_w is None else export_w
    kwh = step_s / J_PER_KWH
    index = billing_months(times, step_s, least_s=least_month_s)
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(times)]
    peaks = list(peaks_before_kw)
    bills: list[MonthBill] = []
    for begin, end in pairwise(edges):
        part = slice(begin, end)
        energy_kwh = float(import_w[part].sum()) * kwh
        peak_kw = _peak_w(import_w[part], step_s, tariff.demand_s) / W_PER_KW
        before = peaks[-tariff.ratchet_months :] if tariff.ratchet_months else []
        charged_kw = max([peak_kw, *(tariff.ratchet * was for was in before)])
        peaks.append(peak_kw)
        missing_kwh = max(0.0, tariff.least_kwh_per_month - energy_kwh)
        bills.append(
            MonthBill(
                month=times[(begin + end) // 2].strftime("%Y-%m"),
                energy_kwh=energy_kwh,
                peak_kw=peak_kw,
                charged_kw=charged_kw,
                energy_usd=float((import_w[part] * price[part]).sum()) * kwh,
                demand_usd=charged_kw * tariff.demand_usd_per_kw,
                minimum_usd=missing_kwh * tariff.usd_per_kwh,
                export_usd=float(out_w[part].sum()) * kwh * tariff.export_usd_per_kwh,
            )
        )
    return tuple(bills)


def _window_price(tariff: Tariff, at: datetime) -> float:
    for window in tariff.windows:
        if window.holds(at.month, at.weekday(), at.hour):
            return window.usd_per_kwh
    return tariff.usd_per_kwh


def _peak_w(power_w: Series, step_s: int, demand_s: int) -> float:
    """Return the highest mean over `demand_s`, in intervals that begin with the month."""
    if step_s >= demand_s:
        return float(power_w.max(initial=0.0))
    if demand_s % step_s:
        raise ValueError(f"step_s must divide demand_s, {demand_s}, or be longer, got {step_s}")
    together = demand_s // step_s
    whole = len(power_w) // together * together
    means = power_w[:whole].reshape(-1, together).mean(axis=1)
    rest = power_w[whole:]
    return float(max(means.max(initial=0.0), rest.sum() / together if len(rest) else 0.0))
