"""The law of joules, computed again from the postings: each meter's are those of requests, of idle and of
what is named, each has a provenance, and each gram went where its joule did."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import get_args

from wattmill.ledger.audit_check import Check, check
from wattmill.ledger.stores.sqlite_energy import MeterSums, energy_there, meter_sums
from wattmill.vocab.usage import Provenance

_KNOWN = set(get_args(Provenance)) - {"unknown"}


def energy(db: sqlite3.Connection) -> Check:
    """Return whether requests + idle + service + foreign + overhead + unattributed are the meter's."""
    broken = []
    meters = meter_sums(db)
    balances: dict[str, int] = dict(db.execute("SELECT name, balance FROM account WHERE commodity = 'uj'"))
    for one in meters:
        for account, value in _accounts(one).items():
            posted = balances.get(account, 0)
            if posted != value:
                broken.append(f"{account}: windows say {value} uJ, postings {posted}")
    shares = db.execute("SELECT ifnull(sum(uj), 0) FROM energy").fetchone()[0]
    requests = sum(one.requests_uj for one in meters)
    if shares != requests:
        broken.append(f"attempts have {shares} uJ, windows gave them {requests}")
    keys = sum(uj for account, uj in balances.items() if account.startswith("key:"))
    if keys != requests:
        broken.append(f"keys have {keys} uJ, windows gave them {requests}")
    total = sum(one.total_uj for one in meters)
    rest = sum(one.unattributed_uj for one in meters)
    part = f", {rest / total:.2%} unattributed" if total else ""
    return check(
        "joules of requests, idle and unattributed are the meter's",
        f"{sum(one.windows for one in meters)} windows of {len(meters)} meters, {total} uJ{part}",
        broken,
    )


def provenance(db: sqlite3.Connection) -> Check:
    """Return whether every joule and gram in the books came from a window that says how it is known."""
    broken = [
        f"window {tx} of {meter}: provenance {kind!r}, source {source!r}"
        for tx, meter, kind, source in db.execute(
            "SELECT tx, m.text, p.text, s.text FROM meter_window JOIN name m ON m.id = meter "
            "LEFT JOIN name p ON p.id = provenance LEFT JOIN name s ON s.id = source"
        )
        if kind not in _KNOWN or not source
    ]
    if energy_there(db):
        broken += _strays(db)
        broken += [
            f"window {tx}: {ug} ug of carbon without a source"
            for tx, ug in db.execute(
                "SELECT tx, ug FROM meter_more JOIN name c ON c.id = carbon WHERE ug IS NOT NULL "
                "AND c.text = ''"
            )
        ]
    kinds = db.execute(
        "SELECT p.text, sum(total_uj) FROM meter_window JOIN name p ON p.id = provenance GROUP BY 1 "
        "ORDER BY 1"
    )
    said = ", ".join(f"{kind} {uj} uJ" for kind, uj in kinds) or "no joules yet"
    return check("every joule has a provenance", said, broken)


def _accounts(one: MeterSums) -> dict[str, int]:
    meter = one.meter
    return {
        f"meter:{meter}": -one.total_uj,
        f"idle:{meter}": one.idle_uj,
        f"service:{meter}": one.service_uj,
        f"foreign:{meter}": one.foreign_uj,
        f"overhead:{meter}": one.overhead_uj,
        f"unattributed:{meter}": one.unattributed_uj,
    }


def _strays(db: sqlite3.Connection) -> Iterator[str]:
    """Postings of joules or grams in a transaction of no window. Windows of before `meter_more` have as many
    transactions as their keys need, so that only those after the first one with it are held to this."""
    begun = db.execute("SELECT min(tx) FROM meter_more").fetchone()[0]
    if begun is None:
        return
    for tx, commodity, name, amount in db.execute(
        "SELECT p.id >> 6, commodity, a.name, amount FROM posting p JOIN account a ON a.id = p.account "
        "WHERE commodity IN ('uj', 'ug') AND p.id >= ? << 6 AND NOT EXISTS (SELECT 1 FROM meter_more w "
        "WHERE w.tx = (SELECT max(tx) FROM meter_more WHERE tx <= p.id >> 6) AND w.last_tx >= p.id >> 6)",
        (begun,),
    ):
        yield f"transaction {tx}: {amount} {commodity} to {name} of no meter's window"
