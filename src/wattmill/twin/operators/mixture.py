"""The law and the operators' sums together: for a model or an accelerator never measured on its engine.

Two predictions that err for different reasons: the law knows how engines behave and takes an unknown part's
efficiencies from its neighbours; the sums know the part and the model's sizes, and little of the engine.
Their mean in the logarithm, with weights that inner folds chose, is nearer than either. Only factors that
were fitted here are stored, none of the wheel's figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from math import exp, log
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.calibration import Calibration, HeldOut
from wattmill.twin.law.fit import Fit, fit
from wattmill.twin.law.intervals import UNKNOWN, Spread
from wattmill.twin.law.rows import Configuration
from wattmill.twin.law.spec import Metric, Mixed
from wattmill.twin.operators.features import COUNTS, NAMES, START, Sums, sums
from wattmill.twin.operators.sources import installed
from wattmill.twin.operators.tables import Tables
from wattmill.twin.operators.walk import PARTS

SHARES: dict[str, float] = {"tpot_mean": 0.9, "ttft_mean": 0.5}
"""Weight of the sums in the logarithm, the rest is the law's: chosen by inner folds, which
`wattmill twin crossval --only operators` prints (docs/lab/operator-tables.md)."""

LEVELLED = "law at their level"
"""The method of `twin.operators.levelled`: the law, moved to the mixture at one load."""

_TABLES_HELD = 3_000.0  # tables are measurements: factors on them stay near 1
_ENGINES_TABLES = 10_000.0
_ENGINES_COUNTS = 3_000.0
_ENGINES_HOST = 30.0  # mixing prompts in, and the way to the first token, are what engines differ in
_HOST_HELD = 0.3
_MOST_SUMS = 4_096  # sums that are kept: the metrics of one configuration are asked one after the other
_HOST = ("mixed", "request", "prompt")


class Factors(msgspec.Struct, frozen=True, kw_only=True):
    """What was fitted on rows that have both a measurement and a sum, and how wrong it was where left out."""

    version: str  # of the tables
    rows: int
    identity: str  # SHA-256 over the digests of the training rows
    fitted_on: str
    names: tuple[str, ...]
    deviations: dict[str, tuple[float, ...]]
    shares: dict[str, float]
    spreads: dict[str, Spread]  # "metric, model left out" and the like -> scatter of the mixture
    held_out: tuple[HeldOut, ...]

    def seconds(self, c: Configuration, terms: Any) -> float:
        """Return the fitted sum: tables times their factors, and the host."""
        return float(np.exp(Fit(self.deviations).log_seconds(terms[None, :], [sum_groups(c)]))[0])

    def mixed_s(self, metric: Metric, *, law_s: float, sum_s: float) -> float:
        """Return the weighted mean in the logarithm."""
        share = self.shares[metric]
        return exp(share * log(sum_s) + (1.0 - share) * log(law_s))

    def error_pct(self, metric: Metric, new: Sequence[str], *, method: str = "both") -> float | None:
        """Return the median error of the mixture where `new` was left out, or of another method of
        `held_out`; None: not in the file."""
        folds = " and ".join(new)
        found = (
            h.median_pct for h in self.held_out if (h.folds, h.metric, h.method) == (folds, metric, method)
        )
        return next(found, None)

    def bounds(self, metric: Metric, new: Sequence[str], value: float) -> tuple[float, float]:
        """Return the 80 % interval about `value` of something in which `new` was never measured: from errors
        of such as were left out in the same way."""
        scatter = self.spreads.get(f"{metric}, {' and '.join(new)} left out", UNKNOWN)
        return scatter.bounds(value, ())


class Operators:
    """Tables with the factors that belong to them: a `Prior` for `predict`, `validate` and `plan`."""

    def __init__(self, tables: Tables, factors: Factors):
        self._tables = tables
        self._factors = factors
        self._sums: dict[tuple[Configuration, bool, bool], Sums] = {}

    def mixed(
        self,
        law: Calibration,
        c: Configuration,
        metric: Metric,
        law_s: float,
        *,
        first_wave: bool = True,
        was_run: bool = True,
    ) -> Mixed | str:
        """Return the mixture for what was never measured, else why the law stands alone.

        Args:
            law: whose rows say what was measured.
            c: what is asked.
            metric: which of its times.
            law_s: the law's answer.
            first_wave, was_run: as in `law.features.loop_of`.
        """
        new = law.unmeasured(c.deployment(c.decode))
        if not new:
            return "its model and its accelerator were measured on its engine"
        if c.missing:
            return f"inputs are missing: {', '.join(c.missing)}"
        key = (c, first_wave, was_run)
        if key not in self._sums:
            if len(self._sums) >= _MOST_SUMS:
                self._sums.clear()
            self._sums[key] = sums(self._tables, c, first_wave=first_wave, was_run=was_run)
        found, f = self._sums[key], self._factors
        if found.missing:
            return found.missing
        sum_s = f.seconds(c, found.first if metric == "ttft_mean" else found.each)
        value = f.mixed_s(metric, law_s=law_s, sum_s=sum_s)
        low, high = f.bounds(metric, new, value)
        return Mixed(value_s=value, low_s=low, high_s=high, basis=found.basis)


def sum_groups(c: Configuration) -> tuple[str, ...]:
    """Return the groups of a sum's factors: an engine's host, and disaggregation."""
    engine = f"engine={c.engine}"
    return (engine, "mode=disagg") if c.disaggregated else (engine,)


def fitted(terms: Any, log_seconds: Any, configurations: Sequence[Configuration], weights: Any) -> Fit:
    """Return factors on the tables and counts of the host, fitted on rows that have both."""
    held = np.full(len(NAMES), _HOST_HELD)
    held[: len(PARTS)] = _TABLES_HELD
    counts = [_ENGINES_HOST if name in _HOST else _ENGINES_COUNTS for name in COUNTS]
    ridge = np.array([*[_ENGINES_TABLES] * len(PARTS), *counts])
    return fit(
        terms,
        log_seconds,
        [sum_groups(c) for c in configurations],
        start=START,
        weights=weights,
        ridge=lambda group: ridge,
        hold=held,
    )


@cache
def stored_factors() -> Factors:
    """Return the factors that come with wattmill."""
    raw = (files("wattmill") / "data" / "law" / "operators.json").read_bytes()
    return msgspec.json.decode(raw, type=Factors)


@cache
def operators_installed() -> Operators:
    """Return the installed wheel's tables with the stored factors.

    Raises:
        ModuleNotFoundError, ValueError: see `sources.installed`.
    """
    return Operators(Tables(installed()), stored_factors())
