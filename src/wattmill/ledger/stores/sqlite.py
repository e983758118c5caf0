"""ledger.db for its one writer: rows are gathered in memory and written in one transaction per batch.

WAL with synchronous=NORMAL: a crash of the machine may lose the last transactions, never half of one; the
journal's positions are in the same transactions, so that what was lost is booked again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from wattmill.ledger.book import Posting, imbalance
from wattmill.ledger.stores.sqlite_energy import ENERGY_SCHEMA
from wattmill.ledger.stores.sqlite_schema import (
    FORMAT_VERSION,
    KEPT_SCHEMA,
    LINE_BITS,
    MEASURES,
    REFUSED_KEPT,
    SCHEMA,
)
from wattmill.ledger.stores.sqlite_tiers import TIER_SCHEMA, TierRows

ZEROS = (0,) * len(MEASURES)
INDEX = {name: i for i, name in enumerate(MEASURES)}

_UPSERT = (
    "INSERT INTO rollup_{step} VALUES (?,?,?,?," + ",".join("?" * len(MEASURES))
    + ") ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in MEASURES)
)  # fmt: skip

Bucket = tuple[int, int, int, int]  # start_s, key, pool, model


class WrongLedgerFormat(RuntimeError):
    """The file is no ledger of a version that this wattmill reads."""


class Unbalanced(AssertionError):
    """A transaction that does not sum to zero: a defect; nothing of its batch is written."""


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Open a ledger; readers never block the writer. Raises `WrongLedgerFormat`."""
    if readonly:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    else:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA busy_timeout = 5000")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT_VERSION:
        db.close()
        raise WrongLedgerFormat(
            f"{path} has format {version}, this wattmill reads up to {FORMAT_VERSION}; upgrade it"
        )
    return db


