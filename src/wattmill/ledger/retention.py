"""How long journals are kept: only what is booked, and booked rows that are on the disk, may go."""

from __future__ import annotations

import os
from pathlib import Path

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import segment_name
from wattmill.ledger.stores.sqlite import LedgerDb


def sweep(db: LedgerDb, journal: Path, *, before_us: int) -> list[str]:
    """Delete segments that are booked to their end and whose last record is older than `before_us`; return
    their names. An epoch whose segments are all gone, and whose writer is, goes with them."""
    rows = db.db.execute(
        "SELECT e.name, s.segment, e.segment, e.state FROM segment s JOIN epoch e ON e.id = s.epoch "
        "WHERE s.last_us < ? ORDER BY e.id, s.segment",
        (before_us,),
    ).fetchall()
    ripe = [(name, n) for name, n, reached, state in rows if n < reached or state == "folded"]
    ripe = [(name, n) for name, n in ripe if (journal / name / segment_name(n)).exists()]
    if not ripe:
        return []
    db.harden()  # the rows first: they are all that remains
    gone = []
    for name, number in ripe:
        os.unlink(journal / name / segment_name(number))
        gone.append(f"{name}/{segment_name(number)}")
    for name in {name for name, _ in ripe}:
        if not epochs.segments(journal / name) and not epochs.alive(journal / name):
            (journal / name / epochs.LOCK).unlink(missing_ok=True)
            (journal / name).rmdir()
    return gone
