"""Agents, runs and steps: nodes below a key, each with an unguessable id and a state of its own.

`Runs(control)` is the door; each call is one transaction and blocks. What a run may spend is a limit like any
other: its cap (dollars over its life) and whatever `control_limits` declares at its node. Requests in it are
reserved along `Run.path`, so at the run and at everything above it.

The id that clients hold is `run-` and 256 random bits. The database keeps its hash, like that of a key. A run
belongs to the key that opened it: `find` with another key's node says `NoSuch`, as for an id that never was.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wattmill.ledger.stores import control_tenants as tenants
from wattmill.ledger.stores.control_leases import full_name, limits_at
from wattmill.ledger.stores.control_limits import check_shape, grow_runs, put_limit
from wattmill.ledger.stores.control_records import Budget, ControlError, NoSuch, Run, RunState
from wattmill.ledger.tenancy import checked_cap, new_secret, secret_hash
from wattmill.vocab.budget import METERED, Period, Unit

if TYPE_CHECKING:
    from wattmill.ledger.stores.control import Control

RUN_MARK = "run-"
RUN_KINDS = ("agent", "run", "step")
LIVE = ("open", "paused")

_COLUMNS = (
    "SELECT run.node, kind, name, key, state, reason, depth, cap_nusd, opened_us, changed_us, expires_us, "
    "label FROM run JOIN node ON node.id = run.node "
)


class TooMany(ControlError):
    """As many as may be are live already: `live`."""

    def __init__(self, live: int) -> None:
        super().__init__(f"{live} are live already")
        self.live = live


class Runs:
    """The runs of one control database."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def open(
        self,
        key: int,
        *,
        parent: int | None = None,
        kind: str = "run",
        name: str | None = None,
        cap_nusd: int | None = None,
        limits: Sequence[tuple[Unit, Period, int]] = (),
        zone: str = "UTC",
        expires_us: int | None = None,
        label: str | None = None,
        most: int | None = None,
    ) -> tuple[Run, str]:
        """Open a run below `key`, or below `parent` (a live one of the same key). Returns it and its id.

        A cap or limit above what every node above still has left in its unit is lowered to that:
        `Run.cap_nusd` and the limits at its node say what was granted. Nothing is set aside for it, so what
        it does not use was never missing elsewhere.
        `most`: so many runs of the key, or steps of its parent, may be live at once, this one among them.
        Raises `TooDeep`, `TooWide` or `TooMany` where a limit of shape forbids it.
        """
        if kind not in RUN_KINDS:
            raise ControlError(f"kind is {kind!r}, must be one of: {', '.join(RUN_KINDS)}")
        now_us = self._control.wall_us()
        above = key if parent is None else parent
        if cap_nusd is not None or limits:
            cap_nusd, limits = _granted(self._control, above, cap_nusd, limits)
        if expires_us is not None and expires_us <= now_us:
            raise ControlError(f"expiry is {expires_us} us, must be later than now ({now_us} us since 1970)")
        id = new_secret(RUN_MARK)
        with self._control.writing() as db:
            if tenants.node(db, key).kind != "key":
                raise NoSuch(f"node {key} is no key")
            depth = 1
            if parent is not None and parent != key:
                found = _run_at(db, parent)
                if found is None or found.key != key:
                    raise NoSuch("no such run of this key")
                if found.state not in LIVE:
                    raise ControlError(f"run {found.name!r} is {found.state}; open the new one elsewhere")
                depth = found.depth + 1
            check_shape(db, above)
            if most is not None and (live := _live_beside(db, key, above, kind)) >= most:
                raise TooMany(live)
            node, new = tenants.put_node(
                db, above, kind, name or f"{kind}-{secrets.token_hex(6)}", cap_nusd, now_us
            )
            if not new or _run_at(db, node) is not None:
                raise ControlError(f"{full_name(db, node)!r} exists; choose another name, or none")
            db.execute(
                "INSERT INTO run VALUES (?, ?, ?, 'open', NULL, ?, ?, ?, ?, ?)",
                (node, key, secret_hash(id), depth, now_us, now_us, expires_us, label),
            )
            for unit, period, amount in limits:
                put_limit(db, node, unit, period, amount, zone, now_us)
            grow_runs(db)
            opened = _run_at(db, node)
            assert opened is not None
            return opened, id

    def find(self, id: str, key: int | None = None) -> Run:
        """Return the run with that id, if `key` opened it. Raises `NoSuch` without saying which was wrong."""
        with self._control.reading() as db:
            row = db.execute(_COLUMNS + "WHERE token = ?", (secret_hash(id),)).fetchone()
            if row is None or (key is not None and row[3] != key):
                raise NoSuch("no such run of this key")
            return _run(db, row)

    def at(self, node: int) -> Run:
        """Return the run at a node."""
        with self._control.reading() as db:
            found = _run_at(db, node)
        if found is None:
            raise NoSuch(f"no run at node {node}")
        return found

    def live(self, key: int | None = None) -> list[Run]:
        """Return the runs that are open or paused, of one key or of all, oldest first."""
        with self._control.reading() as db:
            rows = db.execute(
                _COLUMNS + "WHERE state IN ('open', 'paused') AND (?1 IS NULL OR key = ?1) ORDER BY run.node",
                (key,),
            ).fetchall()
            return [_run(db, row) for row in rows]

    def top_up(self, node: int, more: int, *, unit: Unit = "nusd", period: Period = "life") -> Run:
        """Raise a limit of a live run by `more`, and let it go on if it is paused; one step, so that of two
        people who do so at once neither's amount is lost. The limits above it hold as before."""
        if more <= 0:
            raise ControlError(f"top-up is {more}, must be more than 0")
        with self._control.writing() as db:
            found = _run_at(db, node)
            if found is None:
                raise NoSuch(f"no run at node {node}")
            if found.state not in LIVE:
                raise ControlError(f"run {found.name!r} is {found.state}; what has ended cannot be topped up")
            now_us = self._control.wall_us()
            if (unit, period) == ("nusd", "life"):
                if found.cap_nusd is None:
                    raise ControlError(
                        f"run {found.name!r} has no cap of its own; raise that of a node above it"
                    )
                cap_nusd = checked_cap(found.cap_nusd + more)
                db.execute("UPDATE node SET cap_nusd = ? WHERE id = ?", (cap_nusd, node))
            else:
                at = next((x for x in limits_at(db, node) if (x.unit, x.period) == (unit, period)), None)
                if at is None:
                    raise ControlError(
                        f"run {found.name!r} has no limit of {unit} per {period} of its own; "
                        "raise that of a node above it"
                    )
                put_limit(db, node, unit, period, at.amount + more, at.zone, now_us)
            _set_state(db, node, "open", None, now_us)
            grow_runs(db)
            changed = _run_at(db, node)
            assert changed is not None
            return changed

    def set_state(self, node: int, state: RunState, reason: str | None = None) -> Run:
        """Pause, resume, stop or close a run. What is stopped or closed stays so; a closed one's children
        close with it."""
        with self._control.writing() as db:
            found = _run_at(db, node)
            if found is None:
                raise NoSuch(f"no run at node {node}")
            if found.state not in LIVE and state != found.state and state != "closed":
                raise ControlError(f"run {found.name!r} is {found.state}, it cannot become {state}")
            if (state, reason) != (found.state, found.reason):
                now_us = self._control.wall_us()
                _set_state(db, node, state, reason, now_us)
                if state in ("stopped", "closed"):
                    for below in _live_below(db, node):
                        _set_state(db, below, state, reason, now_us)
                grow_runs(db)
            changed = _run_at(db, node)
            assert changed is not None
            return changed

    def expire(self) -> list[int]:
        """Close the runs whose time is over. Returns their nodes."""
        with self._control.writing() as db:
            now_us = self._control.wall_us()
            due = [
                node
                for (node,) in db.execute(
                    "SELECT node FROM run WHERE state IN ('open', 'paused') AND expires_us <= ?", (now_us,)
                )
            ]
            for node in due:
                for ended in (node, *_live_below(db, node)):
                    _set_state(db, ended, "closed", "expired", now_us)
            if due:
                grow_runs(db)
            return due

    def budget(self, node: int) -> Budget:
        """Return the money of a run and its limits in other units."""
        return self._control.summary(node)


