"""An operator's word on a worker that nobody will hear of again: its machine and its journal are lost.

Nothing else than this and a recovered journal ends a lease. What the lost worker was granted of a limit
counts as used, so that no limit is passed even if it comes back; a person who knows better may free what it
last told as idle. If the journal turns up after all, its epoch is folded by what it shows
(`control_leases.close_epoch`).
"""

from __future__ import annotations

import msgspec

from wattmill.ledger.stores.control_leases import add_spent, end_epoch, gauge_in, is_closed
from wattmill.ledger.stores.control_records import ControlError, NoSuch
from wattmill.ledger.stores.sql import Db
from wattmill.units import US_PER_S


class WrittenOff(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one gauge."""

    gauge: int
    granted: int
    counted: int  # as used from now on
    returned: int


def write_off(db: Db, epoch: str, now_us: int, *, return_idle: bool) -> list[WrittenOff]:
    """End the leases of `epoch`. Raises `ControlError` while its worker may still reserve by itself."""
    if is_closed(db, epoch):
        raise ControlError(f"epoch {epoch!r} was closed: its leases have ended already")
    term = db.execute("SELECT seen_us, term_us FROM term WHERE epoch = :epoch", {"epoch": epoch}).fetchone()
    rows = db.execute(
        "SELECT gauge, granted, used, idle FROM lease WHERE epoch = :epoch ORDER BY gauge", {"epoch": epoch}
    ).fetchall()
    if term is None and not rows:
        raise NoSuch(f"no epoch {epoch!r} holds a lease; `wattmill budget leases` lists those that do")
    if term is not None and now_us < term[0] + 2 * term[1]:
        ago_s, wait_s = (now_us - term[0]) / US_PER_S, (term[0] + 2 * term[1] - now_us) / US_PER_S
        raise ControlError(
            f"epoch {epoch!r} said {ago_s:.0f} s ago that it lives, and may reserve by itself for a term; "
            f"stop it, or wait {wait_s:.0f} s more"
        )
    done = []
    for gauge, granted, used, idle in rows:
        found = gauge_in(db, gauge)
        if found.unit == "concurrency":
            counted = 0
        elif found.amount is None or return_idle:
            counted = max(used, granted - idle)
        else:
            counted = granted
        add_spent(db, gauge, counted)
        db.execute(
            "INSERT INTO write_off VALUES (:epoch, :gauge, :counted)",
            {"epoch": epoch, "gauge": gauge, "counted": counted},
        )
        done.append(WrittenOff(gauge=gauge, granted=granted, counted=counted, returned=granted - counted))
    end_epoch(db, epoch, now_us)
    return done
