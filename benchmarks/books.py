"""The books read from outside: plain SQL on `ledger.db`, and the journal's bytes, without importing wattmill.

What is read here is part of the published formats: the tables of ledger.db and the frames of a journal.
"""

from __future__ import annotations

import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

STATUSES = ("finished", "aborted", "failed", "cut", "in_doubt")
SOURCES = ("measured", "estimated", "unmetered", "none")


def _read(home: Path, sql: str) -> list[tuple[Any, ...]]:
    path = home / "ledger.db"
    if not path.exists():
        return []
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
    try:
        return db.execute(sql).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        db.close()


def _one(home: Path, sql: str) -> int:
    rows = _read(home, sql)
    return int(rows[0][0] or 0) if rows else 0


def attempts(home: Path) -> int:
    return _one(home, "SELECT count(*) FROM attempt")


def rows(home: Path) -> int:
    """Return rows that are kept for ever: postings and attempts."""
    return attempts(home) + _one(home, "SELECT count(*) FROM posting")


def weight_bytes(home: Path) -> int:
    """Return the size of the books with all pages, those still in the write-ahead log included."""
    return _one(home, "PRAGMA page_count") * _one(home, "PRAGMA page_size")


def newest_us(home: Path) -> int | None:
    """Return the wall clock at which the attempt that was booked last had ended."""
    found = _read(
        home,
        "SELECT epoch.start_us + attempt.ended_us FROM attempt JOIN epoch ON epoch.id = attempt.epoch "
        "ORDER BY attempt.id DESC LIMIT 1",
    )
    return int(found[0][0]) if found else None


def tokens(home: Path) -> tuple[int, int]:
    """Return (prompt, output) tokens of all attempts."""
    found = _read(home, "SELECT sum(prefill_tok + cached_tok), sum(output_tok) FROM attempt")
    return (int(found[0][0] or 0), int(found[0][1] or 0)) if found else (0, 0)


def doubts(home: Path, state: str = "open") -> int:
    return sum(1 for row in _read(home, "SELECT state FROM doubt") if row[0] == state)


def charged_nusd(home: Path) -> int:
    """Return what all keys were charged, from the postings (reservations of attempts in doubt included)."""
    return _one(
        home,
        "SELECT sum(posting.amount) FROM posting JOIN account ON account.id = posting.account "
        "WHERE account.commodity = 'nusd' AND account.name LIKE 'key:%'",
    )


def wait_settled(home: Path, *, timeout_s: float = 60.0, still_s: float = 0.7) -> None:
    """Wait until every intent has its end in the books and nothing more arrives. Raises TimeoutError."""
    give_up_s = time.monotonic() + timeout_s
    last, since_s = (-1, -1), time.monotonic()
    while time.monotonic() < give_up_s:
        now = (attempts(home), _one(home, "SELECT count(*) FROM open_intent"))
        if now != last:
            last, since_s = now, time.monotonic()
        elif not now[1] and time.monotonic() - since_s >= still_s:
            return
        time.sleep(0.05)
    raise TimeoutError(
        f"the books did not settle in {timeout_s} s: {last[0]} attempts, {last[1]} intents open"
    )


class Booked(NamedTuple):
    """One attempt as the books have it."""

    epoch: str
    request: int  # seq of the request's first attempt
    seq: int
    pool: str
    status: str
    source: str
    prompt_tok: int
    output_tok: int
    charge_nusd: int
    ended_us: int  # wall clock
    doubted: str | None  # state of its entry in `doubt`, None if it never was in doubt


def booked(home: Path) -> list[Booked]:
    """Return all attempts, whatever their number: duplicates are for the reader to find."""
    found = _read(
        home,
        "SELECT epoch.name, attempt.seq - attempt.back, attempt.seq, name.text, attempt.status, "
        "attempt.source, "
        "attempt.prefill_tok + attempt.cached_tok, attempt.output_tok, attempt.charge_nusd, "
        "epoch.start_us + attempt.ended_us, nullif(doubt.state, 'uncounted') FROM attempt "
        "JOIN epoch ON epoch.id = attempt.epoch JOIN shape ON shape.id = attempt.shape "
        "JOIN name ON name.id = shape.pool "
        "LEFT JOIN doubt ON doubt.epoch = attempt.epoch AND doubt.seq = attempt.seq ORDER BY attempt.id",
    )
    return [Booked(*row[:4], STATUSES[row[4]], SOURCES[row[5]], *row[6:]) for row in found]


class JournalIntent(NamedTuple):
    epoch: str
    seq: int
    request: int
    pool: str
    input_bound_tok: int
    output_clamp_tok: int
    reserved_nusd: int
    label: str | None


_FRAME = struct.Struct("<II")
_HEADER_BYTES = 32
_INTENT = 1


def intents(home: Path) -> Iterator[JournalIntent]:
    """Yield every intent in the journal, read by the format's description: frames of length, CRC-32 and a
    MessagePack array whose first element is the kind of record."""
    for segment in sorted((home / "journal").glob("*/*.wmj")):
        data = segment.read_bytes()
        at = _HEADER_BYTES
        while at + _FRAME.size <= len(data):
            length, crc = _FRAME.unpack_from(data, at)
            payload = data[at + _FRAME.size : at + _FRAME.size + length]
            if not length or len(payload) < length or zlib.crc32(payload) != crc:
                break  # room set aside, or the torn last record of a killed writer
            at += _FRAME.size + length
            fields = msgspec.msgpack.decode(payload)
            if fields[0] == _INTENT:
                # kind, seq, request, attempt, at_us, path, pool, model, endpoint, stream, bound, clamp, ...
                _, seq, request, _, _, _, pool, _, _, _, bound, clamp, *rest = fields
                yield JournalIntent(segment.parent.name, seq, request, pool, bound, clamp, rest[0], rest[5])
