"""A mixed-integer programme by names, solved by HiGHS; and the prices of its rows in the relaxation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

GAP = 1e-6
TIME_LIMIT_S = 60.0


class Solution(NamedTuple):
    """The best that was found, and how much better anything could still be."""

    values: dict[str, float]
    objective: float
    bound: float  # nothing is better than this
    gap: float  # |bound - objective| / |objective|
    solve_s: float
    nodes: int  # of the search tree


class Infeasible(ValueError):
    """No plan stays within every limit."""


class Programme:
    """Maximise a sum over named columns subject to named rows. Names are unique; order is that of adding."""

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._worth: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._whole: list[bool] = []
        self._rows: dict[str, int] = {}
        self._row_low: list[float] = []
        self._row_high: list[float] = []
        self._entries: dict[tuple[int, int], float] = {}

    def column(
        self, name: str, *, worth: float = 0.0, low: float = 0.0, high: float = math.inf, whole: bool = False
    ) -> str:
        """Add a column and return its name."""
        assert name not in self._columns, name
        self._columns[name] = len(self._worth)
        self._worth.append(worth)
        self._low.append(low)
        self._high.append(high)
        self._whole.append(whole)
        return name

    def row(
        self, name: str, terms: Mapping[str, float], *, low: float = -math.inf, high: float = math.inf
    ) -> None:
        """Add low <= sum of terms <= high."""
        assert name not in self._rows, name
        self._rows[name] = len(self._row_low)
        self._row_low.append(low)
        self._row_high.append(high)
        for column, value in terms.items():
            if value:
                self._entries[self._rows[name], self._columns[column]] = value

    def solve(self, *, time_limit_s: float = TIME_LIMIT_S) -> Solution:
        """Return the best whole-numbered solution. Raises `Infeasible`, or RuntimeError without any found."""
        highs = self._run(whole=True, time_limit_s=time_limit_s)
        info = highs.getInfo()
        values = highs.getSolution().col_value
        objective, bound = float(info.objective_function_value), float(info.mip_dual_bound)
        if not any(self._whole):
            bound = objective
        gap = abs(bound - objective) / max(1e-9, abs(objective))
        return Solution(
            values=dict(zip(self._columns, values, strict=True)),
            objective=objective,
            bound=bound,
            gap=gap,
            solve_s=float(highs.getRunTime()),
            nodes=max(0, int(info.mip_node_count)),
        )

    def prices(self, *, time_limit_s: float = TIME_LIMIT_S) -> tuple[dict[str, float], float]:
        """Return, for the relaxation to fractions, what one more unit of each row's limit is worth, and its
        optimum. A row that does not bind has 0."""
        highs = self._run(whole=False, time_limit_s=time_limit_s)
        duals = highs.getSolution().row_dual
        # HiGHS gives the derivative of the objective by the row's limit, in the sense of the objective.
        return dict(zip(self._rows, map(float, duals), strict=True)), float(
            highs.getInfo().objective_function_value
        )

    def _run(self, *, whole: bool, time_limit_s: float) -> Any:
        import highspy  # an extra of the twin

        model = highspy.HighsModel()
        lp = model.lp_
        lp.num_col_, lp.num_row_ = len(self._worth), len(self._row_low)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.array(self._worth)
        lp.col_lower_, lp.col_upper_ = np.array(self._low), _bounded(self._high, highspy.kHighsInf)
        lp.row_lower_ = _bounded(self._row_low, highspy.kHighsInf)
        lp.row_upper_ = _bounded(self._row_high, highspy.kHighsInf)
        entries = sorted((column, row, value) for (row, column), value in self._entries.items())
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.searchsorted([e[0] for e in entries], np.arange(len(self._worth) + 1))
        lp.a_matrix_.start_ = starts.astype(np.int32)
        lp.a_matrix_.index_ = np.array([e[1] for e in entries], dtype=np.int32)
        lp.a_matrix_.value_ = np.array([e[2] for e in entries], dtype=float)
        if whole and any(self._whole):
            kinds = highspy.HighsVarType
            lp.integrality_ = [kinds.kInteger if w else kinds.kContinuous for w in self._whole]
        highs = highspy.Highs()
        for option, value in {
            "output_flag": False,
            "threads": 1,
            "random_seed": 1,
            "mip_rel_gap": GAP,
            "time_limit": time_limit_s,
        }.items():
            highs.setOptionValue(option, value)
        highs.passModel(model)
        highs.run()
        status = highs.getModelStatus()
        states = highspy.HighsModelStatus
        if status in (states.kInfeasible, states.kUnboundedOrInfeasible):
            raise Infeasible("no plan stays within every limit")
        if status == states.kUnbounded:
            raise ValueError("nothing limits the plan: declare a limit, or how many requests are asked")
        found = highs.getInfo().primal_solution_status == int(highspy.SolutionStatus.kSolutionStatusFeasible)
        if status != states.kOptimal and not found:
            raise RuntimeError(
                f"HiGHS ended with {highs.modelStatusToString(status)} after {highs.getRunTime():.0f} s; "
                "declare fewer candidates"
            )
        return highs


def _bounded(values: list[float], infinity: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([max(-infinity, min(infinity, value)) for value in values])