class LedgerDb:
    """The write side. Nothing is visible to others before `commit`; `rollback` forgets the batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = connect(path)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("PRAGMA cache_size = -65536")
        self.db.execute("PRAGMA wal_autocheckpoint = 4000")
        if self.db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self.db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
        self.db.executescript(f"BEGIN; {TIER_SCHEMA} {KEPT_SCHEMA} {ENERGY_SCHEMA} COMMIT;")
        self._load()

    def _load(self) -> None:
        db = self.db
        self.names: dict[str, int] = dict(db.execute("SELECT text, id FROM name"))
        self.accounts: dict[tuple[str, str], int] = {}
        self.balances: dict[int, int] = {}
        for id, commodity, name, balance in db.execute("SELECT id, commodity, name, balance FROM account"):
            self.accounts[commodity, name] = id
            self.balances[id] = balance
        self._shapes: dict[tuple[int, ...], int] = {
            tuple(row[1:]): row[0] for row in db.execute("SELECT * FROM shape")
        }
        last = db.execute(
            f"SELECT max(ifnull((SELECT max(id) >> {LINE_BITS} FROM posting), 0), "
            "ifnull((SELECT max(id) FROM attempt), 0), ifnull((SELECT max(tx) FROM note), 0), "
            "ifnull((SELECT max(tx) FROM meter_window), 0))"
        ).fetchone()[0]
        self.next_tx: int = last + 1
        self._clear()

    def _clear(self) -> None:
        self._postings: list[tuple[int, int, int]] = []
        self._changed: dict[int, int] = {}
        self._rollup: dict[Bucket, list[int]] = {}
        self._attempts: list[tuple[object, ...]] = []
        self._energy: dict[int, int] = {}
        self._energy_host: dict[int, int] = {}
        self._refused: list[tuple[object, ...]] = []
        self._refused_counts: dict[tuple[int, int, int], int] = {}
        self.tiers = TierRows()

    # -- names -------------------------------------------------------------------------------------------

    def name(self, text: str) -> int:
        id = self.names.get(text)
        if id is None:
            self.begin()
            id = self.names[text] = len(self.names) + 1
            self.db.execute("INSERT INTO name VALUES (?, ?)", (id, text))
        return id

    def account(self, commodity: str, name: str) -> int:
        id = self.accounts.get((commodity, name))
        if id is None:
            self.begin()
            id = self.accounts[commodity, name] = len(self.accounts) + 1
            self.balances[id] = 0
            self.db.execute("INSERT INTO account VALUES (?, ?, ?, 0)", (id, commodity, name))
        return id

    def balance(self, commodity: str, name: str) -> int:
        """Return a balance with everything posted so far, committed or not; 0 for an account never used."""
        return self.balances.get(self.accounts.get((commodity, name), 0), 0)

    def shape(self, *parts: int) -> int:
        """Return the id of (pool, model, endpoint, stream, privacy, cost price, charge price)."""
        id = self._shapes.get(parts)
        if id is None:
            self.begin()
            id = self._shapes[parts] = len(self._shapes) + 1
            self.db.execute("INSERT INTO shape VALUES (?,?,?,?,?,?,?,?)", (id, *parts))
        return id

    # -- what a batch gathers ----------------------------------------------------------------------------

    def post(self, lines: Sequence[Posting]) -> int:
        """Add one transaction and return its id. Raises `Unbalanced`. No lines: an id without postings."""
        tx = self.next_tx
        self.next_tx = tx + 1
        id = tx << LINE_BITS
        accounts, balances, changed = self.accounts, self.balances, self._changed
        total: dict[str, int] = {}
        for commodity, name, amount in lines:
            account = accounts.get((commodity, name))
            if account is None:
                account = self.account(commodity, name)
            self._postings.append((id, account, amount))
            id += 1
            balances[account] += amount
            changed[account] = changed.get(account, 0) + amount
            total[commodity] = total.get(commodity, 0) + amount
        if any(total.values()) or len(lines) > 1 << LINE_BITS:
            raise Unbalanced(f"transaction {tx}: {imbalance(lines)} over {len(lines)} lines: {list(lines)}")
        return tx

    def standing(self, attempt: int) -> list[Posting]:
        """Return all flushed postings of an attempt: its first booking and the corrections since."""
        txs = [
            attempt,
            *(tx for (tx,) in self.db.execute("SELECT tx FROM correction WHERE attempt = ?", (attempt,))),
        ]
        return [
            Posting(commodity, name, amount)
            for tx in txs
            for commodity, name, amount in self.db.execute(
                "SELECT commodity, name, amount FROM posting JOIN account ON account.id = account "
                "WHERE posting.id >= ? AND posting.id < ?",
                (tx << LINE_BITS, (tx + 1) << LINE_BITS),
            )
        ]

    def roll_up(self, at_us: int, key: int, pool: int, model: int, **sums: int) -> None:
        """Add to the roll-ups of the minute and hour of `at_us`."""
        self.bucket(at_us, key, pool, model, ZEROS)
        row = self._rollup[at_us // 60_000_000 * 60, key, pool, model]
        for name, value in sums.items():
            row[INDEX[name]] += value

    def bucket(self, at_us: int, key: int, pool: int, model: int, sums: Sequence[int]) -> None:
        """The same with a whole row, in the order of `MEASURES`: the fast way."""
        bucket = (at_us // 60_000_000 * 60, key, pool, model)
        row = self._rollup.get(bucket)
        if row is None:
            self._rollup[bucket] = list(sums)
        else:
            self._rollup[bucket] = [a + b for a, b in zip(row, sums, strict=True)]

    def attempt(self, row: tuple[object, ...]) -> None:
        self._attempts.append(row)

    def energy(self, attempt: int, uj: int, host_uj: int = 0) -> None:
        """Add joules to an attempt; `host_uj` of them were the host's around its engine."""
        self._energy[attempt] = self._energy.get(attempt, 0) + uj
        if host_uj:
            self._energy_host[attempt] = self._energy_host.get(attempt, 0) + host_uj

    def refused(self, row: tuple[object, ...], at_us: int, key: int, code: int) -> None:
        self._refused.append(row)
        bucket = (at_us // 60_000_000 * 60, key, code)
        self._refused_counts[bucket] = self._refused_counts.get(bucket, 0) + 1

    def note(self, tx: int, at_us: int, kind: str, text: str) -> None:
        """Say why a transaction exists; the end of an attempt needs no note, its attempt says it."""
        self.begin()
        self.db.execute("INSERT INTO note VALUES (?, ?, ?, ?)", (tx, at_us, self.name(kind), text))

    def alarm(
        self, at_us: int, kind: str, text: str, epoch: str | None = None, seq: int | None = None
    ) -> int:
        """Write an alarm, and return its row."""
        self.begin()
        row = self.db.execute(
            "INSERT INTO alarm (at_us, kind, epoch, seq, text) VALUES (?,?,?,?,?)",
            (at_us, kind, epoch, seq, text),
        ).lastrowid
        assert row is not None
        return row

    def reword_alarm(self, row: int, text: str) -> None:
        self.begin()
        self.db.execute("UPDATE alarm SET text = ? WHERE id = ?", (text, row))

    # -- transactions ------------------------------------------------------------------------------------

    def begin(self) -> None:
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")

    def flush(self) -> None:
        """Write what was gathered into the open transaction, so that queries on this connection see it."""
        self.begin()
        db = self.db
        db.executemany("INSERT INTO posting VALUES (?,?,?)", self._postings)
        db.executemany(
            "UPDATE account SET balance = balance + ? WHERE id = ?",
            [(amount, id) for id, amount in self._changed.items() if amount],
        )
        db.executemany(f"INSERT INTO attempt VALUES ({','.join('?' * 20)})", self._attempts)
        db.executemany(
            "INSERT INTO energy VALUES (?,?) ON CONFLICT DO UPDATE SET uj = uj + excluded.uj",
            self._energy.items(),
        )
        db.executemany(
            "INSERT INTO energy_host VALUES (?,?) ON CONFLICT DO UPDATE SET uj = uj + excluded.uj",
            self._energy_host.items(),
        )
        db.executemany(
            _UPSERT.format(step="minute"), [(*bucket, *row) for bucket, row in self._rollup.items()]
        )
        db.executemany(
            _UPSERT.format(step="hour"), [(*bucket, *row) for bucket, row in _hours(self._rollup).items()]
        )
        self.tiers.flush(db)
        if self._refused:
            db.executemany(
                "INSERT INTO refused (epoch, seq, at_us, key, code, model, endpoint, message) VALUES "
                "(?,?,?,?,?,?,?,?)",
                self._refused,
            )
            db.executemany(
                "INSERT INTO rollup_refused VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET count = count + "
                "excluded.count",
                [(*bucket, count) for bucket, count in self._refused_counts.items()],
            )
            db.execute("DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?", (REFUSED_KEPT,))
        self._clear()

    def commit(self) -> None:
        self.flush()
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget the batch: nothing of it was, or will be, seen."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self._load()

    def harden(self) -> None:
        """Return when every committed row survives the death of the machine."""
        self.db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()

    def close(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self.db.close()


def _hours(minutes: Mapping[Bucket, Sequence[int]]) -> dict[Bucket, list[int]]:
    hours: dict[Bucket, list[int]] = {}
    for (start, *rest), row in minutes.items():
        bucket: Bucket = (start // 3600 * 3600, rest[0], rest[1], rest[2])
        old = hours.get(bucket)
        hours[bucket] = list(row) if old is None else [a + b for a, b in zip(old, row, strict=True)]
    return hours
