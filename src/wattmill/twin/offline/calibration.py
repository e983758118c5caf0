"""What was fitted on which offline rows, and how wrong it was on rows held out: one file in `data/law`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.calibration import HeldOut
from wattmill.twin.law.intervals import Spread, widest
from wattmill.twin.offline.energy import Walls
from wattmill.twin.offline.law import Layout, Problem
from wattmill.twin.offline.levels import COLUMNS, EXTRAS, LEVELS
from wattmill.twin.offline.novelty import Seen, scatter_groups, scatters_of
from wattmill.twin.offline.rows import OfflineRow

_BETWEEN = " | "


class OfflineCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """The offline law's coefficients with the identity of their training rows and their error."""

    tables: tuple[str, ...]
    rows: int  # distinct runs
    identity: str  # SHA-256 over the digests of the training rows
    fitted_on: str
    columns: tuple[str, ...]
    deviations: dict[str, tuple[float, ...]]  # "level | group" -> by the level's columns, in logarithms
    extras: dict[str, float]
    seen: Seen
    spreads: dict[str, Spread]  # what was left out -> scatter; see `scatters_of`
    walls: Walls
    held_out: tuple[HeldOut, ...]

    def vector(self) -> tuple[Layout, Any]:
        """Return the fit's layout and vector.

        Raises:
            ValueError: the file was written for other levels; refit with `wattmill twin crossval --write`.
        """
        if self.columns != COLUMNS or set(self.extras) != set(EXTRAS):
            raise ValueError(
                "the stored offline coefficients are of an older law; refit with `wattmill twin crossval`"
            )
        columns = tuple(np.array([COLUMNS.index(name) for name in level.width]) for level in LEVELS)
        groups: list[tuple[str, str]] = []
        at: dict[tuple[str, str], int] = {}
        values: list[float] = []
        for name, deviation in self.deviations.items():
            level, group = name.split(_BETWEEN, 1)
            groups.append((level, group))
            at[level, group] = len(values)
            values.extend(deviation)
        values.extend(self.extras[name] for name in EXTRAS)
        theta = np.array(values)
        return Layout(tuple(groups), at, columns, theta, np.ones(len(theta))), theta

    def bounds(self, row: OfflineRow) -> tuple[float, float]:
        """Return the 80 % interval of a row's throughput, as factors on the prediction."""
        groups = scatter_groups(row, self.seen)
        found = [self.spreads[name].bounds(1.0, groups) for name in scatters_of(row, self.seen)]
        return widest(1.0, found)

    def problem(self, rows: Sequence[OfflineRow]) -> tuple[Problem, Any]:
        """Return `rows` made ready for the stored fit, and its vector."""
        layout, theta = self.vector()
        return Problem(rows, layout), theta


def kept(layout: Layout, theta: Any) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Return what to store of a fit: deviations by "level | group", and the extras."""
    widths = {level.name: len(level.width) for level in LEVELS}
    deviations = {
        f"{level}{_BETWEEN}{group}": tuple(
            round(float(x), 5) for x in theta[layout.at[level, group] :][: widths[level]]
        )
        for level, group in layout.groups
    }
    extras = dict(zip(EXTRAS, (round(float(x), 5) for x in theta[layout.extras :]), strict=True))
    return deviations, extras


@cache
def stored() -> OfflineCalibration:
    """Return the calibration that comes with wattmill.

    Raises:
        FileNotFoundError: there is none.
    """
    raw = (files("wattmill") / "data" / "law" / "offline.json").read_bytes()
    return msgspec.json.decode(raw, type=OfflineCalibration)
