"""A published figure with the design behind it, and how the model was held against it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.site.conversion.spec import Redundancy
from wattmill.site.cooling.spec import Loop, Share

Constant = Literal["air", "water"]
"""What is calibrated, one published point each: the air movers of an air loop, and the pumps of a water loop
with all small things that nobody lists (watts of electricity for a watt of heat at rated flow)."""

Role = Literal["calibrates air", "calibrates water", "predicted", "second-hand", "range"]
"""A figure that was told second-hand is predicted and shown, and counts for nothing."""


class Design(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site's design as far as it is published; what is not is assumed, and `assumed` says what."""

    chain: str  # its stages inside of the equipment play no part in PUE
    redundancy: Redundancy | None = None
    liquid: Loop
    air: Loop
    air_share: Share
    busy: Share = 1.0  # of full load
    fixed_share: Share = 0.0  # light, offices: of the full load
    assumed: str  # which of these figures no source gives


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published PUE (an interval where the source gives one). A `range` is an average of places whose
    designs are not known: it is only set against all climates."""

    role: Role
    low: Annotated[float, Meta(ge=1)]
    high: Annotated[float, Meta(ge=1)]
    period: str
    source: str
    design: str  # name under [designs]
    climate: str | None = None  # place in the table of weather, the nearest; None: all (a range)


class Points(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    weather: str  # meant from the folder of the file
    designs: dict[str, Design]
    points: dict[str, Point]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    low: float
    high: float
    design: str
    climate: str
    pue: float
    pue_low: float  # over all climates; of a point with one climate the same as `pue`
    pue_high: float
    wue_l_per_kwh: float
    off: float  # from the nearer end of the published interval; 0 inside

    @property
    def within(self) -> bool:
        """Return whether it is met to 0.02; of a range: whether the climates' and the published overlap."""
        if self.role == "range":
            return self.pue_low <= self.high and self.low <= self.pue_high
        return round(abs(self.off), 3) <= GOAL  # published figures have two or three decimals


GOAL = 0.02


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    air: float  # W/W, calibrated
    water: float
    verdicts: tuple[Verdict, ...]
