"""What a rack is and what a hall gives to its racks."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_RACK_KW = 600.0
"""Largest rack announced (Kyber NVL576, 2027): laws here were looked at up to it."""


class Rack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of rack, by its data sheet. Valid up to 600 kW."""

    nameplate_kw: Annotated[float, Meta(gt=0, le=MOST_RACK_KW)]
    peak_kw: Annotated[float, Meta(gt=0, le=MOST_RACK_KW)] | None = None  # measured; None: the nameplate
    mean_kw: Annotated[float, Meta(gt=0, le=MOST_RACK_KW)] | None = None  # measured; None: the peak
    kg: Annotated[float, Meta(gt=0)]
    tiles_m2: Annotated[float, Meta(gt=0)] = 1.8  # floor that carries it, its half of the aisles inside
    liquid_share: Annotated[float, Meta(ge=0, le=1)] = 0.85
    rise_k: Annotated[float, Meta(gt=0)] = 10.0  # of its water
    volts: Annotated[float, Meta(gt=0)] = 54.0  # of its bus


class Hall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the house gives. `count` racks are wanted; None: as many as fit."""

    rack: Rack
    count: Annotated[int, Meta(ge=1)] | None = None
    positions: Annotated[int, Meta(ge=1)]
    feed_kw: Annotated[float, Meta(gt=0)]  # of one position: its tap, breaker and whips
    row_positions: Annotated[int, Meta(ge=1)] = 8
    row_kw: Annotated[float, Meta(gt=0)] | None = None  # busway of one row; None: positions x feed
    flow_l_per_min: Annotated[float, Meta(gt=0)] | None = None  # water for one position; None: enough
    floor_kg_per_m2: Annotated[float, Meta(gt=0)] | None = None  # None: enough
    # What is counted against feeds and rows: the nameplate, or the measured peak (oversubscription).
    counted: Literal["nameplate", "peak"] = "nameplate"
    # Peaks of a row's racks need not come at once: row = n x (mean + together x (peak - mean)).
    together: Annotated[float, Meta(ge=0, le=1)] = 1.0  # 1: they do


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit: how many racks it would let in, and what it is used of."""

    name: str
    racks: int
    used: float  # by one rack, or by a row
    allowed: float
    unit: str


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """What of a hall is used, and what of its power nobody can use."""

    racks: int
    binds: str
    limits: tuple[Limit, ...]
    provisioned_kw: float  # what feeds and rows were built for
    nameplate_kw: float
    peak_kw: float
    mean_kw: float
    stranded_kw: float  # provisioned and out of reach: another limit binds, or a row has no whole rack left
    unused_kw: float  # within reach and not drawn: nameplate against what is drawn at its peak
    oversubscription: float  # nameplates over what was provisioned
    amperes: float  # on a rack's bus at its nameplate
