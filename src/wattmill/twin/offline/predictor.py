"""The predictor of offline rows: throughput, wall power and wall energy, each with interval and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import exp
from typing import cast

from wattmill.twin.law.predictors import Predicted, Predictor
from wattmill.twin.law.spec import Class
from wattmill.twin.offline.calibration import OfflineCalibration, stored
from wattmill.twin.offline.energy import ENERGY, draw
from wattmill.twin.offline.novelty import scatter_groups
from wattmill.twin.offline.rows import THROUGHPUT, offline_row

METRICS = (*THROUGHPUT, *ENERGY)


def predicted(
    metric: str, rows: Sequence[Mapping[str, str]], calibration: OfflineCalibration | None = None
) -> list[Predicted]:
    """Return `metric` of each row: tokens/s of the system or a device, watts, or joules per output token.

    Raises:
        ValueError: the metric is none of `METRICS`.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if not rows:
        return []
    law = calibration or stored()
    asked = [offline_row(row) for row in rows]
    problem, theta = law.problem(asked)
    solved = problem.chosen(theta)
    found = []
    for at, row in enumerate(asked):
        drawn = draw(row, solved, at, cap_share=law.walls.cap_share)
        per_gpu = exp(float(solved.log_throughput[at])) / drawn.slowdown
        whole = per_gpu * row.gpus
        fast, slow = (
            bound / per_gpu for bound in law.spread.bounds(per_gpu, scatter_groups(row, law.seen))[::-1]
        )
        low, high = law.walls.power
        missing = row.missing if drawn.tdp_known or metric in THROUGHPUT else (*row.missing, "tdp")
        match metric:
            case "output_throughput":
                value, bounds = whole, (slow, fast)
            case "output_throughput_per_gpu":
                value, bounds = per_gpu, (slow, fast)
            case "system_wall_power":
                value, bounds = drawn.wall_w, (exp(low), exp(high))
            case _:
                # The wider of what held-out runs showed and what the throughput's own interval implies.
                value = drawn.wall_w / whole
                low, high = law.walls.energy
                bounds = (min(exp(low), 1.0 / fast), max(exp(high), 1.0 / slow))
        found.append(
            Predicted(
                value=value,
                low=value * bounds[0],
                high=value * bounds[1],
                klass=cast(Class, "inputs missing" if missing else law.seen.klass(row)),
                nearest=law.seen.nearest(row),
                assumed=tuple(missing),
            )
        )
    return found


OFFLINE: dict[str, Predictor] = {metric: partial(predicted, metric) for metric in METRICS}
"""Metric -> predictor, beside `twin.law.predictors.PREDICTORS`."""
