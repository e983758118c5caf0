"""What was fitted, on which rows, how wrong it was on rows held out: kept as one JSON file in `data/law`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from math import log2

import msgspec
import numpy as np
import numpy.typing as npt

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import TERMS, Coefficients
from wattmill.twin.law.fit import Fit
from wattmill.twin.law.groups import deployment_groups, law_groups, scatter_groups
from wattmill.twin.law.intervals import UNKNOWN, Spread, widest
from wattmill.twin.law.rows import Configuration
from wattmill.twin.law.spec import Class, Outside

_ROOM = 2.0  # by which lengths, concurrency and accelerators may pass what was measured


class Known(msgspec.Struct, frozen=True, array_like=True):
    """One calibration group: what was varied in it is its concurrency."""

    name: str
    model: str
    gpu: str
    engine: str
    disaggregated: bool
    gpus: int
    isl: int
    osl: int
    least: int  # concurrency
    most: int


class HeldOut(msgspec.Struct, frozen=True):
    """Errors on rows that the fit had not seen, in percent of the measured value."""

    folds: str  # what was left out
    metric: str
    method: str  # law, look-up, boosting
    rows: int
    median_pct: float
    mape_pct: float
    bias_pct: float  # median of the signed error: above 0, predictions are too high
    inside_pct: float | None  # of rows inside their 80 % interval; rivals have none


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The law's coefficients with the identity of their training rows and their error."""

    table: str
    rows: int
    identity: str  # SHA-256 over the digests of the training rows
    fitted_on: str
    names: tuple[str, ...]  # of the coefficients, in the order of every vector
    deviations: dict[str, tuple[float, ...]]
    spreads: dict[str, Spread]  # "metric, what is new" -> scatter; see `scatter_of`
    groups: tuple[Known, ...]
    held_out: tuple[HeldOut, ...]

    @property
    def fit(self) -> Fit:
        return Fit(self.deviations)

    def coefficients(self, deployment: Deployment) -> Coefficients:
        """Return the step-time law's coefficients of one deployment."""
        logs = self.fit.log_coefficients(deployment_groups(deployment))
        return Coefficients(**dict(zip(TERMS, np.exp(logs[: len(TERMS)]).tolist(), strict=True)))

    def front_end_s(self, deployment: Deployment) -> tuple[float, float]:
        """Return the seconds from the client to the engine: per request, and per prompt token."""
        logs = self.fit.log_coefficients(deployment_groups(deployment))
        request, prompt = np.exp(logs[len(TERMS) :]).tolist()
        return request, prompt

    def seconds(self, c: Configuration, terms: npt.NDArray[np.float64]) -> float:
        """Return the law over one vector of terms."""
        return float(np.exp(self.fit.log_seconds(terms[None, :], [law_groups(c)]))[0])

    def classify(self, c: Configuration) -> Class:
        """Return how a prediction of `c` rests on measurements.

        Interpolated: its model on its engine and its accelerator on its engine were measured in this mode,
        with lengths, concurrency and accelerators of a deployment no more than a factor of 2 outside what
        that model and engine were measured at. No measured row ran in pipeline stages.
        """
        if c.missing:
            return "inputs missing"
        return "extrapolated" if self.outside(c) else "interpolated"

    def outside(self, c: Configuration) -> tuple[Outside, ...]:
        """Return all that lies beyond what was measured; nothing: `c` is interpolated, if complete."""
        mode = " disaggregated" if c.disaggregated else ""
        same = [k for k in self.groups if k.engine == c.engine and k.disaggregated == c.disaggregated]
        of_model = [k for k in same if k.model == c.architecture.name]
        found = []
        if not of_model:
            found.append(Outside(what=f"no measured row has {c.architecture.name} on {c.engine}{mode}"))
        if not any(k.gpu == c.accelerator.name for k in same):
            found.append(Outside(what=f"no measured row has {c.accelerator.name} on {c.engine}{mode}"))
        if c.pp > 1:
            found.append(Outside(what=f"{c.pp} pipeline stages: no measured row of serving has any"))
        if of_model:
            found += [
                Outside(what=what, asked=asked, least=least, most=most, room=_ROOM)
                for what, asked, least, most in (
                    ("input tokens", c.isl, min(k.isl for k in of_model), max(k.isl for k in of_model)),
                    ("output tokens", c.osl, min(k.osl for k in of_model), max(k.osl for k in of_model)),
                    (
                        "requests at once",
                        c.concurrency,
                        min(k.least for k in of_model),
                        max(k.most for k in of_model),
                    ),
                    ("accelerators", c.gpus, min(k.gpus for k in of_model), max(k.gpus for k in of_model)),
                )
                if not least / _ROOM <= asked <= most * _ROOM
            ]
        return tuple(found)

    def unmeasured(self, d: Deployment) -> tuple[str, ...]:
        """Return which of its `model` and its `accelerator` was never measured on its engine. What was
        measured on another engine alone is as far off as what was on none: 18.2 and 15.4 % (median, time per
        token) against 18.4 and 15.9 on the same rows (docs/lab/operator-tables.md)."""
        same = [k for k in self.groups if k.engine == d.engine]
        return (
            *(() if any(k.model == d.architecture.name for k in same) else ("model",)),
            *(() if any(k.gpu == d.accelerator.name for k in same) else ("accelerator",)),
        )

    def nearest(self, c: Configuration) -> Known | None:
        """Return the calibration group that is most like `c`; ties go to the first."""
        gpus = c.gpus

        def distance(k: Known) -> float:
            return (
                4.0 * (k.model != c.architecture.name)
                + 3.0 * (k.gpu != c.accelerator.name)
                + 2.0 * (k.engine != c.engine)
                + 2.0 * (k.disaggregated != c.disaggregated)
                + abs(log2(k.gpus / gpus))
                + abs(log2(k.isl / c.isl))
                + abs(log2(k.osl / c.osl))
            )

        return min(self.groups, key=distance, default=None)

    def scatter_of(self, metric: str, klass: Class, c: Configuration) -> tuple[Spread, ...]:
        """Return the scatters that make the interval of `c`, by what of it was not seen; see `widest`.

        A model that was measured on no engine here has the errors of models left out, an accelerator those
        of accelerators left out, both have both. A row that lacks inputs has those of such rows, left out in
        the same way. What is only outside of the lengths, the mode or the engine that were measured has the
        errors of either.
        """
        if klass == "interpolated":
            return (self._scatter(f"{metric}, interpolated"),)
        known_model = any(k.model == c.architecture.name for k in self.groups)
        known_part = any(k.gpu == c.accelerator.name for k in self.groups)
        found = [] if known_model else [self._scatter(f"{metric}, model left out")]
        found += [] if known_part else [self._scatter(f"{metric}, accelerator left out")]
        if klass == "inputs missing":
            return (self._scatter(f"{metric}, inputs missing{', new' if found else ''}"),)
        return tuple(found) or (self._scatter(f"{metric}, extrapolated"),)

    def bounds(self, metric: str, klass: Class, c: Configuration, value: float) -> tuple[float, float]:
        """Return the 80 % interval about `value`, from errors that were held out in the same way."""
        groups = scatter_groups(c)
        found = [scatter.bounds(value, groups) for scatter in self.scatter_of(metric, klass, c)]
        return widest(value, found)

    def _scatter(self, name: str) -> Spread:
        return self.spreads.get(name, UNKNOWN)


@cache
def stored(table: str = "inferencex") -> Calibration:
    """Return the calibration that comes with wattmill.

    Raises:
        FileNotFoundError: there is none for that table.
    """
    raw = (files("wattmill") / "data" / "law" / f"{table}.json").read_bytes()
    return msgspec.json.decode(raw, type=Calibration)
