"""Held-out error of the offline law: whole cells, models, accelerators and workloads left out, and a refit.

A cell is an (accelerator, model) pair with all of its rows. Runs submitted again count once. Nothing of a
fold that is scored enters what scores it: intervals come from inner folds of the rows that remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from wattmill.twin.law.calibration import HeldOut
from wattmill.twin.law.intervals import Spread, quantiles, spread
from wattmill.twin.offline.fit import fit
from wattmill.twin.offline.law import Problem
from wattmill.twin.offline.novelty import Seen, scatter_groups
from wattmill.twin.offline.rivals import boosted, looked_up
from wattmill.twin.offline.rows import OfflineRow

Left = Literal["cells", "workloads", "model", "accelerator", "generation"]

LEFT: tuple[Left, ...] = ("cells", "workloads", "model", "accelerator", "generation")

METRIC = "output_throughput"

_OUTER: dict[Left, int] = {"cells": 16, "workloads": 5, "model": 99, "accelerator": 99, "generation": 99}
_WHOLE: tuple[Left, ...] = ("model", "accelerator", "generation")
_INNER = 5
Progress = Callable[[str, int, int], None]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions, each by a fit that had not seen its fold. Logarithms of tokens/s and device."""

    left: Left
    rows: tuple[OfflineRow, ...]
    measured: Any
    predicted: Any
    low: Any
    high: Any
    groups: tuple[tuple[str, ...], ...]  # whose scatter each error is
    rivals: Mapping[str, Any]

    @property
    def inside(self) -> Any:
        """Return which rows lie inside their interval."""
        return (self.low <= self.measured) & (self.measured <= self.high)

    @property
    def errors(self) -> Any:
        """Return ln(measured / predicted)."""
        return self.measured - self.predicted


def keys(rows: Sequence[OfflineRow], left: Left, *, parts: int, seed: int) -> Any:
    """Return the fold of each row; whole groups are dealt into at most `parts`, in an order of `seed`."""
    of: Callable[[OfflineRow], str] = {
        "cells": lambda row: " | ".join(row.cell),
        "workloads": lambda row: row.workload,
        "model": lambda row: row.architecture.name,
        "accelerator": lambda row: row.accelerator.name,
        "generation": lambda row: row.generation,
    }[left]
    names = np.random.default_rng(seed).permutation(sorted({of(row) for row in rows}))
    dealt = {str(name): at % parts for at, name in enumerate(names)}
    return np.array([dealt[of(row)] for row in rows])


def held_out(
    problem: Problem,
    measured: Any,
    left: Left,
    *,
    seed: int = 0,
    rivals: bool = True,
    intervals: bool = True,
    progress: Progress | None = None,
) -> Held:
    """Return every row predicted by a law that had not seen its fold.

    Args:
        problem: the distinct rows.
        measured: ln(tokens/s and device) of each.
        left: what is left out.
        rivals: also predict by the look-up table and by boosting.
        intervals: also make intervals from inner folds; without, they are empty and a sixth of the time.
    """
    rows = problem.rows
    fold = keys(rows, left, parts=_OUTER[left], seed=seed)
    names = sorted(set(fold.tolist()))
    predicted, low, high = (np.zeros(len(rows)) for _ in range(3))
    others = {name: np.zeros(len(rows)) for name in ("look-up", "boosting")} if rivals else {}
    groups: list[tuple[str, ...]] = [()] * len(rows)
    for done, name in enumerate(names):
        if progress is not None:
            progress(left, done, len(names))
        use = fold != name
        out = np.flatnonzero(~use)
        predicted[out] = problem.log_throughput(fit(problem, measured, use=use))[out]
        train = [rows[i] for i in np.flatnonzero(use)]
        seen = Seen.of(train)
        inner = _inner(problem, measured, left, use, seed=seed + 1) if intervals else None
        for i in out:
            groups[i] = scatter_groups(rows[i], seen)
            bounds = inner.bounds(1.0, groups[i]) if inner else (1.0, 1.0)
            low[i], high[i] = predicted[i] + np.log(bounds)
        if rivals:
            asked = [rows[i] for i in out]
            others["look-up"][out] = looked_up(train, measured[use], asked)
            others["boosting"][out] = boosted(train, measured[use], asked)
    return Held(
        left=left,
        rows=tuple(rows),
        measured=measured,
        predicted=predicted,
        low=low,
        high=high,
        groups=tuple(groups),
        rivals=others,
    )


