"""The tables of the kept store, and how its file is opened."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from wattmill.app.kept.spec import ROW_BYTES, WrongKeptFormat
from wattmill.ledger.stores.private_file import make_private

FORMAT = 1
"""Version of the tables. A newer file is refused, never guessed at."""

APPLICATION_ID = 0x776D6B70  # "wmkp": `file kept.db` tells what it is

_SIZE = f"length({{0}}.body) + length({{0}}.meta) + {ROW_BYTES}"
_STATEMENTS = (
    """CREATE TABLE item (
    kind TEXT NOT NULL,
    node INTEGER NOT NULL,  -- key or team
    data_class TEXT NOT NULL,
    id TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    meta BLOB NOT NULL,
    body BLOB NOT NULL,  -- last: what stands before it is read without it
    PRIMARY KEY (kind, node, id, data_class)
) STRICT""",
    "CREATE INDEX item_age ON item (created_us)",
    "CREATE INDEX item_age_of_node ON item (node, created_us)",
    "CREATE INDEX item_end ON item (expires_us)",
    # What each key or team holds; node 0 is all of them.
    "CREATE TABLE held (node INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT",
    "INSERT INTO held VALUES (0, 0)",
    f"""CREATE TRIGGER item_in AFTER INSERT ON item BEGIN
    INSERT INTO held VALUES (new.node, {_SIZE.format("new")}), (0, {_SIZE.format("new")})
    ON CONFLICT (node) DO UPDATE SET bytes = bytes + excluded.bytes; END""",
    f"""CREATE TRIGGER item_out AFTER DELETE ON item BEGIN
    UPDATE held SET bytes = bytes - ({_SIZE.format("old")}) WHERE node IN (old.node, 0); END""",
    f"""CREATE TRIGGER item_changed AFTER UPDATE OF body, meta ON item BEGIN
    UPDATE held SET bytes = bytes + ({_SIZE.format("new")}) - ({_SIZE.format("old")})
    WHERE node IN (new.node, 0); END""",
)


def connect(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """Open the store at `path`, made if absent, readable by its owner only. Any thread may use the
    connection, one at a time.

    Deleted bytes are overwritten (`secure_delete`), and what stood in the write-ahead log goes with its next
    checkpoint, which every deletion asks for.
    """
    make_private(path)
    db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds from the first table on
        _set_wal(db, busy_s)
        db.execute("PRAGMA synchronous = NORMAL")
        _ensure_tables(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _set_wal(db: sqlite3.Connection, busy_s: float) -> None:
    # The switch asks for the whole file and may not wait for it by itself when several open a new file.
    give_up_s = time.monotonic() + busy_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)


def _ensure_tables(db: sqlite3.Connection, path: Path) -> None:
    if _format_of(db) == FORMAT:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _format_of(db)
        if found == 0 and not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            for statement in _STATEMENTS:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise WrongKeptFormat(
                f"{path} has format {found}, must be {FORMAT}; use the wattmill that wrote it, or move the "
                "file away: a new one is made (what was kept is gone then, the books are not)"
            )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled it back already, and must be told as what it is
            db.execute("ROLLBACK")
        raise


def _format_of(db: sqlite3.Connection) -> int:
    (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)
