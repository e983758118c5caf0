"""A chart as a value: axes with unit and provenance, series with points. Files and the board draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from wattmill.twin.plots.svg import Axis as Scale
from wattmill.twin.plots.svg import Series as Drawn
from wattmill.twin.plots.svg import lines, scatter, span, ticks
from wattmill.vocab.usage import Provenance

Kind = Literal["steps", "lines", "scatter"]
_MILLION = 1e6
MOST_POINTS = 400  # of one series: more than a page has pixels for is no picture


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn along one side, in which unit, and how its figures are known."""

    label: str
    unit: str  # as people write it: "s", "tok/s", "requests"
    provenance: Provenance
    log: bool = False
    names: tuple[str, ...] = ()  # of the values 1, 2 ..., where they only tell things apart


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one name, in order. `names` says what each point is, where that is not its place."""

    name: str
    points: tuple[tuple[float, float], ...]
    names: tuple[str, ...] = ()
    dashed: bool = False  # a limit or another way of knowing, beside what it is held against
    joined: bool = False  # in a scatter: a line through its points, in their order


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One picture. `says` is what it shows, in words, for those who hear it."""

    id: str
    kind: Kind
    title: str
    says: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    diagonal: bool = False  # both axes are alike: a line marks where they agree
    band: float | None = None  # with a diagonal: agreement within this share is shaded


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One axis as it is drawn: from where to where, and the values written along it."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def sides(chart: Chart) -> tuple[Side, Side]:
    """Return both axes with their ticks, so that whoever draws decides nothing."""
    points = [point for one in chart.series for point in one.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if chart.diagonal:
        xs = ys = xs + ys
    spread = chart.kind == "scatter"  # a line begins and ends at the frame, a point is not cut by it
    return _side(xs, chart.x, zero=chart.diagonal, both=spread), _side(ys, chart.y, zero=True)


def _side(values: Sequence[float], axis: Axis, *, zero: bool, both: bool = False) -> Side:
    """`zero`: the axis begins there, with room above; `both`: with room on both sides where it does not."""
    if axis.names:
        named = tuple((n + 1.0, name) for n, name in enumerate(axis.names))
        return Side(low=0.5, high=len(named) + 0.5, ticks=named)
    low, high = span([v for v in values if not axis.log or v > 0], log=axis.log, zero=zero)
    room = (high / low) ** 0.04 if axis.log else (high - low) * 0.04
    if axis.log:
        low, high = low / room, high * room
    elif zero or both:
        low, high = low - (0.0 if zero else room), high + room
    return Side(
        low=low,
        high=high,
        ticks=tuple((value, _tick(value)) for value in ticks(low, high, log=axis.log)),
    )


def _tick(value: float) -> str:
    return f"{value / _MILLION:g} M" if abs(value) >= _MILLION else words(value)


def words(value: float) -> str:
    """Return a value as an axis writes it: three digits that matter, thousands grouped."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def picture(chart: Chart) -> str:
    """Return the chart as SVG text for a file."""
    x, y = (
        Scale(
            axis.label if axis.names else f"{axis.label}, {axis.unit} ({axis.provenance})",
            log=axis.log,
            ends=(side.low, side.high),
            ticks=side.ticks,
        )
        for axis, side in zip((chart.x, chart.y), sides(chart), strict=True)
    )
    series = [Drawn(one.name, one.points, one.dashed, one.joined) for one in chart.series]
    if chart.kind in ("steps", "lines"):
        return lines(chart.title, x, y, series, steps=chart.kind == "steps")
    return scatter(chart.title, x, y, series, diagonal=chart.diagonal)


def thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return at most `MOST_POINTS` points, of each stretch the one with the largest value: peaks stay.

    The first and the last stay too, so that a line begins and ends where it did.
    """
    every = math.ceil(len(points) / (MOST_POINTS - 2)) or 1
    if every == 1:
        return tuple(points)
    kept = [max(points[n : n + every], key=lambda p: p[1]) for n in range(0, len(points), every)]
    first = [] if kept[0] == points[0] else [points[0]]
    last = [] if kept[-1] == points[-1] else [points[-1]]
    return (*first, *kept, *last)
