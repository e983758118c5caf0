"""The law over many rows at once: throughput of each from its splits' cycles, and how it moves with the fit.

For a split with batch B and cycle time t: B osl / t tokens a second over its devices. The host prepares a
step while the devices compute the one before, so t = (devices^p + host^p)^(1/p): their sum at p = 1, the
longer of both for a large p, which is fitted ("overlap"). Where a scenario limits the time per output token,
the batch is the largest whose t / osl stays within headroom x limit. A run of few waves pays its last,
unfilled one in full. The best split counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.offline.batch import GRID, cycles
from wattmill.twin.offline.levels import COLUMNS, EXTRAS, LEVELS, OF_THE_HOST, START, TERMS
from wattmill.twin.offline.rows import OfflineRow

_WHOLE = COLUMNS.index("whole")
_EXTRA_NAMES = tuple(EXTRAS)
_HOST = [TERMS.index(name) for name in OF_THE_HOST]
_DEVICES = [at for at in range(len(TERMS)) if at not in _HOST]


class Layout(msgspec.Struct, frozen=True):
    """Where each free number stands in the vector of the fit."""

    groups: tuple[tuple[str, str], ...]  # (level, group) in the vector's order
    at: dict[tuple[str, str], int]
    columns: tuple[Any, ...]  # of each level: positions in COLUMNS
    start: Any
    width: Any

    @property
    def extras(self) -> int:
        """Return where the extras begin."""
        return len(self.start) - len(EXTRAS)


def layout(rows: Sequence[OfflineRow]) -> Layout:
    """Return the vector for the groups of `rows`."""
    groups: list[tuple[str, str]] = []
    columns: list[Any] = []
    start: list[float] = []
    width: list[float] = []
    at: dict[tuple[str, str], int] = {}
    for number, level in enumerate(LEVELS):
        used = [COLUMNS.index(name) for name in level.width]
        columns.append(np.array(used))
        for group in sorted({level.group(row) for row in rows}):
            at[level.name, group] = len(start)
            groups.append((level.name, group))
            start.extend(START[COLUMNS[c]] if number == 0 else 0.0 for c in used)
            width.extend(level.width.values())
    for value, spread in EXTRAS.values():
        start.append(value)
        width.append(spread)
    return Layout(tuple(groups), at, tuple(columns), np.array(start), np.array(width))


class Problem:
    """Rows made ready: `log_throughput` is tokens a second and device, for any vector of `layout`."""

    def __init__(self, rows: Sequence[OfflineRow], shape: Layout | None = None) -> None:
        self.rows = list(rows)
        self.layout = shape or layout(self.rows)
        found = [(at, cycle) for at, row in enumerate(self.rows) for cycle in cycles(row)]
        self.row_of = np.array([at for at, _ in found])
        self.terms = np.stack([cycle.terms for _, cycle in found])
        self.log_batch = np.log(np.stack([cycle.batch for _, cycle in found]))
        self.gpus = np.array([float(cycle.gpus) for _, cycle in found])
        self.stages = np.array([cycle.pp - 1.0 for _, cycle in found])
        self.ranked = np.array([float(cycle.ranks > 1) for _, cycle in found])
        self.osl = np.array([row.osl for row in self.rows])[self.row_of]
        self.requests = np.array([row.requests or 0 for row in self.rows], dtype=float)[self.row_of]
        self.limit = np.array([row.tpot_limit_s or np.inf for row in self.rows])[self.row_of]
        self.headroom = np.array(
            [
                _EXTRA_NAMES.index(
                    "headroom Interactive" if row.scenario == "Interactive" else "headroom Server"
                )
                for row in self.rows
            ]
        )[self.row_of]
        # Position of each row's group of each level in the vector; -1: the fit never saw it.
        self.group_at = np.array(
            [
                [self.layout.at.get((level.name, level.group(row)), -1) for level in LEVELS]
                for row in self.rows
            ]
        )

    def deviations(self, theta: Any) -> Any:
        """Return ln(coefficient) and ln(whole) of each row: (rows, COLUMNS)."""
        total = np.zeros((len(self.rows), len(COLUMNS)))
        for level, columns in enumerate(self.layout.columns):
            at = self.group_at[:, level]
            seen = at >= 0
            total[np.ix_(seen, columns)] += theta[at[seen, None] + np.arange(len(columns))]
        return total

    def log_throughput(self, theta: Any) -> Any:
        """Return ln(tokens a second and device) of each row."""
        return self._solve(theta).log_throughput

    def chosen(self, theta: Any) -> Solved:
        """Return the split and the batch behind each row's figure."""
        return self._solve(theta)

    def jacobian(self, solved: Solved) -> Any:
        """Return d log_throughput / d theta, (rows, theta), at the point of `solved`.

        The best split and the first wave's shares are held: both are the derivative almost everywhere.
        """
        rows = np.arange(len(self.rows))
        slopes = np.zeros((len(self.rows), len(COLUMNS)))
        slopes[:, : len(TERMS)] = -solved.shares * solved.gain[:, None]
        slopes[:, _WHOLE] = 1.0
        found = np.zeros((len(self.rows), len(self.layout.start)))
        for level, columns in enumerate(self.layout.columns):
            at = self.group_at[:, level]
            seen = at >= 0
            for offset, column in enumerate(columns):
                found[rows[seen], at[seen] + offset] += slopes[seen, column]
        best, extras = solved.best, self.layout.extras
        found[rows, extras + self.headroom[best]] += solved.gain - 1.0
        found[rows, extras + _EXTRA_NAMES.index("pipeline")] -= self.stages[best] * solved.gain
        found[rows, extras + _EXTRA_NAMES.index("ranks")] -= self.ranked[best] * solved.gain
        found[rows, extras + _EXTRA_NAMES.index("overlap")] -= solved.overlapped * solved.gain
        return found

    def _solve(self, theta: Any) -> Solved:
        logs = self.deviations(theta)
        factors = np.exp(logs[self.row_of, : len(TERMS)])
        extra = dict(zip(_EXTRA_NAMES, theta[self.layout.extras :], strict=True))
        slower = extra["pipeline"] * self.stages + extra["ranks"] * self.ranked
        power = float(np.exp(extra["overlap"]))
        both = np.stack(
            [np.einsum("rgt,rt->rg", self.terms[:, :, part], factors[:, part]) for part in (_DEVICES, _HOST)]
        )
        log_s = np.log((both**power).sum(axis=0)) / power + slower[:, None]

        place, log_batch = np.full(len(self.osl), float(GRID - 1)), self.log_batch[:, -1].copy()
        log_time, gain = log_s[:, -1].copy(), np.ones(len(self.osl))
        allowed = np.log(self.limit) + theta[self.layout.extras + self.headroom] + np.log(self.osl)
        for at in np.flatnonzero(log_s[:, -1] > allowed):
            place[at], log_batch[at], log_time[at], gain[at] = _limited(
                self.log_batch[at], log_s[at], allowed[at]
            )
        whole_run = self._last_wave(log_s, log_batch, log_time)
        figures = log_batch + np.log(self.osl) - whole_run - np.log(self.gpus)

        best = np.full(len(self.rows), -1)
        for at in np.argsort(figures, kind="stable"):
            best[self.row_of[at]] = at
        low = np.minimum(place[best].astype(int), GRID - 2)
        between = (place[best] - low)[:, None]
        used = (1.0 - between) * self.terms[best, low] + between * self.terms[best, low + 1]
        shares, overlapped = _shares(used * factors[best], power)
        return Solved(
            log_throughput=figures[best] + logs[:, _WHOLE],
            best=best,
            log_batch=log_batch[best],
            shares=shares,
            overlapped=overlapped,
            gain=gain[best],
        )

    def _last_wave(self, log_s: Any, log_batch: Any, log_time: Any) -> Any:
        """Return ln(time) of a wave, stretched so that the run's last, unfilled one is paid."""
        stretched = log_time.copy()
        for at in np.flatnonzero(self.requests > 0.0):
            batch = np.exp(log_batch[at])
            full = np.floor(self.requests[at] / batch + 1e-9)
            rest = self.requests[at] - full * batch
            if rest < 1.0:
                continue
            last = np.interp(np.log(rest), self.log_batch[at], log_s[at])
            waves = full * np.exp(log_time[at]) + np.exp(last)
            stretched[at] = np.log(waves * batch / self.requests[at])
        return stretched


