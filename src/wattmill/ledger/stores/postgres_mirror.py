"""Spenders and limits of one machine, as the shared leases know them: by full names, and as they change.

Node and limit ids are those of the machine's own database outside, and are translated on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from wattmill.ledger.stores import control_leases
from wattmill.ledger.stores.control_records import NoSuch
from wattmill.ledger.stores.control_tenants import ENDED_RUNS
from wattmill.ledger.stores.sql import Db
from wattmill.vocab.budget import METERED, UNITS, Limit, gauge_of, index_of, limit_of, unit_of

if TYPE_CHECKING:
    from wattmill.ledger.stores.control import Control


class _LimitThere(NamedTuple):
    """A limit as the shared database has it."""

    id: int
    zone: str
    amount: int


_At = tuple[int, str, str]
"""Node there, unit, period: no two limits that hold have the same."""


_NodeThere = tuple[int, str, int | None]
"""A spender as the shared database has it: id, kind, cap."""


def _nodes_there(db: Db) -> dict[str, _NodeThere]:
    rows = db.execute("SELECT name, id, kind, cap_nusd FROM node", {}).fetchall()
    return {name: (id, kind, cap) for name, id, kind, cap in rows}


def _limits_there(db: Db) -> dict[_At, _LimitThere]:
    rows = db.execute(
        "SELECT node, unit, period, id, zone, amount FROM budget_limit WHERE lifted_us IS NULL", {}
    ).fetchall()
    return {(node, unit, period): _LimitThere(*rest) for node, unit, period, *rest in rows}


class Mirror:
    """What `postgres.Leases` knows of its machine's spenders. `control`: the machine's own database."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._generation = -1
        self._pushed: dict[int, object] = {}
        self._names: dict[int, str] = {}  # full ones, by our node
        self._there: dict[int, int] = {}  # our node -> theirs
        self._here: dict[int, int] = {}
        self._limit_there: dict[int, int] = {}
        self._limit_here: dict[int, int] = {}

    def _mirror(self, db: Db) -> None:
        """Bring spenders and limits of this machine's database over, when something there has changed.

        What is there already is read in one go at first: a factory has had more runs than can be written
        again at each start of a worker while all others wait. Later on, runs that have ended are not looked
        at."""
        generation = self._control.generation()
        if generation == self._generation:
            return
        first = self._generation < 0
        nodes = self._control.nodes(ended=first)
        for id, node in nodes.items():  # a parent comes before its children
            if id not in self._names:
                above = self._names[node.parent] + "/" if node.parent is not None else ""
                self._names[id] = above + node.name
        found = _nodes_there(db) if first else {}
        for id, node in nodes.items():
            self._push(db, id, node.kind, node.cap_nusd, found.get(self._names[id]))
        self._push_limits(
            db, "" if first else f"WHERE node NOT IN {ENDED_RUNS}", _limits_there(db) if first else None
        )
        self._generation = generation

    def _know(self, db: Db, gauges: Iterable[int]) -> None:
        """Bring over what stands behind gauges of runs that had ended before this process looked."""
        for gauge in gauges:
            limit = limit_of(gauge)
            if (-limit if limit else gauge) in self._pushed:
                continue
            with self._control.reading() as own:
                node = gauge
                if limit:
                    row = own.execute("SELECT node FROM budget_limit WHERE id = ?", (limit,)).fetchone()
                    if row is None:
                        continue
                    node = row[0]
                row = own.execute("SELECT kind, cap_nusd FROM node WHERE id = ?", (node,)).fetchone()
                if row is None:
                    continue
                self._names[node] = control_leases.full_name(own, node)
            self._push(db, node, *row)
            self._push_limits(db, f"WHERE node = {int(node)}")

    def _push(
        self,
        db: Db,
        id: int,
        kind: str,
        cap_nusd: int | None,
        found: tuple[int, str, int | None] | None = None,
    ) -> None:
        """Bring one spender over; `found`: its id, kind and cap there, as far as they are known."""
        wanted = (kind, cap_nusd)
        if self._pushed.get(id) == wanted:
            return
        if found is not None and found[1:] == wanted:
            there = found[0]
        else:
            (there,) = db.execute(
                "INSERT INTO node (parent, kind, name, cap_nusd) VALUES (NULL, :kind, :name, :cap) "
                "ON CONFLICT (name) DO UPDATE SET kind = :kind, cap_nusd = :cap RETURNING id",
                {"kind": kind, "name": self._names[id], "cap": cap_nusd},
            ).fetchone()
            control_leases.recall_if_overcommitted(db, there)
        self._there[id], self._here[there] = there, id
        self._pushed[id] = wanted

    def _push_limits(self, db: Db, where: str, there: dict[_At, _LimitThere] | None = None) -> None:
        """Bring limits over; `there`: all that are there, if they were read."""
        with self._control.reading() as own:
            declared = own.execute(
                "SELECT id, node, unit, period, zone, amount, lifted_us FROM budget_limit "
                f"{where} ORDER BY id"
            ).fetchall()
        for id, node, unit, period, zone, amount, lifted in declared:
            wanted = (zone, amount, lifted)
            if self._pushed.get(-id) == wanted or node not in self._there:
                continue  # as it was; or of a run opened just now, of which the generation tells
            at = {"node": self._there[node], "unit": unit, "period": period}
            if there is not None:
                found = there.get((at["node"], unit, period))
            else:
                row = db.execute(
                    "SELECT id, zone, amount FROM budget_limit WHERE node = :node AND unit = :unit "
                    "AND period = :period AND lifted_us IS NULL",
                    at,
                ).fetchone()
                found = None if row is None else _LimitThere(*row)
            same = found is not None and lifted is None and (found.zone, found.amount) == (zone, amount)
            values = at | {"zone": zone, "amount": amount, "lifted": lifted}
            if found is None and lifted is None:
                (made,) = db.execute(
                    "INSERT INTO budget_limit (node, unit, period, zone, amount, latest, created_us) "
                    "VALUES (:node, :unit, :period, :zone, :amount, 0, 0) RETURNING id",
                    values,
                ).fetchone()
                found = _LimitThere(made, zone, amount)
            elif found is not None and not same and not (lifted is not None and id not in self._limit_there):
                db.execute(
                    "UPDATE budget_limit SET zone = :zone, amount = :amount, lifted_us = :lifted "
                    "WHERE id = :id",
                    values | {"id": found.id},
                )
            self._pushed[-id] = wanted
            if found is None:
                continue
            self._limit_there[id], self._limit_here[found.id] = found.id, id
            if unit in METERED and lifted is None and not same:
                (latest,) = db.execute(
                    "SELECT latest FROM budget_limit WHERE id = :id", {"id": found.id}
                ).fetchone()
                control_leases.recall_if_overcommitted(db, gauge_of(found.id, unit, latest))

    def _node(self, node: int) -> int:
        try:
            return self._there[node]
        except KeyError:
            raise NoSuch(f"no node {node} in the budget tree") from None

    def _gauge(self, gauge: int) -> int:
        limit = limit_of(gauge)
        if not limit:
            return self._node(gauge)
        there = self._limit_there.get(limit)
        if there is None:
            raise NoSuch(f"no limit {limit} in the budget tree")
        return gauge_of(there, UNITS[unit_of(gauge)], index_of(gauge))

    def _knows(self, gauge: int) -> bool:
        limit = limit_of(gauge)
        return limit in self._limit_here if limit else gauge in self._here

    def _gauge_here(self, gauge: int) -> int:
        limit = limit_of(gauge)
        if not limit:
            return self._here[gauge]
        return gauge_of(self._limit_here[limit], UNITS[unit_of(gauge)], index_of(gauge))

    def _limit(self, limit: Limit) -> Limit:
        return msgspec.structs.replace(limit, id=self._limit_here[limit.id], node=self._here[limit.node])

    def _snapshot(self) -> Callable[[], None]:
        """Return what brings the mirror's memory back to now, for a transaction that does not hold."""
        pushed, generation = dict(self._pushed), self._generation

        def back() -> None:
            self._pushed, self._generation = pushed, generation

        return back
