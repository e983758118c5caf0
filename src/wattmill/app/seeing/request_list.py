"""Lists of attempts with filters, a page at a time: what a figure of the board was computed from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from wattmill.app.seeing.book_reading import refused_row
from wattmill.app.seeing.readings import RecentRow
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_schema import NO_GOOD_END, SOURCES, STATUSES

SCAN = 200_000
"""Attempts that one page looks at: a rare status may need several pages, never a second of the disk."""

_FILTERS = {
    "finished": f"a.status = {STATUSES.index('finished')}",
    "aborted": f"a.status = {STATUSES.index('aborted')}",
    "failed": f"a.status IN ({', '.join(str(STATUSES.index(name)) for name in NO_GOOD_END)})",
    "cut": f"a.status = {STATUSES.index('cut')}",
    "in_doubt": f"a.status = {STATUSES.index('in_doubt')}",
    "failover": "a.number > 0",
    "unmetered": f"a.source = {SOURCES.index('unmetered')}",
}
STATUS_FILTERS = (*_FILTERS, "refused")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, newest first, and the cursor of the next page; None: that was the last."""

    rows: list[RecentRow]
    before: int | None


def request_page(
    books: Books,
    *,
    limit: int,
    before: int | None = None,
    pool: str | None = None,
    keys: Collection[int] | None = None,
    status: str | None = None,
) -> Page:
    """Return attempts older than the cursor `before`.

    Args:
        books: open books.
        limit: at most so many rows.
        before: a cursor of an earlier page; None: begin with the newest.
        pool: only this place.
        keys: only these keys (node ids); None: all.
        status: one of `STATUS_FILTERS`; None: all attempts. Refused requests are a list of their own.
    """
    if status == "refused":
        rows = [refused_row(r) for r in books.recent_refused(limit)]
        return Page(rows=[r for r in rows if keys is None or r.key in keys], before=None)
    wanted = ["1"]
    if pool is not None:
        wanted.append("p.text = :pool")
    if keys is not None:
        wanted.append(f"a.key IN ({','.join(str(int(key)) for key in keys)})")
    if status is not None:
        wanted.append(_FILTERS[status])
    found = books.db.execute(
        "SELECT a.id, e.name, a.seq - a.back, a.number, e.start_us + a.ended_us - a.duration_us + a.lead_us, "
        "a.key, p.text, m.text, a.status, s.stream, a.source, a.prefill_tok + a.cached_tok, a.output_tok, "
        "a.charge_nusd, a.cost_nusd, energy.uj, a.ttft_us, a.duration_us, c.text FROM "
        "(SELECT * FROM attempt WHERE id < :before ORDER BY id DESC LIMIT :scan) a "
        "JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool "
        "JOIN name m ON m.id = s.model LEFT JOIN energy ON energy.attempt = a.id "
        "LEFT JOIN name c ON c.id = a.cause "
        f"WHERE {' AND '.join(wanted)} ORDER BY a.id DESC LIMIT :limit",
        {
            "before": before or 1 << 62,
            "scan": limit if len(wanted) == 1 else SCAN,
            "pool": pool,
            "limit": limit,
        },
    ).fetchall()
    return Page(rows=[_row(r) for r in found], before=_next(books, before, found, limit))


def _next(books: Books, before: int | None, found: list[tuple[Any, ...]], limit: int) -> int | None:
    if len(found) == limit:
        return int(found[-1][0])
    last = books.db.execute(
        "SELECT min(id), count(*) FROM (SELECT id FROM attempt WHERE id < ? ORDER BY id DESC LIMIT ?)",
        (before or 1 << 62, SCAN),
    ).fetchone()
    return int(last[0]) if last[1] == SCAN else None


def _row(r: tuple[Any, ...]) -> RecentRow:
    source = SOURCES[r[10]]
    counted = source in ("measured", "estimated")
    return RecentRow(
        id=f"req_{r[1]}_{r[2]:x}",
        attempt=r[3],
        at_us=r[4],
        key=r[5],
        pool=r[6],
        model=r[7],
        status=STATUSES[r[8]],
        stream=bool(r[9]),
        usage_source=source,
        prompt_tok=r[11] if counted else None,
        output_tok=r[12] if counted else None,
        charge_nusd=r[13],
        cost_nusd=r[14],
        energy_uj=r[15],
        ttft_us=r[16],
        duration_us=r[17],
        error=r[18],
    )
