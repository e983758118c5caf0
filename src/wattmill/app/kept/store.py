"""The kept store: one SQLite file that all workers of a factory share.

Every call is one transaction and may block for some milliseconds; the event loop uses `shelf.Shelf`.

Nothing is on the disk before something is put: reading a store that has no file makes none.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wattmill.app.kept.schema import connect
from wattmill.app.kept.spec import LASTING, ROW_BYTES, Item, KeptLimits, KeptUnavailable, Line, NoRoom

_MIB = 1 << 20
_FIELDS = "kind, node, data_class, id, created_us, expires_us, owner, version, meta, body"
_LINE = "kind, node, data_class, id, created_us, expires_us, length(body), meta, owner, version"
_LASTING = ", ".join(f"'{kind}'" for kind in sorted(LASTING))
_FREE_PAGES = 1_000  # given back to the file system by one sweep


def _wall_us() -> int:
    return time.time_ns() // 1_000


class KeptStore:
    """One process's door to `kept.db`; its threads take turns. Do not use it across a fork."""

    def __init__(
        self,
        path: Path,
        *,
        limits: KeptLimits | None = None,
        busy_s: float = 5.0,
        wall_us: Callable[[], int] = _wall_us,
    ) -> None:
        self._path = path
        self._busy_s = busy_s
        self._db: sqlite3.Connection | None = None
        self._turn = threading.Lock()
        self._wall_us = wall_us
        self.limits = limits or KeptLimits()

    def close(self) -> None:
        with self._turn:
            if self._db is not None:
                self._db.close()
                self._db = None

    # ---- one item

    def put(self, item: Item) -> None:
        """Keep `item`, in place of one with the same kind, node, class and id. Raises `NoRoom`."""
        with self._write() as db:
            self._put(db, item)

    def put_many(self, items: Sequence[Item]) -> int:
        """Keep several in one transaction, each as `put` would; return how many found room."""
        kept = 0
        with self._write() as db:
            for item in items:
                try:
                    self._put(db, item)
                    kept += 1
                except NoRoom:
                    continue
        return kept

    def add(self, item: Item) -> Item | None:
        """Keep `item` if there is none with its kind, node and id, of whatever class; else return that one.

        Atomic over all workers: of several that add the same, one gets None."""
        with self._write() as db:
            found = self._find(db, item.kind, item.node, item.id, None)
            if found is None:
                # An expired one that nobody has swept yet stands in the way.
                db.execute(
                    "DELETE FROM item WHERE kind = ? AND node = ? AND id = ?", (item.kind, item.node, item.id)
                )
                self._insert(db, item)
            return found

    def get(self, kind: str, node: int, id: str, *, data_class: str | None = None) -> Item | None:
        """Return what `node` keeps under `id`; with `data_class` only if it is of that class."""
        with self._read() as db:
            return None if db is None else self._find(db, kind, node, id, data_class)

    def change(self, item: Item) -> bool:
        """Replace an item that still has `item.version`, counting that up; False: it has changed, or is gone.

        Kind, node, class and id say which one; owner, expiry, meta and body become the new ones."""
        with self._write() as db:
            row = db.execute(
                "SELECT length(body) + length(meta) FROM item "
                "WHERE kind = ? AND node = ? AND id = ? AND data_class = ? AND version = ?",
                (item.kind, item.node, item.id, item.data_class, item.version),
            ).fetchone()
            if row is None:
                return False
            self._make_room(db, item, grows_by=len(item.body) + len(item.meta) - row[0])
            changed = db.execute(
                "UPDATE item SET owner = ?, expires_us = ?, meta = ?, body = ?, version = version + 1 "
                "WHERE kind = ? AND node = ? AND id = ? AND data_class = ? AND version = ?",
                (
                    *(item.owner, item.expires_us, item.meta, item.body),
                    *(item.kind, item.node, item.id, item.data_class, item.version),
                ),
            )
            return changed.rowcount == 1

    def delete(
        self, kind: str, node: int, id: str, *, version: int | None = None, owner: str | None = None
    ) -> bool:
        """Delete and overwrite, all classes; with `version` or `owner` only if the item still has it. Returns
        whether there was one."""
        if not self._path.exists():
            return False
        with self._write() as db:
            gone = db.execute(
                "DELETE FROM item WHERE kind = ?1 AND node = ?2 AND id = ?3 "
                "AND (?4 IS NULL OR version = ?4) AND (?5 IS NULL OR owner = ?5)",
                (kind, node, id, version, owner),
            ).rowcount
        if gone and kind != "idempotency":  # a freed claim holds nothing of the client's
            self._forget()
        return gone > 0

    # ---- many

    def lines(
        self, kind: str, node: int, *, data_class: str | None = None, after: str = "", limit: int = 100
    ) -> list[Line]:
        """Return up to `limit` lines, newest first; `after` is the id of the last one of the page before."""
        with self._read() as db:
            if db is None:
                return []
            rows = db.execute(
                f"SELECT {_LINE} FROM item WHERE kind = ?1 AND node = ?2 AND expires_us > ?3 "
                "AND (?4 IS NULL OR data_class = ?4) AND (?5 = '' OR (created_us, id) < "
                "(SELECT created_us, id FROM item WHERE kind = ?1 AND node = ?2 AND id = ?5)) "
                "ORDER BY created_us DESC, id DESC LIMIT ?6",
                (kind, node, self._wall_us(), data_class, after, limit),
            ).fetchall()
        return [_line(row) for row in rows]

    def owned(self, kind: str) -> list[Line]:
        """Return the items of a kind that somebody works on, or did when it died: for take-over."""
        with self._read() as db:
            if db is None:
                return []
            rows = db.execute(
                f"SELECT {_LINE} FROM item WHERE kind = ? AND owner <> '' AND expires_us > ? "
                "ORDER BY created_us",
                (kind, self._wall_us()),
            ).fetchall()
        return [_line(row) for row in rows]

    def delete_all(self, *, kind: str | None = None, node: int | None = None) -> int:
        """Delete and overwrite all of a kind, of a key or team, of both, or everything. Returns how many.

        A claim whose request runs now stays: it holds nothing of a client's, and without it the request could
        be made twice."""
        if not self._path.exists():
            return 0
        with self._write() as db:
            gone = db.execute(
                "DELETE FROM item WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR node = ?2) "
                "AND NOT (kind = 'idempotency' AND owner <> '')",
                (kind, node),
            ).rowcount
        self._forget()
        return gone

    def sweep(self) -> int:
        """Delete what has expired, and give its room back to the file system. Returns how many went."""
        if not self._path.exists():
            return 0
        with self._write() as db:
            gone = db.execute("DELETE FROM item WHERE expires_us <= ?", (self._wall_us(),)).rowcount
        if gone:
            self._forget()
        return gone

    def held(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return {(kind, node): (items, bytes)} of everything that is kept."""
        with self._read() as db:
            if db is None:
                return {}
            rows = db.execute(
                f"SELECT kind, node, count(*), sum(length(body) + length(meta) + {ROW_BYTES}) FROM item "
                "WHERE expires_us > ? GROUP BY 1, 2",
                (self._wall_us(),),
            )
            return {(kind, node): (count, size) for kind, node, count, size in rows}

    def since(self, kind: str, row: int, *, limit: int = 10_000) -> tuple[int, list[tuple[int, str]]]:
        """Return (last row, [(node, id)]) kept after `row`: how a worker learns of the others'."""
        with self._read() as db:
            if db is None:
                return row, []
            rows = db.execute(
                "SELECT rowid, node, id FROM item WHERE rowid > ? AND kind = ? ORDER BY rowid LIMIT ?",
                (row, kind, limit),
            ).fetchall()
        return (rows[-1][0] if rows else row), [(node, id) for _, node, id in rows]

    # ---- inside

    def _put(self, db: sqlite3.Connection, item: Item) -> None:
        # Room is made first: an item that does not fit leaves the old one where it is.
        old = db.execute(
            "SELECT length(body) + length(meta) FROM item "
            "WHERE kind = ? AND node = ? AND id = ? AND data_class = ?",
            (item.kind, item.node, item.id, item.data_class),
        ).fetchone()
        if old is not None:
            self._make_room(db, item, grows_by=len(item.body) + len(item.meta) - old[0])
            db.execute(
                "DELETE FROM item WHERE kind = ? AND node = ? AND id = ? AND data_class = ?",
                (item.kind, item.node, item.id, item.data_class),
            )
        self._insert(db, item)

    def _find(
        self, db: sqlite3.Connection, kind: str, node: int, id: str, data_class: str | None
    ) -> Item | None:
        row = db.execute(
            f"SELECT {_FIELDS} FROM item WHERE kind = ?1 AND node = ?2 AND id = ?3 AND expires_us > ?4 "
            "AND (?5 IS NULL OR data_class = ?5)",
            (kind, node, id, self._wall_us(), data_class),
        ).fetchone()
        if row is None:
            return None
        return Item(
            kind=row[0], node=row[1], data_class=row[2], id=row[3], created_us=row[4], expires_us=row[5],
            owner=row[6], version=row[7], meta=bytes(row[8]), body=bytes(row[9]),
        )  # fmt: skip

    def _insert(self, db: sqlite3.Connection, item: Item) -> None:
        self._make_room(db, item, grows_by=len(item.body) + len(item.meta) + ROW_BYTES)
        db.execute(
            f"INSERT INTO item ({_FIELDS}) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                *(item.kind, item.node, item.data_class, item.id, item.created_us, item.expires_us),
                *(item.owner, item.version, item.meta, item.body),
            ),
        )

    def _make_room(self, db: sqlite3.Connection, item: Item, *, grows_by: int) -> None:
        """Delete old items until `item` fits, or raise `NoRoom`. In this order, so that nothing is written of
        an item that does not stay. Items that somebody works on are not touched."""
        limits = self.limits
        if len(item.body) + len(item.meta) > limits.item_mib * _MIB:
            raise NoRoom(f"{len(item.body)} bytes are more than one item may have (kept.item_mib)")
        for node, most, name in (
            (item.node, limits.scope_mib * _MIB, "kept.scope_mib"),
            (0, limits.total_mib * _MIB, "kept.total_mib"),
        ):
            row = db.execute("SELECT bytes FROM held WHERE node = ?", (node,)).fetchone()
            beyond = (row[0] if row is not None else 0) + grows_by - most
            if beyond <= 0:
                continue
            freed = 0
            oldest = db.execute(
                f"SELECT rowid, length(body) + length(meta) + {ROW_BYTES} FROM item "
                f"WHERE (?1 = 0 OR node = ?1) AND kind NOT IN ({_LASTING}) AND owner = '' "
                "AND NOT (kind = ?2 AND node = ?3 AND id = ?4) ORDER BY created_us",
                (node, item.kind, item.node, item.id),
            )
            doomed: list[tuple[int]] = []
            for rowid, size in oldest:
                doomed.append((rowid,))
                freed += size
                if freed >= beyond:
                    break
            if freed < beyond:
                raise NoRoom(
                    f"{max(grows_by, 0)} more bytes do not fit below {most >> 20} MiB ({name}); delete "
                    "something, or raise it"
                )
            db.executemany("DELETE FROM item WHERE rowid = ?", doomed)

    def _forget(self) -> None:
        """Let no copy of deleted bytes stand in the write-ahead log. Another worker that reads just now may
        hold that up; its next deletion or sweep does it then."""
        with self._turn, contextlib.suppress(sqlite3.OperationalError):
            if self._db is not None:
                self._db.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES})").fetchall()
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection | None]:
        """Hand out the connection, or None where nothing was ever kept."""
        with self._turn:
            if self._db is None and not self._path.exists():
                yield None
                return
            try:
                yield self._opened()
            except (sqlite3.Error, OSError) as error:
                raise KeptUnavailable(f"{self._path.name}: {error}") from error

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                db = self._opened()
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                raise KeptUnavailable(f"{self._path.name}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self._path, busy_s=self._busy_s)
        return self._db


def _line(row: tuple[Any, ...]) -> Line:
    kind, node, data_class, id, created, expires, size, meta, owner, version = row
    return Line(
        kind=kind, node=node, data_class=data_class, id=id, created_us=created, expires_us=expires,
        body_bytes=size, meta=bytes(meta), owner=owner, version=version,
    )  # fmt: skip
