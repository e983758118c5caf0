"""Times and shares as people type them: 90s, 3m, 1h; 25% or 0.25."""

from __future__ import annotations

import re

from wattmill.cli.control_door import fail

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(option: str, text: str) -> float:
    """Return seconds, or end the command with what was wrong."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        fail(f"{option} must be a time such as 90s, 3m or 1h, got {text!r}")
        raise AssertionError
    return float(found[1]) * _SECONDS[found[2]]


def share_of(option: str, text: str) -> float:
    """Return a share from 0 to 1, or end the command with what was wrong."""
    try:
        number = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        fail(f"{option} must be a share such as 25% or 0.25, got {text!r}")
    return number
