"""What can fail."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units of one kind, of which `needed` carry everything. Without one of them the site is down."""

    name: str
    mtbf_h: Annotated[float, Meta(gt=0)]  # of one unit, mean between failures
    repair_h: Annotated[float, Meta(ge=0)]  # mean, from the failure until it is back
    needed: Annotated[int, Meta(ge=1)] = 1
    built: Annotated[int, Meta(ge=1)] = 1
    source: str


class PartUp(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    down_h_per_year: float  # with fewer than needed
    failures_per_year: float  # of units, repaired or not noticed


class Up(msgspec.Struct, frozen=True, kw_only=True):
    """A site as a whole: all its parts are needed."""

    availability: float
    down_h_per_year: float
    parts: tuple[PartUp, ...]
    worst: str | None  # the part that costs most hours; None: no parts
