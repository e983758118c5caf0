"""Hourly prices and carbon of one year, from a table with a column `ZONE:usd_per_mwh` and
`ZONE:g_per_kwh`."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wattmill.site.climate.spec import Hours
from wattmill.units import W_PER_KW

_PRICE, _CARBON = "usd_per_mwh", "g_per_kwh"
_KWH_PER_MWH = float(W_PER_KW)


class Zone(NamedTuple):
    """One zone. None: the source has no such series of it."""

    name: str
    usd_per_kwh: Hours | None  # day-ahead: known when the day begins
    g_per_kwh: Hours | None  # average intensity of generation, not marginal
    year: int | None = None  # of a column `utc`; None: the table does not say


def zones(path: Path) -> dict[str, Zone]:
    """Return all zones of a table. Raises `ValueError` where it has none."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    names = sorted({name.rsplit(":", 1)[0] for name in header if name.endswith((_PRICE, _CARBON))})
    if not names:
        raise ValueError(f"{path} has no column ZONE:{_PRICE} or ZONE:{_CARBON}: it is no table of energy")

    year = _year(header, rows)

    def column(name: str, divisor: float) -> Hours | None:
        if name not in header:
            return None
        at = header.index(name)
        try:
            values = np.array([float(row[at]) for row in rows[1:]]) / divisor
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}, column {name}: {error}") from error
        wrong = ~np.isfinite(values) | ((values < 0) & name.endswith(_CARBON))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0]) + 1
            rule = "a finite figure >= 0" if name.endswith(_CARBON) else "a finite figure"
            raise ValueError(f"{path}, column {name}, row {row}: {rows[row][at]} must be {rule}")
        return values

    return {
        name: Zone(
            name=name,
            usd_per_kwh=column(f"{name}:{_PRICE}", _KWH_PER_MWH),
            g_per_kwh=column(f"{name}:{_CARBON}", 1.0),
            year=year,
        )
        for name in names
    }


def _year(header: list[str], rows: list[list[str]]) -> int | None:
    if "utc" not in header or len(rows) < 2:
        return None
    said = rows[1][header.index("utc")][:4]
    return int(said) if said.isdigit() else None
