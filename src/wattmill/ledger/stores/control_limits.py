"""Limits in every unit and period: declared, shown, and checked where they bound the shape of the tree.

`Limits(control)` is the door. A node's dollars over its life stay its cap (`Control.set_cap`); a limit of
that kind is kept there. What workers take of limits is leased like money (`stores.control_leases`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from wattmill.ledger.amounts import checked_limit
from wattmill.ledger.period import NEVER_US, window_at, window_of
from wattmill.ledger.stores.control_leases import full_name, limits_at, recall_if_overcommitted
from wattmill.ledger.stores.control_records import Budget, ControlError, LimitState, NoSuch
from wattmill.ledger.stores.sql import Db, any_of
from wattmill.vocab.budget import METERED, Limit, Period, Unit, gauge_of

if TYPE_CHECKING:
    from wattmill.ledger.stores.control import Control

_FEW = 128
"""Up to so many nodes their limits are asked for by name; of more, all limits are read."""


class Limits:
    """The limits of one control database. Each call is one transaction; it blocks."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def put(
        self, node: int, unit: Unit, period: Period, amount: int | None, *, zone: str = "UTC"
    ) -> Limit | None:
        """Set a limit, or lift it with None. It counts from when it is first set; a new amount counts on.

        Requests in flight are not cut. Effective on each worker when it next looks (about 0.25 s).
        """
        if unit == "nusd" and period == "life":
            self._control.set_cap(node, amount)
            return None if amount is None else Limit(id=0, node=node, unit=unit, period=period, amount=amount)
        with self._control.writing() as db:
            found, changed = put_limit(db, node, unit, period, amount, zone, self._control.wall_us())
            if changed:
                grow(db)
            return found

    def at(self, node: int) -> list[Limit]:
        """Return the limits at a node, its cap of dollars first."""
        with self._control.reading() as db:
            return [*_cap(db, node), *limits_at(db, node)]

    def states(self, nodes: Iterable[int] | None = None) -> list[LimitState]:
        """Return all limits (but caps of dollars, which `Control.summaries` has) with their use now."""
        wanted = None if nodes is None else set(nodes)
        found = [state for budget in self._control.summaries() for state in budget.limits]
        return [state for state in found if wanted is None or state.node in wanted]


def put_limit(
    db: sqlite3.Connection, node: int, unit: Unit, period: Period, amount: int | None, zone: str, now_us: int
) -> tuple[Limit | None, bool]:
    """Set or lift a limit that is no cap. Returns it and whether anything changed."""
    if db.execute("SELECT 1 FROM node WHERE id = ?", (node,)).fetchone() is None:
        raise NoSuch(f"no node {node} in the budget tree; `wattmill budget show` lists them")
    checked_limit(unit, period, amount, zone)
    row = db.execute(
        "SELECT id, amount, zone FROM budget_limit "
        "WHERE node = ? AND unit = ? AND period = ? AND lifted_us IS NULL",
        (node, unit, period),
    ).fetchone()
    if amount is None:
        if row is not None:
            db.execute("UPDATE budget_limit SET lifted_us = ? WHERE id = ?", (now_us, row[0]))
        return None, row is not None
    if row is not None:
        id, found_amount, found_zone = row
        if (found_amount, found_zone) != (amount, zone):
            db.execute("UPDATE budget_limit SET amount = ?, zone = ? WHERE id = ?", (amount, zone, id))
            if unit in METERED:
                (latest,) = db.execute("SELECT latest FROM budget_limit WHERE id = ?", (id,)).fetchone()
                recall_if_overcommitted(db, gauge_of(id, unit, latest))
        changed = (found_amount, found_zone) != (amount, zone)
    else:
        cursor = db.execute(
            "INSERT INTO budget_limit (node, unit, period, zone, amount, latest, created_us) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (node, unit, period, zone, amount, window_at(period, zone, now_us).index, now_us),
        )
        assert cursor.lastrowid is not None
        id, changed = cursor.lastrowid, True
    return Limit(id=id, node=node, unit=unit, period=period, amount=amount, zone=zone), changed


def limit_states(db: Db, now_us: int, nodes: set[int] | None = None) -> list[LimitState]:
    """Return the limits with their use in the present period."""
    if nodes is not None and not nodes:
        return []
    named: dict[str, int] = {}
    there = ""
    if nodes is not None and len(nodes) <= _FEW:
        listed, named = any_of(sorted(nodes))
        there = f"AND node IN {listed} "
    rows = db.execute(
        "SELECT id, node, unit, period, zone, amount, latest FROM budget_limit WHERE lifted_us IS NULL "
        f"{there}ORDER BY node, id",
        named,
    ).fetchall()
    out = []
    for id, node, unit, period, zone, amount, latest in rows:
        if nodes is not None and node not in nodes:
            continue
        index = max(latest, window_at(period, zone, now_us).index)
        used = granted = idle = 0
        if unit == "fan_out":
            used = _widest(db, node)
        elif unit == "depth":
            used = _deepest(db, node)
        else:
            gauge = gauge_of(id, unit, index)
            spent, granted, leased, idle = db.execute(
                "SELECT coalesce((SELECT used FROM spent WHERE gauge = :gauge), 0), "
                "coalesce(sum(granted), 0), coalesce(sum(used), 0), coalesce(sum(idle), 0) "
                "FROM lease WHERE gauge = :gauge",
                {"gauge": gauge},
            ).fetchone()
            used, granted, idle = int(spent + leased), int(granted - leased), int(idle)
        reserved = max(0, granted - idle)
        end_us = window_of(period, zone, index).end_us
        out.append(
            LimitState(
                id=id,
                node=node,
                unit=unit,
                period=period,
                zone=zone,
                amount=amount,
                used=used,
                reserved=reserved,
                idle=idle,
                left=amount - used - reserved,
                resets_us=None if end_us == NEVER_US else end_us,
            )
        )
    return out


