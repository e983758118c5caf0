"""How far a row lies from what the fit has seen, and how wide its interval therefore is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.intervals import COVERED
from wattmill.twin.offline.rows import OfflineRow, generation

TIERS = ("same cell", "new pair", "new accelerator", "new model", "both new")
"""A cell is an (accelerator, model) pair. `new pair`: both were seen, not together."""

_LENGTH_SLACK = 1.5  # beyond the lengths of the training rows by more: extrapolated


class Seen(msgspec.Struct, frozen=True):
    """What a fit has seen, as it is stored beside it."""

    cells: dict[str, int]  # "accelerator | architecture": rows
    isl: tuple[int, int]
    osl: tuple[int, int]

    @classmethod
    def of(cls, rows: Sequence[OfflineRow]) -> Seen:
        """Return what `rows` show."""
        cells: dict[str, int] = {}
        for row in rows:
            cells[_name(row)] = cells.get(_name(row), 0) + 1
        isl, osl = [row.isl for row in rows], [round(row.osl) for row in rows]
        return cls(dict(sorted(cells.items())), (min(isl), max(isl)), (min(osl), max(osl)))

    @property
    def parts(self) -> set[str]:
        """Return the accelerators."""
        return {cell.split(" | ")[0] for cell in self.cells}

    def tier(self, row: OfflineRow) -> str:
        """Return the tier of `row`, see `TIERS`."""
        part, model = row.cell
        parts = self.parts
        models = {cell.split(" | ")[1] for cell in self.cells}
        if _name(row) in self.cells:
            return "same cell"
        if part in parts:
            return "new pair" if model in models else "new model"
        return "new accelerator" if model in models else "both new"

    def klass(self, row: OfflineRow) -> str:
        """Return `inputs missing`, `interpolated` or `extrapolated`."""
        if row.missing:
            return "inputs missing"
        within = all(
            low / _LENGTH_SLACK <= length <= high * _LENGTH_SLACK
            for length, (low, high) in ((row.isl, self.isl), (row.osl, self.osl))
        )
        known = self.tier(row) in ("same cell", "new pair")
        return "interpolated" if known and within else "extrapolated"

    def nearest(self, row: OfflineRow) -> str | None:
        """Return the cell whose measurements carry the prediction: its own, else the largest that shares the
        model, else the part; None: there is none."""
        part, model = row.cell
        if _name(row) in self.cells:
            return _name(row)
        for at, wanted in ((1, model), (0, part)):
            near = [(-n, cell) for cell, n in self.cells.items() if cell.split(" | ")[at] == wanted]
            if near:
                return min(near)[1]
        return None


def scatter_groups(row: OfflineRow, seen: Seen) -> tuple[str, ...]:
    """Return the groups whose errors differ in size: the interval of a row is made from them.

    Few and large: effects of single models and accelerators were tried, and with them 73 % of the rows of
    cells left out lay inside.
    """
    return (
        f"tier={seen.tier(row)}",
        f"generation={row.generation}",
        f"scenario={row.scenario}",
        f"split stated={len(row.splits) == 1}",
    )


def scatters_of(row: OfflineRow, seen: Seen) -> tuple[str, ...]:
    """Return what was left out where errors speak for `row`: a model, an accelerator, or a whole generation
    where none of its parts was seen; model and part, where both are new."""
    tier = seen.tier(row)
    found = ["model"] if tier in ("new model", "both new") else []
    if tier in ("new accelerator", "both new"):
        kin = row.generation in {generation(part) for part in seen.parts}
        found.append("accelerator" if kin else "generation")
    return tuple(found) or ("known",)


def bounds(residuals: Any, share: float = COVERED) -> tuple[float, float]:
    """Return the quantiles of `residuals` between which `share` of new ones fall: the ranks that a new one
    passes by chance of half the rest, floor((n + 1) q) and ceil; few residuals give their extremes."""
    ordered = np.sort(np.asarray(residuals, dtype=float))
    n, tail = len(ordered), (1.0 - share) / 2.0
    low = int(np.floor(round((n + 1) * tail, 9))) - 1
    high = int(np.ceil(round((n + 1) * (1.0 - tail), 9))) - 1
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


def _name(row: OfflineRow) -> str:
    return " | ".join(row.cell)
