"""The predictor of offline rows: throughput, wall power and wall energy, each with interval and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import exp
from typing import cast

from wattmill.twin.law.predictors import Predicted, Predictor
from wattmill.twin.law.reading import per_base
from wattmill.twin.law.spec import Class, Prior
from wattmill.twin.law.throughput import at_fixed_concurrency, closed_loop_throughput
from wattmill.twin.offline.calibration import OfflineCalibration, stored
from wattmill.twin.offline.energy import ENERGY, GUESSED, draw, wall_bounds
from wattmill.twin.offline.rows import THROUGHPUT, offline_row

METRICS = (*THROUGHPUT, *ENERGY)


def predicted(
    metric: str,
    rows: Sequence[Mapping[str, str]],
    calibration: OfflineCalibration | None = None,
    *,
    prior: Prior | None = None,
) -> list[Predicted]:
    """Return `metric` of each row: tokens/s of the system or a device, watts, or joules per output token.

    A row of throughput that states its concurrency is a closed loop: the serving law answers, with `prior`
    beside it.

    Raises:
        ValueError: the metric is none of `METRICS`.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if not rows:
        return []
    closed = metric in THROUGHPUT and any(at_fixed_concurrency(row) for row in rows)
    if closed:
        queued = [row for row in rows if not at_fixed_concurrency(row)]
        rest = iter(predicted(metric, queued, calibration))
        each = metric.endswith("per_gpu")
        return [
            closed_loop_throughput(row, per_gpu=each, prior=prior)
            if at_fixed_concurrency(row)
            else next(rest)
            for row in rows
        ]
    law = calibration or stored()
    asked = [offline_row(row) for row in rows]
    problem, theta = law.problem(asked)
    solved = problem.chosen(theta)
    found = []
    for at, row in enumerate(asked):
        unit = per_base(rows[at].get("unit"))
        drawn = draw(row, solved, at, cap_share=law.walls.cap_share)
        per_gpu = exp(float(solved.log_throughput[at])) / drawn.slowdown
        whole = per_gpu * row.gpus
        slow, fast = law.bounds(row)
        if "gpu" in row.missing:  # parts that were left out had known figures; of this one they are a guess
            slow, fast = slow / GUESSED, fast * GUESSED
        (low, high), joules = wall_bounds(law.walls, row, tdp_known=drawn.tdp_known)
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
                low, high = joules
                bounds = (min(exp(low), 1.0 / fast), max(exp(high), 1.0 / slow))
        found.append(
            Predicted(
                value=value * unit,
                low=value * unit * bounds[0],
                high=value * unit * bounds[1],
                klass=cast(Class, "inputs missing" if missing else law.seen.klass(row)),
                nearest=law.seen.nearest(row),
                assumed=tuple(missing),
            )
        )
    return found


OFFLINE: dict[str, Predictor] = {metric: partial(predicted, metric) for metric in METRICS}
"""Metric -> predictor, beside `twin.law.predictors.PREDICTORS`."""
