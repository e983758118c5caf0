"""The fit: a coefficient's logarithm is a global value plus what its groups deviate by, each held by a ridge.

With x = ln(coefficient), a row belongs to one group of each level (its accelerator, its engine, both, its
model on its engine ...), and x = global + the sum of its groups' deviations. Ridges pull deviations to zero,
so that a group with few rows says little, and one that was never seen nothing: an unknown model falls back on
what is known of its kind, engine and accelerator. Residuals are of the logarithm, and count by their absolute
value beyond `HUBER` (medians, not means, are what the fit is after).

Levenberg-Marquardt. The normal matrix is summed over rows with the same groups, since rows share few sets of
them: a fit of 5,000 rows with 1,800 coefficients takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

GLOBAL = "global"
RIDGE = 300.0
RIDGE_GLOBAL = 0.3
HUBER = 0.15
_UNIT = 0.1  # a residual of a tenth weighs as much as a deviation of 1 held by a ridge of 1
_STEPS = 12
_ENOUGH = 1e-3  # relative gain of the last step
_LONGEST_STEP = 1.0


Ridge = float | Callable[[str], Any]


class Fit(msgspec.Struct, frozen=True):
    """Deviations by group name; `GLOBAL` is the value they deviate from."""

    deviations: dict[str, tuple[float, ...]]

    def log_coefficients(self, groups: Sequence[str]) -> Any:
        """Return the logarithms of a row's coefficients; groups that are not known deviate by nothing."""
        total = np.array(self.deviations[GLOBAL])
        for group in groups:
            if group in self.deviations:
                total = total + np.array(self.deviations[group])
        return total

    def log_seconds(self, terms: Any, groups: Sequence[Sequence[str]]) -> Any:
        """Return ln(seconds) of each row of `terms` (rows x coefficients)."""
        cached: dict[tuple[str, ...], Any] = {}
        factors = np.empty_like(terms)
        for at, names in enumerate(groups):
            key = tuple(names)
            if key not in cached:
                cached[key] = np.exp(self.log_coefficients(key))
            factors[at] = cached[key]
        return np.log(np.maximum((terms * factors).sum(axis=1), 1e-12))


def fit(
    terms: Any,
    log_seconds: Any,
    groups: Sequence[Sequence[str]],
    *,
    start: Mapping[str, float] | Sequence[float],
    weights: Any | None = None,
    ridge: Ridge = RIDGE,
    hold: Any = RIDGE_GLOBAL,
    huber: float = HUBER,
) -> Fit:
    """Return the deviations that bring `terms` nearest to the measured `log_seconds`.

    Args:
        terms: rows x coefficients, seconds or counts, >= 0.
        log_seconds: measured, one a row.
        groups: of each row.
        start: coefficients (not logarithms) to start from and to be held to, weakly.
        weights: of the rows; default 1 each.
        hold: what holds the global values to `start`; a number, or one for each coefficient.
        ridge: what holds a group's deviations to zero; a function says it by the group's name, for all
            coefficients or for each.
    """
    rows, width = terms.shape
    names = [GLOBAL, *sorted({name for row in groups for name in row})]
    position = {name: at for at, name in enumerate(names)}
    sets: dict[tuple[int, ...], list[int]] = {}
    for at, row in enumerate(groups):
        sets.setdefault((0, *sorted(position[name] for name in row)), []).append(at)
    members = [(np.array(group), np.array(which)) for group, which in sets.items()]
    weights = np.ones(rows) if weights is None else weights
    holds = np.empty((len(names), width))
    for at, name in enumerate(names):
        holds[at] = ridge(name) if callable(ridge) else ridge
    holds[0] = hold
    prior = np.zeros((len(names), width))
    prior[0] = np.log(np.array(list(start.values() if isinstance(start, Mapping) else start)))

    def looked_at(theta: Any) -> tuple[float, Any, Any]:
        parts = np.empty_like(terms)
        for group, which in members:
            parts[which] = terms[which] * np.exp(theta[group].sum(axis=0))
        total = np.maximum(parts.sum(axis=1), 1e-12)
        residual = log_seconds - np.log(total)
        size = np.abs(residual)
        loss = np.where(size < huber, residual**2 / (2.0 * huber), size - huber / 2.0)
        value = float((weights * loss).sum() / _UNIT + (holds * (theta - prior) ** 2).sum() / 2.0)
        return value, residual, parts / total[:, None]

    theta = prior.copy()
    value, residual, shares = looked_at(theta)
    damping = 1e-3
    for _ in range(_STEPS):
        pull = weights / np.maximum(np.abs(residual), huber) / _UNIT
        matrix = np.zeros((len(names), width, len(names), width))
        vector = -holds * (theta - prior)
        for group, which in members:
            part = shares[which]
            block = (part * pull[which, None]).T @ part
            matrix[group[:, None], :, group[None, :], :] += block
            vector[group] += part.T @ (pull[which] * residual[which])
        flat = matrix.reshape(len(names) * width, -1)
        flat[np.diag_indices_from(flat)] += holds.ravel()
        diagonal = flat.diagonal().copy()
        gained = 0.0
        while damping < 1e6:
            flat[np.diag_indices_from(flat)] = diagonal * (1.0 + damping)
            step = np.linalg.solve(flat, vector.ravel()).reshape(theta.shape)
            moved = theta + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
            new = looked_at(moved)
            if new[0] < value:
                gained = (value - new[0]) / value
                theta, (value, residual, shares) = moved, new
                damping = max(damping / 5.0, 1e-9)
                break
            damping *= 5.0
        if gained < _ENOUGH:
            break
    return Fit({name: tuple(float(x) for x in theta[at]) for name, at in position.items()})
