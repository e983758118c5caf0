"""The whole offline refit: throughput with cells, workloads, models, accelerators and generations of them
left out, energy by run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import msgspec
import numpy as np

from wattmill.twin.law.calibration import HeldOut
from wattmill.twin.law.predictors import Predicted
from wattmill.twin.law.rows import identity, measured_rows
from wattmill.twin.law.score import Figures, Scored, grouped
from wattmill.twin.offline.calibration import OfflineCalibration, kept
from wattmill.twin.offline.energy import ENERGY, UNKNOWN, Walls, cap_share_of, constant_w, draw
from wattmill.twin.offline.fit import fit
from wattmill.twin.offline.folds import LEFT, METRIC, Held, Left, Progress, held_out, spreads_of, summary
from wattmill.twin.offline.law import Problem
from wattmill.twin.offline.levels import COLUMNS
from wattmill.twin.offline.novelty import Seen, bounds
from wattmill.twin.offline.rows import THROUGHPUT, OfflineRow, distinct, offline_row

TABLES = ("trtllm_perf_overview", "mlperf_llm_closed")


class Offline(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out errors of the offline law, its energy and their rivals."""

    rows: int  # distinct runs of throughput
    cells: int
    seconds: float
    held_out: tuple[HeldOut, ...]
    figures: tuple[Figures, ...]
    calibration: OfflineCalibration

    def tables(self) -> dict[str, Any]:
        """Return everything but the coefficients."""
        return {
            "rows": self.rows,
            "cells": self.cells,
            "seconds": round(self.seconds, 1),
            "held_out": msgspec.to_builtins(self.held_out),
            "figures": msgspec.to_builtins(self.figures),
        }


def training(tables: Sequence[str] = TABLES) -> tuple[list[dict[str, str]], list[OfflineRow]]:
    """Return the rows of throughput and energy, and of throughput the distinct runs that the law learns from:
    free of a power cap whose height is not published."""
    raw = [row for table in tables for row in measured_rows(table)]
    raw = [row for row in raw if row["metric"] in (*THROUGHPUT, *ENERGY)]
    found = [offline_row(row) for row in raw if row["metric"] in THROUGHPUT]
    free = [row for row in found if not row.capped]
    return raw, [free[i] for i in distinct(free)]


def cross_validated(
    *,
    seed: int = 0,
    lefts: Sequence[Left] = LEFT,
    rivals: bool = True,
    fitted_on: str = "",
    progress: Progress | None = None,
) -> Offline:
    """Refit the offline law with each fold left out, and on all rows."""
    began = time.perf_counter()
    raw, rows = training()
    problem = Problem(rows)
    measured = np.log([row.tok_per_s_per_gpu or np.nan for row in rows])
    held = [held_out(problem, measured, left, seed=seed, rivals=rivals, progress=progress) for left in lefts]
    theta = fit(problem, measured)
    walls, energy = energy_held_out(raw, problem, measured, theta)
    deviations, extras = kept(problem.layout, theta)
    errors = tuple(f for h in held for f in summary(h)) + tuple(energy)
    calibration = OfflineCalibration(
        tables=TABLES,
        rows=len(rows),
        identity=identity(raw),
        fitted_on=fitted_on,
        columns=COLUMNS,
        deviations=deviations,
        extras=extras,
        seen=Seen.of(rows),
        spreads=spreads_of(held),
        walls=walls,
        held_out=errors,
    )
    return Offline(
        rows=len(rows),
        cells=len({row.cell for row in rows}),
        seconds=time.perf_counter() - began,
        held_out=errors,
        figures=tuple(f for h in held for f in _coverage(h)),
        calibration=calibration,
    )


