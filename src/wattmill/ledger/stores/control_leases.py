"""Escrow: a worker may spend what it was granted, and the grants of all workers never pass a limit.

For each gauge (a node's cap, or one period of a limit), at any moment (while it is not lowered below it):

    spent by closed epochs + sum over live epochs of granted  <=  limit

A grant is only ever lowered by its own worker (which first stops using it), by folding an epoch whose worker
is confirmed dead, with the use that its journal shows, or by an operator's word (`stores.control_write_off`).
Time alone returns nothing. All functions run inside one transaction of the caller, in SQLite or PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wattmill.ledger.period import NEVER_US, window_of
from wattmill.ledger.stores.control_records import (
    Ask,
    Budget,
    Denied,
    EpochClosed,
    Holding,
    LeaseHolder,
    NoSuch,
    Opening,
    Turned,
)
from wattmill.ledger.stores.sql import Db, any_of
from wattmill.units import NUSD_PER_USD
from wattmill.vocab.budget import METERED, Limit, Period, Unit, gauge_of, index_of, limit_of

UNCAPPED_CHUNK = 1_000_000 * NUSD_PER_USD
"""Granted of a gauge without a limit: so much that asking again is rare, so little that sums stay
far from 2**63. It is leased like any other, so that a cap set later knows exactly what is out."""

_STATE = """
SELECT coalesce((SELECT used FROM spent WHERE gauge = :gauge), 0),
       coalesce(sum(granted), 0), coalesce(sum(used), 0), count(*),
       coalesce(sum(CASE WHEN epoch <> :epoch AND granted > used THEN 1 ELSE 0 END), 0),
       coalesce(sum(CASE WHEN epoch <> :epoch AND granted > used AND told < :ticket THEN 1 ELSE 0 END), 0)
