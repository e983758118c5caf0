"""`wattmill twin validate` and `crossval`: how far the law is from what was measured."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from wattmill.cli.bar import bars, left_out
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.cli.operators_option import OperatorsOption, operator_tables, operator_wheel
from wattmill.cli.pictures import PlotsOption, write_pictures

if TYPE_CHECKING:
    from wattmill.twin.law.calibration import HeldOut
    from wattmill.twin.law.predictors import Predictor
    from wattmill.twin.law.score import Figures

_REASONS = 10
"""So many reasons why rows have no sum are printed; most others are single sizes."""

_LEGIBLE = 1e6
"""Percentages from here on are written with an exponent: a cell was off by orders of magnitude."""


def validate(
    file: Annotated[Path, typer.Argument(help="CSV with the columns of the measured tables; plain or .gz.")],
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Group by any column of the file, too.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every row with its number, interval and class as CSV."),
    ] = None,
    operators: OperatorsOption = False,
    plots: PlotsOption = None,
    json: JsonOption = False,
) -> None:
    """Score the stored coefficients on measured rows, seen in training or not.

    Every row of a known metric gets a number, an 80 % interval and a class; unknown columns are ignored.
    """
    from wattmill.twin.law.answers import write_answers
    from wattmill.twin.law.predictors import PREDICTORS
    from wattmill.twin.law.rows import read_rows
    from wattmill.twin.law.score import column_named, score, summed_up
    from wattmill.twin.offline.predictor import OFFLINE

    try:
        table = read_rows(file)
        column = column_named(by, table)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    except ValueError as error:
        fail(str(error))
    with bars(quiet=json) as bar:
        task = bar.add_task("rows predicted", total=len(table))
        every = score(
            table,
            {**PREDICTORS, **OFFLINE, **(_with_operators() if operators else {})},
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    if rows is not None:
        try:
            write_answers(rows, every)
        except OSError as error:
            fail(f"--rows must name a file that can be written, got {rows}: {error.strerror}")
    drawn: list[str] = []
    if plots is not None:
        from wattmill.twin.law.pictures import validation_charts

        drawn = write_pictures(plots, {"predicted-measured.svg": validation_charts(every)})
    found = summed_up(str(file), every, by=column)
    bases = Counter(s.predicted.basis for s in every if s.predicted is not None and s.predicted.basis)
    if json:
        show_json(msgspec.to_builtins(found) | ({"operators": dict(bases)} if operators else {}))
        return
    typer.echo(f"{file}: {_rows(found.rows)}, {found.seen} of them seen in training")
    if found.unreadable:
        typer.echo(f"{_rows(found.unreadable)} without a positive number in `value`: predicted, in no figure")
    for metric, count in sorted(found.not_predicted.items()):
        typer.echo(f"{_rows(count)} of {metric or '(no metric)'}: no predictor")
    for basis, count in sorted(bases.items()):
        typer.echo(f"{_rows(count)} by the law and {basis}")
    if operators and not bases:
        typer.echo("operator tables answered for no row: they stand in where nothing was measured")
    _show_figures(found.figures)
    if rows is not None:
        typer.echo(f"each row with its number, interval and class: {rows}")
    for picture in drawn:
        typer.echo(f"wrote {picture}")


def _with_operators() -> dict[str, Predictor]:
    from wattmill.twin.law.predictors import serving
    from wattmill.twin.law.spec import METRICS
    from wattmill.twin.offline.predictor import predicted
    from wattmill.twin.offline.rows import THROUGHPUT

    prior = operator_tables()
    times: dict[str, Predictor] = {metric: serving(metric, prior=prior) for metric in METRICS}
    return times | {metric: partial(predicted, metric, prior=prior) for metric in THROUGHPUT}


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def crossval(
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the refitted coefficients here.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only rows of this engine: a shorter trial.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which groups are dealt into folds.")] = 0,
    only: Annotated[
        str | None,
        typer.Option(metavar="PART", help="Only the part `serving`, `offline` or `operators`."),
    ] = None,
    write_offline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the refitted offline coefficients here.")
    ] = None,
    write_operators: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the refitted factors of operator tables here.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Refit the law with whole curves, models and accelerators left out; print its error on them.

    The part `serving` is TTFT and TPOT at fixed concurrency, `offline` the throughput of engines that are
    never short of work, and energy. `--engine` and `--json` give the former alone. The part `operators`
    is run when it is asked for: whether operator tables help where a model or an accelerator was never
    measured.

    A look-up table and gradient boosting on the same folds stand beside it.
    """
    from wattmill.twin.law.crossval import cross_validated

    if only not in (None, "serving", "offline", "operators"):
        fail(f"--only must be `serving`, `offline` or `operators`, got {only!r}")
    if only == "operators":
        _crossval_operators(write=write_operators, json=json)
        return
    if write_operators is not None:
        fail("--write-operators stores what `--only operators` fits: add it")
    if only == "offline" and write is not None:
        fail("--write stores what the part `serving` fits; of `--only offline` it is --write-offline FILE")
    if write_offline is not None and only != "offline" and (only or engine or json):
        fail(
            "--write-offline stores what the part `offline` fits, which --only serving, --engine and --json "
            "leave out"
        )
    if only == "offline":
        _crossval_offline(seed=seed, write=write_offline, json=json)
        return
    with bars(quiet=json) as bar:
        try:
            found = cross_validated(engine=engine, seed=seed, progress=left_out(bar), store=write is not None)
        except ValueError as error:
            fail(str(error))
    if write is not None and found.calibration is not None:
        write.write_bytes(msgspec.json.format(msgspec.json.encode(found.calibration), indent=1) + b"\n")
    if json:
        show_json(msgspec.to_builtins(found.tables()))
        return
    typer.echo(f"{found.rows} rows in {found.groups} calibration groups, {found.seconds:.0f} s")
    _show_held_out(found.held_out)
    _show_figures(found.figures)
    if write is not None:
        typer.echo(f"coefficients stored in {write}")
    if only is None and engine is None:
        _crossval_offline(seed=seed, write=write_offline, json=False)


