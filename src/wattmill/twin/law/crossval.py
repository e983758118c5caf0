"""`wattmill twin crossval`: the whole refit, and what it says beside its rivals."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.calibration import Calibration, HeldOut
from wattmill.twin.law.folds import LEFT, Held, Progress, final, held_out, summary
from wattmill.twin.law.predictors import Predicted
from wattmill.twin.law.rows import measured_rows
from wattmill.twin.law.samples import METRICS, samples
from wattmill.twin.law.score import FEW, Figures, Scored, grouped
from wattmill.units import MS_PER_S

TABLE = "inferencex"

_BY = ("client", "model", "gpu", "framework", "mode", "isl", "osl", "precision")


class Crossvalidated(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out errors of the law and its rivals; coverage of its intervals by group."""

    rows: int
    groups: int
    seconds: float
    held_out: tuple[HeldOut, ...]
    figures: tuple[Figures, ...]
    calibration: Calibration | None

    def tables(self) -> dict[str, Any]:
        """Return everything but the coefficients."""
        return {
            "rows": self.rows,
            "groups": self.groups,
            "seconds": round(self.seconds, 1),
            "held_out": msgspec.to_builtins(self.held_out),
            "figures": msgspec.to_builtins(self.figures),
        }


def cross_validated(
    *, engine: str | None = None, seed: int = 0, progress: Progress | None = None, store: bool = False
) -> Crossvalidated:
    """Refit the law on the measured table with each fold left out.

    Args:
        engine: keep only rows of this engine; the result is a trial, not to be stored.
        seed: of the dealing of calibration groups into folds.
        progress: called with what is left out, folds done, folds in all.
        store: also fit on all rows and return the calibration.

    Raises:
        ValueError: no row has that engine, or a part of the rows was to be stored.
    """
    began = time.perf_counter()
    rows = measured_rows(TABLE)
    if engine is not None:
        if store:
            raise ValueError("coefficients are stored from all rows: leave out the engine")
        names = sorted({row["framework"] for row in rows})
        rows = [row for row in rows if row["framework"] == engine]
        if not rows:
            raise ValueError(f"no row has the engine {engine!r}; there are {', '.join(names)}")
    s = samples(rows)
    kept = [row for row in rows if row["metric"] in METRICS]
    held = [held_out(s, left, seed=seed, progress=progress) for left in LEFT]
    calibration = None
    if store:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        calibration = final(rows, table=TABLE, fitted_on=today, held=held)
    return Crossvalidated(
        rows=len(s),
        groups=len(set(s.folds)),
        seconds=time.perf_counter() - began,
        held_out=tuple(f for h in held for f in summary(h)),
        figures=tuple(f for h in held for f in _coverage(h, kept)),
        calibration=calibration,
    )


def _coverage(h: Held, rows: list[dict[str, str]]) -> list[Figures]:
    """Return figures of the rows with complete inputs: pooled, and by columns with large groups."""
    scored = []
    for i, (row, klass, c) in enumerate(zip(rows, h.classes, h.samples.configurations, strict=True)):
        value, low, high = (float(np.exp(x[i])) * MS_PER_S for x in (h.predicted, h.low, h.high))
        scored.append(
            Scored(
                row={**row, "client": "known" if c.known_client else "assumed"},
                measured=float(np.exp(h.samples.log_seconds[i])) * MS_PER_S,
                predicted=Predicted(
                    value=value, low=low, high=high, klass=klass, nearest=None, assumed=c.missing
                ),
                seen=False,
            )
        )
    complete = [x for x in scored if x.predicted is not None and not x.predicted.assumed]
    found = grouped(complete, lambda x: f"{h.left} left out: complete inputs")
    found += grouped(
        [x for x in scored if x.predicted is not None and x.predicted.assumed],
        lambda x: f"{h.left} left out: inputs missing",
    )
    for column in _BY:
        by = grouped(complete, lambda x, column=column: f"{h.left} left out: {column}={x.row[column]}")  # type: ignore[misc]
        found += [f for f in by if f.rows >= FEW or column in ("client", "model", "gpu")]
    return found
