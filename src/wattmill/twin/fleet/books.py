"""The journal and the books of a simulated factory: the live formats, the live bookkeeper, one writer.

Facts are written to a segment as a worker writes them (without waiting for the disk) and booked in batches.
The epoch is named by the seed, so that the same run writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from wattmill.ledger import epoch as epochs
from wattmill.ledger.book import MONEY, Posting
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.epoch import Who
from wattmill.ledger.frame import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    Closed,
    encoder,
    frame,
    header,
    segment_name,
)
from wattmill.ledger.settling import settle_held
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.tail import Found, Position
from wattmill.vocab.fact import Fact
from wattmill.vocab.price import Price

BATCH = 1_024
_SEGMENT = 1
_encode, _pack, _crc32 = encoder.encode, FRAME.pack, zlib.crc32


def epoch_name(seed: int) -> str:
    """Return the name of the epoch of a simulation: 12 hex digits, as every epoch has."""
    return hashlib.sha256(f"wattmill simulate {seed}".encode()).hexdigest()[:12]


class SimulatedBooks:
    """Implements `ports.Journal`, and books what it is told into a new `ledger_db`."""

    def __init__(self, journal: Path, ledger_db: Path, *, seed: int, start_us: int) -> None:
        self.epoch = epoch_name(seed)
        self.facts = 0
        self._start_us = start_us
        self._facts: list[Found] = []  # written and not booked
        self._at = HEADER_BYTES
        self._written = b""
        folder = journal / self.epoch
        os.mkdir(folder, 0o700)
        # Nobody holds the lock: the writer of a simulated epoch is no process that could die.
        (folder / epochs.LOCK).write_text(
            json.dumps({"kind": "gateway", "worker": 0, "pid": 0, "start_us": start_us})
        )
        self._file: BinaryIO = open(  # noqa: SIM115  it is closed by `close`
            folder / segment_name(_SEGMENT), "wb", buffering=1 << 16
        )
        self._file.write(header(self.epoch, _SEGMENT))
        self.db = LedgerDb(ledger_db)
        self.books = Bookkeeper(self.db)
        self.books.enter(self.epoch, Who("gateway", 0, 0, start_us))

    # ---- ports.Journal

    def append_intent(self, fact: Fact) -> None:
        at = self.write(fact)
        facts = self._facts
        facts.append(Found(fact, _SEGMENT, at))
        if len(facts) >= BATCH:
            self.book()

    append_end = append_intent

    def append_note(self, fact: Fact) -> bool:
        self.append_intent(fact)
        return True

    # ---- the books

    def book(self) -> None:
        """Book what was told since the last time, and what is ripe of meters."""
        batch, self._facts = self._facts, []
        if not batch:
            return
        self.books.book(self.epoch, batch, Position(_SEGMENT, self._at))
        until_us = max([getattr(found.fact, "at_us", 0) for found in batch])
        settle_held(self.books, read_until_us=until_us)
        self.books.commit()

    def write(self, fact: Fact) -> int:
        """Write one fact into the segment, while all that it is made of is still in the processor's caches;
        return where it stands."""
        payload = self._written = _encode(fact)
        size = len(payload)
        self._file.write(_pack(size, _crc32(payload)) + payload)
        at = self._at
        self._at = at + FRAME_BYTES + size
        self.facts += 1
        return at

    def written(self) -> bytes:
        """Return the fact that was written last, without its frame."""
        return self._written

    def close(self, at_us: int, idle_nusd: Mapping[str, int]) -> dict[int, int]:
        """Book the rest and end the epoch; return what it used of each gauge.

        `idle_nusd`: by pool, what its hours and energy cost beyond what its tokens were charged with (less
        than 0: the tokens paid for more than there was).
        """
        self.book()
        self._file.write(frame(Closed(at_us, self.facts)))
        self._file.close()
        books = self.books
        settle_held(books, read_until_us=at_us + 60_000_000)
        for pool, nusd in idle_nusd.items():
            if nusd:
                tx = self.db.post(
                    [Posting(MONEY, f"idle:{pool}", nusd), Posting(MONEY, f"payable:{pool}", -nusd)]
                )
                words = f"hours and energy of {pool} beyond what its tokens were charged with"
                self.db.note(tx, at_us, "idle hours", words)
        in_doubt = books.bury(self.epoch, at_us)
        assert not in_doubt, f"{in_doubt} attempts of a simulation that has ended are open"
        books.commit()
        used = dict(
            self.db.db.execute(
                "SELECT node, nusd FROM epoch_used JOIN epoch ON epoch.id = epoch WHERE name = ?",
                (self.epoch,),
            )
        )
        books.folded(self.epoch)
        books.commit()
        return used

    def use_prices(self, prices: Mapping[int, Price]) -> None:
        self.books.prices = lambda: prices
