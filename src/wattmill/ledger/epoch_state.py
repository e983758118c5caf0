"""One journal as the books know it: how far it is booked, and what its segments hold."""

from __future__ import annotations

from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.tail import Position


class EpochState:
    """One journal as the books know it."""

    __slots__ = ("first_seq", "id", "last_seq", "last_us", "name", "position", "records", "start_us", "state")

    def __init__(
        self, id: int, name: str, start_us: int, position: Position, records: int, state: str
    ) -> None:
        self.id, self.name, self.start_us = id, name, start_us
        self.position, self.records, self.state = position, records, state
        self.first_seq: int | None = None  # of the intents in the segment that is being read
        self.last_seq: int | None = None
        self.last_us = start_us

    def begins(self, seq: int, at_us: int) -> None:
        """An attempt begins in the segment that is being read."""
        self.last_seq = seq
        if self.first_seq is None:
            self.first_seq = seq
        self.last_us = at_us

    def leave_segment(self, db: LedgerDb) -> None:
        self.note_segment(db)
        self.first_seq = self.last_seq = None

    def note_segment(self, db: LedgerDb) -> None:
        """Write down which attempts begin in the segment that is being read: explain looks there."""
        if self.position.segment:
            db.begin()
            db.db.execute(
                "INSERT INTO segment VALUES (?1,?2,?3,?4,?5) ON CONFLICT DO UPDATE SET "
                "first_seq = ifnull(first_seq, ?3), last_seq = ifnull(?4, last_seq), last_us = ?5",
                (self.id, self.position.segment, self.first_seq, self.last_seq, self.last_us),
            )


def epochs_of(db: LedgerDb) -> dict[str, EpochState]:
    """Return all that the books have begun to follow, by name."""
    rows = db.db.execute("SELECT id, name, start_us, segment, offset, records, state FROM epoch")
    return {
        name: EpochState(id, name, start, Position(segment, offset), records, state)
        for id, name, start, segment, offset, records, state in rows
    }