def _crossval_operators(*, write: Path | None, json: bool) -> None:
    from wattmill.twin.operators.crossval import cross_validated
    from wattmill.twin.operators.tables import Tables

    wheel = operator_wheel()
    with bars(quiet=json) as bar:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        found = cross_validated(Tables(wheel), fitted_on=today, progress=left_out(bar))
    if write is not None:
        write.write_bytes(msgspec.json.format(msgspec.json.encode(found.factors), indent=1) + b"\n")
    if json:
        show_json({k: v for k, v in msgspec.to_builtins(found).items() if k != "factors"})
        return
    typer.echo(
        f"{_rows(found.covered)} of {found.rows} with complete inputs have operators' sums "
        f"({found.factors.version}), {found.seconds:.0f} s"
    )
    _show_held_out(found.held_out)
    show_table(
        ["left out", "metric", "weight of the sums", "inner median %"],
        [[s.folds, s.metric, f"{s.share:g}", _figure(s.inner_median_pct)] for s in found.shares],
        numbers=["weight of the sums", "inner median %"],
    )
    for why, count in [*found.missing.items()][:_REASONS]:
        typer.echo(f"{_rows(count)} without: {why}")
    if len(found.missing) > _REASONS:
        typer.echo(
            f"{_rows(sum([*found.missing.values()][_REASONS:]))} without, for other sizes; --json lists"
        )
    if write is not None:
        typer.echo(f"factors stored in {write}")


def _crossval_offline(*, seed: int, write: Path | None, json: bool) -> None:
    from wattmill.twin.offline.crossval import cross_validated

    with bars(quiet=json) as bar:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        found = cross_validated(seed=seed, fitted_on=today, progress=left_out(bar, "offline "))
    if write is not None:
        write.write_bytes(msgspec.json.format(msgspec.json.encode(found.calibration), indent=1) + b"\n")
    if json:
        show_json(msgspec.to_builtins(found.tables()))
        return
    typer.echo(f"{found.rows} offline runs in {found.cells} cells, {found.seconds:.0f} s")
    _show_held_out(found.held_out)
    _show_figures(found.figures)
    if write is not None:
        typer.echo(f"offline coefficients stored in {write}")


def _show_figures(figures: tuple[Figures, ...]) -> None:
    headers = [
        "metric",
        "group",
        "rows",
        "seen",
        "coverage %",
        "MAPE %",
        "median %",
        "bias %",
        "in 80 %",
        "by chance",
    ]
    show_table(
        headers,
        [
            [
                f.metric,
                f.group,
                str(f.rows),
                str(f.seen),
                _figure(f.coverage_pct),
                _figure(f.mape_pct),
                _figure(f.median_pct),
                _figure(f.bias_pct),
                _figure(f.inside_80_pct),
                f"{f.chance_pct[0]:.0f}–{f.chance_pct[1]:.0f}" if f.chance_pct else "",
            ]
            for f in figures
        ],
        numbers=headers[2:],
    )


def _show_held_out(held: tuple[HeldOut, ...]) -> None:
    headers = ["left out", "metric", "method", "rows", "median %", "MAPE %", "bias %", "in 80 %"]
    show_table(
        headers,
        [
            [
                h.folds,
                h.metric,
                h.method,
                str(h.rows),
                _figure(h.median_pct),
                _figure(h.mape_pct),
                _figure(h.bias_pct),
                _figure(h.inside_pct),
            ]
            for h in held
        ],
        numbers=headers[3:],
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) < _LEGIBLE else f"{value:.2g}"
