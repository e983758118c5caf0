"""Short ways to make the parts of a sheet, for whatever command made it."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.app.results.sheet import Column, Fact, Table
from wattmill.app.seeing.figure import Figure, figure
from wattmill.units import NUSD_PER_USD
from wattmill.vocab.usage import Provenance


def fact(
    label: str,
    value: float | int | None,
    unit: str,
    provenance: Provenance = "modelled",
    *,
    note: str | None = None,
) -> Fact:
    """Return a figure under its name; `unit` is a key of `app.seeing.figure.UNITS`."""
    return Fact(label=label, figure=figure(value, unit, provenance=provenance, note=note))


def modelled(value: float | int | None, unit: str, note: str | None = None) -> Figure:
    return figure(value, unit, provenance="modelled", note=note)


def usd(value: float | None, unit: str = "nusd", provenance: Provenance = "modelled") -> Figure:
    """Return dollars, an estimate: `unit` is one of those of nano-dollars."""
    return figure(None if value is None else value * NUSD_PER_USD, unit, provenance=provenance)


def table(
    id: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Figure | str]],
    *,
    note: str = "",
) -> Table:
    """Return a table; columns that hold figures stand to the right."""
    numbers = [any(isinstance(row[n], Figure) for row in rows) for n in range(len(columns))]
    return Table(
        id=id,
        title=title,
        columns=tuple(Column(name=name, number=n) for name, n in zip(columns, numbers, strict=True)),
        rows=tuple(tuple(row) for row in rows),
        note=note,
    )
