"""The twin's error for who shows it and needs no numpy for it: the worst of a home's calibrations."""

from __future__ import annotations

import json
from pathlib import Path


def current_error(home: Path) -> tuple[float, str] | None:
    """Return the largest median error of the calibrations under `home`, and on what it was found: "check", or
    "fit" where it was never checked. None: there is no calibration."""
    worst: tuple[float, str] | None = None
    for path in sorted((home / "twin").glob("*.json")):
        try:
            told = json.loads(path.read_text())
            checked = told.get("check_error")
            found = (float(told["fit_error"]), "fit") if checked is None else (float(checked), "check")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a file that is no calibration says nothing of the twin
        if worst is None or found[0] > worst[0]:
            worst = found
    return worst
