"""The part of the control database's door that leases go through: here, or in a database that is shared."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from wattmill.ledger.stores import control_leases
from wattmill.ledger.stores.control_limits import limit_states, with_limits
from wattmill.ledger.stores.control_records import (
    Ask,
    Budget,
    Denied,
    Holding,
    LeaseHolder,
    NoSuch,
    Opening,
    Turned,
)
from wattmill.ledger.stores.control_write_off import WrittenOff, write_off

if TYPE_CHECKING:
    from wattmill.ledger.stores.control import Control
    from wattmill.ledger.stores.postgres import Leases


class Leasing:
    """Mixed into `Control`. Leases are durable against the death of the process (a lost one is made good from
    the journal by `close_epoch`)."""

    shared: Leases | None = None
    """Where leases are kept if not here."""
    wall_us: Callable[[], int]
    _db: sqlite3.Connection
    _turn: threading.Lock

    def share(self, url: str | None) -> None:
        """Keep leases in a PostgreSQL database from now on, or here (None). Do this before workers start:
        what was used before stays where it was counted."""
        with self.writing() as db:
            db.execute("DELETE FROM shared")
            if url is not None:
                db.execute("INSERT INTO shared VALUES (1, ?)", (url,))
        self._find_shared()

    def _find_shared(self) -> None:
        with self.reading() as db:
            row = db.execute("SELECT url FROM shared").fetchone()
        if self.shared is not None:
            self.shared.close()
        self.shared = None
        if row is not None:
            from wattmill.ledger.stores.postgres import Leases

            self.shared = Leases(row[0], cast("Control", self))

    def opening(self, epoch: str, nodes: Sequence[int]) -> Opening:
        """Return the limits at some nodes, and what an epoch holds there already."""
        if self.shared is not None:
            return self.shared.opening(epoch, nodes)
        with self.reading() as db:
            return control_leases.opening(db, epoch, nodes)

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned:
        """Grant a live epoch of all gauges of `asks`, or of none. Returns what was granted now."""
        if self.shared is not None:
            return self.shared.lease(epoch, asks)
        with self.writing(durable=False) as db:
            return control_leases.lease(db, epoch, asks)

    def report(self, epoch: str, holdings: Mapping[int, Holding]) -> None:
        """Note totals of a live epoch by gauge, and take back what it does not keep. Idempotent."""
        if self.shared is not None:
            self.shared.report(epoch, holdings)
            return
        with self.writing(durable=False) as db:
            control_leases.report(db, epoch, holdings)

    def recalls(self, epoch: str) -> dict[int, int]:
        """Return gauges of which others need what `epoch` holds idle; `report` answers them."""
        if self.shared is not None:
            return self.shared.recalls(epoch)
        with self.reading() as db:
            return control_leases.recalls(db, epoch)

    def excess(self, gauges: Sequence[int]) -> dict[int, int]:
        """Return how much more is out of some gauges than their limits allow, where it is more."""
        if self.shared is not None:
            return self.shared.excess(gauges)
        with self.reading() as db:
            return control_leases.excess(db, gauges)

    def renew(self, epoch: str, term_us: int, place: str = "") -> None:
        """Note that a worker lives and may reserve for a term without saying so again."""
        if self.shared is not None:
            self.shared.renew(epoch, term_us, place)
            return
        with self.writing(durable=False) as db:
            control_leases.renew(db, epoch, self.wall_us(), term_us, place)

    def close_epoch(self, epoch: str, used: Mapping[int, int]) -> bool:
        """Fold the leases of a confirmed-dead epoch: only recovery calls this, never a timer.

        `used` is what the whole life of the epoch took of each gauge (a node's cap, or a period of a limit),
        requests in doubt at their reservation; an absent one was not used. All the rest of its grants is
        free again. Idempotent: False, and nothing changes, if the epoch was closed before.
        """
        if self.shared is not None:
            return self.shared.close_epoch(epoch, used)
        with self.writing() as db:
            return control_leases.close_epoch(db, epoch, used, self.wall_us())

    def adjust_used(self, id: str, delta: Mapping[int, int]) -> bool:
        """Correct what a closed epoch used, once per `id` (e.g. a request in doubt was settled lower)."""
        if self.shared is not None:
            return self.shared.adjust_used(id, delta)
        with self.writing() as db:
            return control_leases.adjust(db, id, delta, self.wall_us())

    def write_off(self, epoch: str, *, return_idle: bool = False) -> list[WrittenOff]:
        """End the leases of an epoch whose machine and journal are lost, by a person's word."""
        if self.shared is not None:
            return self.shared.write_off(epoch, return_idle=return_idle)
        with self.writing() as db:
            return write_off(db, epoch, self.wall_us(), return_idle=return_idle)

    def live_epochs(self) -> list[str]:
        """Return the epochs that hold leases: alive, or dead and not yet recovered."""
        if self.shared is not None:
            return self.shared.live_epochs()
        with self.reading() as db:
            return control_leases.live_epochs(db)

    def holders(self) -> list[LeaseHolder]:
        """Return who holds leases."""
        if self.shared is not None:
            return self.shared.holders()
        with self.reading() as db:
            return control_leases.holders(db)

    def summary(self, node: int) -> Budget:
        """Return the money of one node."""
        found = self.summaries_of((node,))
        if not found:
            raise NoSuch(f"no node {node} in the budget tree; `wattmill budget show` lists them")
        return found[0]

    def summaries_of(self, nodes: Sequence[int]) -> list[Budget]:
        """Return the money of some nodes (of those that exist), of one moment, in the order of their ids."""
        if not nodes:
            return []
        if self.shared is not None:
            return self.shared.summaries(nodes)
        with self.reading() as db:
            return self._with_limits(db, control_leases.budgets(db, nodes))

    def summaries(self, *, runs: bool = True) -> list[Budget]:
        """Return the money of all nodes, of one moment. Without `runs`: down to the keys only."""
        if self.shared is not None:
            found = self.shared.summaries()
            return found if runs else [budget for budget in found if budget.kind in ("org", "team", "key")]
        with self.reading() as db:
            return self._with_limits(db, control_leases.budgets(db, runs=runs))

    def _with_limits(self, db: sqlite3.Connection, found: list[Budget]) -> list[Budget]:
        return with_limits(found, limit_states(db, self.wall_us(), {budget.node for budget in found}))

    # --- transactions ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction that checks and writes; for the modules beside this one."""
        with self._turn:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            # IMMEDIATE: what is checked and what is written are one step for all processes.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction that sees one moment."""
        with self._turn:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
