"""Times and shares as people type them: 90s, 3m, 1h; 25% or 0.25."""

from __future__ import annotations

from wattmill.cli.control_door import fail
from wattmill.units import seconds_from


def seconds_of(option: str, text: str) -> float:
    """Return seconds, or end the command with what was wrong."""
    seconds = seconds_from(text)
    if seconds is None:
        fail(f"{option} must be a time such as 90s, 3m, 1h or 2d, got {text!r}")
    return seconds


def share_of(option: str, text: str) -> float:
    """Return a share from 0 to 1, or end the command with what was wrong."""
    try:
        number = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        fail(f"{option} must be a share such as 25% or 0.25, got {text!r}")
    return number
