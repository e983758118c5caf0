"""Held-out error: whole calibration groups, models and accelerators left out, and the law refitted.

Nothing of a fold that is scored enters what scores it: not its rows, and not the width of its intervals,
which come from inner folds of the rows that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from wattmill.twin.law.calibration import Calibration, HeldOut, Known
from wattmill.twin.law.features import NAMES
from wattmill.twin.law.groups import scatter_groups
from wattmill.twin.law.intervals import Spread, quantiles, spread_over_folds
from wattmill.twin.law.rivals import boosted, looked_up
from wattmill.twin.law.rows import identity
from wattmill.twin.law.samples import METRICS, Samples, samples
from wattmill.twin.law.spec import Class

Left = Literal["curves", "model", "accelerator"]
"""What is left out: whole calibration groups (a fifth of them at a time), one model, one accelerator."""

LEFT: tuple[Left, ...] = ("curves", "model", "accelerator")

_OUTER = 5
_INNER = 8
"""Of the curves that remain. A fit inside a fold misses one part of what the fold's own fit has; where that
was a quarter, intervals came out too wide."""
Progress = Callable[[str, int, int], None]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of samples, each by a fit that had not seen it. Logarithms of seconds."""

    left: Left
    samples: Samples
    predicted: Any
    low: Any
    high: Any
    classes: tuple[Class, ...]
    rivals: Mapping[str, Any]

    def inside(self) -> Any:
        measured = self.samples.log_seconds
        return (self.low <= measured) & (measured <= self.high)


def keys(s: Samples, left: Left, *, parts: int, seed: int = 0) -> Any:
    """Return the fold of each sample. Curves are dealt out by group, in an order drawn from `seed`."""
    if left == "model":
        return np.array([c.architecture.name for c in s.configurations])
    if left == "accelerator":
        return np.array([c.accelerator.name for c in s.configurations])
    names = np.random.default_rng(seed).permutation(sorted(set(s.folds)))
    dealt = {name: str(at % parts) for at, name in enumerate(names)}
    return np.array([dealt[name] for name in s.folds])


def residuals(s: Samples, left: Left, *, seed: int = 0) -> Any:
    """Return ln(measured / predicted) of each sample, by a fit on the other folds."""
    fold = keys(s, left, parts=_INNER, seed=seed)
    found = np.zeros(len(s))
    for name in sorted(set(fold)):
        out = np.flatnonzero(fold == name)
        law = s.which(np.flatnonzero(fold != name)).fitted()
        found[out] = s.log_seconds[out] - law.log_seconds(s.terms[out], [s.groups[i] for i in out])
    return found


def known_groups(s: Samples) -> tuple[Known, ...]:
    """Return the calibration groups in `s`; a guessed split calibrates nothing."""
    seen: dict[str, list[Any]] = {}
    for c, fold in zip(s.configurations, s.folds, strict=True):
        if not c.missing:
            seen.setdefault(fold, []).append(c)
    return tuple(
        Known(
            name,
            cs[0].architecture.name,
            cs[0].accelerator.name,
            cs[0].engine,
            cs[0].disaggregated,
            cs[0].gpus,
            cs[0].isl,
            cs[0].osl,
            min(c.concurrency for c in cs),
            max(c.concurrency for c in cs),
        )
        for name, cs in sorted(seen.items())
    )


def spreads(s: Samples, held: Mapping[Left, Any]) -> dict[str, Spread]:
    """Return the scatter by metric and by what was held out, from errors of samples that were.

    Curves left out speak for what is interpolated and for rows that lack inputs, models and accelerators left
    out each for what is as new as they were, both together for what is extrapolated in another way. Where one
    of them is not in `held`, those that are stand in.
    """
    complete = np.array([not c.missing for c in s.configurations])
    every = tuple(left for left in LEFT if left in held)
    far = tuple(left for left in every if left != "curves") or every
    near: tuple[Left, ...] = ("curves",) if "curves" in held else far
    found: dict[str, Spread] = {}
    for metric in METRICS:
        made: dict[tuple[tuple[Left, ...], bytes], Spread] = {}
        mine = np.array([m == metric for m in s.metrics])
        cases: tuple[tuple[str, tuple[Left, ...], Any], ...] = (
            ("interpolated", near, mine & complete),
            ("inputs missing", near, mine & ~complete),
            ("inputs missing, new", far, mine & ~complete),
            ("extrapolated", far, mine & complete),
            ("model left out", ("model",) if "model" in held else far, mine & complete),
            ("accelerator left out", ("accelerator",) if "accelerator" in held else far, mine & complete),
        )
        for name, lefts, which in cases:
            key = (lefts, which.tobytes())
            if key not in made:
                made[key] = _spread(s, held, lefts, np.flatnonzero(which))
            found[f"{metric}, {name}"] = made[key]
    return found


