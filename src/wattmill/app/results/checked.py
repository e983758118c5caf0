"""A check of the twin as a sheet: what it predicted against what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wattmill.app.results.making import fact, table
from wattmill.app.results.sheet import Sheet
from wattmill.app.seeing.figure import figure
from wattmill.twin.plots.chart import Axis, Chart, Series, words
from wattmill.units import NUSD_PER_USD
from wattmill.vocab.usage import Provenance

_NAMES = {
    "output_tok_per_s": "output tokens",
    "ttft_p50_s": "first token p50",
    "ttft_p95_s": "first token p95",
    "tpot_p50_s": "per token p50",
    "tpot_p95_s": "per token p95",
    "j_per_tok": "energy per token",
    "usd_per_mtok": "cost",
}
_UNITS = {"output_tok_per_s": "tok_per_s", "j_per_tok": "j_per_tok", "usd_per_mtok": "nusd_per_mtok"}
_GROUPS = (
    ("speed", "Output tokens a second", "tok/s", ("output_tok_per_s",)),
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


def _charts(rows: Sequence[Mapping[str, Any]], goal: float) -> Iterable[Chart]:
    for id, title, unit, names in _GROUPS:
        of = {name: [row for row in rows if row["figure"] == name] for name in names}
        series = tuple(
            Series(
                name=_NAMES[name],
                points=tuple((float(row["measured"]), float(row["predicted"])) for row in found),
                names=tuple(f"load {row['load']:g}" for row in found),
            )
            for name, found in of.items()
            if found
        )
        if not series:
            continue
        told = "; ".join(
            f"{_NAMES[name]} at load {row['load']:g}: measured {words(row['measured'])}, predicted "
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
    scale = NUSD_PER_USD if name == "usd_per_mtok" else 1
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
