"""The linear programme of a horizon, solved by HiGHS.

Variables of a step: import g, export x, charge c, discharge d, solar used q, deferrable work w, stored s,
waiting b; one peak m for each month. With dt seconds a step:

    g + q + d = base + draw w + c + x
    s = s' + (c x charge_efficiency - d / discharge_efficiency) dt
    b = b' + (arrivals - w) dt,   0 <= b <= arrivals of the last `deadline_steps`, nothing waits at the end
    base work + w <= nameplate,   |g - g'| <= ramp,   m >= g,   x <= q + d

minimise  sum g dt (price + carbon x usd_per_kg) - x dt price_out + m x demand charge. Work is done first in,
first out, so the bound on b is the deadline. A battery ends as full as it began.

Two things are no linear programme's: one meter does not take and give at once, and a battery does not charge
and discharge at once. What goes out earns here at most what the same hour's import costs, so that passing
energy on never pays; and where a plan would burn energy in the battery (below a price of nothing it would),
the hour's direction is fixed as what is stored says and the plan is made again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wattmill.power.dispatch.spec import Dispatch, Horizon, Limits, State
from wattmill.units import G_PER_KG, J_PER_KWH, W_PER_KW, W_PER_MW

Ints = NDArray[np.int64]
_G, _X, _C, _D, _Q, _W, _S, _B = range(8)
_PER_STEP = 8
_TIE_USD_PER_KWH = 1e-7  # a plan that gains nothing by a detour does not take it
_BOTH_MW = 1e-6
_MW = float(W_PER_MW)  # watts in the programme are megawatts: coefficients near 1 keep the solver exact


class Infeasible(ValueError):
    """No plan keeps every limit; the message says which to look at."""


class _Rows:
    """Rows of a sparse matrix as they are written down."""

    def __init__(self) -> None:
        self.row: list[Ints] = []
        self.column: list[Ints] = []
        self.value: list[NDArray[np.float64]] = []
        self.low: list[NDArray[np.float64]] = []
        self.high: list[NDArray[np.float64]] = []
        self.count = 0

    def add(
        self,
        terms: list[tuple[Ints, NDArray[np.float64] | float]],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> None:
        """Add one row for each entry of `low`; each term has a column (-1: none) and a value for each row."""
        rows = np.arange(self.count, self.count + len(low), dtype=np.int64)
        for column, value in terms:
            there = column >= 0
            self.row.append(rows[there])
            self.column.append(column[there])
            self.value.append(np.broadcast_to(np.asarray(value, dtype=float), column.shape)[there])
        self.low.append(low)
        self.high.append(high)
        self.count += len(low)


def solve(horizon: Horizon, limits: Limits, state: State | None = None) -> Dispatch:
    """Return the cheapest dispatch of `horizon`. Raises `Infeasible`."""
    import highspy  # an extra, for who plans a site

    state = state or State()
    steps = len(horizon.base_w)
    at = np.arange(steps, dtype=np.int64)
    months = int(horizon.month.max()) + 1
    inf = highspy.kHighsInf
    dt = horizon.step_s

    def column(kind: int) -> Ints:
        return at * _PER_STEP + kind

    def before(kind: int) -> Ints:
        return np.where(at > 0, (at - 1) * _PER_STEP + kind, -1)

    low = np.zeros(steps * _PER_STEP + months)
    high = np.full(steps * _PER_STEP + months, inf)
    high[column(_G)] = inf if limits.import_w is None else limits.import_w / _MW
    high[column(_X)] = limits.export_w / _MW
    high[column(_Q)] = horizon.solar_w / _MW
    battery = limits.battery
    capacity = battery.capacity_j / _MW if battery else 0.0
    high[column(_C)] = battery.charge_w / _MW if battery else 0.0
    high[column(_D)] = battery.discharge_w / _MW if battery else 0.0
    high[column(_S)] = capacity
    low[column(_S)] = (battery.capacity_j * battery.least_share if battery else 0.0) / _MW
    if limits.load_w is not None:
        room = limits.load_w - horizon.work_w
        if room.min() < 0:
            raise Infeasible(
                f"base_w reaches {horizon.work_w.max():.0f} W, above load_w, {limits.load_w:.0f}"
            )
        high[column(_W)] = room / _MW
    arrivals_j = horizon.deferrable_w * dt
    high[column(_B)] = _may_wait(arrivals_j, limits.deadline_steps, state.waiting) / _MW
    high[column(_B)[-1]] = 0.0
    stored = min(
        max(state.stored_j, capacity * (battery.least_share if battery else 0.0) * _MW), capacity * _MW
    )
    low[column(_S)[-1]] = max(low[column(_S)[-1]], stored / _MW)
    low[steps * _PER_STEP] = state.peak_w / _MW

    rows = _Rows()
    need = horizon.base_w / _MW
    balance: list[tuple[Ints, NDArray[np.float64] | float]] = [
        (column(_G), 1.0),
        (column(_Q), 1.0),
        (column(_D), 1.0),
        (column(_W), -horizon.draw),
        (column(_C), -1.0),
        (column(_X), -1.0),
    ]
    rows.add(balance, need, need)
    first = np.zeros(steps)
    first[0] = stored / _MW
    charged = battery.charge_efficiency * dt if battery else 0.0
    discharged = dt / battery.discharge_efficiency if battery else 0.0
    rows.add(
        [(column(_S), 1.0), (before(_S), -1.0), (column(_C), -charged), (column(_D), discharged)],
        first,
        first,
    )
    came = arrivals_j / _MW
    came[0] += sum(state.waiting) / _MW
    rows.add([(column(_B), 1.0), (before(_B), -1.0), (column(_W), float(dt))], came, came)
    if limits.ramp_w_per_step is not None:
        ramp = np.full(steps, limits.ramp_w_per_step / _MW)
        last = np.zeros(steps)
        last[0] = (state.import_w or 0.0) / _MW
        free = np.where((at == 0) & (state.import_w is None), inf, 0.0)
        rows.add([(column(_G), 1.0), (before(_G), -1.0)], last - ramp - free, last + ramp + free)
    if horizon.demand_usd_per_kw:
        peak = steps * _PER_STEP + horizon.month
        rows.add([(peak, 1.0), (column(_G), -1.0)], np.zeros(steps), np.full(steps, inf))

    if limits.export_w:
        rows.add(
            [(column(_Q), 1.0), (column(_D), 1.0), (column(_X), -1.0)], np.zeros(steps), np.full(steps, inf)
        )

    cost = np.zeros(len(low))
    kwh = dt * _MW / J_PER_KWH  # of a megawatt in a step
    bought = horizon.import_usd_per_kwh + horizon.carbon_g_per_kwh / G_PER_KG * horizon.usd_per_kg
    cost[column(_G)] = kwh * bought
    cost[column(_X)] = -kwh * horizon.export_usd_per_kwh
    cost[steps * _PER_STEP :] = horizon.demand_usd_per_kw * _MW / W_PER_KW
    aim = cost.copy()
    aim[column(_X)] = -kwh * (np.minimum(horizon.export_usd_per_kwh, bought) - _TIE_USD_PER_KWH)

    def one_way(values: NDArray[np.float64]) -> Ints:
        """Return the columns to close: the smaller side of each hour that would charge and discharge."""
        fills, drains = values[column(_C)], values[column(_D)]
        both = np.minimum(fills, drains) > _BOTH_MW
        filling = fills * charged >= drains * discharged
        return np.where(filling, column(_D), column(_C))[both]

    values, duals = _minimise(aim, low, high, rows, one_way)

    def worth(kind: int, limit: float | None) -> float:
        """Return the sum of reduced costs at an upper limit: what one more watt there would have saved."""
        return 0.0 if limit is None else float(-np.minimum(duals[column(kind)], 0.0).sum()) / _MW

    def watts(kind: int) -> NDArray[np.float64]:
        return values[column(kind)] * _MW

    return Dispatch(
        import_w=watts(_G),
        export_w=watts(_X),
        charge_w=watts(_C),
        discharge_w=watts(_D),
        stored_j=watts(_S),
        deferred_w=watts(_W),
        waiting_j=watts(_B),
        curtailed_w=horizon.solar_w - watts(_Q),
        objective_usd=float(cost @ values) - state.peak_w / W_PER_KW * horizon.demand_usd_per_kw,
        import_worth_usd_per_w=worth(_G, limits.import_w),
        load_worth_usd_per_w=worth(_W, limits.load_w),
    )


def _may_wait(
    arrivals_j: NDArray[np.float64], deadline: int, waiting: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the most that may still wait at the end of each step: what came in the last `deadline` steps."""
    came = np.concatenate([np.asarray(waiting, dtype=float), arrivals_j])
    total = np.concatenate([[0.0], np.cumsum(came)])
    end = np.arange(len(waiting) + 1, len(came) + 1)
    return np.asarray(total[end] - total[np.maximum(end - deadline, 0)])


