"""The columns of measured tables, and how others write such a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

COLUMNS = (
    "source",
    "model",
    "precision",
    "gpu",
    "n_gpus",
    "nodes",
    "tp",
    "pp",
    "ep",
    "attn_dp",
    "mode",
    "framework",
    "framework_version",
    "isl",
    "osl",
    "concurrency",
    "scenario",
    "metric",
    "value",
    "unit",
    "submitter",
    "system",
    "measured",
    "ref",
)


def parsed(raw: bytes, name: str) -> list[dict[str, str]]:
    """Return the rows of a table in UTF-8, each with every column of `COLUMNS`; `name` is for messages.

    Raises:
        UnicodeDecodeError, csv.Error: it is no such table.
        ValueError: it has no column `metric` or `value`, or names one twice.
    """
    text = raw.decode("utf-8-sig")
    head = text.partition("\n")[0]
    parted = max((",", ";", "\t"), key=head.count)
    _whole(text, parted)
    reader = csv.DictReader(io.StringIO(text), delimiter=parted)
    reader.fieldnames = _columns(reader.fieldnames or ())
    absent = {"metric", "value"} - set(reader.fieldnames)
    if absent:
        found = ", ".join(column for column in reader.fieldnames if column) or "nothing"
        raise ValueError(
            f"{name} has no column {', '.join(sorted(absent))}; its first line names {found}. Needed are "
            f"metric and value, and as many of {', '.join(COLUMNS)} as are known"
        )
    twice = sorted({column for column in reader.fieldnames if column and reader.fieldnames.count(column) > 1})
    if twice:
        raise ValueError(
            f"{name} names the column {twice[0]!r} twice; leave one, or call the other otherwise"
        )
    return [{column: (row.get(column) or "") for column in [*COLUMNS, *_others(row)]} for row in reader]


def _whole(text: str, parted: str) -> None:
    """Raise `csv.Error` where a quote is opened and never closed: it would take the rows behind it along."""
    try:
        for _ in csv.reader(io.StringIO(text), delimiter=parted, strict=True):
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise csv.Error("a quote is opened and never closed") from error


def _columns(names: Sequence[str]) -> list[str]:
    """Return the columns by name: blanks about one do not count, nor capitals; but where `model` stands
    beside `Model`, the latter is a column of its own."""
    bare = [name.strip() for name in names]
    return [
        plain if (plain := name.lower()) in COLUMNS and (name == plain or plain not in bare) else name
        for name in bare
    ]


def _others(row: Mapping[str, str]) -> list[str]:
    return [column for column in row if column is not None and column not in COLUMNS]
