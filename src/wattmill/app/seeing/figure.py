"""One figure: a value with its unit, where it comes from and where its rows are.

The board, `wattmill status` and the live line print `text`, so that no two pages can round differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from wattmill.units import J_PER_KWH, MS_PER_S, NUSD_PER_USD, S_PER_H, US_PER_S
from wattmill.vocab.usage import Provenance

DASH = "–"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is in `unit`, None if unknown (never 0 instead). `text` is what people read, unit included."""

    value: float | int | None
    unit: str
    text: str
    provenance: Provenance = "measured"
    rows: str | None = None  # path on the admin listener that lists what it was computed from
    note: str | None = None  # one sentence: how it was computed, or what is missing and what helps


def figure(
    value: float | int | None,
    unit: str,
    *,
    provenance: Provenance = "measured",
    rows: str | None = None,
    note: str | None = None,
) -> Figure:
    """Return a figure; an absent value becomes a dash of provenance "unknown".

    `unit` is a key of `UNITS`; a value that is not finite counts as absent.
    """
    if value is None or not math.isfinite(value):
        return Figure(value=None, unit=unit, text=DASH, provenance="unknown", rows=rows, note=note)
    return Figure(
        value=value, unit=unit, text=UNITS[unit](value), provenance=provenance, rows=rows, note=note
    )


def significant(value: float, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits, grouped by thousands, never in exponent form.

    Below 1e-9 it returns "0": nothing this factory counts is that small. Whole digits are never dropped
    below a million: 1,234 stays 1,234.
    """
    if abs(value) < 1e-9:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{round(value, places):,.{places}f}"


def scaled(value: float, unit: str, *, kilo_from: float = 1e3) -> str:
    """Return e.g. "1.23 kW": the largest prefix that leaves at least 1; "k" only from `kilo_from` on."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (kilo_from if prefix == "k" else factor):
            return f"{significant(value / factor)} {prefix}{unit}"
    return f"{significant(value)} {unit}"


def _usd(nusd: float) -> str:
    """Money for people: cents from a dollar on, below it enough digits to show three that matter."""
    usd = nusd / NUSD_PER_USD
    if usd == 0:
        return "$0"
    sign, size = ("−" if usd < 0 else ""), abs(usd)
    if size >= 0.9995:  # would read 1.000
        return f"{sign}${size:,.2f}"
    places = min(9, 2 - math.floor(math.log10(size)))
    return f"{sign}${size:.{places}f}"


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    if abs(value) < 1:
        return f"{significant(value * MS_PER_S)} ms"
    if abs(value) < 2 * 60:
        return f"{significant(value)} s"
    minutes = value / 60
    return f"{significant(minutes)} min" if abs(value) < S_PER_H else f"{significant(value / S_PER_H)} h"


def _joules(value: float) -> str:
    return scaled(value, "J") if abs(value) < J_PER_KWH / 10 else f"{significant(value / J_PER_KWH)} kWh"


def _usd_per_year(value: float) -> str:
    """Dollars of a year, an estimate: millions and thousands, three digits."""
    sign, size = ("−" if value < 0 else ""), abs(value)
    for factor, prefix in ((1e9, " G$"), (1e6, " M$"), (1e3, " k$")):
        if size >= factor:
            return f"{sign}{significant(size / factor)}{prefix}/year"
    return f"{sign}{significant(size)} $/year"


def _ratio(value: float) -> str:
    percent = value * 100
    return f"{percent:.0f} %" if abs(percent) >= 10 or percent == 0 else f"{significant(percent, 2)} %"


UNITS: dict[str, Callable[[float], str]] = {
    "w": lambda v: scaled(v, "W"),
    "j": _joules,
    "uj": lambda v: _joules(v / 1_000_000),
    "j_per_tok": lambda v: f"{significant(v)} J/tok",
    "tok_per_s": lambda v: scaled(v, "tok/s", kilo_from=1e4),
    "tok": lambda v: f"{v:,.0f} tok",
    "nusd": _usd,
    "nusd_per_h": lambda v: f"{_usd(v)} /h",
    "nusd_per_mtok": lambda v: f"{_usd(v)} /Mtok",
    "s": _seconds,
    "us": lambda v: _seconds(v / US_PER_S),
    "ratio": _ratio,
    "count": lambda v: f"{v:,.0f}",
    "per_s": lambda v: f"{significant(v)} /s",
    "per_min": lambda v: f"{significant(v)} /min",
    "mb": lambda v: f"{significant(v)} MB",
    "units": lambda v: f"{v:,.0f}",
    "tok_per_j": lambda v: f"{significant(v)} tok/J",
    "tok_per_tflop": lambda v: f"{significant(v)} tok/TFLOP",
    "tok_per_h": lambda v: scaled(v, "tok/h", kilo_from=1e4),
    "work": lambda v: scaled(v, "tok", kilo_from=1e6),
    "plain": significant,  # its unit stands beside it
    "usd_per_year": _usd_per_year,
    "t_per_year": lambda v: f"{significant(v)} t/year" if abs(v) < 1e4 else f"{significant(v / 1e3)} kt/year",
}
"""unit -> how people read it. The first word of the name is the unit of `value`."""