FROM lease WHERE gauge = :gauge
"""


class Gauge(NamedTuple):
    """What a gauge belongs to. `amount` None: nothing limits it."""

    node: int
    unit: Unit
    period: Period
    zone: str
    amount: int | None
    latest: int


def gauge_in(db: Db, gauge: int) -> Gauge:
    """Return what stands behind a gauge, or raise `NoSuch`."""
    limit = limit_of(gauge)
    if not limit:
        row = db.execute("SELECT cap_nusd FROM node WHERE id = :id", {"id": gauge}).fetchone()
        if row is None:
            raise NoSuch(f"no node {gauge} in the budget tree")
        return Gauge(gauge, "nusd", "life", "UTC", row[0], 0)
    row = db.execute(
        "SELECT node, unit, period, zone, CASE WHEN lifted_us IS NULL THEN amount END, latest "
        "FROM budget_limit WHERE id = :id",
        {"id": limit},
    ).fetchone()
    if row is None:
        raise NoSuch(f"no limit {limit} in the budget tree")
    return Gauge(*row)


def opening(db: Db, epoch: str, nodes: Sequence[int]) -> Opening:
    """Return the limits at some nodes, and what `epoch` has held of their gauges."""
    limits: dict[int, tuple[Limit, ...]] = {}
    held: dict[int, tuple[int, int]] = {}
    for node in nodes:
        found = tuple(limit for limit in limits_at(db, node) if limit.unit in METERED)
        if found:
            limits[node] = found
        wanted = [(node, node)] + [
            (gauge_of(limit.id, limit.unit, 0), gauge_of(limit.id + 1, "nusd", 0) - 1) for limit in found
        ]
        for first, last in wanted:
            for gauge, granted, used in db.execute(
                "SELECT gauge, granted, used FROM lease "
                "WHERE epoch = :epoch AND gauge >= :first AND gauge <= :last",
                {"epoch": epoch, "first": first, "last": last},
            ).fetchall():
                held[gauge] = (granted, used)
    return Opening(limits, held)


def limits_at(db: Db, node: int) -> list[Limit]:
    """Return the limits that are declared at a node, oldest first; its cap of dollars is not among them."""
    return [
        Limit(id=id, node=node, unit=unit, period=period, zone=zone, amount=amount)
        for id, unit, period, zone, amount in db.execute(
            "SELECT id, unit, period, zone, amount FROM budget_limit "
            "WHERE node = :node AND lifted_us IS NULL ORDER BY id",
            {"node": node},
        ).fetchall()
    ]


def lease(db: Db, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned:
    """Grant of all gauges of `asks`, or of none. Returns what was granted now, by gauge."""
    refuse_closed(db, epoch)
    behind: dict[int, Gauge] = {ask.gauge: gauge_in(db, ask.gauge) for ask in asks}
    late = {
        limit_of(gauge): found.latest
        for gauge, found in behind.items()
        if limit_of(gauge) and index_of(gauge) < found.latest
    }
    if late:
        return Turned(late)
    grants: dict[int, int] = {}
    for ask in asks:
        gauge, found = ask.gauge, behind[ask.gauge]
        if limit_of(gauge) and index_of(gauge) > found.latest:
            turn(db, limit_of(gauge), gauge)
        if found.amount is None:
            grants[gauge] = max(ask.want, UNCAPPED_CHUNK if found.unit == "nusd" else ask.chunk)
            continue
        spent, granted, used, holders, others, stale = _state(db, epoch, gauge, ask.ticket)
        available = found.amount - spent - granted
        if ask.floor and available < ask.floor:
            final = not (stale if ask.ticket else others)
            resets_us = window_of(found.period, found.zone, index_of(gauge) if limit_of(gauge) else 0).end_us
            return Denied(
                gauge=gauge,
                kind=_kind(db, found.node),
                name=full_name(db, found.node),
                unit=found.unit,
                period=found.period,
                cap=found.amount,
                used=spent + used,
                leased=granted - used,
                available=available,
                ticket=ask.ticket or (0 if final else _recall(db, gauge, but=epoch)),
                final=final,
                resets_us=None if resets_us == NEVER_US else resets_us,
            )
        # Near the limit a chunk shrinks, so that no worker sits on the rest while another one starves.
        chunk = min(ask.chunk, available // (4 * max(1, holders)))
        grants[gauge] = max(0, min(ask.want, available), chunk)
    wants = {ask.gauge: ask.want for ask in asks}
    for gauge, amount in grants.items():
        if amount:
            db.execute(
                "INSERT INTO lease (epoch, gauge, granted, used, idle, told) "
                "VALUES (:epoch, :gauge, :amount, 0, :idle, 0) ON CONFLICT (epoch, gauge) DO UPDATE SET "
                "granted = lease.granted + :amount, idle = lease.idle + :idle",
                {
                    "epoch": epoch,
                    "gauge": gauge,
                    "amount": amount,
                    "idle": max(0, amount - max(0, wants[gauge])),
                },
            )
    return grants


def turn(db: Db, limit: int, gauge: int) -> None:
    """Begin the period of `gauge`: earlier ones never come back, so what they counted may go.

    Requests that were reserved in one of them are settled there by their worker, in memory.
    """
    db.execute(
        "UPDATE budget_limit SET latest = :index WHERE id = :id", {"id": limit, "index": index_of(gauge)}
    )
    span = {"first": limit << 36, "before": gauge}
    for table in ("lease", "recall", "spent"):
        db.execute(f"DELETE FROM {table} WHERE gauge >= :first AND gauge < :before", span)


def report(db: Db, epoch: str, holdings: Mapping[int, Holding]) -> None:
    """Note what a worker holds, take back what it does not keep, and forget its answered recalls.

    Totals, not differences: telling the same twice changes nothing.
    """
    refuse_closed(db, epoch)
    for gauge, told in holdings.items():
        if told.used > told.keep:
            raise ValueError(f"gauge {gauge}: used {told.used} cannot exceed kept {told.keep}")
        db.execute(
            "UPDATE lease SET used = CASE WHEN used > :used THEN used ELSE :used END, "
            "granted = CASE WHEN granted < :keep THEN granted ELSE :keep END, "
            "idle = :idle, told = CASE WHEN told > :answers THEN told ELSE :answers END "
            "WHERE epoch = :epoch AND gauge = :gauge",
            {
                "epoch": epoch,
                "gauge": gauge,
                "used": told.used,
                "keep": told.keep,
                "idle": told.idle,
                "answers": told.answers,
            },
        )
        if told.answers and not excess(db, (gauge,)):  # else what is freed from now on is asked back too
            db.execute(
                "DELETE FROM recall WHERE epoch = :epoch AND gauge = :gauge AND ticket <= :answers",
                {"epoch": epoch, "gauge": gauge, "answers": told.answers},
            )


def recalls(db: Db, epoch: str) -> dict[int, int]:
    """Return the gauges of which others need what this epoch holds idle, each with the ticket that a report
    of what is held from now on answers. Raises `EpochClosed`."""
    refuse_closed(db, epoch)
    rows = db.execute(
        "SELECT gauge, (SELECT number FROM ticket) FROM recall WHERE epoch = :epoch", {"epoch": epoch}
    ).fetchall()
    return dict(rows)


def excess(db: Db, gauges: Sequence[int]) -> dict[int, int]:
    """Return how much more is out of each gauge (used by closed epochs, granted to live ones) than its limit
    allows, of those where it is more: the limit came down while requests were in flight."""
    out: dict[int, int] = {}
    for gauge in gauges:
        amount = gauge_in(db, gauge).amount
        if amount is not None:
            spent, granted, *_ = _state(db, "", gauge, 0)
            if spent + granted > amount:
                out[gauge] = spent + granted - amount
    return out


def renew(db: Db, epoch: str, now_us: int, term_us: int, place: str) -> None:
    """Note that a worker lives, and that it stops by itself when it could not say so for a term."""
    refuse_closed(db, epoch)
    db.execute(
        "INSERT INTO term (epoch, seen_us, term_us, place) VALUES (:epoch, :now, :term, :place) "
        "ON CONFLICT (epoch) DO UPDATE SET seen_us = :now, term_us = :term",
        {"epoch": epoch, "now": now_us, "term": term_us, "place": place},
    )


def close_epoch(db: Db, epoch: str, used: Mapping[int, int], at_us: int) -> bool:
    """Fold a dead epoch: book its whole use of each gauge, free the rest. False if it was folded before.

    One that an operator wrote off is corrected to what its journal shows.
    """
    if is_closed(db, epoch):
        counted = dict(
            db.execute("SELECT gauge, counted FROM write_off WHERE epoch = :epoch", {"epoch": epoch})
        )
        db.execute("DELETE FROM write_off WHERE epoch = :epoch", {"epoch": epoch})
        for gauge in counted.keys() | (used.keys() if counted else set()):
            add_spent(db, gauge, used.get(gauge, 0) - counted.get(gauge, 0))
        return bool(counted)
    told = dict(db.execute("SELECT gauge, used FROM lease WHERE epoch = :epoch", {"epoch": epoch}))
    for gauge in sorted(told.keys() | used.keys()):
        # The journal is the witness; a worker's word counts where the journal's tail died with the machine.
        add_spent(db, gauge, max(told.get(gauge, 0), used.get(gauge, 0)))
    end_epoch(db, epoch, at_us)
    return True


def end_epoch(db: Db, epoch: str, at_us: int) -> None:
    """Forget what an epoch held; it gets nothing more."""
    for table in ("lease", "recall", "term"):
        db.execute(f"DELETE FROM {table} WHERE epoch = :epoch", {"epoch": epoch})
    db.execute("INSERT INTO closed_epoch VALUES (:epoch, :at)", {"epoch": epoch, "at": at_us})


def adjust(db: Db, id: str, delta: Mapping[int, int], at_us: int) -> bool:
    """Change what closed epochs used, once per `id`. False if it was done before."""
    if db.execute("SELECT 1 FROM adjustment WHERE id = :id", {"id": id}).fetchone():
        return False
    for gauge, amount in delta.items():
        add_spent(db, gauge, amount)
    db.execute("INSERT INTO adjustment VALUES (:id, :at)", {"id": id, "at": at_us})
    return True


def add_spent(db: Db, gauge: int, amount: int) -> None:
    """Count use of closed epochs. That of a period which is over is of no use to anybody."""
    found = gauge_in(db, gauge)
    if limit_of(gauge) and index_of(gauge) < found.latest:
        return
    db.execute(
        "INSERT INTO spent (gauge, used) VALUES (:gauge, :amount) "
        "ON CONFLICT (gauge) DO UPDATE SET used = spent.used + :amount",
        {"gauge": gauge, "amount": amount},
    )


def recall_if_overcommitted(db: Db, gauge: int) -> None:
    """After a limit came down: ask every worker for what it holds idle, until no more is out than that."""
    if excess(db, (gauge,)):
        _recall(db, gauge, but="")


def live_epochs(db: Db) -> list[str]:
    return [epoch for (epoch,) in db.execute("SELECT DISTINCT epoch FROM lease ORDER BY epoch", {})]


def holders(db: Db) -> list[LeaseHolder]:
    """Return who holds leases, with what was granted to each of caps in dollars."""
    rows = db.execute(
        "SELECT lease.epoch, coalesce(max(place), ''), max(seen_us), max(term_us), count(*), "
        "coalesce(sum(CASE WHEN cap_nusd IS NULL THEN 0 ELSE granted END), 0), "
        "coalesce(sum(CASE WHEN cap_nusd IS NULL THEN 0 ELSE used END), 0), "
        "coalesce(sum(CASE WHEN cap_nusd IS NULL THEN 0 ELSE idle END), 0) "
        "FROM lease LEFT JOIN term ON term.epoch = lease.epoch LEFT JOIN node ON node.id = lease.gauge "
        "GROUP BY lease.epoch ORDER BY lease.epoch",
        {},
    ).fetchall()
    return [
        LeaseHolder(
            epoch=epoch,
            place=place,
            seen_us=seen,
            term_us=term,
            gauges=gauges,
            granted_nusd=int(granted),
            used_nusd=int(used),
            idle_nusd=int(idle),
        )
        for epoch, place, seen, term, gauges, granted, used, idle in rows
    ]


def budgets(db: Db, only: Sequence[int] | None = None, *, runs: bool = True) -> list[Budget]:
    """Return the money of some nodes or all, in the order of their ids. Without `runs`: down to the keys."""
    where = "" if runs else "WHERE kind IN ('org', 'team', 'key') "
    named: dict[str, int] = {}
    if only is not None:
        nodes, named = any_of(only)
        where = f"WHERE node.id IN {nodes} "
    rows = db.execute(
        "SELECT node.id, kind, cap_nusd, coalesce(max(spent.used), 0), coalesce(sum(lease.granted), 0), "
        "coalesce(sum(lease.used), 0), coalesce(sum(lease.idle), 0) "
        "FROM node LEFT JOIN spent ON spent.gauge = node.id LEFT JOIN lease ON lease.gauge = node.id "
        f"{where}GROUP BY node.id, kind, cap_nusd ORDER BY node.id",
        named,
    ).fetchall()
    return [
        Budget(
            node=id,
            kind=kind,
            name=full_name(db, id),
            cap_nusd=cap,
            used_nusd=int(spent + used),
            reserved_nusd=max(0, int(granted - used - idle)),
            idle_nusd=int(idle),
            left_nusd=None if cap is None else int(cap - spent - used - max(0, granted - used - idle)),
        )
        for id, kind, cap, spent, granted, used, idle in rows
    ]


def full_name(db: Db, node: int) -> str:
    """Return "org/team/key"."""
    (text,) = db.execute(
        "WITH RECURSIVE up(id, parent, text) AS (SELECT id, parent, name FROM node WHERE id = :node "
        "UNION ALL SELECT node.id, node.parent, node.name || '/' || up.text "
        "FROM node JOIN up ON node.id = up.parent) "
        "SELECT text FROM up WHERE parent IS NULL",
        {"node": node},
    ).fetchone()
    return str(text)


def refuse_closed(db: Db, epoch: str) -> None:
    if is_closed(db, epoch):
        raise EpochClosed(f"epoch {epoch} was closed; its worker must stop and start as a new epoch")


def _state(db: Db, epoch: str, gauge: int, ticket: int) -> list[int]:
    row = db.execute(_STATE, {"epoch": epoch, "gauge": gauge, "ticket": ticket}).fetchone()
    return [int(value) for value in row]  # a sum of PostgreSQL's is a decimal


def is_closed(db: Db, epoch: str) -> bool:
    row = db.execute("SELECT 1 FROM closed_epoch WHERE epoch = :epoch", {"epoch": epoch}).fetchone()
    return row is not None


def _kind(db: Db, node: int) -> str:
    return str(db.execute("SELECT kind FROM node WHERE id = :id", {"id": node}).fetchone()[0])


def _recall(db: Db, gauge: int, *, but: str) -> int:
    """Ask all other workers what they hold of a gauge, and for what is idle. Returns the ticket."""
    db.execute("UPDATE ticket SET number = number + 1", {})
    db.execute(
        "INSERT INTO recall (epoch, gauge, ticket) "
        "SELECT epoch, gauge, (SELECT number FROM ticket) FROM lease "
        "WHERE gauge = :gauge AND epoch <> :but AND granted > used "
        "ON CONFLICT (epoch, gauge) DO UPDATE SET ticket = excluded.ticket",
        {"gauge": gauge, "but": but},
    )
    return int(db.execute("SELECT number FROM ticket", {}).fetchone()[0])
