"""Predicted against measured, a picture for each metric of a scored table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import get_args

from wattmill.twin.law.reading import per_base, per_second
from wattmill.twin.law.score import Scored
from wattmill.twin.law.spec import Class
from wattmill.twin.plots.chart import Axis, Chart, Series
from wattmill.units import MS_PER_S

_MOST = 1_500
"""Points of one class: more than a picture has room for are taken evenly."""

_SLIP = 1e6
"""A measured figure so many times above or below the predicted one is not drawn."""

_UNITS = {
    "ttft_mean": "ms",
    "tpot_mean": "ms",
    "output_throughput": "tok/s",
    "output_throughput_per_gpu": "tok/s/GPU",
    "system_wall_power": "W",
    "wall_energy_per_output_token": "J/token",
}


def validation_charts(scored: Sequence[Scored]) -> tuple[Chart, ...]:
    """Return a chart for each metric that was predicted and measured: both axes in one unit, classes apart.

    A figure that is a million times off is a slip of the file (its unit, a digit) and would flatten the rest:
    it is left out, and counted in what the picture says.
    """
    by_metric: dict[str, dict[Class, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for s in scored:
        if s.predicted is not None and s.measured is not None:
            metric = (s.row.get("metric") or "").strip().lower()
            by_metric[metric][s.predicted.klass].append(s)
    return tuple(_chart(metric, found) for metric, found in sorted(by_metric.items()))


def _chart(metric: str, found: Mapping[Class, Sequence[Scored]]) -> Chart:
    unit = _UNITS.get(metric, "")
    shown = {klass: found[klass] for klass in get_args(Class) if klass in found}
    drawn = {klass: [s for s in rows if 1 / _SLIP < 1 + s.error < _SLIP] for klass, rows in shown.items()}
    slips = sum(len(rows) for rows in shown.values()) - sum(len(rows) for rows in drawn.values())
    counted = ", ".join(f"{len(rows):,} {klass}" for klass, rows in shown.items())
    counted += f" rows of {metric}" + (f", {slips} of them too far off to be drawn" if slips else "")
    return Chart(
        id=metric,
        kind="scatter",
        title=f"{metric}: predicted against measured",
        says=f"{counted}; on the line both are equal.",
        x=Axis(label="measured", unit=unit, provenance="measured", log=True),
        y=Axis(label="predicted", unit=unit, provenance="modelled", log=True),
        series=tuple(
            Series(name=klass, points=tuple(_point(s) for s in _taken(rows))) for klass, rows in drawn.items()
        ),
        diagonal=True,
    )


def _point(s: Scored) -> tuple[float, float]:
    assert s.predicted is not None and s.measured is not None
    metric, unit = (s.row.get("metric") or "").strip().lower(), s.row.get("unit")
    if metric in ("ttft_mean", "tpot_mean"):
        scale = MS_PER_S / (per_second(unit) or MS_PER_S)
    else:
        scale = 1.0 / per_base(unit)
    return s.measured * scale, s.predicted.value * scale


def _taken(rows: Sequence[Scored]) -> Sequence[Scored]:
    return rows[:: -(-len(rows) // _MOST) or 1]
