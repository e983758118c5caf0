"""What a token costs in joules, learnt from windows: non-negative least squares in two or three unknowns.

    uj = a x prefill + b x decode + c x (decode x context) + seconds x (e + f x time)

with a, b, c >= 0; e and f take either sign: what idle power was measured too high or low by, and its drift.
Few unknowns, so that plain Python is enough and every set of unknowns at zero can be tried: the best of those
whose a, b, c are not negative is the optimum (Lawson, Hanson, Solving Least Squares Problems, 1974, ch. 23).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from wattmill.ledger.attribution import DECLARED, SCALE, Weights
from wattmill.units import S_PER_H, UJ_PER_J

FEWEST = 60
"""Windows with work in them, before weights are learnt at all."""

MOST_CONDITION = 30.0
"""A condition number beyond this: prompts and answers always came together, and cannot be told apart."""

LEAST_R2 = 0.5
_POSITIVE = 3  # unknowns that must not be negative: prefill, decode, context


class Observation(NamedTuple):
    """One window of one pool: its tokens, and its energy above idle."""

    t_s: float
    seconds: float
    prefill: float
    decode: float
    context: float  # decode tokens times the context that each reads
    uj: int


class Fit(NamedTuple):
    """Microjoules of a token, and how well the windows say so."""

    prefill_uj: float
    decode_uj: float
    context_uj: float  # of a decoded token, for each token of context
    base_w: float  # beyond the measured idle power, at the middle of the time; may be negative
    drift_w_per_h: float
    condition: float  # of prefill, decode, time and, where it has a weight, context; each of length 1
    r2: float
    windows: int


def fit(seen: Sequence[Observation]) -> Fit | None:
    """Return the least-squares fit of `seen`, or None where it has fewer windows than unknowns or no work.

    Windows with much energy have much noise: each counts by the inverse of what a first fit expects of it.
    """
    if len(seen) < 6 or not any(o.prefill for o in seen) or not any(o.decode for o in seen):
        return None
    middle_s = sum(o.t_s for o in seen) / len(seen)
    columns = [(o.prefill, o.decode, o.context, o.seconds, o.seconds * (o.t_s - middle_s)) for o in seen]
    energies = [float(o.uj) for o in seen]
    floor = 0.1 * sum(map(abs, energies)) / len(energies) or 1.0
    first = _solve(columns, energies, [1.0] * len(seen))
    if first is None:
        return None
    expected = [sum(a * x for a, x in zip(first, row, strict=True)) for row in columns]
    weights = [1 / max(abs(e), floor) for e in expected]
    found = _solve(columns, energies, weights)
    if found is None:
        return None
    mean = sum(energies) / len(energies)
    spread = sum((e - mean) ** 2 for e in energies)
    left = sum(
        (e - sum(a * x for a, x in zip(found, row, strict=True))) ** 2
        for e, row in zip(energies, columns, strict=True)
    )
    carried = [0, 1, 2] if found[2] > 0 else [0, 1]
    return Fit(
        found[0], found[1], found[2], found[3] / UJ_PER_J, found[4] / UJ_PER_J * S_PER_H,
        _condition(
            [[row[place] * w for place in (*carried, 3)] for row, w in zip(columns, weights, strict=True)]
        ),
        1 - left / spread if spread else 0.0,
        len(seen),
    )  # fmt: skip


def weights_of(found: Fit | None) -> Weights | None:
    """Return weights for attribution, or None where the fit does not tell prompts from answers."""
    if found is None or found.windows < FEWEST or found.condition > MOST_CONDITION or found.r2 < LEAST_R2:
        return None
    if found.prefill_uj <= 0 or found.decode_uj + found.context_uj <= 0:
        return None
    prefill = max(1, round(found.prefill_uj * SCALE))
    return Weights(
        prefill,
        round(found.decode_uj * SCALE),
        round(found.context_uj * SCALE),
        prefill * DECLARED.cached // DECLARED.prefill,
        f"fitted prefill {found.prefill_uj:.3g} uJ, decode {found.decode_uj:.3g} uJ + "
        f"{found.context_uj:.2g} uJ a token of context, condition {found.condition:.2g}, "
        f"r2 {found.r2:.2f}, {found.windows} windows",
    )


def _solve(
    columns: Sequence[Sequence[float]], energies: Sequence[float], weights: Sequence[float]
) -> list[float] | None:
    width = len(columns[0])
    rows = [[x * w for x in row] for row, w in zip(columns, weights, strict=True)]
    aims = [e * w for e, w in zip(energies, weights, strict=True)]
    sizes = [math.sqrt(sum(row[i] ** 2 for row in rows)) or 1.0 for i in range(width)]
    gram = [
        [sum(row[i] * row[j] for row in rows) / sizes[i] / sizes[j] for j in range(width)]
        for i in range(width)
    ]
    right = [sum(row[i] * aim for row, aim in zip(rows, aims, strict=True)) / sizes[i] for i in range(width)]
    best: tuple[float, list[float]] | None = None
    for count in range(_POSITIVE + 1):
        for zero in combinations(range(_POSITIVE), count):
            places = [i for i in range(width) if i not in zero]
            part = _eliminate([[gram[i][j] for j in places] for i in places], [right[i] for i in places])
            if part is None:
                continue
            whole = [0.0] * width
            for place, value in zip(places, part, strict=True):
                whole[place] = value
            if min(whole[:_POSITIVE]) < 0:
                continue
            # Up to a constant, the sum of squares that is left.
            cost = -sum(value * right[i] for i, value in enumerate(whole))
            if best is None or cost < best[0] - 1e-12 * abs(best[0]):
                best = cost, whole
    return None if best is None else [value / size for value, size in zip(best[1], sizes, strict=True)]


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Solve a small symmetric system by elimination with pivots; None where it is singular."""
    n = len(matrix)
    rows = [[*matrix[i], right[i]] for i in range(n)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) < 1e-10:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def _condition(rows: Sequence[Sequence[float]]) -> float:
    """Return the condition number of a matrix whose columns are first made of length 1: the ratio of its
    largest to its smallest singular value, by Jacobi's rotations of its Gram matrix."""
    width = len(rows[0])
    sizes = [math.sqrt(sum(row[i] ** 2 for row in rows)) or 1.0 for i in range(width)]
    a = [
        [sum(row[i] * row[j] for row in rows) / sizes[i] / sizes[j] for j in range(width)]
        for i in range(width)
    ]
    for _ in range(30):
        p, q = max(combinations(range(width), 2), key=lambda pq: abs(a[pq[0]][pq[1]]))
        if abs(a[p][q]) < 1e-14:
            break
        theta = 0.5 * math.atan2(2 * a[p][q], a[q][q] - a[p][p])
        c, s = math.cos(theta), math.sin(theta)
        for k in range(width):
            a[k][p], a[k][q] = c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]
        for k in range(width):
            a[p][k], a[q][k] = c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]
    eigen = [a[i][i] for i in range(width)]
    return math.sqrt(max(eigen) / min(eigen)) if min(eigen) > 0 else math.inf
