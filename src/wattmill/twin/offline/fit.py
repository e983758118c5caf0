"""The fit of the offline law: Levenberg-Marquardt on residuals that count less beyond a tenth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from wattmill.twin.offline.law import Problem

_SPREAD = 0.1  # of ln(throughput) between runs of one configuration, where a residual begins to count less
_STEPS = 40
_ENOUGH = 1e-4  # relative gain of the last step
_LONGEST_STEP = 1.0


def fit(problem: Problem, measured: Any, *, use: Any | None = None, weights: Any | None = None) -> Any:
    """Return the vector that brings the law nearest to `measured` (ln(tokens/s and device), one a row).

    Minimises sum over rows of w (sqrt(1 + z^2) - 1), z = residual / 0.1, plus half the squared deviations
    over their widths. A cell counts by the square root of its rows (w, 1 in the mean): some have ten times as
    many as others, and the law is to hold for cells that have none. Starts from the datasheet, so that a
    fold's fit knows nothing of the rows held out.

    Args:
        use: mask of the rows to learn from; default all.
        weights: of the rows; default w.
    """
    use = np.ones(len(problem.rows), dtype=bool) if use is None else use
    start, width = problem.layout.start, problem.layout.width
    theta = start.copy()
    weights = cell_weights(problem, use) if weights is None else weights * use

    def looked_at(at: Any) -> tuple[float, Any, Any]:
        solved = problem.chosen(at)
        residual = np.where(use, measured - solved.log_throughput, 0.0) / _SPREAD
        loss = np.sqrt(1.0 + residual**2) - 1.0
        return float((weights * loss).sum() + (((at - start) / width) ** 2).sum() / 2.0), residual, solved

    value, residual, solved = looked_at(theta)
    damping = 1e-2
    for _ in range(_STEPS):
        pull = weights / np.sqrt(1.0 + residual**2)
        slope = problem.jacobian(solved) / _SPREAD
        matrix = (slope * pull[:, None]).T @ slope
        matrix[np.diag_indices_from(matrix)] += 1.0 / width**2
        vector = slope.T @ (pull * residual) - (theta - start) / width**2
        gained = 0.0
        while damping < 1e8:
            damped = matrix.copy()
            damped[np.diag_indices_from(damped)] *= 1.0 + damping
            moved = theta + np.clip(np.linalg.solve(damped, vector), -_LONGEST_STEP, _LONGEST_STEP)
            new = looked_at(moved)
            if new[0] < value:
                gained = (value - new[0]) / value
                theta, (value, residual, solved) = moved, new
                damping = max(damping / 5.0, 1e-8)
                break
            damping *= 5.0
        if gained < _ENOUGH:
            break
    return theta


def cell_weights(problem: Problem, use: Any) -> Any:
    """Return what each row counts, 1 in the mean of those that are used; nothing where it is not."""
    rows = Counter(row.cell for row, used in zip(problem.rows, use, strict=True) if used)
    weights = np.array([rows[row.cell] ** -0.5 if rows[row.cell] else 0.0 for row in problem.rows]) * use
    return weights / weights.sum() * use.sum()