def _minimise(
    cost: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    rows: _Rows,
    close: Callable[[NDArray[np.float64]], Ints],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values and reduced costs. Columns that `close` names of a solution are set to
    nothing and the programme is solved again from there."""
    import highspy

    row, column = np.concatenate(rows.row), np.concatenate(rows.column)
    value: NDArray[np.float64] = np.concatenate(rows.value)
    order = np.lexsort((row, column))
    programme = highspy.HighsLp()
    programme.num_col_, programme.num_row_ = len(cost), rows.count
    programme.col_cost_, programme.col_lower_, programme.col_upper_ = cost, low, high
    programme.row_lower_ = np.concatenate(rows.low)
    programme.row_upper_ = np.concatenate(rows.high)
    programme.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    programme.a_matrix_.start_ = np.searchsorted(column[order], np.arange(len(cost) + 1)).astype(np.int32)
    programme.a_matrix_.index_ = row[order].astype(np.int32)
    programme.a_matrix_.value_ = value[order]
    highs = highspy.Highs()
    for option, setting in (("output_flag", False), ("threads", 1)):
        highs.setOptionValue(option, setting)
    highs.passModel(programme)
    while True:  # each round closes another column: it ends
        highs.run()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            break
        solution = highs.getSolution()
        values = np.asarray(solution.col_value)
        shut = close(values).astype(np.int32)
        if not len(shut):
            return values, np.asarray(solution.col_dual)
        nothing = np.zeros(len(shut))
        highs.changeColsBounds(len(shut), shut, nothing, nothing)
    raise Infeasible(
        f"no dispatch keeps every limit ({highs.modelStatusToString(highs.getModelStatus())}): look at "
        "import_w, ramp_w_per_step, load_w and deadline_steps"
    )
