"""Predicted against measured: the same few figures for any set of rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import lgamma, log

import msgspec
import numpy as np

from wattmill.twin.law.intervals import COVERED
from wattmill.twin.law.predictors import PREDICTORS, Predicted, Predictor, seen_in_training
from wattmill.twin.law.reading import number
from wattmill.twin.law.rows import COLUMNS, same_measurement
from wattmill.twin.law.spec import Class

FEW = 250
"""Below this many rows, a share inside the interval comes with the range that chance alone gives it."""


_AT_ONCE = 4_096
"""Rows of one metric that are predicted together: a bar moves after each lot, and memory stays bounded."""


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what was measured, what was predicted (in the row's unit), and whether the fit had seen it."""

    row: Mapping[str, str]
    measured: float | None  # None: no positive number; such a row is predicted, and counts in no figure
    predicted: Predicted | None
    seen: bool

    @property
    def error(self) -> float:
        """Return (predicted - measured) / measured; only where there are both."""
        assert self.predicted is not None and self.measured is not None
        return self.predicted.value / self.measured - 1.0

    @property
    def inside(self) -> bool:
        assert self.predicted is not None and self.measured is not None
        return self.predicted.low <= self.measured <= self.predicted.high


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The error over a set of rows."""

    group: str
    metric: str
    rows: int
    seen: int  # of them in the training
    coverage_pct: float  # rows with a number
    mape_pct: float | None
    median_pct: float | None
    bias_pct: float | None  # median of the signed error; above 0: predicted too high
    inside_80_pct: float | None
    chance_pct: tuple[float, float] | None  # where a true 80 % falls in 95 of 100 sets this small


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `wattmill twin validate` says."""

    file: str
    rows: int
    unreadable: int  # rows without a positive measured value
    not_predicted: dict[str, int]  # rows by metric that no predictor answers for
    seen: int
    by: str | None
    figures: tuple[Figures, ...]  # metric x class, then all, then by group


def score(
    rows: Sequence[Mapping[str, str]],
    predictors: Mapping[str, Predictor] = PREDICTORS,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scored]:
    """Return every row in its order, with its prediction if its metric has a predictor.

    `progress` is called with the rows that are done, and with all.
    """
    known = seen_in_training()
    by_metric: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        by_metric[_metric(row, predictors)].append(at)
    answers: list[Predicted | None] = [None] * len(rows)
    done = 0
    for metric, places in by_metric.items():
        predictor = predictors.get(metric)
        for start in range(0, len(places), _AT_ONCE):
            lot = places[start : start + _AT_ONCE]
            if predictor is not None:
                found = predictor([rows[at] for at in lot])
                for at, answer in zip(lot, found, strict=True):
                    answers[at] = answer
            done += len(lot)
            if progress is not None:
                progress(done, len(rows))
    return [
        Scored(
            row=row,
            measured=number(row.get("value")),
            predicted=answer,
            seen=same_measurement(row) in known,
        )
        for row, answer in zip(rows, answers, strict=True)
    ]


def report(
    file: str,
    rows: Sequence[Mapping[str, str]],
    *,
    by: str | None = None,
    predictors: Mapping[str, Predictor] = PREDICTORS,
) -> Report:
    """Score `rows` and sum up, see `summed_up`.

    Raises:
        ValueError: no row has a column of the name `by`.
    """
    column = column_named(by, rows)
    return summed_up(file, score(rows, predictors), by=column)


def column_named(by: str | None, rows: Sequence[Mapping[str, str]]) -> str | None:
    """Return the column that `by` names; capitals do not matter where no column is written like that.

    Raises:
        ValueError: no row has such a column; the message lists those that there are.
    """
    if by is None or any(by in row for row in rows):
        return by
    there = sorted({column for row in rows for column in row} or set(COLUMNS))
    alike = [column for column in there if column.lower() == by.strip().lower()]
    if len(alike) == 1:
        return alike[0]
    raise ValueError(f"no row has a column {by!r}; there are {', '.join(there)}")


def summed_up(file: str, every: Sequence[Scored], *, by: str | None = None) -> Report:
    """Return the figures by metric and class, and by the column `by` if one is named."""
    scored = [s for s in every if s.measured is not None]
    answered = [s for s in scored if s.predicted is not None]
    silent: dict[str, int] = defaultdict(int)
    for s in scored:
        if s.predicted is None:
            silent[(s.row.get("metric") or "").strip()] += 1
    figures = [*grouped(answered, _class), *grouped(answered, _client)]
    figures += grouped([s for s in answered if _class(s) != "inputs missing"], lambda s: "complete inputs")
    figures += grouped(answered, lambda s: "all")
    if by is not None:
        figures += grouped(answered, lambda s: f"{by}={s.row.get(by) or ''}")
    return Report(
        file=file,
        rows=len(every),
        unreadable=len(every) - len(scored),
        not_predicted=dict(silent),
        seen=sum(s.seen for s in scored),
        by=by,
        figures=tuple(figures),
    )


def grouped(scored: Sequence[Scored], name: Callable[[Scored], str]) -> list[Figures]:
    """Return figures by metric and by what `name` says of a row, in that order."""
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for s in scored:
        groups[(s.row.get("metric") or "").strip(), name(s)].append(s)
    return [figures(group, metric, members) for (metric, group), members in sorted(groups.items())]


def figures(group: str, metric: str, scored: Sequence[Scored]) -> Figures:
    """Return the error over `scored`, all of one metric."""
    answered = [s for s in scored if s.predicted is not None]
    errors = np.array([s.error for s in answered])
    inside = [s.inside for s in answered]
    return Figures(
        group=group,
        metric=metric,
        rows=len(scored),
        seen=sum(s.seen for s in scored),
        coverage_pct=_pct(len(answered) / len(scored)) if scored else 0.0,
        mape_pct=_pct(float(np.abs(errors).mean())) if answered else None,
        median_pct=_pct(float(np.median(np.abs(errors)))) if answered else None,
        bias_pct=_pct(float(np.median(errors))) if answered else None,
        inside_80_pct=_pct(sum(inside) / len(inside)) if answered else None,
        chance_pct=chance(len(answered)) if 0 < len(answered) < FEW else None,
    )


def chance(rows: int, *, covered: float = COVERED) -> tuple[float, float]:
    """Return the percentages between which a share that is truly `covered` falls in 95 of 100 sets of `rows`.

    Quantiles of the binomial distribution, at 2.5 and 97.5 %.
    """
    weights = np.zeros(rows + 1)
    for k in range(rows + 1):
        weights[k] = _log_choose(rows, k) + k * log(covered) + (rows - k) * log(1.0 - covered)
    cumulated = np.cumsum(np.exp(weights))
    low, high = (int(np.searchsorted(cumulated, q)) for q in (0.025, 0.975))
    return _pct(low / rows), _pct(high / rows)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _class(s: Scored) -> Class:
    assert s.predicted is not None
    return s.predicted.klass


def _client(s: Scored) -> str:
    assert s.predicted is not None
    return "client known" if s.predicted.client_known else "client assumed"


def _pct(share: float) -> float:
    return round(100.0 * share, 2)


def _metric(row: Mapping[str, str], predictors: Mapping[str, Predictor]) -> str:
    """Return a row's metric; capitals of one that is predicted do not matter."""
    said = (row.get("metric") or "").strip()
    return said.lower() if said.lower() in predictors else said