def _coverage(h: Held) -> list[Figures]:
    """Return held-out figures pooled, and by generation, accelerator, model, scenario and who measured."""
    scored = [
        Scored(
            row={
                "metric": METRIC,
                "generation": row.generation,
                "gpu": row.accelerator.name,
                "model": row.architecture.name,
                "scenario": row.scenario,
                "family": row.family,
                "tier": groups[0].removeprefix("tier="),
            },
            measured=exp(float(h.measured[at])),
            predicted=Predicted(
                value=exp(float(h.predicted[at])),
                low=exp(float(h.low[at])),
                high=exp(float(h.high[at])),
                klass="inputs missing" if row.missing else "extrapolated",
                nearest=None,
                assumed=row.missing,
            ),
            seen=False,
        )
        for at, (row, groups) in enumerate(zip(h.rows, h.groups, strict=True))
    ]
    found = grouped(scored, lambda s: f"{h.left} left out")
    for column in ("scenario", "family", "generation", "gpu", "model", "tier"):
        found += grouped(scored, lambda s, column=column: f"{h.left} left out: {column}={s.row[column]}")  # type: ignore[misc]
    return found


def energy_held_out(
    raw: Sequence[Mapping[str, str]], problem: Problem, measured: Any, theta: Any
) -> tuple[Walls, list[HeldOut]]:
    """Return what is to be kept of energy, and its errors with each run left out.

    A run is a system with a model, in all its scenarios: they were measured in one session. A -99.9 beside a
    -99 counts once. Where throughput is predicted, the law of it is refitted without the rows of that run's
    accelerator, model and round.
    """
    power = list({_run(row): row for row in raw if row["metric"] == ENERGY[0]}.values())
    tokens = {_id(row): float(row["value"]) for row in raw if row["metric"] in THROUGHPUT}
    runs = [(row, offline_row(row), float(row["value"])) for row in power if _id(row) in tokens]
    if not runs:
        return UNKNOWN, []
    names = sorted({_session(row) for row, _, _ in runs})
    ratios: dict[str, list[float]] = {}  # method -> ln(measured / predicted)
    for name in names:
        others = [(row, w) for text, row, w in runs if _session(text) != name]
        out = [(text, row, w) for text, row, w in runs if _session(text) == name]
        asked = [row for _, row, _ in out]
        use = np.array([not _same_run(row, asked[0]) for row in problem.rows])
        part = Problem(asked, problem.layout)
        solved = part.chosen(fit(problem, measured, use=use))
        share = cap_share_of(others)
        for at, (text, row, watts) in enumerate(out):
            drawn = draw(row, solved, at, cap_share=share)
            flat = constant_w(others, row)
            real = tokens[_id(text)]
            guessed = exp(float(solved.log_throughput[at])) * row.gpus / drawn.slowdown
            for method, ratio in (
                ("power: law", log(watts / drawn.wall_w)),
                ("power: constant watts", log(watts / flat)),
                ("energy given throughput: law", log(watts / drawn.wall_w)),
                ("energy given throughput: constant watts", log(watts / flat)),
                ("energy: law", log(watts / real / (drawn.wall_w / guessed))),
                ("energy: constant watts", log(watts / real / (flat / guessed))),
            ):
                ratios.setdefault(method, []).append(ratio)
    walls = Walls(
        cap_share=cap_share_of([(row, w) for _, row, w in runs]),
        runs=len(names),
        power=bounds(ratios["power: law"]),
        energy=bounds(ratios["energy: law"]),
    )
    return walls, [_held(method, np.array(found)) for method, found in ratios.items()]


def _held(method: str, ratios: Any) -> HeldOut:
    metric, name = method.split(": ")
    errors = np.exp(-ratios) - 1.0
    return HeldOut(
        folds=f"run left out, {metric}",
        metric=ENERGY[0] if metric == "power" else ENERGY[1],
        method=name,
        rows=len(errors),
        median_pct=round(100.0 * float(np.median(np.abs(errors))), 2),
        mape_pct=round(100.0 * float(np.abs(errors).mean()), 2),
        bias_pct=round(100.0 * float(np.median(errors)), 2),
        inside_pct=None,
    )


def _id(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("source", "model", "system", "submitter", "scenario"))


def _session(row: Mapping[str, str]) -> str:
    return f"{row['source']} {row['submitter']} {row['system']} {row['model'].removesuffix('.9')}"


def _run(row: Mapping[str, str]) -> tuple[str, str]:
    return _session(row), row["scenario"]


def _same_run(row: OfflineRow, asked: OfflineRow) -> bool:
    return row.cell == asked.cell and row.family == asked.family
