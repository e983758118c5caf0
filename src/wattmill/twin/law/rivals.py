"""What any method has to beat on the same folds: a look-up table, and plain gradient boosting.

Both see the recorded columns and know nothing of accelerators or models. Boosting is the textbook's: squared
loss on ln(seconds), trees of depth 4 over 32 quantile bins, shrinkage 0.1; scikit-learn's, with its defaults,
differs from it by less than the folds do.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from wattmill.twin.law.rows import Configuration
from wattmill.twin.law.samples import Samples

_TREES = 200
_DEPTH = 4
_SHRINKAGE = 0.1
_BINS = 32
_LEAST_LEAF = 5


def looked_up(train: Samples, test: Samples) -> Any:
    """Return ln(seconds) of the nearest training row of the same metric: other model, accelerator, engine or
    mode count 4, 3, 2 and 2, a factor of e in a length, concurrency or split counts 1."""
    found = np.empty(len(test))
    names_train, numbers_train = _columns(train)
    names_test, numbers_test = _columns(test)
    weights = np.array([4.0, 3.0, 2.0, 2.0])
    metrics = np.array(train.metrics)
    for at, metric in enumerate(test.metrics):
        other = (names_train != names_test[at]).astype(float) @ weights
        distance = other + np.abs(numbers_train - numbers_test[at]).sum(axis=1)
        distance[metrics != metric] = np.inf
        found[at] = train.log_seconds[int(np.argmin(distance))]
    return found


def boosted(train: Samples, test: Samples) -> Any:
    """Return ln(seconds) by gradient boosting, one ensemble for each metric."""
    found = np.zeros(len(test))
    known = [sorted({str(name) for name in column}) for column in _columns(train)[0].T]
    for metric in sorted(set(test.metrics)):
        mine = np.array([m == metric for m in train.metrics])
        theirs = np.array([m == metric for m in test.metrics])
        if mine.any():
            inputs, asked = _design(train, known)[mine], _design(test, known)[theirs]
            found[theirs] = boost(inputs, train.log_seconds[mine], asked)
    return found


def _columns(s: Samples) -> tuple[Any, Any]:
    def names(c: Configuration) -> list[str]:
        return [c.architecture.name, c.accelerator.name, c.engine, str(c.disaggregated)]

    def numbers(c: Configuration) -> list[float]:
        sizes = (c.isl, c.osl, max(c.concurrency, 1), c.decode.tp, c.decode.ep, c.decode.attn_dp)
        sides = (c.prefill.tp, c.prefill_workers, c.decode_workers, c.weight_bits)
        return [log(size) for size in (*sizes, *sides)]

    return (
        np.array([names(c) for c in s.configurations]),
        np.array([numbers(c) for c in s.configurations]),
    )


def _design(s: Samples, known: list[list[str]]) -> Any:
    names, numbers = _columns(s)
    one_hot = [names[:, at] == name for at, column in enumerate(known) for name in column]
    return np.column_stack([numbers, *one_hot]).astype(float)


def boost(inputs: Any, target: Any, asked: Any) -> Any:
    """Return what an ensemble grown on `inputs` (rows x columns) and `target` says of `asked`."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1])) for column in inputs.T]
    binned = np.column_stack([np.searchsorted(e, inputs[:, j], side="left") for j, e in enumerate(edges)])
    wanted = np.column_stack([np.searchsorted(e, asked[:, j], side="left") for j, e in enumerate(edges)])
    start = float(target.mean())
    fitted, answer = np.full(len(target), start), np.full(len(asked), start)
    for _ in range(_TREES):
        _grow(
            binned,
            target - fitted,
            np.arange(len(target)),
            wanted,
            np.arange(len(asked)),
            fitted,
            answer,
            _DEPTH,
        )
    return answer


def _grow(
    binned: Any, residual: Any, mine: Any, wanted: Any, theirs: Any, fitted: Any, answer: Any, depth: int
) -> None:
    """Split the rows `mine` where it lowers the squared residual most, or add their mean as a leaf."""
    best: tuple[int, int] | None = None
    gain = 1e-9
    mean = float(residual[mine].mean())
    if depth > 0 and len(mine) >= 2 * _LEAST_LEAF:
        width = binned.shape[1]
        cells = (binned[mine] + _BINS * np.arange(width)).ravel()
        weights = np.repeat(residual[mine] - mean, width)
        counts = np.bincount(cells, minlength=width * _BINS).reshape(width, _BINS)
        sums = np.bincount(cells, weights=weights, minlength=width * _BINS).reshape(width, _BINS)
        left_n, left = np.cumsum(counts, axis=1)[:, :-1], np.cumsum(sums, axis=1)[:, :-1]
        right_n = len(mine) - left_n
        fits = (left_n >= _LEAST_LEAF) & (right_n >= _LEAST_LEAF)
        gains = np.where(fits, left**2 / np.maximum(left_n, 1) + left**2 / np.maximum(right_n, 1), 0.0)
        at = int(np.argmax(gains))
        if gains.flat[at] > gain:
            best = divmod(at, _BINS - 1)
    if best is None:
        fitted[mine] += _SHRINKAGE * mean
        answer[theirs] += _SHRINKAGE * mean
        return
    j, at = best
    low, asked_low = binned[mine, j] <= at, wanted[theirs, j] <= at
    for side, asked_side in ((low, asked_low), (~low, ~asked_low)):
        _grow(binned, residual, mine[side], wanted, theirs[asked_side], fitted, answer, depth - 1)
