"""The answer to each measured row, written as a table: number, interval, class, and what it rests on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from wattmill.twin.law.score import Scored

ANSWER = (
    "predicted",
    "low_80",
    "high_80",
    "class",
    "seen",
    "client",
    "error_pct",
    "inside",
    "assumed",
    "nearest",
    "basis",
)
"""Columns that are added behind those of the file. A column of the file that has such a name gives way, so
that a written table can be scored again."""


def write_answers(path: Path, scored: Sequence[Scored]) -> None:
    """Write every row in its order, with the columns of `ANSWER` behind its own.

    `predicted` and its bounds are in the row's own unit. `error_pct` and `inside` are empty where no positive
    number was measured, all but `seen` where no predictor answers for the metric.

    Raises:
        OSError: `path` cannot be written.
    """
    theirs = [column for column in dict.fromkeys(c for s in scored for c in s.row) if column not in ANSWER]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [*theirs, *ANSWER], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**s.row, **_cells(s)} for s in scored)


def _cells(s: Scored) -> dict[str, str]:
    cells = dict.fromkeys(ANSWER, "") | {"seen": _yes(s.seen)}
    p = s.predicted
    if p is None:
        return cells
    cells |= {"predicted": f"{p.value:.6g}", "low_80": f"{p.low:.6g}", "high_80": f"{p.high:.6g}"}
    cells |= {"class": p.klass, "client": "known" if p.client_known else "assumed"}
    cells |= {"assumed": " ".join(p.assumed), "nearest": p.nearest or "", "basis": p.basis or ""}
    if s.measured is not None:
        cells |= {"error_pct": f"{100.0 * s.error:.6g}", "inside": _yes(s.inside)}
    return cells


def _yes(so: bool) -> str:
    return "yes" if so else "no"
