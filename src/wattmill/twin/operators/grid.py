"""Interpolation between measured sizes: logarithms of times, linear in the logarithm of each size.

A grid may be ragged: which batches were measured may depend on the length. So each size is bracketed among
those that were measured with the outer ones already fixed, and what is not bracketed is refused.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, exp, log
from typing import Any

import numpy as np


class OffGrid(LookupError):
    """A size, or a choice of kernel, that no table holds; the message says which."""


class Grid:
    """Seconds by sizes. Where several kernels were timed at one point, the fastest counts."""

    def __init__(self, axes: Sequence[str], sizes: Sequence[Any], seconds: Any, *, parts: Sequence[str] = ()):
        """Take columns of equal length.

        Args:
            axes: names of the sizes, the outermost first.
            sizes: a column for each, > 0.
            seconds: the column of times, > 0.
            parts: axes along which the work comes apart: what is larger than the largest measured is done in
                so many equal parts, one after the other.
        """
        self.axes = tuple(axes)
        self._parts = frozenset(parts)
        order = np.lexsort([seconds, *reversed(sizes)])
        columns = [np.asarray(column)[order] for column in sizes]
        self._root = _branch(columns, np.asarray(seconds)[order], 0, len(order))
        self._most = {name: float(column.max()) for name, column in zip(axes, columns, strict=True)}

    def seconds(self, sizes: Mapping[str, float]) -> float:
        """Return the time at `sizes`.

        Raises:
            OffGrid: a size lies outside of what was measured beside the others.
        """
        times, at = 1.0, []
        for name in self.axes:
            size = sizes[name]
            if name in self._parts and size > self._most[name]:
                parts = ceil(size / self._most[name])
                times, size = times * parts, size / parts
            at.append(float(size))
        return times * exp(self._log_seconds(self._root, at, 0))

    def _log_seconds(self, branch: Any, at: Sequence[float], depth: int) -> float:
        if depth == len(at):
            return float(branch)
        keys, below = branch
        size = at[depth]
        if not keys[0] <= size <= keys[-1]:
            raise OffGrid(
                f"{self.axes[depth]} {size:,.4g} is outside of the measured {keys[0]:,.4g} to {keys[-1]:,.4g}"
            )
        right = bisect_left(keys, size)
        high = self._log_seconds(below[right], at, depth + 1)
        if keys[right] == size:
            return high
        low = self._log_seconds(below[right - 1], at, depth + 1)
        share = log(size / keys[right - 1]) / log(keys[right] / keys[right - 1])
        return low + share * (high - low)


def _branch(columns: Sequence[Any], seconds: Any, start: int, end: int) -> Any:
    """Return (sizes, branches below) of the sorted rows from `start` to `end`; at the bottom, ln(seconds)."""
    if not columns:
        return log(seconds[start])  # sorted by time within a point: the fastest kernel
    column = columns[0][start:end]
    cuts = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), end - start]
    keys = [float(column[cut]) for cut in cuts[:-1]]
    below = [_branch(columns[1:], seconds, start + a, start + b) for a, b in pairwise(cuts)]
    return keys, below
