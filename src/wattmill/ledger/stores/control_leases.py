"""Escrow: a worker may spend what it was granted, and the grants of all workers never pass a cap.

For each node, at any moment (while its cap is not lowered below it):

    spent by closed epochs + sum over live epochs of granted  <=  cap

A grant is only ever lowered by its own worker (which first stops using that money) or by folding an epoch
whose worker is confirmed dead, with the use that its journal shows. Time alone returns nothing. All functions
run inside one transaction of the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from wattmill.ledger.stores.control_records import Ask, Budget, Denied, EpochClosed, Holding, NoSuch
from wattmill.units import NUSD_PER_USD

UNCAPPED_CHUNK_NUSD = 1_000_000 * NUSD_PER_USD
"""Granted at a node without a cap: so much that asking again is rare, so little that sums stay
far from 2**63. It is leased like any other money, so that a cap set later knows exactly what is out."""

_STATE = """
SELECT node.kind, node.cap_nusd, ifnull((SELECT used_nusd FROM spent WHERE spent.node = node.id), 0),
       ifnull(sum(lease.granted_nusd), 0), ifnull(sum(lease.used_nusd), 0), count(lease.node),
       ifnull(sum(CASE WHEN lease.epoch <> :epoch THEN lease.idle_nusd END), 0)