def with_limits(budgets: list[Budget], states: list[LimitState]) -> list[Budget]:
    """Return budgets that carry the limits of their nodes."""
    by_node: dict[int, list[LimitState]] = {}
    for state in states:
        by_node.setdefault(state.node, []).append(state)
    return [
        msgspec.structs.replace(budget, limits=tuple(by_node[budget.node]))
        if budget.node in by_node
        else budget
        for budget in budgets
    ]


def check_shape(db: sqlite3.Connection, parent: int) -> None:
    """Raise `TooDeep` or `TooWide` where one more run below `parent` would break a limit of shape."""
    at: int | None = parent
    level = 1  # of the new one below `at`, counted in agents, runs and steps
    while at is not None:
        for limit in limits_at(db, at):
            if limit.unit == "depth" and level > limit.amount:
                raise TooDeep(
                    f"{full_name(db, at)!r} allows {limit.amount} levels of runs below it, this would be "
                    f"level {level}; open it higher up, or raise the limit: "
                    f"wattmill budget set {full_name(db, at)} {level} depth"
                )
            if limit.unit == "fan_out" and (open_now := _children(db, parent)) >= limit.amount:
                raise TooWide(
                    f"{full_name(db, parent)!r} has {open_now} open runs directly below it, "
                    f"{full_name(db, at)!r} allows {limit.amount}; close one, or raise the limit: "
                    f"wattmill budget set {full_name(db, at)} {open_now + 1} fan_out"
                )
        kind, above = db.execute("SELECT kind, parent FROM node WHERE id = ?", (at,)).fetchone()
        level += kind in ("agent", "run", "step")
        at = above


class TooDeep(ControlError):
    """A limit of depth does not allow another level of runs."""


class TooWide(ControlError):
    """A limit of fan-out does not allow another open run beside those there are."""


RUN_BITS = 24
"""Of a generation: how often runs have changed since anything else did. More than 16 million such changes are
taken for a change of everything, which is only slow."""


def declared_part(generation: int) -> int:
    """Return the part of a generation that grows with everything but runs: nodes down to keys, caps, limits,
    prices, configuration."""
    return generation >> RUN_BITS


def grow_runs(db: sqlite3.Connection) -> None:
    """Tell workers that a run was opened or has another state, and that all else is as it was."""
    db.execute("UPDATE generation SET number = number + 1")


def grow(db: sqlite3.Connection) -> None:
    """Let every process know that something changed."""
    db.execute(f"UPDATE generation SET number = ((number >> {RUN_BITS}) + 1) << {RUN_BITS}")


def _cap(db: sqlite3.Connection, node: int) -> list[Limit]:
    row = db.execute("SELECT cap_nusd FROM node WHERE id = ?", (node,)).fetchone()
    if row is None:
        raise NoSuch(f"no node {node} in the budget tree; `wattmill budget show` lists them")
    cap = row[0]
    return [] if cap is None else [Limit(id=0, node=node, unit="nusd", period="life", amount=cap)]


_OPEN_BELOW = (
    "WITH RECURSIVE below(id, level) AS (SELECT CAST(:node AS INTEGER), 0 UNION ALL "
    "SELECT node.id, level + CASE WHEN kind IN ('agent', 'run', 'step') THEN 1 ELSE 0 END "
    "FROM node JOIN below ON node.parent = below.id) "
)


def _children(db: Db, node: int) -> int:
    row = db.execute(
        "SELECT count(*) FROM run JOIN node ON node.id = run.node "
        "WHERE node.parent = :node AND state IN ('open', 'paused')",
        {"node": node},
    ).fetchone()
    return int(row[0])


def _widest(db: Db, node: int) -> int:
    row = db.execute(
        _OPEN_BELOW + "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM run "
        "JOIN node ON node.id = run.node WHERE state IN ('open', 'paused') "
        "AND node.parent IN (SELECT id FROM below) GROUP BY node.parent) AS counts",
        {"node": node},
    ).fetchone()
    return int(row[0])


def _deepest(db: Db, node: int) -> int:
    row = db.execute(
        _OPEN_BELOW + "SELECT coalesce(max(level), 0) FROM below JOIN run ON run.node = below.id "
        "WHERE state IN ('open', 'paused')",
        {"node": node},
    ).fetchone()
    return int(row[0])
