"""Leases on PostgreSQL: one set of limits for the workers of many machines.

The escrow and its law are those of `stores.control_leases`, word for word; what is here is the connection.
Keys, prices and declarations stay in each machine's own control database; this one holds a mirror of spenders
(by their full names) and of their limits, so that two machines mean the same cap when they say "org/team".
Node and limit ids are those of the machine's own database outside, and are translated on the way in and out.

The caps of the machine that mirrored last hold: declare them alike on all machines.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from wattmill.ledger.stores import control_leases
from wattmill.ledger.stores.control_limits import limit_states
from wattmill.ledger.stores.control_records import (
    Ask,
    Budget,
    CapsUnavailable,
    Denied,
    Holding,
    LeaseHolder,
    LimitState,
    Opening,
    Turned,
)
from wattmill.ledger.stores.control_write_off import WrittenOff, write_off
from wattmill.ledger.stores.postgres_mirror import Mirror
from wattmill.ledger.stores.postgres_schema import FORMAT, LOCK, TABLES
from wattmill.ledger.stores.sql import Rows
from wattmill.vocab.budget import METERED

if TYPE_CHECKING:
    import psycopg

    from wattmill.ledger.stores.control import Control

CONNECT_S = 3
STATEMENT_MS = 5_000
IDLE_MS = 2_000


class Leases(Mirror):
    """One process's door to the shared leases; its threads take turns. Implements `budgets.Lessor`, and what
    the books tell caps (`following.Caps`).

    Args:
        url: `postgresql://user@host/database`.
        control: this machine's own database: the names behind its node and limit ids.
    """

    def __init__(self, url: str, control: Control) -> None:
        self._url = url
        super().__init__(control)
        self._turn = threading.Lock()
        self._db: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        with self._turn:
            self._drop()

    # --- budgets.Lessor ----------------------------------------------------------------------------------

    def opening(self, epoch: str, nodes: Sequence[int]) -> Opening:
        with self._writing() as db:
            self._know(db, nodes)
            found = control_leases.opening(db, epoch, [self._node(node) for node in nodes])
        held = {self._gauge_here(gauge): amounts for gauge, amounts in found.held.items()}
        limits = {
            self._here[node]: tuple(self._limit(limit) for limit in limits if limit.id in self._limit_here)
            for node, limits in found.limits.items()
        }
        return Opening(limits, held)

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned:
        with self._writing() as db:
            self._know(db, [ask.gauge for ask in asks])
            there = [msgspec.structs.replace(ask, gauge=self._gauge(ask.gauge)) for ask in asks]
            answer = control_leases.lease(db, epoch, there)
        if isinstance(answer, Turned):
            return Turned({self._limit_here[id]: index for id, index in answer.index.items()})
        if isinstance(answer, Denied):
            return msgspec.structs.replace(answer, gauge=self._gauge_here(answer.gauge))
        return {self._gauge_here(gauge): amount for gauge, amount in answer.items()}

    def report(self, epoch: str, holdings: Mapping[int, Holding]) -> None:
        with self._writing() as db:
            self._know(db, holdings)
            told = {self._gauge(gauge): holding for gauge, holding in holdings.items()}
            control_leases.report(db, epoch, told)

    def recalls(self, epoch: str) -> dict[int, int]:
        with self._reading() as db:
            found = control_leases.recalls(db, epoch)
        return {self._gauge_here(gauge): ticket for gauge, ticket in found.items() if self._knows(gauge)}

    def excess(self, gauges: Sequence[int]) -> dict[int, int]:
        with self._reading() as db:
            found = control_leases.excess(db, [self._gauge(gauge) for gauge in gauges])
        return {self._gauge_here(gauge): amount for gauge, amount in found.items()}

    def renew(self, epoch: str, term_us: int, place: str = "") -> None:
        with self._writing() as db:
            control_leases.renew(db, epoch, self._control.wall_us(), term_us, place)

    # --- following.Caps ----------------------------------------------------------------------------------

    def prices(self) -> Any:
        return self._control.prices()

    def close_epoch(self, epoch: str, used: Mapping[int, int]) -> bool:
        with self._writing() as db:
            self._know(db, used)
            there = {self._gauge(gauge): amount for gauge, amount in used.items()}
            return control_leases.close_epoch(db, epoch, there, self._control.wall_us())

    def adjust_used(self, id: str, delta: Mapping[int, int]) -> bool:
        with self._writing() as db:
            self._know(db, delta)
            there = {self._gauge(gauge): amount for gauge, amount in delta.items()}
            return control_leases.adjust(db, id, there, self._control.wall_us())

    # --- for people --------------------------------------------------------------------------------------

    def summaries(self, nodes: Sequence[int] | None = None) -> list[Budget]:
        """Return the money of some spenders of this machine or of all, of one moment, with their limits."""
        with self._writing() as db:
            self._know(db, nodes if nodes is not None else self._control.nodes())
            wanted = sorted(self._there if nodes is None else self._there.keys() & set(nodes))
            only = None if nodes is None else [self._there[node] for node in wanted]
            found = {budget.node: budget for budget in control_leases.budgets(db, only)} if wanted else {}
            states = limit_states(db, self._control.wall_us(), None if only is None else set(only))
        here = None if nodes is None else set(nodes)
        with self._control.reading() as own:  # runs are opened here, so is the shape of their tree
            own_states = limit_states(own, self._control.wall_us(), here)
        shapes = {state.id: state for state in own_states if state.unit not in METERED}
        by_node: dict[int, list[LimitState]] = {}
        for state in states:
            if state.id in self._limit_here and state.node in self._here:
                id = self._limit_here[state.id]
                told = shapes.get(id) or msgspec.structs.replace(state, id=id, node=self._here[state.node])
                by_node.setdefault(told.node, []).append(told)
        return [
            msgspec.structs.replace(found[there], node=node, limits=tuple(by_node.get(node, ())))
            for node in wanted
            if (there := self._there[node]) in found
        ]

    def live_epochs(self) -> list[str]:
        with self._reading() as db:
            return control_leases.live_epochs(db)

    def holders(self) -> list[LeaseHolder]:
        with self._reading() as db:
            return control_leases.holders(db)

    def write_off(self, epoch: str, *, return_idle: bool = False) -> list[WrittenOff]:
        with self._writing() as db:
            done = write_off(db, epoch, self._control.wall_us(), return_idle=return_idle)
        return [
            msgspec.structs.replace(gone, gauge=self._gauge_here(gone.gauge))
            for gone in done
            if self._knows(gone.gauge)
        ]

    # --- transactions ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[_Named]:
        """One transaction; all that write take turns, so that what is checked and what is written are one
        step for all machines."""
        with self._transaction() as db:
            db.execute(f"SELECT pg_advisory_xact_lock({LOCK})", {})
            self._mirror(db)
            yield db

    @contextlib.contextmanager
    def _reading(self) -> Iterator[_Named]:
        with self._transaction() as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[_Named]:
        import psycopg

        with self._turn:
            before = self._snapshot()
            try:
                db = self._connected()
                with db.transaction():
                    yield _Named(db.execute)
            except psycopg.Error as error:
                # Whether it was committed may be unknown: totals are told, so that the next report heals it.
                before()
                self._drop()
                raise CapsUnavailable(_words(error)) from error
            except BaseException:
                before()
                raise

    def _connected(self) -> psycopg.Connection[Any]:
        if self._db is None or self._db.closed:
            import psycopg

            self._db = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_S,
                options=f"-c statement_timeout={STATEMENT_MS} -c search_path=wattmill "
                # A process that is stopped in the middle must not hold the lock of all others.
                f"-c idle_in_transaction_session_timeout={IDLE_MS}",
                application_name="wattmill",
            )
            self._ensure(self._db)
        return self._db

    def _ensure(self, db: psycopg.Connection[Any]) -> None:
        with db.transaction():
            db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            db.execute("CREATE SCHEMA IF NOT EXISTS wattmill")
            db.execute("CREATE TABLE IF NOT EXISTS format (number integer NOT NULL)")
            row = db.execute("SELECT number FROM format").fetchone()
            if row is None:
                db.execute(TABLES)
                db.execute("INSERT INTO format VALUES (%s)", (FORMAT,))
            elif row[0] != FORMAT:
                raise CapsUnavailable(
                    f"the shared leases have format {row[0]}, must be {FORMAT}; "
                    "use the wattmill that made them"
                )

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


class _Named:
    """A `sql.Db` over psycopg: `:name` becomes `%(name)s`."""

    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute

    def execute(self, sql: str, parameters: Mapping[str, Any] = {}, /) -> Rows:
        rows: Rows = self._execute(_translated(sql), parameters)
        return rows


_known: dict[str, str] = {}


def _translated(sql: str) -> str:
    found = _known.get(sql)
    if found is None:
        import re

        found = _known[sql] = re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", sql)
    return found


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
