"""The tables of the control database, and how one is opened."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from wattmill.ledger.stores.private_file import make_private

FORMAT = 2
"""Version of the tables. An older file is brought up to it when it is opened, in one transaction; a newer one
is refused, never guessed at."""

APPLICATION_ID = 0x776D6374  # "wmct": `file control.db` tells what it is

_BASE = """
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
    revoked_us INTEGER,
    requires_run INTEGER NOT NULL DEFAULT 0,  -- 1: nothing is served outside of a run
    tier TEXT  -- NULL: that of its team
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

"""

_LEASES = """
-- What each live epoch may spend of each gauge: of a node's cap (the gauge is the node's id), or of one
-- period of a limit (`vocab.budget.gauge_of`). granted = used + reserved by requests in flight + idle.
CREATE TABLE lease (
    epoch TEXT NOT NULL,
    gauge INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    used INTEGER NOT NULL,
    idle INTEGER NOT NULL,  -- as last told by its worker: a hint for people, no part of the law
    told INTEGER NOT NULL,  -- the ticket that was the newest when its worker last looked for recalls
    PRIMARY KEY (epoch, gauge),
    CHECK (used >= 0 AND granted >= used)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_gauge ON lease (gauge);
-- All closed epochs folded into one row per gauge.
CREATE TABLE spent (gauge INTEGER PRIMARY KEY, used INTEGER NOT NULL) STRICT;
CREATE TABLE recall (
    epoch TEXT NOT NULL, gauge INTEGER NOT NULL,
    ticket INTEGER NOT NULL,  -- the newest that asks for an answer
    PRIMARY KEY (epoch, gauge)
) STRICT, WITHOUT ROWID;
-- Grows with each recall: who told after it was given has told what it holds now.
CREATE TABLE ticket (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO ticket VALUES (1, 1);
-- When each worker last said that it lives, and for how long it may reserve without saying so again.
CREATE TABLE term (
    epoch TEXT PRIMARY KEY, seen_us INTEGER NOT NULL, term_us INTEGER NOT NULL, place TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- Where leases are kept if not here: a PostgreSQL database that several machines share.
CREATE TABLE shared (one INTEGER PRIMARY KEY CHECK (one = 1), url TEXT NOT NULL) STRICT;
-- What a lost epoch was counted with by an operator's word, until its journal is found after all.
CREATE TABLE write_off (
    epoch TEXT NOT NULL, gauge INTEGER NOT NULL, counted INTEGER NOT NULL, PRIMARY KEY (epoch, gauge)
) STRICT, WITHOUT ROWID;
"""

_SPENDERS = """
CREATE TABLE budget_limit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: journals refer to it
    node INTEGER NOT NULL REFERENCES node(id),
    unit TEXT NOT NULL,
    period TEXT NOT NULL,
    zone TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    latest INTEGER NOT NULL,  -- the latest period that anything was leased in: no earlier one comes back
    created_us INTEGER NOT NULL,
    lifted_us INTEGER
) STRICT;
CREATE UNIQUE INDEX one_limit ON budget_limit (node, unit, period) WHERE lifted_us IS NULL;
CREATE INDEX limit_of_node ON budget_limit (node);

-- Agents, runs and their steps: nodes below a key that somebody opened on the data port.
CREATE TABLE run (
    node INTEGER PRIMARY KEY REFERENCES node(id),
    key INTEGER NOT NULL REFERENCES key(node),  -- the only key that may use it
    token BLOB NOT NULL UNIQUE,  -- SHA-256 of its unguessable id
    state TEXT NOT NULL CHECK (state IN ('open', 'paused', 'stopped', 'closed')),
    reason TEXT,  -- why it is paused or stopped, for its owner
    depth INTEGER NOT NULL,  -- 1: directly below its key
    opened_us INTEGER NOT NULL,
    changed_us INTEGER NOT NULL,
    expires_us INTEGER,
    label TEXT
) STRICT;
CREATE INDEX run_key ON run (key, state);
CREATE INDEX run_expiry ON run (expires_us) WHERE state IN ('open', 'paused');
"""

_REST = """
CREATE TABLE closed_epoch (epoch TEXT PRIMARY KEY, at_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE adjustment (id TEXT PRIMARY KEY, at_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE generation (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO generation VALUES (1, 1);
"""

TABLES = _BASE + _LEASES + _SPENDERS + _REST

MIGRATIONS = {
    1: """
ALTER TABLE lease RENAME TO old_lease;
ALTER TABLE spent RENAME TO old_spent;
ALTER TABLE recall RENAME TO old_recall;
DROP INDEX lease_node;
ALTER TABLE key ADD COLUMN requires_run INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key ADD COLUMN tier TEXT;
"""
    + _LEASES
    + _SPENDERS
    + """
INSERT INTO lease SELECT epoch, node, granted_nusd, used_nusd, idle_nusd, 0 FROM old_lease;
INSERT INTO spent SELECT node, used_nusd FROM old_spent;
INSERT INTO recall SELECT epoch, node, 1 FROM old_recall;
DROP TABLE old_lease;
DROP TABLE old_spent;
DROP TABLE old_recall;
"""
}
"""What brings a file of a format to the next one."""


class WrongFormat(RuntimeError):
    """The file is no control database of this version; the message says what it is."""


def connect(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """Open the control database at `path`, made if absent, readable by its owner only.

    The connection may be used by any thread, one at a time. SQLite gives its -wal and -shm files the
    permissions of the main file.
    """
    make_private(path)
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
        elif found in MIGRATIONS:
            for number in range(found, FORMAT):
                for statement in _statements(MIGRATIONS[number]):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise WrongFormat(
                f"{path} has format {found}, must be 1 to {FORMAT}; use the wattmill that wrote it"
            )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled it back already, and must be told as what it is
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
    assert not part.strip(), f"half a statement: {part}"
    return out