class Solved(msgspec.Struct, frozen=True):
    """The law at one vector, one entry a row."""

    log_throughput: Any
    best: Any  # position of the split that counts
    log_batch: Any
    shares: Any  # d ln(time) / d ln(term): of each term in the cycle's time
    overlapped: Any  # d ln(time) / d ln(p)
    gain: Any  # d ln(throughput) / -d ln(time): 1, more where a limit also shrinks the batch


def _shares(parts: Any, power: float) -> tuple[Any, Any]:
    """Return each term's share of the cycle's time, and the time's slope in ln(p), from seconds of terms."""
    both = np.stack([parts[:, part].sum(axis=1) for part in (_DEVICES, _HOST)])
    counted = both**power
    weight = counted / counted.sum(axis=0)
    shares = np.empty_like(parts)
    for side, part in enumerate((_DEVICES, _HOST)):
        shares[:, part] = parts[:, part] * (weight[side] / both[side])[:, None]
    slope = (weight * np.log(both)).sum(axis=0) - np.log(counted.sum(axis=0)) / power
    return shares, slope


def _limited(log_batch: Any, log_s: Any, allowed: float) -> tuple[float, float, float, float]:
    """Return place on the grid, ln(batch), ln(time) and gain of the largest batch within the limit."""
    if log_s[0] >= allowed:  # one sequence is already too slow: it runs alone
        return 0.0, 0.0, float(log_s[0]), 1.0
    low = int(np.clip(np.searchsorted(log_s, allowed) - 1, 0, GRID - 2))
    rise = max(float(log_s[low + 1] - log_s[low]), 1e-9)
    part = min(max((allowed - log_s[low]) / rise, 0.0), 1.0)
    step = float(log_batch[low + 1] - log_batch[low])
    elasticity = min(max(rise / max(step, 1e-9), 0.05), 1.0)
    return low + part, float(log_batch[low] + part * step), float(allowed), 1.0 / elasticity
