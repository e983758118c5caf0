"""Charts as SVG text. Colours carry to light and dark pages; every chart has a title that a reader speaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 46, 40
COLOURS = ("#2f6fde", "#d9822b", "#2a9d63", "#b5449c", "#7a6ff0", "#c0392b", "#128f8b", "#8a6d3b")
_INK = "#8a8f98"  # legible on white and on near-black
_ROOM = 0.04  # of an axis, about the outermost points of a scatter: none is cut in half by the frame


class Series(NamedTuple):
    """Points of one name, in order. `dashed` for a limit beside what is limited."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    joined: bool = False  # in a scatter: a line through its points, as a front has


class Axis(NamedTuple):
    label: str  # with its unit
    log: bool = False
    ends: tuple[float, float] | None = None  # from where to where; None: as far as the points go
    ticks: tuple[tuple[float, str], ...] = ()  # values and what is written at them; none: round ones


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series], *, steps: bool = False) -> str:
    """Return a chart of lines; `steps`: each value holds until the next point."""
    frame = _Frame(x, y, [point for one in series for point in one.points], height=HEIGHT)
    body = frame.axes()
    for n, one in enumerate(series):
        body.append(frame.line(one, COLOURS[n % len(COLOURS)], steps=steps))
    return _document(title, [*body, *_legend(series)], HEIGHT)


def scatter(
    title: str, x: Axis, y: Axis, series: Sequence[Series], *, diagonal: bool = False, joined: bool = False
) -> str:
    """Return a chart of points. `diagonal`: both axes are alike, and a line marks where they agree; `joined`:
    points of one series are joined in their order, as a front is."""
    points = [point for one in series for point in one.points]
    if diagonal and points:
        ends = [min(min(p) for p in points), max(max(p) for p in points)]
        points = [*points, (ends[0], ends[0]), (ends[1], ends[1])]
    height = HEIGHT + 120
    frame = _Frame(x, y, points, height=height, room=_ROOM)
    body = frame.axes()
    if diagonal and points:
        body.append(frame.line(Series("", [points[-2], points[-1]], dashed=True), _INK, steps=False))
    for n, one in enumerate(series):
        colour = COLOURS[n % len(COLOURS)]
        if joined or one.joined:
            body.append(frame.line(one, colour, steps=False))
        for px, py in one.points:
            body.append(
                f'<circle cx="{frame.x(px):.1f}" cy="{frame.y(py):.1f}" r="2.6" fill="{colour}" '
                'fill-opacity="0.7"/>'
            )
    return _document(title, [*body, *_legend(series)], height)


def stacked(charts: Sequence[str]) -> str:
    """Return several charts below each other as one picture."""
    at, parts = 0, []
    for chart in charts:
        height = int(chart.split('height="', 1)[1].split('"', 1)[0])
        parts.append(f'<g transform="translate(0 {at})">{chart}</g>')
        at += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{at}" '
        f'viewBox="0 0 {WIDTH} {at}">{"".join(parts)}</svg>'
    )


class _Frame:
    """From values to places on the picture."""

    def __init__(
        self, x: Axis, y: Axis, points: Sequence[tuple[float, float]], *, height: int, room: float = 0.0
    ) -> None:
        self._x, self._y = x, y
        self._height = height
        xs = [p[0] for p in points if not x.log or p[0] > 0]
        ys = [p[1] for p in points if not y.log or p[1] > 0]
        self._from_x, self._to_x = x.ends or _wider(span(xs, log=x.log, zero=False), room, log=x.log)
        self._from_y, self._to_y = y.ends or _wider(span(ys, log=y.log, zero=True), room, log=y.log)

    def x(self, value: float) -> float:
        share = _share(value, self._from_x, self._to_x, log=self._x.log)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = _share(value, self._from_y, self._to_y, log=self._y.log)
        return self._height - _BOTTOM - share * (self._height - _TOP - _BOTTOM)

    def axes(self) -> list[str]:
        bottom, right = self._height - _BOTTOM, WIDTH - _RIGHT
        out = [
            f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="{_INK}"/>',
            _text((_LEFT + right) / 2, self._height - 6, self._x.label, "middle"),
            _text(_LEFT, _TOP - 8, self._y.label, "start"),
        ]
        for value, words in self._written(self._x, self._from_x, self._to_x):
            out.append(_text(self.x(value), bottom + 16, words, "middle"))
        for value, words in self._written(self._y, self._from_y, self._to_y):
            at = self.y(value)
            out.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="{_INK}" stroke-opacity="0.25"/>')
            out.append(_text(_LEFT - 6, at + 4, words, "end"))
        return out

    @staticmethod
    def _written(axis: Axis, low: float, high: float) -> Sequence[tuple[float, str]]:
        return axis.ticks or [(value, _number(value)) for value in ticks(low, high, log=axis.log)]

    def line(self, series: Series, colour: str, *, steps: bool) -> str:
        path, last = "", 0.0
        for n, (px, py) in enumerate(series.points):
            x, y = self.x(px), self.y(py)
            if not n:
                path = f"M{x:.1f} {y:.1f}"
            else:
                path += f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}"
            last = y
        dash = ' stroke-dasharray="5 4"' if series.dashed else ""
        assert math.isfinite(last)
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Return round values from `low` to `high`, four to eight of them, both ends included where round."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        # Within few decades, decades alone say little.
        steps = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
        found = [step * 10.0**n for n in range(first, last + 1) for step in steps]
        return [value for value in found if low * 0.999 <= value <= high * 1.001]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= 7:
            step *= factor
            break
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def span(values: Sequence[float], *, log: bool, zero: bool) -> tuple[float, float]:
    """Return from where to where an axis goes. `zero`: it begins there, unless something is below."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        return (low, high) if high > low else (low / 2, high * 2)
    if zero and low > 0:
        low = 0.0
    return (low, high) if high > low else (low, low + 1.0)


def _wider(ends: tuple[float, float], room: float, *, log: bool) -> tuple[float, float]:
    """Return an axis with room beyond its ends; one that begins at 0 goes on doing so."""
    low, high = ends
    if log:
        factor = (high / low) ** room
        return low / factor, high * factor
    more = (high - low) * room
    return (low - more if low else low), high + more


def _share(value: float, low: float, high: float, *, log: bool) -> float:
    if log:
        return (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}" '
        f'font-family="system-ui, sans-serif" font-size="12">{escape(words)}</text>'
    )


def _legend(series: Sequence[Series]) -> list[str]:
    out = []
    for n, one in enumerate(series):
        y = _TOP + 4 + n * 16
        colour = COLOURS[n % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        x = WIDTH - _RIGHT + 12
        out.append(f'<path d="M{x} {y}h16" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(_text(x + 22, y + 4, one.name, "start"))
    return out


def _document(title: str, body: Sequence[str], height: int) -> str:
    heading = (
        f'<text x="{_LEFT}" y="14" fill="{_INK}" font-family="system-ui, sans-serif" font-size="13" '
        f'font-weight="600">{escape(title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label={quoteattr(title)}>'
        f"<title>{escape(title)}</title>{heading}{''.join(body)}</svg>"
    )
