"""What a kilowatt-hour costs and emits at a place, by the hour, as it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from wattmill.app.declared.pool_settings import EmbeddedPool, HttpPool, Usd
from wattmill.power.tariff.spec import in_hours
from wattmill.units import US_PER_S


class Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours in which other figures hold, over midnight where they end before they begin (22 to 6). The first
    entry that fits and has the figure counts; month and weekday are those of the hour itself."""

    from_h: Annotated[int, Meta(ge=0, le=23, description="First hour, in the table's own time.")]
    to_h: Annotated[int, Meta(ge=1, le=24, description="Hour that is no longer in it.")]
    months: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=12)], ...], Meta(description="Absent: all of them.")
    ] = tuple(range(1, 13))
    weekdays: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=6)], ...], Meta(description="Monday is 0. Absent: all of them.")
    ] = tuple(range(7))
    usd_per_kwh: Annotated[Usd | None, Meta(description="Price in these hours.")] = None
    g_per_kwh: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Grams of CO2 in these hours.")
    ] = None

    def __post_init__(self) -> None:
        if self.from_h == self.to_h:
            raise ValueError(f"hours from {self.from_h} to {self.to_h} are none")

    def holds(self, at: datetime) -> bool:
        return (
            at.month in self.months
            and at.weekday() in self.weekdays
            and in_hours(at.hour, self.from_h, self.to_h)
        )


class Electricity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power of some places: its price and its carbon, two figures that routing weighs apart."""

    usd_per_kwh: Annotated[Usd, Meta(description="Price where no hour says otherwise.", examples=["0.25"])]
    g_per_kwh: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Grams of CO2 (equivalent) where no hour says otherwise. Absent: unknown."),
    ] = None
    hours: Annotated[tuple[Hours, ...], Meta(description="Hours in which something else holds.")] = ()
    utc_offset_h: Annotated[
        float, Meta(ge=-12, le=14, description="Of the time in which hours are meant; no summer time.")
    ] = 0.0
    source: Annotated[str, Meta(min_length=1, description="Where the figures come from, with a date.")]


class Now(NamedTuple):
    """What holds in one hour."""

    usd_per_kwh: str
    g_per_kwh: float | None


def now_of(electricity: Electricity, at_us: int | None) -> Now:
    """Return the figures that hold at an instant; those of no hour where the instant is not known."""
    if at_us is None:
        return Now(electricity.usd_per_kwh, electricity.g_per_kwh)
    local = datetime.fromtimestamp(at_us / US_PER_S, UTC) + timedelta(hours=electricity.utc_offset_h)
    fits = [hours for hours in electricity.hours if hours.holds(local)]
    price = next((h.usd_per_kwh for h in fits if h.usd_per_kwh is not None), electricity.usd_per_kwh)
    grams = next((h.g_per_kwh for h in fits if h.g_per_kwh is not None), electricity.g_per_kwh)
    return Now(price, grams)


def hour_of(
    declared: Mapping[str, Electricity], pool: EmbeddedPool | HttpPool, at_us: int | None
) -> Now | None:
    """Return what holds at a pool's place; None where it names no electricity."""
    return None if pool.electricity is None else now_of(declared[pool.electricity], at_us)


def all_now(declared: Mapping[str, Electricity], at_us: int) -> dict[str, Now]:
    """Return what holds everywhere: while it stays the same, prices and views do."""
    return {name: now_of(electricity, at_us) for name, electricity in declared.items()}
