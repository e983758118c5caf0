"""A check of the twin as a sheet: what it predicted against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wattmill.app.results.making import fact, table
from wattmill.app.results.sheet import Sheet
from wattmill.app.seeing.figure import figure
from wattmill.twin.calibration.spec import GOAL
from wattmill.twin.plots.chart import Axis, Chart, Series, words
from wattmill.units import NUSD_PER_USD
from wattmill.vocab.usage import Provenance

if TYPE_CHECKING:
    from wattmill.twin.calibration.replayed import Line, Replayed

_NAMES = {
    "output_tok_per_s": "output tokens",
    "served_tok_per_s": "output tokens while serving",
    "ttft_p50_s": "first token p50",
    "ttft_p95_s": "first token p95",
    "tpot_p50_s": "per token p50",
    "tpot_p95_s": "per token p95",
    "j_per_tok": "energy per token",
    "usd_per_mtok": "cost",
    "booked_usd_per_mtok": "cost as booked",
}
_UNITS = {
    "output_tok_per_s": "tok_per_s",
    "served_tok_per_s": "tok_per_s",
    "j_per_tok": "j_per_tok",
    "usd_per_mtok": "nusd_per_mtok",
    "booked_usd_per_mtok": "nusd_per_mtok",
}
_DOLLARS = ("usd_per_mtok", "booked_usd_per_mtok")
_GROUPS = (
    ("speed", "Output tokens a second", "tok/s", ("output_tok_per_s", "served_tok_per_s")),
    ("ttft", "Time to the first token", "s", ("ttft_p50_s", "ttft_p95_s")),
    ("tpot", "Time per token", "s", ("tpot_p50_s", "tpot_p95_s")),
)


def checked(
    model: str,
    engine: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    median_error: float,
    repeats: int,
    requests: int,
    goal: float,
    at_us: int,
) -> Sheet:
    """Return the sheet of one check.

    Args:
        rows: one a figure and load, as `wattmill twin check --json` prints them.
        requests: of one repeat.
        goal: a figure holds within this share, or within the spread of the repeats.
    """
    held = sum(bool(row["holds"]) for row in rows)
    loads = sorted({float(row["load"]) for row in rows})
    told = f"{held} of {len(rows)} figures within max({goal:.0%}, spread of the repeats)"
    return Sheet(
        kind="check",
        at_us=at_us,
        key=model,
        title=f"{model} on {engine}, live against simulated",
        says=f"{told}; median error {median_error:.1%}",
        facts=(
            fact("median error", median_error, "ratio", "measured", note="of all figures of all repeats"),
            fact("figures that hold", held, "count", "measured", note=told),
            fact("figures", len(rows), "count", "measured"),
            fact("repeats", repeats, "count", "declared", note=f"of {requests} requests each"),
        ),
        charts=tuple(_charts(rows, goal)),
        tables=(
            table(
                "figures",
                "Predicted and measured",
                ["load", "figure", "predicted", "measured", "off", "repeats apart", "holds"],
                [_row(row) for row in rows],
                note="Load is a share of what the twin says that the engine can serve.",
            ),
        ),
        notes=(
            f"Loads {', '.join(f'{load:g}' for load in loads)} of what the engine can serve, {repeats} "
            f"repeats of {requests} requests each; other lengths and another seed than the fit's.",
        ),
    )


def replayed_period(model: str, engine: str, found: Replayed, *, period: str, at_us: int) -> Sheet:
    """Return the sheet of a recorded period that was replayed: one line a figure, nothing repeated."""
    judged = [line for line in found.lines if line.judged]
    held = sum(line.holds for line in judged)
    told = f"{held} of {len(judged)} figures within {GOAL:.0%}"
    chart_rows = [
        {"load": 1.0, "figure": line.figure, "predicted": line.predicted, "measured": line.recorded}
        for line in judged
    ]
    return Sheet(
        kind="check",
        at_us=at_us,
        key=model,
        title=f"{model} on {engine}, a recorded period against its replay",
        says=f"{told}; median error {found.median_error:.1%}",
        facts=(
            fact(
                "median error", found.median_error, "ratio", "measured", note="of figures of speed and time"
            ),
            fact("figures that hold", held, "count", "measured", note=told),
            fact("figures", len(judged), "count", "measured"),
            fact("first token, request by request", found.ttft_error, "ratio", "measured", note="median"),
            fact("per token, request by request", found.tpot_error, "ratio", "measured", note="median"),
            fact(
                "requests",
                found.judged,
                "count",
                "measured",
                note=f"{found.outside} beyond the fit's lengths",
            ),
        ),
        charts=tuple(_charts(chart_rows, GOAL, where=lambda _: "the period")),
        tables=(
            table(
                "figures",
                "Predicted and recorded",
                ["figure", "predicted", "recorded", "off", "holds"],
                [_line(line) for line in found.lines],
                note="What follows from arrivals or prices alone is not counted.",
            ),
        ),
        notes=(period, *found.notes),
    )


def _line(line: Line) -> list[Any]:
    unit = _UNITS.get(line.figure, "s")
    scale = NUSD_PER_USD if line.figure in _DOLLARS else 1
    return [
        _NAMES.get(line.figure, line.figure),
        figure(line.predicted * scale, unit, provenance="modelled"),
        figure(line.recorded * scale, unit, provenance=line.provenance),
        figure(line.error, "ratio", provenance="measured"),
        ("yes" if line.holds else "no") if line.judged else "follows",
    ]


def _at_load(row: Mapping[str, Any]) -> str:
    return f"load {row['load']:g}"


def _charts(
    rows: Sequence[Mapping[str, Any]], goal: float, where: Callable[[Mapping[str, Any]], str] = _at_load
) -> Iterable[Chart]:
    for id, title, unit, names in _GROUPS:
        of = {name: [row for row in rows if row["figure"] == name] for name in names}
        series = tuple(
            Series(
                name=_NAMES[name],
                points=tuple((float(row["measured"]), float(row["predicted"])) for row in found),
                names=tuple(where(row) for row in found),
            )
            for name, found in of.items()
            if found
        )
        if not series:
            continue
        told = "; ".join(
            f"{_NAMES[name]} at {where(row)}: measured {words(row['measured'])}, predicted "
            f"{words(row['predicted'])} {unit}"
            for name, found in of.items()
            for row in found
        )
        yield Chart(
            id=id,
            kind="scatter",
            title=title,
            says=f"{title}. {told}.",
            x=Axis(label="measured", unit=unit, provenance="measured"),
            y=Axis(label="predicted", unit=unit, provenance="modelled"),
            series=series,
            diagonal=True,
            band=goal,
        )


def _row(row: Mapping[str, Any]) -> list[Any]:
    name = row["figure"]
    unit = _UNITS.get(name, "s")
    scale = NUSD_PER_USD if name in _DOLLARS else 1
    seen: Provenance = row["provenance"]
    return [
        figure(row["load"], "ratio", provenance="declared"),
        _NAMES.get(name, name),
        figure(row["predicted"] * scale, unit, provenance="modelled"),
        figure(row["measured"] * scale, unit, provenance=seen),
        figure(row["error"], "ratio", provenance="measured"),
        figure(row["spread"], "ratio", provenance="measured"),
        "yes" if row["holds"] else "no",
    ]
