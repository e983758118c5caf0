"""One registry: which predictor answers for which metric of the measured tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import msgspec

from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.features import features
from wattmill.twin.law.reading import per_second
from wattmill.twin.law.rows import MEASURED, Configuration, configuration, measured_rows, same_measurement
from wattmill.twin.law.spec import Class, Metric, Prior, with_prior
from wattmill.units import MS_PER_S

Row = Mapping[str, str]


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted for one row, in the row's own unit."""

    value: float
    low: float  # bounds of the 80 % interval
    high: float
    klass: Class
    nearest: str | None  # calibration group
    assumed: tuple[str, ...] = ()  # columns that the row lacks
    client_known: bool = True  # False: how requests were sent is an assumption, too
    basis: str | None = None  # what a prediction rests on beside the law; None: the law alone


Predictor = Callable[[Sequence[Row]], list[Predicted]]


def serving(metric: Metric, calibration: Calibration | None = None, prior: Prior | None = None) -> Predictor:
    """Return the predictor of `ttft_mean` or `tpot_mean` at fixed concurrency."""

    def predict(rows: Sequence[Row]) -> list[Predicted]:
        law = calibration or stored()
        return [
            served(law, metric, configuration(row), unit=row.get("unit") or "", prior=prior) for row in rows
        ]

    return predict


def served(
    law: Calibration, metric: Metric, c: Configuration, *, unit: str = "ms", prior: Prior | None = None
) -> Predicted:
    """Return `metric` of one configuration, in `unit`: ms, s or us. Of a unit that is not known, ms are
    assumed, and the column is named."""
    first, each = features(c)
    seconds = law.seconds(c, first if metric == "ttft_mean" else each)
    klass, near = law.classify(c), law.nearest(c)
    scale = per_second(unit)
    per_s = MS_PER_S if scale is None else scale
    assumed = c.missing if scale is not None else (*c.missing, "unit")
    if scale is None:
        klass = "inputs missing"
    time = with_prior(prior if scale is not None else None, law, c, metric, seconds, klass=klass)
    return Predicted(
        value=time.value_s * per_s,
        low=time.low_s * per_s,
        high=time.high_s * per_s,
        klass=klass,
        nearest=near.name if near else None,
        assumed=assumed,
        client_known=c.known_client,
        basis=time.basis,
    )


PREDICTORS: dict[str, Predictor] = {
    "ttft_mean": serving("ttft_mean"),
    "tpot_mean": serving("tpot_mean"),
}
"""Metric -> predictor. A metric that is not here is counted as not predicted."""


@cache
def seen_in_training() -> frozenset[str]:
    """Return all measurements that come with wattmill: coefficients were fitted on them."""
    return frozenset(same_measurement(row) for table in MEASURED for row in measured_rows(table))
