"""Wet bulb from humidity, and tables of weather and carbon from the formats in which they are published.

EPW: EnergyPlus Auxiliary Programs, EPW data dictionary: eight header lines, then one line an hour with the
dry bulb in column 7, relative humidity in 9, global horizontal radiation in 14; hours 1 to 24 of local
standard time.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from math import atan, sqrt

from wattmill.units import H_PER_YEAR

_EPW_HEADERS = 8
_DRY, _HUMIDITY, _SUN = 6, 8, 13
_MISSING_C, _MISSING_PERCENT, _MISSING_SUN = 99.9, 999.0, 9999.0
WEATHER_COLUMNS = (
    "place", "climate", "year", "clock", "month", "day", "hour", "t_db_c", "t_wb_c", "ghi_w_m2",
)  # fmt: skip


def wet_bulb_c(dry_bulb_c: float, humidity_percent: float) -> float:
    """Return the wet bulb at sea level: Stull, J. Applied Meteorology and Climatology 50 (2011), equation 1.

    Within 0.3 K on average for 5 to 99 % and -20 to 50 °C; in thin air the truth lies lower.
    """
    t, rh = dry_bulb_c, humidity_percent
    wet: float = (
        t * atan(0.151977 * sqrt(rh + 8.313659))
        + atan(t + rh)
        - atan(rh - 1.676331)
        + 0.00391838 * rh**1.5 * atan(0.023101 * rh)
        - 4.686035
    )
    return wet


def weather_of_epw(text: str, *, place: str | None = None) -> str:
    """Return a table of weather from an EPW file; a place is called what its header says unless `place` is
    given.

    Months of different years make it a typical year. An hour whose figure is missing stays empty. Raises
    `ValueError` where the text is no EPW file of a whole year.
    """
    lines = text.splitlines()
    head = lines[0].split(",") if lines else [""]
    if head[0] != "LOCATION" or len(lines) < _EPW_HEADERS + H_PER_YEAR:
        raise ValueError(
            "is no EPW file of a year: it begins with LOCATION and has 8,760 hours after 8 lines"
        )
    rows = list(csv.reader(lines[_EPW_HEADERS:]))
    years = {row[0] for row in rows if row}
    name = (place or head[1] or "place").strip().replace(",", " ")
    out = StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(WEATHER_COLUMNS)
    for row in rows:
        if not row:
            continue
        try:
            dry, humidity, sun = (float(row[at]) for at in (_DRY, _HUMIDITY, _SUN))
        except (ValueError, IndexError) as error:
            raise ValueError(f"an hour of it cannot be read: {error}") from error
        known = dry < _MISSING_C and humidity < _MISSING_PERCENT
        wet = f"{wet_bulb_c(dry, humidity):.2f}" if known else ""
        table.writerow(
            (
                name, "", years.copy().pop() if len(years) == 1 else "typical", "local",
                int(row[1]), int(row[2]), int(row[3]) - 1,
                f"{dry:.1f}" if dry < _MISSING_C else "", wet, f"{sun:.0f}" if sun < _MISSING_SUN else "",
            )
        )  # fmt: skip
    return out.getvalue()


def carbon_of_mix(text: str, zone: str) -> tuple[str, int]:
    """Return a table of carbon from an hourly mix with the columns `timestamp` (UTC) and `avg_CI` (g/kWh),
    and how many of its hours were empty and took the value of the hour before. Average intensity, not
    marginal."""
    rows = list(csv.DictReader(StringIO(text)))
    if not rows or "avg_CI" not in rows[0] or "timestamp" not in rows[0]:
        raise ValueError("has no columns timestamp and avg_CI: it is no hourly mix")
    values, filled = _held(row["avg_CI"] for row in rows)
    out = StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("utc", f"{zone}:g_per_kwh"))
    for row, value in zip(rows, values, strict=True):
        table.writerow((row["timestamp"], f"{value:.2f}"))
    return out.getvalue(), filled


def _held(texts: Iterable[str]) -> tuple[list[float], int]:
    """Return numbers with each gap filled by the one before it (at the beginning by the first), and their
    count."""
    found = [float(text) if text and text.lower() != "nan" else None for text in texts]
    last = next((value for value in found if value is not None), None)
    if last is None:
        raise ValueError("has no value at all")
    out: list[float] = []
    for value in found:
        last = last if value is None else value
        out.append(last)
    return out, sum(value is None for value in found)
