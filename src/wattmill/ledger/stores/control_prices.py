"""Price versions and the accepted declaration, as the control database keeps them: inserted, never edited.

All functions run inside one transaction of the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from wattmill.ledger.stores.control_records import ControlError
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES

_COLUMNS = "id, book, model, rates, request_nusd, effective_us, source, provenance"


def publish(db: sqlite3.Connection, draft: Price, *, now_us: int, since_ever: bool) -> tuple[Price, bool]:
    """Return the version with the content of `draft` and whether it is new.

    If the version in force at the draft's instant says the same, that one is returned: a factory that
    starts again, or an import that runs twice, publishes nothing. With `since_ever`, that version may have
    begun at any earlier instant; else only at the same one.
    """
    check(draft)
    held = in_force(db, draft.book, draft.model, draft.effective_us)
    if held is not None and (since_ever or held.effective_us == draft.effective_us):
        same = msgspec.structs.replace(held, id=draft.id, effective_us=draft.effective_us)
        if same == draft:
            return held, False
    cursor = db.execute(
        "INSERT INTO price "
        "(book, model, rates, request_nusd, effective_us, source, provenance, published_us) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            draft.book,
            draft.model,
            msgspec.json.encode(draft.rates_nusd_per_mtok).decode(),
            draft.request_nusd,
            draft.effective_us,
            draft.source,
            draft.provenance,
            now_us,
        ),
    )
    assert cursor.lastrowid is not None
    return msgspec.structs.replace(draft, id=cursor.lastrowid), True


def in_force(db: sqlite3.Connection, book: str, model: str, at_us: int) -> Price | None:
    """Return the version that holds at an instant: the last to begin, of those the last published."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM price WHERE book = ? AND model = ? AND effective_us <= ? "
        "ORDER BY effective_us DESC, id DESC LIMIT 1",
        (book, model, at_us),
    ).fetchone()
    return None if row is None else _price(row)


def all_versions(db: sqlite3.Connection) -> dict[int, Price]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM price ORDER BY id")
    return {row[0]: _price(row) for row in rows}


def check(price: Price) -> None:
    """Raise `ControlError` unless `price` has a whole rate >= 0, or None, for each token class."""
    rates: Sequence[int | None] = price.rates_nusd_per_mtok
    what = f"price of {price.model!r} in book {price.book!r}"
    if not price.book or not price.model:
        raise ControlError(f"{what}: book and model must not be empty")
    if len(rates) != len(TOKEN_CLASSES):
        raise ControlError(
            f"{what}: {len(rates)} rates, must be {len(TOKEN_CLASSES)}: {', '.join(TOKEN_CLASSES)}"
        )
    for name, rate in zip((*TOKEN_CLASSES, "request"), (*rates, price.request_nusd), strict=True):
        if rate is not None and (type(rate) is not int or not 0 <= rate < 2**62):
            raise ControlError(
                f"{what}: {name} rate is {rate!r}, must be whole nano-dollars >= 0, or None for unpriced"
            )


def put_config(db: sqlite3.Connection, text: str, at_us: int) -> int:
    """Return the version of `text`; the text that is already the newest keeps its version."""
    newest = config(db)
    if newest is not None and newest[1] == text:
        return newest[0]
    cursor = db.execute("INSERT INTO config (at_us, text) VALUES (?, ?)", (at_us, text))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def config(db: sqlite3.Connection) -> tuple[int, str] | None:
    row = db.execute("SELECT version, text FROM config ORDER BY version DESC LIMIT 1").fetchone()
    return None if row is None else (row[0], row[1])


def _price(row: tuple[Any, ...]) -> Price:
    return Price(
        id=row[0],
        book=row[1],
        model=row[2],
        rates_nusd_per_mtok=tuple(msgspec.json.decode(row[3], type=list[int | None])),
        request_nusd=row[4],
        effective_us=row[5],
        source=row[6],
        provenance=row[7],
    )
