"""Times and shares as people type them: 90s, 3m, 1h; 2h back or 2026-11-28T12:00; 25% or 0.25."""

from __future__ import annotations

import datetime as dt

from wattmill.cli.control_door import fail
from wattmill.units import US_PER_S, seconds_from

SINCE = "Where the period begins: 2h back, or 2026-11-28T12:00 (UTC)."
UNTIL = "Where the period ends: likewise."


def seconds_of(option: str, text: str) -> float:
    """Return seconds, or end the command with what was wrong."""
    seconds = seconds_from(text)
    if seconds is None:
        fail(f"{option} must be a time such as 90s, 3m, 1h or 2d, got {text!r}")
    return seconds


def instant_us(option: str, text: str, now_us: int) -> int:
    """Return the instant of `2h` (so long before now) or `2026-11-28T12:00` (UTC if it does not say), in
    microseconds, or end the command with what was wrong."""
    seconds = seconds_from(text)
    if seconds is not None:
        return now_us - round(seconds * US_PER_S)
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        fail(
            f"{option} is {text!r}, must be a time before now such as 90s, 15m or 2h, or an instant such as "
            "2026-11-28T12:00 (UTC)"
        )
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return round(when.timestamp() * US_PER_S)


def share_of(option: str, text: str) -> float:
    """Return a share from 0 to 1, or end the command with what was wrong."""
    try:
        number = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        fail(f"{option} must be a share such as 25% or 0.25, got {text!r}")
    return number
