"""What was built, and for how long."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Built(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Things of one kind: embodied emissions of each, and the years over which they are spread."""

    name: str
    count: Annotated[float, Meta(gt=0)] = 1.0
    kg_co2e: Annotated[float, Meta(ge=0)]  # of one, cradle to gate
    life_years: Annotated[float, Meta(gt=0)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of it that is reserved for this site
    source: str


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Software carbon intensity of a year: SCI = (O + M) / R."""

    operation_t: float | None  # O: energy times intensity; None: the grid's is not known
    embodied_t: float  # M: of this year
    g_per_mtok: float | None  # R is a million tokens; None: no tokens, or no operation
