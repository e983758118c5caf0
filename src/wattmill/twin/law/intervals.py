"""Intervals from held-out errors: how far off predictions of rows were that the fit had not seen.

Two rules. Where many small groups were held out (curves), the size within which 80 % of errors lie is a
product of effects of the groups that a row belongs to, found group by group in a few sweeps, small groups
held back; the bounds are quantiles of the errors divided by that size. So a group that scatters more has a
wider interval, and the whole covers what it says, whatever the errors' distribution. Where few large ones
were held out (models, accelerators), nothing can be learned of how groups differ: the interval is that of the
errors themselves, the same for all rows (split conformal). Inner folds chose (docs/lab/step-time.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt

import msgspec
import numpy as np

COVERED = 0.80
RIDGE = 20.0
_SWEEPS = 12
_FLOOR = 1e-3
_FEWEST = 20


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Scatter of ln(measured / predicted) by groups; `low` and `high` in units of a row's size."""

    rows: int
    centre: float  # ln of the typical size
    effects: dict[str, float]
    low: float
    high: float

    def size(self, groups: Sequence[str]) -> float:
        """Return the typical error of a row in `groups`, as a difference of logarithms."""
        return exp(self.centre + sum(self.effects.get(group, 0.0) for group in groups))

    def bounds(self, value: float, groups: Sequence[str]) -> tuple[float, float]:
        """Return the interval about `value`."""
        size = self.size(groups)
        return value * exp(self.low * size), value * exp(self.high * size)


def spread_over_folds(
    errors: Sequence[float], groups: Sequence[Sequence[str]], folds: Sequence[str]
) -> Spread:
    """Return the scatter of `errors`, its bounds taken where the sizes had not seen the fold they scale.

    Sizes that were fitted on the errors they scale make them look smaller than the next ones will be: most
    where a fold is a whole model or accelerator.
    """
    whole = spread(errors, groups)
    names = sorted(set(folds))
    if whole is UNKNOWN or len(names) < 2:
        return whole
    scaled: list[float] = []
    for name in names:
        rest = [at for at, fold in enumerate(folds) if fold != name]
        others = spread([errors[at] for at in rest], [groups[at] for at in rest])
        scaled += [errors[at] / others.size(groups[at]) for at, fold in enumerate(folds) if fold == name]
    tail = (1.0 - COVERED) / 2.0
    low, high = np.quantile(np.array(scaled), [tail, 1.0 - tail])
    return msgspec.structs.replace(whole, low=float(low), high=float(high))


UNKNOWN = Spread(rows=0, centre=log(0.7), effects={}, low=-1.5, high=1.5)
"""Where too few errors were held out to say anything: a factor of 2.9 either way."""


def widest(value: float, bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the interval about `value` of something that is new in several ways, each with its bounds: their
    logarithmic distances are added as independent errors are (root of the sum of squares). That a new model
    on a new accelerator errs so is an assumption; no fold left both out."""
    if len(bounds) == 1:
        return bounds[0]
    low = sqrt(sum(log(low / value) ** 2 for low, _ in bounds if low < value))
    high = sqrt(sum(log(high / value) ** 2 for _, high in bounds if high > value))
    return value * exp(-low), value * exp(high)


def quantiles(errors: Sequence[float], *, weights: Sequence[float] | None = None) -> Spread:
    """Return the scatter of held-out `errors` without effects of groups: bounds between which 80 % of them
    lie, or of their `weights` (any scale, above 0)."""
    if len(errors) < _FEWEST:
        return UNKNOWN
    tail = (1.0 - COVERED) / 2.0
    found = np.asarray(errors, dtype=float)
    if weights is None:
        low, high = np.quantile(found, [tail, 1.0 - tail])
    else:
        order = np.argsort(found, kind="stable")
        each = np.asarray(weights, dtype=float)[order]
        below = (
            np.cumsum(each) - 0.5 * each
        )  # half of its own weight: errors mirrored give the bounds mirrored
        low, high = np.interp(np.array([tail, 1.0 - tail]) * each.sum(), below, found[order])
    return Spread(rows=len(errors), centre=0.0, effects={}, low=float(low), high=float(high))


def spread(errors: Sequence[float], groups: Sequence[Sequence[str]]) -> Spread:
    """Return the scatter of held-out `errors`, each ln(measured / predicted) of a row in `groups`."""
    if len(errors) < _FEWEST:
        return UNKNOWN
    found = np.asarray(errors, dtype=float)
    members = {
        name: np.array([at for at, row in enumerate(groups) if name in row])
        for name in sorted({name for row in groups for name in row})
    }
    effects = dict.fromkeys(members, 0.0)
    centred = np.abs(found - np.median(found))
    log_size = np.full(len(found), float(np.log(max(np.quantile(centred, COVERED), _FLOOR))))
    centre = float(log_size[0])
    for _ in range(_SWEEPS):
        for name, at in members.items():
            reach = float(np.quantile(centred[at] / np.exp(log_size[at]), COVERED))
            step = 0.5 * len(at) / (len(at) + RIDGE) * log(max(reach, _FLOOR))
            effects[name] += step
            log_size[at] += step
    scaled = found / np.exp(log_size)
    tail = (1.0 - COVERED) / 2.0
    low, high = np.quantile(scaled, [tail, 1.0 - tail])
    return Spread(
        rows=len(found),
        centre=centre,
        effects={name: round(effect, 4) for name, effect in effects.items()},
        low=float(low),
        high=float(high),
    )
