"""What the ledger keeps of tiers: which attempt had one, and by the minute how the promises were kept.

These tables were added to format 1: a writer makes them where they are missing, a reader does without.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

TIER_MEASURES = (
    "requests",  # first attempts
    "kept",  # attempts that kept all that was promised
    "left",  # clients that left before anything could be judged
    "refused",  # no place, or not in time
    "ttft_n",
    "ttft_kept",
    "speed_n",
    "speed_kept",
    "queued_n",  # requests that had to wait at the gate
    "queued_us",
    "output_tok",
    "charge_nusd",
    "cost_nusd",
)
_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in TIER_MEASURES)

TIER_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS attempt_tier (
  attempt INTEGER PRIMARY KEY, tier INTEGER NOT NULL, queued_us INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rollup_tier (
  start_s INTEGER NOT NULL, tier INTEGER NOT NULL, {_COLUMNS}, PRIMARY KEY (start_s, tier)) WITHOUT ROWID;
"""

_UPSERT = (
    f"INSERT INTO rollup_tier VALUES (?,?,{','.join('?' * len(TIER_MEASURES))}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in TIER_MEASURES)
)


class TierSums(msgspec.Struct, frozen=True, kw_only=True):
    """One tier over a span. Money in nano-dollars."""

    tier: str
    requests: int
    kept: int
    left: int
    refused: int
    ttft_n: int
    ttft_kept: int
    speed_n: int
    speed_kept: int
    queued_n: int
    queued_us: int
    output_tok: int
    charge_nusd: int
    cost_nusd: int

    @property
    def offered(self) -> int:
        """Requests that could be judged, the refused ones included."""
        return self.requests - self.left + self.refused

    @property
    def kept_share(self) -> float | None:
        return self.kept / self.offered if self.offered > 0 else None


class TierRows:
    """What a batch gathers, until `flush`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._attempts: list[tuple[int, int, int]] = []
        self._rollup: dict[tuple[int, int], list[int]] = {}

    def attempt(self, attempt: int, tier: int, queued_us: int) -> None:
        self._attempts.append((attempt, tier, queued_us))

    def add(self, at_us: int, tier: int, sums: Iterable[tuple[str, int]]) -> None:
        row = self._rollup.setdefault((at_us // 60_000_000 * 60, tier), [0] * len(TIER_MEASURES))
        for name, value in sums:
            row[_INDEX[name]] += value

    def flush(self, db: sqlite3.Connection) -> None:
        if self._attempts:
            db.executemany("INSERT OR REPLACE INTO attempt_tier VALUES (?,?,?)", self._attempts)
        if self._rollup:
            db.executemany(_UPSERT, [(*bucket, *row) for bucket, row in self._rollup.items()])
        self.clear()


_INDEX = {name: i for i, name in enumerate(TIER_MEASURES)}


def tier_sums(db: sqlite3.Connection, since_s: int) -> list[TierSums]:
    """Return every tier that was asked for since a minute, by name."""
    if not _there(db):
        return []
    columns = ", ".join(f"sum({name})" for name in TIER_MEASURES)
    rows = db.execute(
        f"SELECT text, {columns} FROM rollup_tier JOIN name ON name.id = tier WHERE start_s >= ? "
        "GROUP BY tier ORDER BY text",
        (since_s,),
    )
    return [TierSums(tier=row[0], **dict(zip(TIER_MEASURES, row[1:], strict=True))) for row in rows]


def tiers_of(db: sqlite3.Connection, attempts: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Return (tier, queued_us) of those attempts that have one."""
    if not attempts or not _there(db):
        return {}
    marks = ",".join("?" * len(attempts))
    rows = db.execute(
        f"SELECT attempt, text, queued_us FROM attempt_tier JOIN name ON name.id = tier "
        f"WHERE attempt IN ({marks})",
        tuple(attempts),
    )
    return {attempt: (tier, queued_us) for attempt, tier, queued_us in rows}


def _there(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rollup_tier'").fetchone())
