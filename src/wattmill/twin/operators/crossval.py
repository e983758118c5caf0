"""Does it help? Models and accelerators left out: the law, the operators' sums, and both, on equal rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.calibration import HeldOut
from wattmill.twin.law.crossval import TABLE
from wattmill.twin.law.fit import Fit
from wattmill.twin.law.folds import Left, Progress, keys
from wattmill.twin.law.intervals import Spread, quantiles
from wattmill.twin.law.rows import Configuration, identity, measured_rows
from wattmill.twin.law.samples import METRICS, Samples, samples
from wattmill.twin.operators.features import NAMES, sums
from wattmill.twin.operators.mixture import LEVELLED, SHARES, Factors, fitted, sum_groups
from wattmill.twin.operators.sources import VERSION
from wattmill.twin.operators.tables import Tables
from wattmill.twin.operators.walk import PARTS

_LEFT: tuple[Left, ...] = ("model", "accelerator")
_BOTH = "model and accelerator"
_TRIED = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What inner folds say of one weight of the sums."""

    folds: str
    metric: str
    share: float
    inner_median_pct: float  # mean over the folds of the median inner error


class Crossvalidated(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out errors by what was left out, metric and method, and the factors to store."""

    rows: int  # with complete inputs, both metrics
    covered: int  # of them, by the tables
    seconds: float
    missing: dict[str, int]  # why rows are not covered, the most frequent reason first
    held_out: tuple[HeldOut, ...]
    shares: tuple[Share, ...]
    factors: Factors


class _Data(msgspec.Struct, frozen=True):
    samples: Samples
    metrics: Any
    terms: Any  # operators' sums, rows x NAMES; 0 where there are none
    complete: Any  # whether a row's inputs are
    covered: Any  # whether it has a sum, too


class _Held(msgspec.Struct, frozen=True):
    """ln(seconds) of rows that a fit had not seen; `total` is the sums', the law's where there is none."""

    at: Any  # rows
    law: Any
    total: Any

    def mixed(self, share: float) -> Any:
        return share * self.total + (1.0 - share) * self.law

    def which(self, keep: Any) -> _Held:
        return _Held(self.at[keep], self.law[keep], self.total[keep])


class _Fold(msgspec.Struct, frozen=True):
    name: str
    out: _Held  # its complete rows
    inner: _Held  # covered rows of all other folds, each by fits that had seen neither fold


class _Cell(msgspec.Struct, frozen=True):
    out: Any  # whether a row is predicted
    without: Any  # whether it is left out of the fits
    kin: tuple[str, ...]  # its model, its accelerator, or both


def cross_validated(tables: Tables, *, fitted_on: str, progress: Progress | None = None) -> Crossvalidated:
    """Leave out each model, each accelerator, each two of them that were measured together, and each of them
    on one engine; refit the law and the factors without.

    The law is fitted on all rows that remain, as it is stored; factors on those that the tables cover.
    Weights of the mixture are `SHARES`; what inner folds say of others stands beside. Takes minutes.
    """
    began = time.perf_counter()
    rows = measured_rows(TABLE)
    data, missing = _data(samples(rows), tables)
    held_out: list[HeldOut] = []
    shares: list[Share] = []
    spreads: dict[str, Spread] = {}
    left_out: dict[str, list[_Fold]] = {left: list(_folds(data, left, progress)) for left in _LEFT}
    left_out[_BOTH] = _pairs(data, progress)
    left_out |= {f"{left} on an engine": _on_engines(data, left, progress) for left in _LEFT}
    for left, folds in left_out.items():
        for metric in METRICS:
            own = [_of(data, fold, metric) for fold in folds]
            held_out += _figures(data, left, metric, own)
            if left in _LEFT:
                shares += [_inner(data, left, metric, own, share) for share in _TRIED]
            if left in (*_LEFT, _BOTH):
                covered = _together([fold.out.which(data.covered[fold.out.at]) for fold in own])
                errors = data.samples.log_seconds[covered.at] - covered.mixed(SHARES[metric])
                spreads[f"{metric}, {left} left out"] = quantiles(errors.tolist())
    chosen = np.flatnonzero(data.covered)
    kept = [row for row in rows if row["metric"] in METRICS]
    factors = Factors(
        version=VERSION,
        rows=len(chosen),
        identity=identity([kept[i] for i in chosen]),
        fitted_on=fitted_on,
        names=NAMES,
        deviations=_fitted(data, chosen).deviations,
        shares=SHARES,
        spreads=spreads,
        held_out=tuple(h for h in held_out if ":" not in h.folds),
    )
    return Crossvalidated(
        rows=int(data.complete.sum()),
        covered=len(chosen),
        seconds=time.perf_counter() - began,
        missing=dict(sorted(missing.items(), key=lambda item: -item[1])),
        held_out=tuple(held_out),
        shares=tuple(shares),
        factors=factors,
    )


def _data(s: Samples, tables: Tables) -> tuple[_Data, Mapping[str, int]]:
    found = {c: sums(tables, c) for c in dict.fromkeys(s.configurations)}
    terms = np.zeros((len(s), len(NAMES)))
    complete = np.array([not c.missing for c in s.configurations])
    covered = complete & [not found[c].missing for c in s.configurations]
    missing: dict[str, int] = {}
    for i, (c, metric) in enumerate(zip(s.configurations, s.metrics, strict=True)):
        if covered[i]:
            terms[i] = found[c].first if metric == "ttft_mean" else found[c].each
        elif complete[i]:
            missing[found[c].missing] = missing.get(found[c].missing, 0) + 1
    return _Data(s, np.array(s.metrics), terms, complete, covered), missing


def _fitted(data: _Data, at: Any) -> Fit:
    s = data.samples.which(at)
    return fitted(data.terms[at], s.log_seconds, s.configurations, s.weights())


def _folds(data: _Data, left: Left, progress: Progress | None) -> Iterator[_Fold]:
    """Yield each fold. What fits say that had seen neither of a pair is an inner fold of both."""
    s = data.samples
    key = keys(s, left, parts=0)
    names = [str(name) for name in sorted(set(key[data.complete]))]
    some = [name for name in names if (data.covered & (key == name)).any()]
    inner: dict[str, list[_Held]] = {name: [] for name in names}
    of = len(names) + len(some) * (len(some) - 1) // 2
    for done, (one, two) in enumerate(combinations(some, 2)):
        if progress is not None:
            progress(left, done, of)
        law, factors = _without(data, (key == one) | (key == two))
        for outer, other in ((one, two), (two, one)):
            at = np.flatnonzero(data.covered & (key == other))
            inner[outer].append(_predicted(data, law, factors, at))
    for done, name in enumerate(names):
        if progress is not None:
            progress(left, of - len(names) + done, of)
        law, factors = _without(data, key == name)
        out = _predicted(data, law, factors, np.flatnonzero(data.complete & (key == name)))
        yield _Fold(name, out, _together([_none_of(out), *inner[name]]))


def _pairs(data: _Data, progress: Progress | None) -> list[_Fold]:
    """Return what was measured of each model on each accelerator, by fits that had seen neither."""
    models, parts = (keys(data.samples, left, parts=0) for left in _LEFT)
    cells = {}
    for model, part in sorted(set(zip(models[data.complete], parts[data.complete], strict=True))):
        mine, its = models == model, parts == part
        cells[f"{model} on {part}"] = _Cell(mine & its, mine | its, (model, part))
    return _cells(data, _BOTH, cells, progress)


def _on_engines(data: _Data, left: Left, progress: Progress | None) -> list[_Fold]:
    """Return what was measured of each model, or accelerator, on each engine, by fits that had seen it on
    other engines alone."""
    key = keys(data.samples, left, parts=0)
    engines = np.array([c.engine for c in data.samples.configurations])
    cells = {}
    for name, engine in sorted(set(zip(key[data.complete], engines[data.complete], strict=True))):
        mine = (key == name) & (engines == engine)
        if (data.complete & (key == name) & ~mine).any():
            cells[f"{name} on {engine}"] = _Cell(mine, mine, (name,))
    return _cells(data, f"{left} on an engine", cells, progress)


def _cells(data: _Data, left: str, cells: Mapping[str, _Cell], progress: Progress | None) -> list[_Fold]:
    """Return a fold of each cell. Its inner fold are the cells that share nothing with it: their errors make
    its interval, and what is wrong with a model on one accelerator is no news of it on another."""
    held = []
    for done, cell in enumerate(cells.values()):
        if progress is not None:
            progress(left, done, len(cells))
        law, factors = _without(data, cell.without)
        held.append(_predicted(data, law, factors, np.flatnonzero(data.complete & cell.out)))
    kin = [cell.kin for cell in cells.values()]
    return [
        _Fold(name, out, _together([_none_of(out), *(held[at] for at in strangers(kin, cell.kin))]))
        for (name, cell), out in zip(cells.items(), held, strict=True)
    ]


def strangers(cells: Sequence[tuple[str, ...]], cell: tuple[str, ...]) -> list[int]:
    """Return the places of those that share no name with `cell`: neither its model nor its accelerator."""
    return [at for at, other in enumerate(cells) if not set(other) & set(cell)]


def _without(data: _Data, left: Any) -> tuple[Fit, Fit]:
    law = data.samples.which(np.flatnonzero(~left)).fitted()
    return law, _fitted(data, np.flatnonzero(data.covered & ~left))


def _predicted(data: _Data, law: Fit, factors: Fit, at: Any) -> _Held:
    s = data.samples
    by_law = law.log_seconds(s.terms[at], [s.groups[i] for i in at])
    by_sum = factors.log_seconds(data.terms[at], [sum_groups(s.configurations[i]) for i in at])
    return _Held(at, by_law, np.where(data.covered[at], by_sum, by_law))


def _none_of(held: _Held) -> _Held:
    return held.which(np.zeros(len(held.at), dtype=bool))


def _together(parts: Sequence[_Held]) -> _Held:
    return _Held(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))


def _columns(held: _Held) -> tuple[Any, Any, Any]:
    return held.at, held.law, held.total


def _of(data: _Data, fold: _Fold, metric: str) -> _Fold:
    out, inner = (held.which(data.metrics[held.at] == metric) for held in (fold.out, fold.inner))
    return _Fold(fold.name, out, inner)


def _figures(data: _Data, left: str, metric: str, folds: Sequence[_Fold]) -> Iterator[HeldOut]:
    """Yield errors on the rows that the tables cover, on all complete ones, and by what was left out."""
    share = SHARES[metric]
    every = _together([fold.out for fold in folds])
    covered = data.covered[every.at]
    some = every.which(covered)
    plain = np.log(np.maximum(data.terms[some.at, : len(PARTS)].sum(axis=1), 1e-12))
    inside = np.concatenate([_inside(data, fold, share) for fold in folds])
    yield _error(data, left, metric, "law", some.at, some.law)
    yield _error(data, left, metric, "tables as they are", some.at, plain)
    yield _error(data, left, metric, "sums", some.at, some.total)
    yield _error(data, left, metric, "both", some.at, some.mixed(share), inside[covered])
    if metric == "tpot_mean":  # what a simulated engine has, see `levelled`
        curves = [_curve(data.samples.configurations[at]) for at in some.at]
        users = [data.samples.configurations[at].concurrency for at in some.at]
        moved = at_level(curves, users, some.law, some.mixed(share))
        yield _error(data, left, metric, LEVELLED, some.at, moved)
    yield _error(data, f"{left}, all rows", metric, "law", every.at, every.law)
    yield _error(data, f"{left}, all rows", metric, "both", every.at, every.mixed(share))
    for fold in folds:
        own = fold.out.which(data.covered[fold.out.at])
        if len(own.at):
            yield _error(data, f"{left}: {fold.name}", metric, "law", own.at, own.law)
            yield _error(data, f"{left}: {fold.name}", metric, "both", own.at, own.mixed(share))


def at_level(curves: Sequence[object], users: Sequence[int], law: Any, mixed: Any) -> Any:
    """Return ln(seconds) of the law where each curve is moved as a whole, so that it meets the mixture at its
    most users; all by rows."""
    fullest: dict[object, int] = {}
    for at, curve in enumerate(curves):
        if curve not in fullest or users[at] > users[fullest[curve]]:
            fullest[curve] = at
    return law + (mixed - law)[[fullest[curve] for curve in curves]]


def _curve(c: Configuration) -> Configuration:
    """Return what all loads of one deployment have in common."""
    return msgspec.structs.replace(c, concurrency=1)


def _inside(data: _Data, fold: _Fold, share: float) -> Any:
    """Return whether a fold's rows lie in the interval that its inner folds give."""
    measured = data.samples.log_seconds
    spread = quantiles((measured[fold.inner.at] - fold.inner.mixed(share)).tolist())
    error = measured[fold.out.at] - fold.out.mixed(share)
    return (error >= spread.low) & (error <= spread.high)


def _inner(data: _Data, left: str, metric: str, folds: Sequence[_Fold], share: float) -> Share:
    medians = [
        np.median(np.abs(_errors(data, fold.inner.at, fold.inner.mixed(share))))
        for fold in folds
        if len(fold.inner.at)
    ]
    return Share(folds=left, metric=metric, share=share, inner_median_pct=_pct(np.mean(medians)))


def _errors(data: _Data, at: Any, log_predicted: Any) -> Any:
    return np.exp(log_predicted - data.samples.log_seconds[at]) - 1.0


def _error(
    data: _Data, folds: str, metric: str, method: str, at: Any, log_predicted: Any, inside: Any = None
) -> HeldOut:
    errors = _errors(data, at, log_predicted)
    return HeldOut(
        folds=folds,
        metric=metric,
        method=method,
        rows=len(at),
        median_pct=_pct(np.median(np.abs(errors))),
        mape_pct=_pct(np.abs(errors).mean()),
        bias_pct=_pct(np.median(errors)),
        inside_pct=None if inside is None else _pct(inside.mean()),
    )


def _pct(share: Any) -> float:
    return round(100.0 * float(share), 2)
