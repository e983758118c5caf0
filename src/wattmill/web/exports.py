"""Rows to take away: CSV that no spreadsheet executes, and JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from starlette.responses import Response

Format = Literal["json", "csv", "jsonl"]
Value = str | int | float | bool | None
_TRIGGERS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_safe(value: Value) -> Value:
    """Return a cell that a spreadsheet shows and does not run: text that looks like a formula gets a quote.

    Numbers stay numbers, negative ones too.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_TRIGGERS) else value


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Value]]) -> bytes:
    """Return a header line and one line per row; absent is empty, never 0."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([csv_safe(row.get(c)) for c in columns] for row in rows)
    return out.getvalue().encode()


def jsonl_bytes(rows: Iterable[Mapping[str, Value]]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def rows_response(
    format: Format,
    name: str,
    title: str,
    note: str,
    rows: Sequence[Mapping[str, Value]],
    columns: Sequence[str],
) -> Response:
    """Return rows as the board lists them, or as a file to take away."""
    if format != "json":
        return export_response(format, name, rows, columns)
    page = {"kind": "plain", "title": title, "note": note, "columns": columns, "rows": rows, "next": None}
    return Response(msgspec.json.encode(page), media_type="application/json")


def export_response(
    format: Format, name: str, rows: Sequence[Mapping[str, Value]], columns: Sequence[str]
) -> Response:
    body = csv_bytes(columns, rows) if format == "csv" else jsonl_bytes(rows)
    kind = "text/csv; charset=utf-8" if format == "csv" else "application/jsonl"
    saved = {"content-disposition": f'attachment; filename="wattmill-{name}.{format}"'}
    return Response(body, 200, saved, kind)