FROM node LEFT JOIN lease ON lease.node = node.id WHERE node.id = :node GROUP BY node.id
"""


def lease(db: sqlite3.Connection, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied:
    """Grant at all nodes of `asks`, or at none. Returns what was granted now, by node."""
    refuse_closed(db, epoch)
    grants: dict[int, int] = {}
    for ask in asks:
        row = db.execute(_STATE, {"epoch": epoch, "node": ask.node}).fetchone()
        if row is None:
            raise NoSuch(f"no node {ask.node} in the budget tree")
        kind, cap, spent, granted, used, holders, idle_elsewhere = row
        if cap is None:
            grants[ask.node] = max(ask.want_nusd, UNCAPPED_CHUNK_NUSD)
            continue
        available = cap - spent - granted
        if ask.floor_nusd and available < ask.floor_nusd:
            if available + idle_elsewhere >= ask.floor_nusd:
                _recall(db, ask.node, but=epoch)
            return Denied(
                node=ask.node,
                kind=kind,
                name=full_name(db, ask.node),
                cap_nusd=cap,
                used_nusd=spent + used,
                leased_nusd=granted - used,
                available_nusd=available,
                idle_elsewhere_nusd=idle_elsewhere,
            )
        # Near the cap a chunk shrinks, so that no worker sits on the rest while another one starves.
        chunk = min(ask.chunk_nusd, available // (4 * max(1, holders)))
        grants[ask.node] = max(0, min(ask.want_nusd, available), chunk)
    wants = {ask.node: ask.want_nusd for ask in asks}
    for node, nusd in grants.items():
        if nusd:
            db.execute(
                "INSERT INTO lease VALUES (?1, ?2, ?3, 0, ?4) ON CONFLICT DO UPDATE SET "
                "granted_nusd = granted_nusd + ?3, idle_nusd = idle_nusd + ?4",
                (epoch, node, nusd, max(0, nusd - wants[node])),
            )
    return grants


def report(db: sqlite3.Connection, epoch: str, holdings: Mapping[int, Holding]) -> None:
    """Note what a worker holds, take back what it does not keep, and forget its answered recalls.

    Totals, not differences: telling the same twice changes nothing.
    """
    refuse_closed(db, epoch)
    for node, told in holdings.items():
        if told.used_nusd > told.keep_nusd:
            raise ValueError(
                f"node {node}: used {told.used_nusd} cannot exceed kept {told.keep_nusd} nano-dollars"
            )
        db.execute(
            "UPDATE lease SET used_nusd = max(used_nusd, ?3), granted_nusd = min(granted_nusd, ?4), "
            "idle_nusd = ?5 WHERE epoch = ?1 AND node = ?2",
            (epoch, node, told.used_nusd, told.keep_nusd, told.idle_nusd),
        )
        db.execute("DELETE FROM recall WHERE epoch = ? AND node = ?", (epoch, node))


def recalls(db: sqlite3.Connection, epoch: str) -> frozenset[int]:
    """Return the nodes at which others need what this epoch holds idle."""
    return frozenset(node for (node,) in db.execute("SELECT node FROM recall WHERE epoch = ?", (epoch,)))


def close_epoch(db: sqlite3.Connection, epoch: str, used: Mapping[int, int], at_us: int) -> bool:
    """Fold a dead epoch: book its whole use at each node, free the rest. False if it was folded before."""
    if _is_closed(db, epoch):
        return False
    told = dict(db.execute("SELECT node, used_nusd FROM lease WHERE epoch = ?", (epoch,)))
    for node in told.keys() | used.keys():
        # The journal is the witness; a worker's word counts where the journal's tail died with the machine.
        add_spent(db, node, max(told.get(node, 0), used.get(node, 0)))
    db.execute("DELETE FROM lease WHERE epoch = ?", (epoch,))
    db.execute("DELETE FROM recall WHERE epoch = ?", (epoch,))
    db.execute("INSERT INTO closed_epoch VALUES (?, ?)", (epoch, at_us))
    return True


def adjust(db: sqlite3.Connection, id: str, delta: Mapping[int, int], at_us: int) -> bool:
    """Change what closed epochs used, once per `id`. False if it was done before."""
    if db.execute("SELECT 1 FROM adjustment WHERE id = ?", (id,)).fetchone():
        return False
    for node, nusd in delta.items():
        add_spent(db, node, nusd)
    db.execute("INSERT INTO adjustment VALUES (?, ?)", (id, at_us))
    return True


def add_spent(db: sqlite3.Connection, node: int, nusd: int) -> None:
    db.execute(
        "INSERT INTO spent VALUES (?1, ?2) ON CONFLICT DO UPDATE SET used_nusd = used_nusd + ?2", (node, nusd)
    )


def recall_if_overcommitted(db: sqlite3.Connection, node: int) -> None:
    """After a cap came down: ask every worker for what it holds idle at `node`."""
    _, cap, spent, granted, *_ = db.execute(_STATE, {"epoch": "", "node": node}).fetchone()
    if cap is not None and cap - spent - granted < 0:
        _recall(db, node, but="")


def live_epochs(db: sqlite3.Connection) -> list[str]:
    return [epoch for (epoch,) in db.execute("SELECT DISTINCT epoch FROM lease ORDER BY epoch")]


def budgets(db: sqlite3.Connection, only: int | None = None) -> list[Budget]:
    """Return the money of one node or of all, in the order of their ids."""
    rows = db.execute(
        "SELECT node.id, kind, cap_nusd, ifnull(spent.used_nusd, 0), ifnull(sum(granted_nusd), 0), "
        "ifnull(sum(lease.used_nusd), 0), ifnull(sum(idle_nusd), 0) "
        "FROM node LEFT JOIN spent ON spent.node = node.id LEFT JOIN lease ON lease.node = node.id "
        "WHERE ?1 IS NULL OR node.id = ?1 GROUP BY node.id ORDER BY node.id",
        (only,),
    ).fetchall()
    return [
        Budget(
            node=id,
            kind=kind,
            name=full_name(db, id),
            cap_nusd=cap,
            used_nusd=spent + used,
            reserved_nusd=max(0, granted - used - idle),
            idle_nusd=idle,
            left_nusd=None if cap is None else cap - spent - used - max(0, granted - used - idle),
        )
        for id, kind, cap, spent, granted, used, idle in rows
    ]


def full_name(db: sqlite3.Connection, node: int) -> str:
    """Return "org/team/key"."""
    (text,) = db.execute(
        "WITH RECURSIVE up(id, parent, text) AS (SELECT id, parent, name FROM node WHERE id = ? UNION ALL "
        "SELECT node.id, node.parent, node.name || '/' || up.text FROM node JOIN up ON node.id = up.parent) "
        "SELECT text FROM up WHERE parent IS NULL",
        (node,),
    ).fetchone()
    return str(text)


def refuse_closed(db: sqlite3.Connection, epoch: str) -> None:
    if _is_closed(db, epoch):
        raise EpochClosed(f"epoch {epoch} was closed; its worker must stop and start as a new epoch")


def _is_closed(db: sqlite3.Connection, epoch: str) -> bool:
    return db.execute("SELECT 1 FROM closed_epoch WHERE epoch = ?", (epoch,)).fetchone() is not None


def _recall(db: sqlite3.Connection, node: int, *, but: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO recall SELECT epoch, node FROM lease "
        "WHERE node = ? AND epoch <> ? AND idle_nusd > 0",
        (node, but),
    )
