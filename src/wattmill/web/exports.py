"""Rows to take away: CSV that no spreadsheet executes, and JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import msgspec

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
