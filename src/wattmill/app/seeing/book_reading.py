"""What the board asks of the books: few bounded queries, however many rows there are."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Any

from wattmill.app.home import Home
from wattmill.app.running.lag import read_lag
from wattmill.app.seeing.journal_peek import peek
from wattmill.app.seeing.readings import BookReading, Cell, MeterSum, RecentRow, Times, Window
from wattmill.ledger.stores.sqlite import WrongLedgerFormat
from wattmill.ledger.stores.sqlite_read import AttemptRow, Books, RefusedRow, overrun_units
from wattmill.ledger.stores.sqlite_schema import STATUSES
from wattmill.ledger.stores.sqlite_tiers import tier_sums
from wattmill.units import S_PER_H, US_PER_S
from wattmill.vocab.fact import Intent

NEWEST = 5_000
"""Attempts that the windows of the last seconds look at. At a higher pace the window is as short as these are
young, and the rates are of that span."""
TIMES_OF = 2_000
DAY_S = 24 * S_PER_H
RECENT = 20


def read_books(home: Home, now_us: int) -> tuple[BookReading | None, str | None]:
    """Return what the books say, or why they cannot be read. (None, None): nothing was ever booked."""
    if not home.ledger_db.exists():
        return None, None
    try:
        with Books(home.ledger_db) as books:
            return _read(books, home, now_us), None
    except (sqlite3.Error, WrongLedgerFormat) as error:
        return None, str(error)


def _read(books: Books, home: Home, now_us: int) -> BookReading:
    db = books.db
    midnight_s = now_us // US_PER_S // DAY_S * DAY_S
    hour_us = now_us - S_PER_H * US_PER_S
    lag = read_lag(home)
    reasons, in_flight = peek(home, _positions(db))
    last_10s, last_60s = windows(db, now_us)
    return BookReading(
        difference=dict(db.execute("SELECT commodity, sum(balance) FROM account GROUP BY commodity")),
        in_doubt=_one(db, "SELECT count(*) FROM doubt WHERE state = 'open'"),
        # Of attempts: the few tokens that an engine made after a client had left have no attempt, only a row.
        unmetered=_one(
            db,
            "SELECT count(*) FROM alarm WHERE kind = 'unmetered' AND seq IS NOT NULL AND at_us >= ?",
            midnight_s * US_PER_S,
        ),
        overrun_nusd=_one(
            db, "SELECT sum(balance) FROM account WHERE commodity = 'nusd' AND name LIKE 'overrun:%'"
        ),
        overrun_units=overrun_units(db),
        lag_s=lag.behind_s if lag is not None else None,
        last_10s=last_10s,
        last_60s=last_60s,
        today=_cells_since(db, midnight_s, "hour"),
        hour=_cells_since(db, hour_us // US_PER_S // 60 * 60, "minute"),
        meter_60s=meter(db, now_us - 90 * US_PER_S, 90),
        meter_hour=meter(db, hour_us, S_PER_H),
        energy_today_uj=dict(
            db.execute(
                "SELECT text, sum(energy_uj) FROM rollup_hour JOIN name ON name.id = pool "
                "WHERE start_s >= ? GROUP BY pool",
                (midnight_s,),
            )
        ),
        ttft=_ttft(db),
        refusals_today=dict(
            db.execute(
                "SELECT text, sum(count) FROM rollup_refused JOIN name ON name.id = code "
                "WHERE start_s >= ? GROUP BY code",
                (midnight_s,),
            )
        ),
        recent=_recent(books, reasons, in_flight),
        tiers=tier_sums(db, hour_us // US_PER_S // 60 * 60),
    )  # fmt: skip


def windows(db: sqlite3.Connection, now_us: int) -> tuple[Window, Window]:
    """Return the attempts that ended in the last 10 s and in the last 60 s, by place, key and status."""
    rows = db.execute(
        "SELECT p.text, a.key, a.status, e.start_us + a.ended_us > ?4, count(*), sum(a.number = 0), "
        "sum(a.prefill_tok + a.cached_tok), sum(a.output_tok), sum(a.charge_nusd), sum(a.cost_nusd), "
        "min(e.start_us + a.ended_us) FROM "
        "(SELECT * FROM attempt ORDER BY id DESC LIMIT ?1) a "
        "JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool "
        "WHERE e.start_us + a.ended_us > ?2 AND e.start_us + a.ended_us <= ?3 GROUP BY 1, 2, 3, 4",
        (NEWEST, now_us - 60 * US_PER_S, now_us, now_us - 10 * US_PER_S),
    ).fetchall()
    seen = sum(row[4] for row in rows)
    # All that were looked at fall into the minute: it may hold more, so the span is theirs.
    span_s = (now_us - min(row[10] for row in rows)) / US_PER_S if seen >= NEWEST else 60.0
    return _window(rows, min(10.0, span_s), only_last=True), _window(rows, min(60.0, span_s), only_last=False)


def _window(rows: list[tuple[Any, ...]], seconds: float, *, only_last: bool) -> Window:
    cells: dict[tuple[str, int, int], Cell] = {}
    for pool, key, status, is_last, attempts, requests, tok_in, tok_out, charge, cost, _ in rows:
        if only_last and not is_last:
            continue
        before = cells.get((pool, key, status))
        cells[pool, key, status] = Cell(
            pool=pool,
            key=key,
            status=STATUSES[status],
            attempts=attempts + (before.attempts if before else 0),
            requests=requests + (before.requests if before else 0),
            aborted=0,
            errors=0,
            prompt_tok=tok_in + (before.prompt_tok if before else 0),
            output_tok=tok_out + (before.output_tok if before else 0),
            charge_nusd=charge + (before.charge_nusd if before else 0),
            cost_nusd=cost + (before.cost_nusd if before else 0),
        )
    return Window(seconds=max(0.001, seconds), cells=list(cells.values()))


def _cells_since(db: sqlite3.Connection, since_s: int, step: str) -> list[Cell]:
    rows = db.execute(
        "SELECT text, key, sum(attempts), sum(requests), sum(aborted), sum(errors), "
        "sum(tok_input + tok_cached_input + tok_cache_write + tok_audio_input), "
        "sum(tok_output + tok_reasoning + tok_audio_output), sum(charge_nusd), sum(cost_nusd) "
        f"FROM rollup_{step} JOIN name ON name.id = pool WHERE start_s >= ? GROUP BY pool, key",
        (since_s,),
    )
    return [
        Cell(
            pool=r[0], key=r[1], attempts=r[2], requests=r[3], aborted=r[4], errors=r[5],
            prompt_tok=r[6], output_tok=r[7], charge_nusd=r[8], cost_nusd=r[9],
        )
        for r in rows
    ]  # fmt: skip


def meter(db: sqlite3.Connection, since_us: int, most: int) -> MeterSum | None:
    """Return the sum of the newest `most` booked meter windows that began after `since_us`, or None."""
    row = db.execute(
        "SELECT count(*), sum(length_us), sum(total_uj), sum(idle_uj), sum(unattributed_uj), max(tx) FROM "
        "(SELECT * FROM meter_window ORDER BY tx DESC LIMIT ?) WHERE start_us >= ?",
        (most, since_us),
    ).fetchone()
    if not row[0]:
        return None
    provenance, source = db.execute(
        "SELECT p.text, s.text FROM meter_window JOIN name p ON p.id = provenance "
        "JOIN name s ON s.id = source WHERE tx = ?",
        (row[5],),
    ).fetchone()
    return MeterSum(
        seconds=row[1] / US_PER_S, total_uj=row[2], idle_uj=row[3], unattributed_uj=row[4],
        provenance=provenance, source=source,
    )  # fmt: skip


def _ttft(db: sqlite3.Connection) -> dict[str, Times]:
    found: dict[str, list[int]] = defaultdict(list)
    rows = db.execute(
        "SELECT p.text, ttft_us FROM (SELECT * FROM attempt ORDER BY id DESC LIMIT ?) a "
        "JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool WHERE ttft_us IS NOT NULL",
        (TIMES_OF,),
    )
    for pool, ttft in rows:
        found[pool].append(ttft)
    return {pool: times(values) for pool, values in found.items()}


def times(values: list[int]) -> Times:
    """Return nearest-rank quantiles of at least one value."""
    ordered = sorted(values)
    n = len(ordered)
    return Times(count=n, p50_us=ordered[(n + 1) // 2 - 1], p95_us=ordered[-(-n * 95 // 100) - 1])


def _recent(books: Books, reasons: dict[str, str], in_flight: list[tuple[str, Intent]]) -> list[RecentRow]:
    rows = [booked_row(a, reasons.get(a.request_id)) for a in books.recent(RECENT)]
    rows += [refused_row(refused) for refused in books.recent_refused(RECENT)]
    known = {(row.id, row.attempt) for row in rows}
    rows += [
        RecentRow(
            id=id,
            attempt=intent.attempt,
            at_us=intent.at_us,
            key=intent.key,
            pool=intent.pool,
            model=intent.model,
            status="in flight",
            stream=intent.stream,
            reason=reasons.get(id),
        )
        for id, intent in in_flight
        if (id, intent.attempt) not in known
    ]
    return sorted(rows, key=lambda row: (-row.at_us, row.id, -row.attempt))[:RECENT]


def booked_row(a: AttemptRow, reason: str | None = None) -> RecentRow:
    """Return a booked attempt as a row of the board."""
    counted = a.source in ("measured", "estimated")
    return RecentRow(
        id=a.request_id,
        attempt=a.number,
        at_us=a.started_us,
        key=a.key,
        pool=a.pool,
        model=a.model,
        status=a.status,
        stream=a.stream,
        prompt_tok=a.prefill_tok + a.cached_tok if counted else None,
        output_tok=a.output_tok if counted else None,
        usage_source=a.source,
        charge_nusd=a.charge_nusd,
        cost_nusd=a.cost_nusd,
        energy_uj=a.energy_uj,
        ttft_us=a.ttft_us,
        duration_us=a.duration_us,
        error=a.cause,
        reason=reason,
    )


def refused_row(r: RefusedRow) -> RecentRow:
    return RecentRow(
        id=r.request_id,
        attempt=0,
        at_us=r.at_us,
        key=r.key,
        pool="",
        model=r.model,
        status="refused",
        error=r.code,
    )


def _positions(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    rows = db.execute("SELECT name, segment, offset FROM epoch WHERE state = 'live'")
    return {name: (segment, offset) for name, segment, offset in rows}


def _one(db: sqlite3.Connection, query: str, *values: int) -> int:
    row = db.execute(query, values).fetchone()
    return int(row[0] or 0)
