"""Alarms that would repeat with each attempt: told at once, then counted in that row for a minute.

An engine that always produces more than was reserved would else write a row for every attempt, and bury what
else is wrong. The books themselves leave nothing out: each attempt has its own posting and note.
"""

from __future__ import annotations

from dataclasses import dataclass

from wattmill.ledger.stores.sqlite import LedgerDb

WINDOW_US = 60_000_000
"""How long a row counts what is like it, on the clock of the attempts' ends."""

_MOST_SUBJECTS = 4_096

Subject = tuple[str, str]  # a place, and what was taken there


@dataclass(slots=True)
class _Told:
    row: int
    since_us: int
    attempts: int
    amount: int


class Overruns:
    """What places took beyond reservations.

    Its rows are inside the transaction of `db`: after a rollback make it anew, and the next one of each kind
    is told at once again.
    """

    def __init__(self, db: LedgerDb) -> None:
        self._db = db
        self._told: dict[Subject, _Told] = {}
        self._counted: set[Subject] = set()

    def add(self, pool: str, what: str, amount: int, *, at_us: int, epoch: str, seq: int) -> None:
        """Tell that an attempt took `amount` of `what` ("nUSD beyond the reservation") too much at `pool`."""
        subject = (pool, what)
        told = self._told.get(subject)
        if told is not None and 0 <= at_us - told.since_us < WINDOW_US:
            told.attempts += 1
            told.amount += amount
            self._counted.add(subject)
            return
        if subject in self._counted or len(self._told) >= _MOST_SUBJECTS:
            self.write()
        if len(self._told) >= _MOST_SUBJECTS:
            self._told.clear()
        row = self._db.alarm(at_us, "overrun", f"{amount} {what} on {pool}: the operator's", epoch, seq)
        self._told[subject] = _Told(row, at_us, 1, amount)

    def write(self) -> None:
        """Put the counts into the rows; before each commit."""
        for subject in sorted(self._counted):
            (pool, what), told = subject, self._told[subject]
            text = (
                f"{told.amount} {what} on {pool} by {told.attempts} attempts within a minute: the operator's"
            )
            self._db.reword_alarm(told.row, text)
        self._counted.clear()