def _granted(
    control: Control, node: int, cap_nusd: int | None, limits: Sequence[tuple[Unit, Period, int]]
) -> tuple[int | None, list[tuple[Unit, Period, int]]]:
    """Return a cap and limits, lowered to what `node` and all above it still leave, as last told. Of a limit
    that begins anew the whole amount binds: what is used of it now says nothing of later periods."""
    with control.reading() as db:  # upwards only: a factory has far more runs below than nodes above
        above = [
            id
            for (id,) in db.execute(
                "WITH RECURSIVE up(id, parent) AS (SELECT id, parent FROM node WHERE id = ? "
                "UNION ALL SELECT node.id, node.parent FROM node JOIN up ON node.id = up.parent) "
                "SELECT id FROM up",
                (node,),
            )
        ]
    if not above:
        raise NoSuch(f"no node {node} in the budget tree")
    room: dict[tuple[Unit, Period], int] = {}
    for budget in control.summaries_of(above):
        if budget.left_nusd is not None:
            _narrow(room, ("nusd", "life"), budget.left_nusd)
        for limit in budget.limits:
            if limit.unit in METERED:
                lasting = limit.period == "life" and limit.unit != "concurrency"
                _narrow(room, (limit.unit, limit.period), limit.left if lasting else limit.amount)
    most = room.get(("nusd", "life"))
    if cap_nusd is not None and most is not None:
        cap_nusd = max(0, min(cap_nusd, most))
    return cap_nusd, [
        (unit, period, max(0, min(amount, room.get((unit, period), amount))))
        for unit, period, amount in limits
    ]


