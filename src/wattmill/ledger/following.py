"""Following every journal of a factory into its books: read, book, commit, and bury the dead.

Each step may be the last of this process; the next one goes on where the last commit was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from wattmill.ledger import epoch as epochs
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.settling import settle_held
from wattmill.ledger.stores.control_records import CapsUnavailable
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.tail import Tail
from wattmill.ledger.tenancy import NoSuch
from wattmill.vocab.price import Price

MARGIN_US = 300_000
"""Between a fact's instant and its writing may lie a pause of its process; only joules and engine counts,
which need all facts up to an instant, wait for it."""

RECORD_BYTES = 170  # a rough mean, for saying how many records stand in unread bytes

_decode_delta = msgspec.msgpack.Decoder(dict[int, int]).decode


class Caps(Protocol):
    """What the books tell the caps: the use of dead epochs, and corrections of it. Both count once."""

    def prices(self) -> Mapping[int, Price]: ...

    def close_epoch(self, epoch: str, used: Mapping[int, int]) -> bool: ...

    def adjust_used(self, id: str, delta_nusd: Mapping[int, int]) -> bool: ...


class Step(NamedTuple):
    """What one step did. `behind_us` is 0 when everything that stands in the journals is booked."""

    records: int
    behind_bytes: int
    behind_us: int


class Follower:
    """One writer's loop body. Not thread-safe; one per ledger.db."""

    def __init__(self, journal: Path, db: LedgerDb, caps: Caps | None, *, wall_us: Callable[[], int]) -> None:
        self.journal = journal
        self.caps = caps
        self._wall_us = wall_us
        self._tails: dict[str, Tail] = {}
        self.books = Bookkeeper(db, self._prices)
        self._price_versions: Mapping[int, Price] = {}

    def _prices(self) -> Mapping[int, Price]:
        if self.caps is not None:
            self._price_versions = self.caps.prices()
        return self._price_versions

    def step(self, limit: int = 4096) -> Step:
        """Book up to about `limit` records of each journal, commit, and do what their ends allow."""
        books = self.books
        before_us = self._wall_us()
        total = behind = 0
        oldest_us = before_us
        whole = True
        for name in epochs.names(self.journal):
            state = books.epochs.get(name)
            if state is not None and state.state != "live":
                continue
            folder = self.journal / name
            # First whether it lives, then what it wrote: a dead one writes no more after we have read.
            dead = not epochs.alive(folder)
            if state is None:
                state = books.enter(name, epochs.who(folder))
            tail = self._tails.get(name)
            if tail is None:
                tail = self._tails[name] = Tail(folder, state.position)
            batch = tail.read(limit, final=dead)
            if batch.records or batch.damages or batch.position != state.position:
                books.book(name, batch.records, batch.position, batch.damages)
                total += len(batch.records)
            if not batch.at_end:
                whole = False
                behind += tail.behind_bytes()
                oldest_us = min(oldest_us, state.last_us)
            elif dead:
                books.bury(name, before_us)
                tail.close()
                del self._tails[name]
        if whole:
            settle_held(books, read_until_us=before_us - MARGIN_US)
        if books.db.db.in_transaction or total or books.pending:
            books.commit()
        self._tell_caps()
        return Step(total, behind, 0 if whole else before_us - oldest_us)

    def _tell_caps(self) -> None:
        """Fold the leases of dead epochs, then tell corrections. Each is repeated until it is known to
        be told."""
        books, caps = self.books, self.caps
        db = books.db.db
        dead = [state for state in books.epochs.values() if state.state == "dead"]
        if caps is None:
            return
        for state in dead:
            used = dict(db.execute("SELECT node, nusd FROM epoch_used WHERE epoch = ?", (state.id,)))
            try:
                caps.close_epoch(state.name, used)
            except CapsUnavailable:
                return  # told at the next step
            except NoSuch as error:
                self._caps_refuse("what this epoch used", error, state.last_us, state.name)
            books.folded(state.name)
        told = db.execute("SELECT id, body FROM adjustment").fetchall() if books.adjusted else []
        for id, body in told:
            try:
                caps.adjust_used(id, _decode_delta(body))
            except CapsUnavailable:
                return
            except NoSuch as error:
                self._caps_refuse("a correction", error, self._wall_us(), id.partition(":")[0])
            books.db.begin()
            db.execute("DELETE FROM adjustment WHERE id = ?", (id,))
        books.adjusted = False
        if dead or told:
            books.commit()

    def _caps_refuse(self, what: str, error: NoSuch, at_us: int, epoch: str) -> None:
        """A node that the caps do not know: they were brought back from an older copy than the books."""
        text = f"the caps cannot count {what}: {error}; restore books and caps together"
        self.books.db.alarm(at_us, "caps", text, epoch)

    def catch_up(self) -> int:
        """Book everything that stands in the journals now; return how many records that was."""
        total = 0
        while True:
            step = self.step()
            total += step.records
            if not step.records and not step.behind_bytes:
                return total

    def start_over(self) -> None:
        """After a failed step: forget the batch and read again from where the books stand."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
        self.books.rollback()

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self.books.db.close()
