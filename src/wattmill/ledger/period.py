"""Minutes, hours, days and months of a limit: which one an instant belongs to, and when it ends.

Days and months are those of the calendar in a time zone, so that they may have 23 or 25 hours. Minutes and
hours are those of UTC. Indexes of one period grow with time. A clock that was set back is met elsewhere:
what has been counted into a later period once stays there (`stores.control_leases`).
"""

from __future__ import annotations

import datetime as dt

import msgspec

from wattmill.units import US_PER_S
from wattmill.vocab.budget import Period

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_S = {"minute": 60, "hour": 3_600}
NEVER_US = 2**63 - 1


class Window(msgspec.Struct, frozen=True):
    """One period: its number, and the instants of its beginning and of the next one's."""

    index: int
    start_us: int
    end_us: int


LIFE = Window(0, 0, NEVER_US)


def window_at(period: Period, zone: str, at_us: int) -> Window:
    """Return the period that `at_us` falls into."""
    if period == "life":
        return LIFE
    length_s = _S.get(period)
    if length_s is not None:
        index = at_us // (length_s * US_PER_S)
        return Window(index, index * length_s * US_PER_S, (index + 1) * length_s * US_PER_S)
    tz = time_zone(zone)
    day = (_EPOCH + dt.timedelta(microseconds=at_us)).astimezone(tz).date()
    if period == "day":
        after = day + dt.timedelta(days=1)
        return Window(day.toordinal(), _midnight_us(day, tz), _midnight_us(after, tz))
    first = day.replace(day=1)
    after = (first + dt.timedelta(days=32)).replace(day=1)
    return Window(first.year * 12 + first.month, _midnight_us(first, tz), _midnight_us(after, tz))


def window_of(period: Period, zone: str, index: int) -> Window:
    """Return the period with that number."""
    if period == "life":
        return LIFE
    length_s = _S.get(period)
    if length_s is not None:
        return Window(index, index * length_s * US_PER_S, (index + 1) * length_s * US_PER_S)
    tz = time_zone(zone)
    if period == "day":
        first = dt.date.fromordinal(index)
        after = first + dt.timedelta(days=1)
    else:
        first = dt.date((index - 1) // 12, (index - 1) % 12 + 1, 1)
        after = (first + dt.timedelta(days=32)).replace(day=1)
    return Window(index, _midnight_us(first, tz), _midnight_us(after, tz))


def time_zone(name: str) -> dt.tzinfo:
    """Return the zone, or raise a `ValueError` that says what a name must be."""
    if name == "UTC":
        return dt.UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"time zone is {name!r}, must be a name of the IANA data base that this machine has, such as "
            "'Europe/Berlin' (the system package tzdata brings them), or 'UTC'"
        ) from error


def _midnight_us(day: dt.date, tz: dt.tzinfo) -> int:
    # A midnight that the zone skips becomes the instant of the change, which is what begins the day there.
    local = dt.datetime(day.year, day.month, day.day, tzinfo=tz)
    return (local.astimezone(dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)
