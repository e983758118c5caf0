"""Weather from a table: `place, climate, year, clock, month, day, hour, t_db_c, t_wb_c`, and `ghi_w_m2` or
`cloud_pct`; compressed or not, hours in order, one place after the other."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TextIO

import numpy as np

from wattmill.site.climate.spec import COLDEST_C, WARMEST_C, Hours, Weather
from wattmill.units import H_PER_YEAR

_PERCENT = 100.0
_LEAP_HOURS = H_PER_YEAR + 24


def places(path: Path) -> list[str]:
    """Return the places that a table has, in its order."""
    with _open(path) as lines:
        next(lines, None)
        return list(dict.fromkeys(line.split(",", 1)[0] for line in lines))


def weather(path: Path, place: str) -> Weather:
    """Return the year of one place; `place` may be the beginning of its name, or a part that only it has.

    Raises `LookupError` where there is no such place, `ValueError` where the table is not one of weather.
    """
    with _open(path) as lines:
        header = next(lines, "").strip()
        body = list(lines)
    columns = header.split(",")
    missing = [name for name in ("place", "year", "month", "hour", "t_db_c", "t_wb_c") if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: it is not a table of weather")
    names = list(dict.fromkeys(line.split(",", 1)[0] for line in body))
    found = [place] if place in names else [name for name in names if place in name]
    if len(found) != 1:
        which = "several" if found else "no"
        raise LookupError(f"{which} places {place!r} in {path} (it has {', '.join(names)})")
    rows = list(csv.DictReader([header, *(line for line in body if line.startswith(found[0] + ","))]))
    if len(rows) not in (H_PER_YEAR, _LEAP_HOURS):
        raise ValueError(
            f"{path} has {len(rows)} hours of {found[0]}: a year has {H_PER_YEAR} or {_LEAP_HOURS}"
        )
    dry, filled = _column(rows, "t_db_c")
    wet, _ = _column(rows, "t_wb_c")
    for name, degrees in (("t_db_c", dry), ("t_wb_c", wet)):
        odd = np.flatnonzero((degrees < COLDEST_C) | (degrees > WARMEST_C))
        if len(odd):
            row = rows[odd[0]]
            raise ValueError(
                f"{path}, {found[0]}, month {row['month']}, hour {row['hour']}: {name} is "
                f"{degrees[odd[0]]:g}, must lie between {COLDEST_C:g} and {WARMEST_C:g} °C, for which the "
                "laws of coolers hold; leave an hour empty that nobody measured"
            )
    sun = _column(rows, "ghi_w_m2")[0] if "ghi_w_m2" in columns else None
    cloud = _column(rows, "cloud_pct")[0] / _PERCENT if "cloud_pct" in columns else None
    said = rows[0]["year"]
    return Weather(
        place=found[0],
        climate=rows[0].get("climate", ""),
        year="typical" if said == "typical" else int(said),
        clock="local" if rows[0].get("clock", "utc") == "local" else "utc",
        dry_bulb_c=dry,
        wet_bulb_c=wet,
        month=np.array([int(row["month"]) for row in rows]),
        hour=np.array([int(row["hour"]) for row in rows]),
        sun_w_m2=sun,
        cloud=cloud,
        filled_hours=filled,
    )


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _column(rows: list[dict[str, str]], name: str) -> tuple[Hours, int]:
    """Return a column, with empty hours taken from the nearest hour that has a value, and how many."""
    values = np.array([float(row[name]) if row[name] else np.nan for row in rows])
    empty = np.isnan(values)
    if empty.all():
        raise ValueError(f"column {name} is empty")
    known = np.flatnonzero(~empty)
    at = np.arange(len(values))
    right = np.clip(np.searchsorted(known, at), 0, len(known) - 1)
    left = np.clip(right - 1, 0, None)
    nearest = np.where(np.abs(known[left] - at) <= np.abs(known[right] - at), known[left], known[right])
    return values[nearest], int(empty.sum())
