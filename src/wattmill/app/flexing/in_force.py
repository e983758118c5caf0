"""The orders that hold now: one small file, replaced by the supervisor, looked at by each worker."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from wattmill.app.home import Home
from wattmill.power.signal.spec import Orders


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """Orders with what a worker needs to obey them by itself."""

    orders: Orders
    at_s: float  # wall clock
    until_s: float | None  # after this they no longer hold, even if nobody says so
    protected_rank: int | None  # tiers of this rank and above are never held back
    workers: int
    power_w: float | None = None
    provenance: str = "unknown"


def path(home: Home) -> Path:
    return home.run / "power.json"


def write(home: Home, told: InForce) -> None:
    """Replace the file in one step: a reader sees the old orders or the new ones."""
    target = path(home)
    draft = target.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(told))
    os.replace(draft, target)


def read(home: Home) -> InForce | None:
    """Return the last orders written, None if there are none or they cannot be read."""
    try:
        return msgspec.json.decode(path(home).read_bytes(), type=InForce)
    except (OSError, msgspec.DecodeError):
        return None