def _spread(s: Samples, held: Mapping[Left, Any], lefts: Sequence[Left], at: Any) -> Spread:
    values = [float(held[left][i]) for left in lefts for i in at]
    if "curves" not in lefts:
        return quantiles(values)
    groups = [scatter_groups(s.configurations[i]) for _ in lefts for i in at]
    folds = [str(fold[i]) for fold in (keys(s, left, parts=_OUTER) for left in lefts) for i in at]
    return spread_over_folds(values, groups, folds)


def calibrate(
    s: Samples, held: Mapping[Left, Any], *, table: str = "", rows_identity: str = "", fitted_on: str = ""
) -> Calibration:
    """Return the law fitted on all of `s`, with intervals from `held`, the errors of samples held out."""
    return Calibration(
        table=table,
        rows=len(s),
        identity=rows_identity,
        fitted_on=fitted_on,
        names=NAMES,
        deviations=s.fitted().deviations,
        spreads=spreads(s, held),
        groups=known_groups(s),
        held_out=(),
    )


def held_out(
    s: Samples, left: Left, *, seed: int = 0, rivals: bool = True, progress: Progress | None = None
) -> Held:
    """Return every sample predicted by a law that had not seen its fold."""
    fold = keys(s, left, parts=_OUTER, seed=seed)
    names = sorted(set(fold))
    predicted, low, high = np.zeros(len(s)), np.zeros(len(s)), np.zeros(len(s))
    others = {name: np.zeros(len(s)) for name in ("look-up", "boosting")} if rivals else {}
    classes: list[Class] = ["extrapolated"] * len(s)
    for done, name in enumerate(names):
        if progress is not None:
            progress(left, done, len(names))
        out = np.flatnonzero(fold == name)
        train = s.which(np.flatnonzero(fold != name))
        test = s.which(out)
        law = calibrate(train, {left: residuals(train, left, seed=seed + 1)})
        predicted[out] = law.fit.log_seconds(test.terms, test.groups)
        for i, c, metric in zip(out, test.configurations, test.metrics, strict=True):
            classes[i] = law.classify(c)
            low[i], high[i] = np.log(law.bounds(metric, classes[i], c, float(np.exp(predicted[i]))))
        if rivals:
            others["look-up"][out] = looked_up(train, test)
            others["boosting"][out] = boosted(train, test)
    return Held(
        left=left,
        samples=s,
        predicted=predicted,
        low=low,
        high=high,
        classes=tuple(classes),
        rivals=others,
    )


def final(
    rows: Sequence[Mapping[str, str]], *, table: str, fitted_on: str, held: Sequence[Held]
) -> Calibration:
    """Return the calibration to store: fitted on all rows, with the errors and intervals of `held`."""
    s = samples(rows)
    errors: dict[Left, Any] = {h.left: h.samples.log_seconds - h.predicted for h in held}
    law = calibrate(s, errors, table=table, rows_identity=identity(rows), fitted_on=fitted_on)
    return msgspec.structs.replace(law, held_out=tuple(f for h in held for f in summary(h)))


def summary(h: Held) -> list[HeldOut]:
    """Return the errors of the law and its rivals by metric: rows with complete inputs, then the rest."""
    complete = np.array([not c.missing for c in h.samples.configurations])
    metrics = np.array(h.samples.metrics)
    methods = {"law": h.predicted, **h.rivals}
    found = []
    for label, which in ((f"{h.left}", complete), (f"{h.left}, inputs missing", ~complete)):
        for metric in METRICS:
            at = which & (metrics == metric)
            for method, predicted in methods.items():
                if not at.any():
                    continue
                errors = np.exp(predicted - h.samples.log_seconds)[at] - 1.0
                found.append(
                    HeldOut(
                        folds=label,
                        metric=metric,
                        method=method,
                        rows=int(at.sum()),
                        median_pct=_pct(np.median(np.abs(errors))),
                        mape_pct=_pct(np.abs(errors).mean()),
                        bias_pct=_pct(np.median(errors)),
                        inside_pct=_pct(h.inside()[at].mean()) if method == "law" else None,
                    )
                )
    return found


def _pct(share: Any) -> float:
    return round(100.0 * float(share), 2)
