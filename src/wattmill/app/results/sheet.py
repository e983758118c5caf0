"""A result as people read it: figures, pictures and tables, each with its unit and how it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from wattmill.app.seeing.figure import Figure
from wattmill.twin.plots.chart import Chart

FORMAT = 1
Kind = Literal["simulate", "plan", "check", "rehearse"]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    figure: Figure


class Column(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    number: bool = False  # stands to the right


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of words and figures; each row has a cell for each column."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Figure | str, ...], ...]
    note: str = ""


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one command. `key` is what it was about: a model, a factory, a demand."""

    format: int = FORMAT
    kind: Kind
    at_us: int
    key: str
    title: str
    says: str  # the answer in one sentence
    facts: tuple[Fact, ...]
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What a list needs of a sheet."""

    id: str
    kind: Kind
    at_us: int
    key: str
    title: str
    says: str


Cell = str | float | int | None


def plain_rows(sheet: Sheet, part: str) -> tuple[str, list[str], list[Mapping[str, Cell]]] | None:
    """Return the title, the columns and the rows behind a chart or a table of `sheet`, units in the columns'
    names and absent figures None; None where it has no such part."""
    for table in sheet.tables:
        if table.id == part:
            return table.title, *_of_table(table)
    for chart in sheet.charts:
        if chart.id == part:
            return chart.title, *_of_chart(chart)
    return None


def _of_table(table: Table) -> tuple[list[str], list[Mapping[str, Cell]]]:
    names = []
    for n, column in enumerate(table.columns):
        units = {row[n].unit for row in table.rows if isinstance(row[n], Figure)}  # type: ignore[union-attr]
        names.append(f"{column.name}, {units.pop()}" if len(units) == 1 else column.name)
    rows: list[Mapping[str, Cell]] = [
        {
            name: cell.value if isinstance(cell, Figure) else cell
            for name, cell in zip(names, row, strict=True)
        }
        for row in table.rows
    ]
    return names, rows


def _of_chart(chart: Chart) -> tuple[list[str], list[Mapping[str, Cell]]]:
    x, y = (f"{axis.label}, {axis.unit} ({axis.provenance})" for axis in (chart.x, chart.y))
    named = any(one.names for one in chart.series)
    rows: list[Mapping[str, Cell]] = []
    for one in chart.series:
        for n, (px, py) in enumerate(one.points):
            row: dict[str, Cell] = {"series": one.name, x: px, y: py}
            if named:
                row["point"] = one.names[n] if n < len(one.names) else ""
            rows.append(row)
    return ["series", *(["point"] if named else []), x, y], rows
