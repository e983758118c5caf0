"""The twin room: what the twin of this factory was fitted to and how far off it is, and what it was asked.

Reads files only; whoever shows them needs neither numpy nor a compiler.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wattmill.app.results.making import fact
from wattmill.app.results.sheet import Brief, Fact
from wattmill.app.results.shelf import Shelf

HELP = (
    ("check", "Fit the twin to a place", "wattmill twin calibrate --url URL/v1 --model MODEL"),
    ("check", "Or fit it to the ledger", "wattmill twin calibrate --pool PLACE --since 2h --until 1h"),
    ("check", "Hold it against the place", "wattmill twin check --url URL/v1 --model MODEL"),
    ("check", "Or against what was recorded", "wattmill twin check --pool PLACE --since 1h"),
    (
        "simulate",
        "Play this factory on a simulated clock",
        "wattmill simulate --rate 2 --for 10m --input 200 --output 100",
    ),
    ("plan", "Find the factory for a demand", "wattmill plan DEMAND.toml --simulate"),
)
"""Which command gives what: kind, words, command."""


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """One fitted engine, with its last check."""

    model: str
    engine: str
    facts: tuple[Fact, ...]
    fitted_us: int
    checked_us: int | None
    check: str | None  # id of the last check that is kept
    held: str | None  # what that check came to, in words
    stale: bool  # fitted again after its last check


class Room(msgspec.Struct, frozen=True, kw_only=True):
    calibrations: tuple[Calibrated, ...]
    results: tuple[Brief, ...]
    commands: tuple[tuple[str, str, str], ...] = HELP


def room(home: Path, shelf: Shelf) -> Room:
    """Return what the twin's folder holds, newest first."""
    briefs = shelf.briefs()
    found = [one for path in (home / "twin").glob("*.json") if (one := _calibrated(path, briefs)) is not None]
    found.sort(key=lambda one: -max(one.fitted_us, one.checked_us or 0))
    return Room(calibrations=tuple(found), results=tuple(briefs))


def _calibrated(path: Path, briefs: Sequence[Brief]) -> Calibrated | None:
    """Return what a calibration's file says, or None: it is none that this version reads."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        model, engine, fitted_us = str(told["model"]), str(told["engine"]), int(told["at_us"])
        rows, fit_error = int(told["rows"]), float(told["fit_error"])
        error, at = told.get("check_error"), told.get("checked_us")
        check_error = None if error is None else float(error)
        checked_us = None if at is None else int(at)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whence = "a sweep" if told.get("period_us") is None else "the ledger"
    last = next((one for one in briefs if one.kind == "check" and one.key == model), None)
    return Calibrated(
        model=model,
        engine=engine,
        facts=(
            fact(
                "error, checked", check_error, "ratio", "measured",
                note="median over the figures of the last check: other requests than the fit's"
                if check_error is not None else "never checked: wattmill twin check",
            ),
            fact(
                "error, where fitted", fit_error, "ratio", "measured",
                note="median over the figures that it was fitted on: it flatters",
            ),
            fact("fitted on", rows, "count", "measured", note=f"requests of {whence}"),
        ),
        fitted_us=fitted_us,
        checked_us=checked_us,
        check=last.id if last else None,
        held=last.says if last else None,
        stale=checked_us is not None and checked_us < fitted_us,
    )  # fmt: skip
