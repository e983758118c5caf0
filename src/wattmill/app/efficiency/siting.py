"""What the site takes for a joule at the equipment: from a year of a declared site, kept for the board."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from wattmill.app.efficiency.spec import Overhead
from wattmill.vocab.usage import Provenance


class Row(Protocol):
    """One place where a site's energy goes, as the account of its year tells it."""

    @property
    def boundary(self) -> str: ...  # "computing", "conversion", "cooling" ...
    @property
    def mwh(self) -> float: ...
    @property
    def provenance(self) -> Provenance: ...


def overheads(rows: Sequence[Row], *, source: str) -> tuple[Overhead, ...]:
    """Return conversion and cooling per joule at the inlets of the equipment, means of the year.

    What is lost inside of the equipment (power supplies, regulators) lies behind the meters of a host and is
    in their joules already.
    """
    computing = sum(row.mwh for row in rows if row.boundary == "computing")
    if computing <= 0.0:
        return ()
    return tuple(_overhead(name, rows, computing, source) for name in ("conversion", "cooling"))


def _overhead(name: str, rows: Sequence[Row], computing: float, source: str) -> Overhead:
    own = [row for row in rows if row.boundary == name]
    stage: Literal["conversion", "cooling"] = "conversion" if name == "conversion" else "cooling"
    return Overhead(
        name=stage, per_j=sum(row.mwh for row in own) / computing, provenance="modelled", source=source
    )


def keep(home: Path, found: Sequence[Overhead]) -> None:
    """Keep what a site takes in the factory's folder, whole or not at all."""
    path = _path(home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(list(found)))
    os.replace(fresh, path)


def kept(home: Path) -> tuple[Overhead, ...]:
    """Return what was kept; () where nothing was, or it cannot be read."""
    try:
        return msgspec.json.decode(_path(home).read_bytes(), type=tuple[Overhead, ...])
    except (OSError, msgspec.DecodeError):
        return ()


def _path(home: Path) -> Path:
    return home / "twin" / "site" / "overheads.json"
