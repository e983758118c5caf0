"""A figure that somebody states: its value, how far it may be off, and where it comes from."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure with its source. `low` and `high` bound its 80 % interval; absent: taken as exact."""

    value: Annotated[float, Meta(description="The figure.")]
    source: Annotated[str, Meta(min_length=1, description="Where it comes from, and when it was read.")]
    low: Annotated[float | None, Meta(description="Lower end of the 80 % interval.")] = None
    high: Annotated[float | None, Meta(description="Upper end of the 80 % interval.")] = None

    def scaled(self, factor: float) -> Given:
        """Return the figure and its limits times `factor`."""
        return Given(
            value=self.value * factor,
            low=None if self.low is None else self.low * factor,
            high=None if self.high is None else self.high * factor,
            source=self.source,
        )
