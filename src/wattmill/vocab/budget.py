"""What a limit counts, over which time, and the amounts that one attempt may take of it.

A limit stands at a node of the budget tree, in one unit and over one period. Dollars over the whole life of a
node are its cap. A `Spend` is what is reserved for one attempt in the worst case, or what it used in the end.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.units import J_PER_KWH, TOK_PER_MTOK, UJ_PER_J

Unit = Literal[
    "nusd",
    "input_tok",
    "output_tok",
    "total_tok",
    "requests",
    "concurrency",
    "energy_uj",
    "carbon_ug",
    "depth",
    "fan_out",
]
UNITS: tuple[Unit, ...] = (
    "nusd",
    "input_tok",
    "output_tok",
    "total_tok",  # input and output
    "requests",  # attempts that left for an engine
    "concurrency",  # attempts in flight; has no period
    "energy_uj",  # microjoules, by the declared ceiling per token of the place
    "carbon_ug",  # micrograms of CO2, likewise
    "depth",  # levels of agents, runs and steps below the node; checked when one is opened
    "fan_out",  # open ones directly below any one node, at or below the node; likewise
)
"""Their order is part of the journal (a gauge names its unit by index): append, never reorder."""

METERED: tuple[Unit, ...] = UNITS[:8]
"""Units that a request takes from; the others bound the shape of the tree."""

Period = Literal["life", "minute", "hour", "day", "month"]
PERIODS: tuple[Period, ...] = ("life", "minute", "hour", "day", "month")

AMOUNT_MAX = 4 * 10**18
"""Sums of limits still fit a 64-bit integer."""

_INDEX_BITS, _UNIT_BITS = 32, 4


class Limit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One declared limit. `id` 0 is a node's cap: dollars over its life."""

    id: int
    node: int
    unit: Unit
    period: Period
    amount: int
    zone: str = "UTC"  # IANA name; of day and month


class Spend(msgspec.Struct, frozen=True, gc=False):
    """Amounts of one attempt in every unit. None: nobody declared what a token may take of it here."""

    nusd: int
    input_tok: int = 0
    output_tok: int = 0
    energy_uj: int | None = 0
    carbon_ug: int | None = 0
    requests: int = 1

    def of(self, unit: int) -> int | None:
        """Return the amount in the unit `UNITS[unit]`."""
        match unit:
            case 0:
                return self.nusd
            case 1:
                return self.input_tok
            case 2:
                return self.output_tok
            case 3:
                return self.input_tok + self.output_tok
            case 4:
                return self.requests
            case 5:
                return 1
            case 6:
                return self.energy_uj
            case 7:
                return self.carbon_ug
        raise ValueError(f"unit {unit} is not taken from by requests, must be 0 to {len(METERED) - 1}")


ALL_TOK = 1 << 60
"""Tokens of a `Spend` of which nothing is known: all that was reserved counts, and nothing beyond it."""

NOTHING = Spend(0, requests=0)
"""What an attempt used that never left."""


def gauge_of(limit: int, unit: Unit, index: int) -> int:
    """Return the name under which one period of a limit is leased, used and written down.

    A node's cap has the node's own id; these begin above all nodes.
    """
    if not 0 <= index < 1 << _INDEX_BITS:
        raise ValueError(f"index is {index}, must be 0 to {(1 << _INDEX_BITS) - 1}")
    return (limit << _INDEX_BITS + _UNIT_BITS) | (UNITS.index(unit) << _INDEX_BITS) | index


def limit_of(gauge: int) -> int:
    """Return the limit that a gauge belongs to; 0: it is a node's cap."""
    return gauge >> _INDEX_BITS + _UNIT_BITS


def unit_of(gauge: int) -> int:
    """Return the index of a gauge's unit; dollars for a node's cap."""
    return (gauge >> _INDEX_BITS) & ((1 << _UNIT_BITS) - 1)


def index_of(gauge: int) -> int:
    """Return which period of its limit a gauge is; only of a limit's gauge."""
    return gauge & ((1 << _INDEX_BITS) - 1)


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """What a token takes at most at one place, as declared: a limit of joules or grams is kept on this, since
    a meter speaks only afterwards."""

    input_uj_per_mtok: int
    output_uj_per_mtok: int
    carbon_ug_per_kwh: int | None = None

    def energy_uj(self, input_tok: int, output_tok: int) -> int:
        """Return microjoules, rounded up."""
        return -(-(input_tok * self.input_uj_per_mtok + output_tok * self.output_uj_per_mtok) // TOK_PER_MTOK)

    def carbon_ug(self, input_tok: int, output_tok: int) -> int | None:
        """Return micrograms of CO2, rounded up; None: nobody declared the intensity of the place's power."""
        if self.carbon_ug_per_kwh is None:
            return None
        return -(-self.energy_uj(input_tok, output_tok) * self.carbon_ug_per_kwh // _UJ_PER_KWH)

    def output_for_energy(self, energy_uj: int, input_tok: int) -> int:
        """Return the most output tokens whose energy, with this input, is at most `energy_uj`; below 0: the
        input alone takes more."""
        left = energy_uj * TOK_PER_MTOK - input_tok * self.input_uj_per_mtok
        if self.output_uj_per_mtok == 0:
            return _ENDLESS_TOK if left >= 0 else -1
        return left // self.output_uj_per_mtok

    def output_for_carbon(self, carbon_ug: int, input_tok: int) -> int:
        """Return the most output tokens whose CO2, with this input, is at most `carbon_ug`."""
        if not self.carbon_ug_per_kwh:
            return _ENDLESS_TOK
        return self.output_for_energy(carbon_ug * _UJ_PER_KWH // self.carbon_ug_per_kwh, input_tok)


_UJ_PER_KWH = J_PER_KWH * UJ_PER_J
_ENDLESS_TOK = 1 << 40