def spreads_of(held: Sequence[Held]) -> dict[str, Spread]:
    """Return the scatters of held-out errors: of cells and workloads left out (`known`: model and accelerator
    were seen), of models, of accelerators, and of generations of them. Where one of them is not in `held`,
    all errors stand in."""
    of: dict[str, tuple[Left, ...]] = {
        "known": ("cells", "workloads"),
        "model": ("model",),
        "accelerator": ("accelerator",),
        "generation": ("generation",),
    }
    found = {}
    for name, lefts in of.items():
        mine = [h for h in held if h.left in lefts] or list(held)
        errors = [float(e) for h in mine for e in h.errors]
        groups = [g for h in mine for g in h.groups]
        found[name] = scatter(errors, groups, [row for h in mine for row in h.rows], left=lefts[0])
    return found


def scatter(
    errors: Sequence[float], groups: Sequence[tuple[str, ...]], rows: Sequence[OfflineRow], *, left: Left
) -> Spread:
    """Return the scatter of held-out errors; where whole models or accelerators were left out, without
    effects of groups: see `twin.law.intervals`. A generation counts by the square root of its rows: two of
    six have two thirds of them, and each is one draw."""
    if left not in _WHOLE:
        return spread(errors, groups)
    if left != "generation":
        return quantiles(errors)
    count = Counter(row.generation for row in rows)
    return quantiles(errors, weights=[count[row.generation] ** -0.5 for row in rows])


def summary(h: Held) -> list[HeldOut]:
    """Return the errors of the law and its rivals: all rows, then with complete inputs, then the rest."""
    complete = np.array([not row.missing for row in h.rows])
    found = []
    for label, at in (
        (f"offline {h.left}", np.ones(len(complete), dtype=bool)),
        (f"offline {h.left}, complete inputs", complete),
        (f"offline {h.left}, inputs missing", ~complete),
    ):
        for method, predicted in {"law": h.predicted, **h.rivals}.items():
            if not at.any():
                continue
            errors = np.exp(predicted - h.measured)[at] - 1.0
            found.append(
                HeldOut(
                    folds=label,
                    metric=METRIC,
                    method=method,
                    rows=int(at.sum()),
                    median_pct=_pct(np.median(np.abs(errors))),
                    mape_pct=_pct(np.abs(errors).mean()),
                    bias_pct=_pct(np.median(errors)),
                    inside_pct=_pct(h.inside[at].mean()) if method == "law" else None,
                )
            )
    return found


def _inner(problem: Problem, measured: Any, left: Left, use: Any, *, seed: int) -> Spread:
    """Return the scatter of errors inside the rows `use`, held out in the same way."""
    at = np.flatnonzero(use)
    rows = [problem.rows[i] for i in at]
    fold = keys(rows, left, parts=_INNER, seed=seed)
    errors = np.zeros(len(at))
    groups: list[tuple[str, ...]] = [()] * len(at)
    for name in sorted(set(fold.tolist())):
        inner = np.zeros(len(use), dtype=bool)
        inner[at[fold != name]] = True
        seen = Seen.of([problem.rows[i] for i in np.flatnonzero(inner)])
        theta = fit(problem, measured, use=inner)
        for k in np.flatnonzero(fold == name):
            groups[k] = scatter_groups(rows[k], seen)
        errors[fold == name] = (measured - problem.log_throughput(theta))[at[fold == name]]
    return scatter(errors.tolist(), groups, rows, left=left)


def _pct(share: Any) -> float:
    return round(100.0 * float(share), 2)
