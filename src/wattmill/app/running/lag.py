"""How far the books are behind the journal, and what a worker does about it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import msgspec

from wattmill.app.declared.settings import Ledger
from wattmill.app.home import Home
from wattmill.vocab.refusal import Refusal

_log = logging.getLogger("wattmill.lag")


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """Written by the ledger process to `run/ledger.json`, about once a second."""

    at_us: int
    behind_records: int
    behind_bytes: int = 0
    behind_s: float = 0.0
    committed_us: int | None = None


def read_lag(home: Home) -> Lag | None:
    """Return what the ledger process last said, or None if it has not spoken yet."""
    try:
        return msgspec.json.decode((home.run / "ledger.json").read_bytes(), type=Lag)
    except (OSError, msgspec.DecodeError):
        return None


class Backlog:
    """A worker's view of the backlog. While the ledger process is silent, what this worker has written since
    is added to what was last known: a dead ledger must not look like one that keeps up.

    Args:
        written: how many records this worker's journal holds, at any time.
    """

    def __init__(self, home: Home, limits: Ledger, written: Callable[[], int]) -> None:
        self._path = home.run / "ledger.json"
        self._limits = limits
        self._written = written
        self._mark = (0, 0)
        self._known = 0
        self._written_then = 0
        self._alarmed = False

    @property
    def records(self) -> int:
        """Records that stand in journals and not in the books, as far as this worker knows."""
        return self._known + self._written() - self._written_then

    def look(self) -> None:
        """Read the news if there are any; a few microseconds if not."""
        try:
            status = os.stat(self._path)
        except OSError:
            return
        mark = (status.st_mtime_ns, status.st_ino)
        if mark != self._mark:
            self._mark = mark
            try:
                lag = msgspec.json.decode(self._path.read_bytes(), type=Lag)
            except (OSError, msgspec.DecodeError):
                return
            self._known, self._written_then = lag.behind_records, self._written()
        alarming = self.records >= self._limits.alarm_backlog_records
        if alarming != self._alarmed:
            self._alarmed = alarming
            _log.warning(
                "the books are %d records behind the journal (alarm %s)",
                self.records,
                "on" if alarming else "off",
            )

    def admit(self) -> Refusal | None:
        """Refuse new work once the backlog is past its limit."""
        records = self._known + self._written() - self._written_then
        if records < self._limits.refuse_backlog_records:
            return None
        return Refusal(
            code="ledger_backlog",
            message=f"the books are {records} records behind the journal, the limit is "
            f"{self._limits.refuse_backlog_records}; the ledger process is down or slow: `wattmill status`",
            retry_after_s=5.0,
        )