def _narrow(room: dict[tuple[Unit, Period], int], what: tuple[Unit, Period], left: int) -> None:
    room[what] = min(left, room.get(what, left))


def _set_state(db: sqlite3.Connection, node: int, state: str, reason: str | None, now_us: int) -> None:
    db.execute(
        "UPDATE run SET state = ?, reason = ?, changed_us = ? WHERE node = ?", (state, reason, now_us, node)
    )


def _live_below(db: sqlite3.Connection, node: int) -> list[int]:
    rows = db.execute(
        "WITH RECURSIVE below(id) AS (SELECT id FROM node WHERE parent = ? UNION ALL "
        "SELECT node.id FROM node JOIN below ON node.parent = below.id) "
        "SELECT run.node FROM run JOIN below ON below.id = run.node WHERE state IN ('open', 'paused')",
        (node,),
    )
    return [below for (below,) in rows]


def _live_beside(db: sqlite3.Connection, key: int, parent: int, kind: str) -> int:
    """Return how many runs of a key are live, or how many agents or steps below one node."""
    where = "key = :key" if kind == "run" else "node.parent = :parent"
    (count,) = db.execute(
        "SELECT count(*) FROM run JOIN node ON node.id = run.node "
        f"WHERE {where} AND kind = :kind AND state IN ('open', 'paused')",
        {"key": key, "parent": parent, "kind": kind},
    ).fetchone()
    return int(count)


def _run_at(db: sqlite3.Connection, node: int) -> Run | None:
    row = db.execute(_COLUMNS + "WHERE run.node = ?", (node,)).fetchone()
    return None if row is None else _run(db, row)


def _run(db: sqlite3.Connection, row: tuple[object, ...]) -> Run:
    node, kind, name, key, state, reason, depth, cap, opened, changed, expires, label = row
    path = [
        id
        for (id,) in db.execute(
            "WITH RECURSIVE up(id, parent, n) AS (SELECT id, parent, 0 FROM node WHERE id = ? UNION ALL "
            "SELECT node.id, node.parent, n + 1 FROM node JOIN up ON node.id = up.parent) "
            "SELECT id FROM up ORDER BY n DESC",
            (node,),
        )
    ]
    return Run(
        node=node,  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
        name=name,  # type: ignore[arg-type]
        path=tuple(path),
        key=key,  # type: ignore[arg-type]
        state=state,  # type: ignore[arg-type]
        reason=reason,  # type: ignore[arg-type]
        depth=depth,  # type: ignore[arg-type]
        cap_nusd=cap,  # type: ignore[arg-type]
        opened_us=opened,  # type: ignore[arg-type]
        changed_us=changed,  # type: ignore[arg-type]
        expires_us=expires,  # type: ignore[arg-type]
        label=label,  # type: ignore[arg-type]
    )
