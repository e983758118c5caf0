"""What the weather of a year is, and which year it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Hours = NDArray[np.float64]

COLDEST_C, WARMEST_C = -40.0, 55.0
"""Outdoor temperatures for which the laws of coolers hold; a sign of a missing hour (99.9) is beyond."""


class Weather(NamedTuple):
    """One place, one value an hour. `year` is "typical" where the months come of different years: such a
    year must not be mixed with prices or carbon of a real one, which knew the weather of its own day."""

    place: str
    climate: str  # "hot-dry" ...; "" is not known
    year: int | Literal["typical"]
    clock: Literal["utc", "local"]  # of the hours: UTC, or the place's standard time
    dry_bulb_c: Hours
    wet_bulb_c: Hours
    month: NDArray[np.int64]  # 1 to 12, by the file's own clock
    hour: NDArray[np.int64]  # 0 to 23, by the file's own clock
    sun_w_m2: Hours | None  # global horizontal; None: the file has none
    cloud: Hours | None  # share of the sky, 0 to 1
    filled_hours: int  # empty in the file, taken from the nearest hour

    def start(self, utc_offset_h: float) -> datetime:
        """Return the instant of the first hour, UTC. A typical year is written as 2023: 365 days."""
        year = 2023 if self.year == "typical" else self.year
        shift = timedelta(hours=utc_offset_h) if self.clock == "local" else timedelta()
        return datetime(year, 1, 1, tzinfo=UTC) - shift
