"""The ledger process: tails every journal into ledger.db, of which it is the only writer.

It may die at any moment; the gateway goes on, and the next ledger process goes on where the books stand.
Run as `python -m wattmill.app.ledger_process --home DIR`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from types import FrameType

import msgspec

from wattmill.app.declared.declaration import restored
from wattmill.app.home import Home
from wattmill.app.orders import Orders
from wattmill.app.running import lifeline
from wattmill.app.running.clock import LiveClock
from wattmill.app.running.lag import Lag
from wattmill.ledger.following import RECORD_BYTES, Follower, Step
from wattmill.ledger.retention import sweep
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite import LedgerDb

POLL_S = 0.04
RETENTION_H = 72.0
_log = logging.getLogger("wattmill.ledger")


class LedgerBusy(RuntimeError):
    """Another process writes these books."""


def hold_ledger(home: Home) -> int:
    """Return a descriptor that makes this process the one writer of the books. Raises `LedgerBusy`."""
    fd = os.open(home.root / "ledger.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise LedgerBusy(
            f"the books in {home.root} are being written by process {owner}; end it first"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def follower(home: Home, control: Control | None) -> Follower:
    """Return the loop body over one factory's folder."""
    return Follower(home.journal, LedgerDb(home.ledger_db), control, wall_us=LiveClock().wall_us)


class LedgerProcess:
    """Steps until told to stop, says how far behind it is, carries out orders, and sweeps old segments."""

    def __init__(self, home: Home, control: Control | None, *, poll_s: float = POLL_S) -> None:
        self.home = home
        self.clock = LiveClock()
        self.follower = follower(home, control)
        # Niceness alone lets a batch run on until the kernel's next tick, 4 ms, whoever waits meanwhile.
        self.follower.books.give_way = getattr(os, "sched_yield", self.follower.books.give_way)
        self.stop = threading.Event()
        self._control = control
        self._orders = Orders(home)
        self._poll_s = poll_s
        self._said_s = self._swept_s = -1e9
        self._committed_us: int | None = None

    def run(self) -> None:
        while not self.stop.is_set():
            step = self._step()
            if not step.records:
                self._tidy()
                self.stop.wait(self._poll_s)
        self._step()
        self.follower.catch_up()
        self._tell(Step(0, 0, 0), force=True)
        self.follower.close()

    def _step(self) -> Step:
        try:
            step = self.follower.step()
            self._orders.carry_out(self.follower.books, at_us=self.clock.wall_us())
        except sqlite3.OperationalError as error:
            # A full disk or a reader that holds a lock: the journal keeps the facts, so wait and try again.
            _log.error("cannot book: %s; trying again", error)
            self.follower.start_over()
            self.stop.wait(1.0)
            return Step(0, 0, 0)
        if step.records:
            self._committed_us = self.clock.wall_us()
        self._tell(step)
        return step

    def _tell(self, step: Step, *, force: bool = False) -> None:
        now_s = self.clock.now()
        if not force and now_s - self._said_s < 0.5:
            return
        self._said_s = now_s
        lag = Lag(
            at_us=self.clock.wall_us(),
            behind_records=step.behind_bytes // RECORD_BYTES,
            behind_bytes=step.behind_bytes,
            behind_s=step.behind_us / 1e6,
            committed_us=self._committed_us,
        )
        path = self.home.run / "ledger.json"
        draft = path.with_suffix(".ledger-tmp")
        try:
            draft.write_bytes(msgspec.json.encode(lag))
            os.replace(draft, path)
        except OSError as error:
            _log.error("cannot say how far the books are: %s", error)

    def _tidy(self) -> None:
        now_s = self.clock.now()
        if now_s - self._swept_s < 60.0:
            return
        self._swept_s = now_s
        before_us = self.clock.wall_us() - int(_retention_h(self._control) * 3_600_000_000)
        for name in sweep(self.follower.books.db, self.home.journal, before_us=before_us):
            _log.info("removed journal segment %s: booked, and older than it must be", name)


def _retention_h(control: Control | None) -> float:
    """Return the declared retention of journals; the default while nothing readable is declared."""
    found = None if control is None else control.config()
    if found is None:
        return RETENTION_H
    journal = restored(found[1]).journal
    return max(journal.retention_h, (journal.keep_decisions_days or 0.0) * 24)


def _give_way() -> None:
    """Serving comes first: the books may be a moment late, an answer may not. On two cores this takes a third
    off the p99 of a lone client (docs/lab.md)."""
    os.nice(5)
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # some containers do not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Run until SIGTERM, SIGINT or the death of the supervisor."""
    parser = argparse.ArgumentParser(prog="wattmill.app.ledger_process")
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    lifeline.arm()
    _give_way()
    home.create()
    lock = _wait_for_lock(home)
    control = Control(home.control_db)
    started = time.perf_counter()
    process = LedgerProcess(home, control)

    def leave(number: int, frame: FrameType | None) -> None:
        process.stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    _log.info("books open after %.3f s", time.perf_counter() - started)
    process.run()
    control.close()
    os.close(lock)


def _wait_for_lock(home: Home) -> int:
    """A short command (`wattmill reconcile`) may be writing just now."""
    for _ in range(100):
        try:
            return hold_ledger(home)
        except LedgerBusy:
            time.sleep(0.1)
    return hold_ledger(home)


if __name__ == "__main__":
    main()
