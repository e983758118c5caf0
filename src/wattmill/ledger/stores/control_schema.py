"""The tables of the control database, and how one is opened."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

FORMAT = 1
"""Version of the tables. A newer file is refused, never guessed at."""

APPLICATION_ID = 0x776D6374  # "wmct": `file control.db` tells what it is

TABLES = """
CREATE TABLE node (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: the books refer to it for ever
    parent INTEGER REFERENCES node(id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    cap_nusd INTEGER CHECK (cap_nusd >= 0),
    created_us INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX node_name ON node (ifnull(parent, 0), name);

CREATE TABLE key (
    node INTEGER PRIMARY KEY REFERENCES node(id),
    models TEXT, pools TEXT, endpoints TEXT,  -- JSON arrays; NULL: no restriction
    privacy TEXT NOT NULL,
    expires_us INTEGER,
    revoked_us INTEGER
) STRICT;
CREATE TABLE secret (
    sha256 BLOB PRIMARY KEY,
    node INTEGER NOT NULL REFERENCES key(node),
    prefix TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    until_us INTEGER  -- set when it was replaced; NULL: the current one
) STRICT, WITHOUT ROWID;
CREATE TABLE admin_token (sha256 BLOB PRIMARY KEY, created_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE price (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    book TEXT NOT NULL, model TEXT NOT NULL,
    rates TEXT NOT NULL,  -- JSON array in the order of TOKEN_CLASSES
    request_nusd INTEGER NOT NULL,
    effective_us INTEGER NOT NULL,
    source TEXT NOT NULL, provenance TEXT NOT NULL,
    published_us INTEGER NOT NULL
) STRICT;
CREATE INDEX price_when ON price (book, model, effective_us, id);
CREATE TRIGGER price_is_never_edited BEFORE UPDATE ON price
    BEGIN SELECT raise(ABORT, 'a price version is never edited; publish a new one'); END;
CREATE TRIGGER price_is_never_deleted BEFORE DELETE ON price
    BEGIN SELECT raise(ABORT, 'a price version is never deleted; publish a new one'); END;

CREATE TABLE config (
    version INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, text TEXT NOT NULL
) STRICT;

-- What each live epoch may spend at each node. granted = used + reserved by requests in flight + idle.
CREATE TABLE lease (
    epoch TEXT NOT NULL,
    node INTEGER NOT NULL REFERENCES node(id),
    granted_nusd INTEGER NOT NULL,
    used_nusd INTEGER NOT NULL,
    idle_nusd INTEGER NOT NULL,  -- as last told by its worker: a hint for recalls, no part of the law
    PRIMARY KEY (epoch, node),
    CHECK (used_nusd >= 0 AND granted_nusd >= used_nusd)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_node ON lease (node);
-- All closed epochs folded into one row per node.
CREATE TABLE spent (node INTEGER PRIMARY KEY REFERENCES node(id), used_nusd INTEGER NOT NULL) STRICT;
CREATE TABLE closed_epoch (epoch TEXT PRIMARY KEY, at_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE adjustment (id TEXT PRIMARY KEY, at_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE recall (
    epoch TEXT NOT NULL, node INTEGER NOT NULL, PRIMARY KEY (epoch, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE generation (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO generation VALUES (1, 1);
"""


class WrongFormat(RuntimeError):
    """The file is no control database of this version; the message says what it is."""


def connect(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """Open the control database at `path`, made if absent, readable by its owner only.

    The connection may be used by any thread, one at a time. SQLite gives its -wal and -shm files the
    permissions of the main file.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        _set_wal(db, busy_s)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")
        _ensure_tables(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _set_wal(db: sqlite3.Connection, busy_s: float) -> None:
    # The switch to WAL asks for the whole file and, alone among statements, may not wait for it by itself
    # when several processes open a new file at the same moment.
    give_up = time.monotonic() + busy_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _ensure_tables(db: sqlite3.Connection, path: Path) -> None:
    if _format_of(db) == FORMAT:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _format_of(db)
        if found == 0 and not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            for statement in _statements(TABLES):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise WrongFormat(f"{path} has format {found}, must be {FORMAT}; use the wattmill that wrote it")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _format_of(db: sqlite3.Connection) -> int:
    (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)


def _statements(script: str) -> list[str]:
    """Split into statements; `executescript` would commit the transaction that we are in."""
    out, part = [], ""
    for line in script.splitlines():
        part += line + "\n"
        if sqlite3.complete_statement(part):
            out.append(part.strip())
            part = ""
    return out
