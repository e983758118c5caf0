"""What a meter is and what it said: the words of power's adapters, the sampler and `wattmill doctor`."""

from __future__ import annotations

from math import isfinite
from typing import Literal

import msgspec

from wattmill.vocab.usage import Provenance

Level = Literal["chip", "node", "rack", "site"]
"""How much a meter stands for. A chip is part of a node, a node of a rack, a rack of a site."""

Event = Literal["", "wrap", "reset", "gap", "gap+wrap", "gap+reset", "part", "short"]
"""What was odd about a window. wrap: its counter ran over once, and was put right. reset: the counter began
again, and what it had counted before that is not known. gap: readings were missing, or not to be believed;
what a gauge would have said in it is not known, and its next window says so. part: a meter below it was
silent, so that its joules are among these. short: the meters below it go on seeing more than it does: they
are not below it, or one of them is wrong."""


class MeterError(Exception):
    """A meter cannot be opened or read; says which, why, and the way out."""


class MeterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One meter of the tree. `parent` is the meter that sees these joules too; None: nothing above it."""

    name: str
    level: Level
    parent: str | None = None
    provenance: Provenance
    source: str  # which counter of which device, or which model with which parameters
    resolution_uj: int | None = None  # smallest step of a counter; None: not told
    period_s: float = 1.0  # how often its figure changes
    max_w: float | None = (
        None  # more than this is not believed: a counter that runs over is told from a reset
    )


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one meter said at one instant: joules since some beginning, or watts now, one of the two.

    A meter with several counters (two packages, eight chips) gives one reading of each. A figure that is not
    finite or below 0 is no reading: `MeterError`, so that it leaves a gap."""

    meter: str
    t_s: float  # monotonic
    counter: str = ""
    energy_uj: int | None = None  # cumulative
    wraps_at_uj: int | None = None  # a counter begins again at zero after this much; None: it does not
    power_w: float | None = None

    def __post_init__(self) -> None:
        if (self.energy_uj is None) == (self.power_w is None):
            raise ValueError(
                f"reading of {self.meter!r} has energy_uj={self.energy_uj} and power_w={self.power_w}, must "
                "have exactly one: a counter says joules, a gauge says watts"
            )
        said = self.energy_uj if self.power_w is None else self.power_w
        if said is not None and not (isfinite(said) and said >= 0):
            raise MeterError(
                f"meter {self.meter!r}: {self.counter or 'it'} says {said}, must be a finite figure >= 0 of "
                "what is drawn: turn its clamp round, or name the series that leaves out what is given back"
            )
