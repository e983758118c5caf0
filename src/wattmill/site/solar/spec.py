"""What a photovoltaic plant is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Panels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Panels of `peak_mw` (direct current, at 1,000 W/m2 and 25 °C) behind inverters of `inverter_mw`."""

    peak_mw: Annotated[float, Meta(gt=0)]
    inverter_mw: Annotated[float, Meta(gt=0)] | None = None  # None: peak / 1.2, a usual ratio
    tilt_deg: Annotated[float, Meta(ge=0, le=90)] = 25.0
    azimuth_deg: Annotated[float, Meta(ge=0, lt=360)] = 180.0  # of the panels' face: 180 is south
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.14  # soiling, wiring, mismatch, outages: PVWatts v5's 14 %
    per_kelvin: Annotated[float, Meta(le=0, ge=-0.01)] = -0.0037  # of power, cells above 25 °C
    usd_per_mwh: Annotated[float, Meta(ge=0)] = 0.0  # what its energy costs, used or not
    g_per_kwh: Annotated[float, Meta(ge=0)] = 0.0  # location based, in operation
