"""What a check of the audit says: it holds, or these rows break it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

SHOWN = 20  # broken rows that are named; all of them are counted


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One law. `rows` names what breaks it; `broken` counts that, also beyond the rows that are named."""

    name: str
    holds: bool
    detail: str
    rows: tuple[str, ...] = ()
    broken: int = 0


def check(name: str, detail: str, broken: Iterable[str]) -> Check:
    """Return the check, which holds if nothing is `broken`."""
    rows = list(broken)
    return Check(name=name, holds=not rows, detail=detail, rows=tuple(rows[:SHOWN]), broken=len(rows))
