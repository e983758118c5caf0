"""What a tariff is: a price of energy for each instant, a charge for peaks, a minimum, a price for what goes
out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wattmill.vocab.usage import Provenance


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours of a time-of-use tariff, in the tariff's own time zone, over midnight where they end before they
    begin (22 to 6). The first window that fits counts; month and weekday are those of the hour itself."""

    usd_per_kwh: float
    months: tuple[Annotated[int, Meta(ge=1, le=12)], ...] = tuple(range(1, 13))
    weekdays: tuple[Annotated[int, Meta(ge=0, le=6)], ...] = tuple(range(7))  # Monday is 0
    from_hour: Annotated[int, Meta(ge=0, le=23)] = 0
    to_hour: Annotated[int, Meta(ge=1, le=24)] = 24  # not included

    def __post_init__(self) -> None:
        if self.from_hour == self.to_hour:
            raise ValueError(f"a window from {self.from_hour} to {self.to_hour} has no hour")

    def holds(self, month: int, weekday: int, hour: int) -> bool:
        return (
            month in self.months and weekday in self.weekdays and in_hours(hour, self.from_hour, self.to_hour)
        )


def in_hours(hour: int, first: int, end: int) -> bool:
    """Return whether an hour of the day lies from `first` to before `end`, or over midnight."""
    return first <= hour < end if first < end else hour >= first or hour < end


class Tariff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bill's rules. Energy: a time-of-use window, or else `usd_per_kwh` plus, hour by hour, the series that
    is handed in where `real_time` is set."""

    name: str
    usd_per_kwh: float = 0.0  # flat, or what is added to a real-time series (delivery, taxes)
    windows: tuple[Window, ...] = ()
    real_time: bool = False
    utc_offset_h: Annotated[float, Meta(ge=-12, le=14)] = 0.0
    demand_usd_per_kw: Annotated[float, Meta(ge=0)] = 0.0  # of a month's highest mean over `demand_s`
    demand_s: Annotated[int, Meta(gt=0)] = 900
    # Share of the highest peak of the months before that is charged at least (0: no ratchet), and how many
    # months it looks back:
    ratchet: Annotated[float, Meta(ge=0, le=1)] = 0.0
    ratchet_months: Annotated[int, Meta(ge=0, le=24)] = 11
    least_kwh_per_month: Annotated[float, Meta(ge=0)] = 0.0  # taken or paid, at `usd_per_kwh`
    export_usd_per_kwh: float = 0.0  # what is paid for energy that goes out; may be negative
    source: str
    provenance: Provenance


class MonthBill(msgspec.Struct, frozen=True, kw_only=True):
    """One month. Dollars are a model's, not the books'."""

    month: str  # "2024-07"
    energy_kwh: float
    peak_kw: float
    charged_kw: float  # with the ratchet
    energy_usd: float
    demand_usd: float
    minimum_usd: float  # paid for what was not taken
    export_usd: float  # earned

    @property
    def usd(self) -> float:
        return self.energy_usd + self.demand_usd + self.minimum_usd - self.export_usd
