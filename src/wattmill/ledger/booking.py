"""The bookkeeper: facts of many journals in, balanced books out, each fact once, whatever dies when.

All it needs to go on is in the store: the position in each journal is written in the same transaction as the
rows that were made of what stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from wattmill.ledger import gauges
from wattmill.ledger.attempt_rows import MINUTE_US, SOURCE, insert_attempt, likely, recent_works
from wattmill.ledger.attribution import Work
from wattmill.ledger.book import (
    Opened,
    beyond_postings,
    decode_opened,
    doubt_postings,
    end_postings,
    opened,
)
from wattmill.ledger.epoch import Who
from wattmill.ledger.epoch_state import EpochState, epochs_of
from wattmill.ledger.frame import Damage, encoder
from wattmill.ledger.in_doubt import Settlement
from wattmill.ledger.promise import NO_PLACE
from wattmill.ledger.rating import Unpriced, rate
from wattmill.ledger.rationed import Overruns
from wattmill.ledger.rebooking import rebook
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.tail import Found, Position
from wattmill.vocab.budget import UNITS, limit_of, unit_of
from wattmill.vocab.fact import End, EngineAbort, EngineCount, Intent, MeterWindow, Progress, Refused
from wattmill.vocab.price import Price

_BETWEEN = 32  # records that are booked before others are let by: a third of a millisecond

Held = MeterWindow | EngineCount
_decode_held: Callable[[bytes], Held] = msgspec.msgpack.Decoder(Held).decode


def _goes_on() -> None:
    """Let nobody by: beside a command nobody waits for an answer."""


class Bookkeeper:
    """Books into `db`. After `book`, `bury`, `settle` or `correct`, nothing is visible before `commit`."""

    def __init__(self, db: LedgerDb, prices: Callable[[], Mapping[int, Price]] = dict) -> None:
        self.db = db
        self.prices = prices
        self.give_way: Callable[[], object] = _goes_on  # called again and again in a long batch
        self._load()

    def _load(self) -> None:
        self.epochs = epochs_of(self.db)
        self.overruns = Overruns(self.db)
        self.open: dict[tuple[int, int], Opened] = {
            (epoch, seq): decode_opened(body)
            for epoch, seq, body in self.db.db.execute("SELECT epoch, seq, body FROM open_intent")
        }
        self._stored_open = set(self.open)
        self._moved: set[tuple[int, int]] = set()  # open attempts with newer progress than the store has
        self._touched: set[str] = set()
        self._used: dict[tuple[int, int], int] = {}  # by epoch and gauge
        self._kept: dict[tuple[int, int], int] = {}  # counted against caps beyond charges, by epoch and key
        self.adjusted = True  # there may be corrections that the caps were not told
        self.held: list[tuple[int, Held]] = [
            (id, _decode_held(body))
            for id, body in self.db.db.execute("SELECT id, body FROM held ORDER BY id")
        ]
        held = [fact.start_us if isinstance(fact, MeterWindow) else fact.at_us for _, fact in self.held]
        self.works: list[Work] = recent_works(self.db, min(held) - MINUTE_US if held else None)

    # -- facts -------------------------------------------------------------------------------------------

    def enter(self, name: str, who: Who) -> EpochState:
        """Return the state of an epoch, beginning to follow it if it is new."""
        state = self.epochs.get(name)
        if state is None:
            self.db.begin()
            id = len(self.epochs) + 1
            self.db.db.execute(
                "INSERT INTO epoch (id, name, kind, worker, start_us) VALUES (?,?,?,?,?)",
                (id, name, who.kind, who.worker, who.start_us),
            )
            state = self.epochs[name] = EpochState(id, name, who.start_us, Position(), 0, "live")
        return state

    def book(
        self, name: str, records: Sequence[Found], position: Position, damages: Sequence[Damage] = ()
    ) -> None:
        """Book records that follow the epoch's position, and move it."""
        epoch = self.epochs[name]
        self._touched.add(name)
        for at, (fact, segment, _offset) in enumerate(records):
            if at % _BETWEEN == _BETWEEN - 1:
                self.give_way()
            if segment != epoch.position.segment:
                epoch.leave_segment(self.db)
                epoch.position = Position(segment, 0)
            if type(fact) is Intent:
                self.open[epoch.id, fact.seq] = opened(fact)
                epoch.begins(fact.seq, fact.at_us)
            elif type(fact) is End:
                self._end(epoch, fact)
                epoch.last_us = fact.at_us
            elif type(fact) is Progress:
                start = self.open.get((epoch.id, fact.seq))
                if start is not None:
                    self.open[epoch.id, fact.seq] = msgspec.structs.replace(
                        start, progress_tok=fact.output_tok
                    )
                    self._moved.add((epoch.id, fact.seq))
                    epoch.last_us = fact.at_us
            elif type(fact) is Refused:
                self._refused(epoch, fact)
            elif isinstance(fact, MeterWindow | EngineCount):
                self._hold(epoch, fact)
            elif type(fact) is EngineAbort:
                self.correct(fact)
        epoch.records += len(records)
        if position.segment != epoch.position.segment:
            epoch.leave_segment(self.db)
        epoch.position = position
        for damage in damages:
            self.db.alarm(epoch.last_us, f"journal_{damage.kind}", str(damage), name)

    def _end(self, epoch: EpochState, end: End) -> None:
        db = self.db
        start = self.open.pop((epoch.id, end.seq), None)
        if start is None:
            self._end_without_open(epoch, end)
            return
        tx = db.post(end_postings(start, end))
        self.works.append(insert_attempt(db, epoch, start, end, tx))
        gauges.add(self._used, epoch.id, gauges.used_by(start, end))
        if end.kept_nusd:
            kept_of = (epoch.id, start.key)
            self._kept[kept_of] = self._kept.get(kept_of, 0) + end.kept_nusd
        if end.overrun_nusd:
            self._overrun(epoch, start, end, "nUSD beyond the reservation", end.overrun_nusd)
        if end.took:
            self._beyond(epoch, start, end)
        if end.usage_source == "unmetered":
            db.alarm(
                end.at_us, "unmetered", f"tokens of {start.pool} that nobody counted", epoch.name, end.seq
            )
            if end.status != "failed" or end.kept_nusd:
                # Its end is known, its tokens are not: it can be reconciled like what is in doubt.
                told = msgspec.structs.replace(start, held=gauges.standing_after(start, end))
                self.works[-1] = likely(self.works[-1], start)  # it worked: its joules are its own
                db.db.execute(
                    "INSERT INTO doubt VALUES (?,?,?,?,?,'uncounted',?)",
                    (tx, epoch.id, start.seq, start.pool, encoder.encode(told), end.at_us),
                )

    def _beyond(self, epoch: EpochState, start: Opened, end: End) -> None:
        """Book what an attempt took of limits beyond its reservation: it is the operator's, like money."""
        db = self.db
        for gauge, amount in gauges.beyond(start, end).items():
            unit, limit = UNITS[unit_of(gauge)], limit_of(gauge)
            tx = db.post(beyond_postings(start.pool, unit, limit, amount))
            db.note(tx, end.at_us, "overrun", f"{epoch.name}:{end.seq}")
            self._overrun(epoch, start, end, f"{unit} beyond what was reserved of limit {limit}", amount)

    def _overrun(self, epoch: EpochState, start: Opened, end: End, what: str, amount: int) -> None:
        self.overruns.add(start.pool, what, amount, at_us=end.at_us, epoch=epoch.name, seq=end.seq)

    def _rebook(self, attempt: int, end: End, why: str, state: str) -> None:
        if rebook(self.db, attempt, end, why, state):
            self.adjusted = True

    def _end_without_open(self, epoch: EpochState, end: End) -> None:
        self.db.flush()
        row = self.db.db.execute(
            "SELECT attempt, body FROM doubt WHERE epoch = ? AND seq = ?", (epoch.id, end.seq)
        ).fetchone()
        if row is not None:
            self._rebook(row[0], end, "late end record", "late_end")
            return
        known = self.db.db.execute(
            "SELECT 1 FROM attempt WHERE epoch = ? AND seq = ?", (epoch.id, end.seq)
        ).fetchone()
        kind, text = (
            ("double_end", "a second end of one attempt; the first one stands")
            if known
            else ("lost_intent", "an end whose intent is not in the journal; it cannot be charged to anybody")
        )
        self.db.alarm(end.at_us, kind, text, epoch.name, end.seq)

    def _refused(self, epoch: EpochState, fact: Refused) -> None:
        name = self.db.name
        key, code = fact.key, name(fact.code)
        row = (
            epoch.id,
            fact.seq,
            fact.at_us,
            key,
            code,
            name(fact.model[:200]),
            name(fact.endpoint),
            fact.message,
        )
        self.db.refused(row, fact.at_us, key, code)
        if fact.tier and fact.code in NO_PLACE:
            sums = (("refused", 1), ("queued_n", int(fact.queued_us > 0)), ("queued_us", fact.queued_us))
            self.db.tiers.add(fact.at_us, name(fact.tier), sums)

    def _hold(self, epoch: EpochState, fact: Held) -> None:
        self.db.begin()
        at_us = fact.end_us if isinstance(fact, MeterWindow) else fact.at_us
        row = self.db.db.execute(
            "INSERT INTO held (epoch, at_us, body) VALUES (?,?,?)", (epoch.id, at_us, encoder.encode(fact))
        )
        assert row.lastrowid is not None
        self.held.append((row.lastrowid, fact))

    # -- in doubt ----------------------------------------------------------------------------------------

    def bury(self, name: str, at_us: int) -> int:
        """The epoch's writer is confirmed dead and its journal read to the end: what is open is in doubt.

        Charged at its reservation until something better is known. Returns how many there are. Idempotent.
        """
        epoch = self.epochs[name]
        if epoch.state != "live":
            return 0
        self._touched.add(name)
        epoch.leave_segment(self.db)
        mine = sorted(key for key in self.open if key[0] == epoch.id)
        for place in mine:
            start = self.open.pop(place)
            tx = self.db.post(doubt_postings(start))
            end = End(
                start.seq, max(start.at_us, epoch.last_us), "failed", None, "unmetered",
                start.reserved_cost_nusd, start.reserved_nusd, started_us=start.at_us,
                duration_us=max(0, epoch.last_us - start.at_us), error="in_doubt",
            )  # fmt: skip
            work = insert_attempt(self.db, epoch, start, end, tx, "in_doubt")
            self.works.append(likely(work, start))
            self.db.note(tx, at_us, "in_doubt", f"{name}:{start.seq}")
            self.db.db.execute(
                "INSERT INTO doubt VALUES (?,?,?,?,?,'open',?)",
                (tx, epoch.id, start.seq, start.pool, encoder.encode(start), at_us),
            )
            gauges.add(self._used, epoch.id, gauges.held_by(start))
        epoch.state = "dead"
        return len(mine)

    def doubts(self, pool: str | None = None) -> list[tuple[int, Opened]]:
        """Return (attempt id, what is known) of everything that is in doubt now, or ended with nothing
        counted, at `pool` or at all places."""
        self.db.flush()
        rows = self.db.db.execute(
            "SELECT attempt, body FROM doubt WHERE state IN ('open', 'uncounted') "
            "AND (?1 IS NULL OR pool = ?1) ORDER BY attempt",
            (pool,),
        )
        return [(attempt, decode_opened(body)) for attempt, body in rows]

    def settle(self, attempt: int, as_: Settlement, *, at_us: int) -> None:
        """Replace a reservation by a settlement, by posting."""
        end = End(
            0, at_us, "aborted" if as_.usage else "failed", as_.usage, as_.source, as_.cost_nusd,
            as_.charge_nusd,
            as_.overrun_nusd, error=f"reconciled:{as_.rule}",
        )  # fmt: skip
        self._rebook(attempt, end, f"reconciled by rule {as_.rule!r}", f"settled_{as_.rule}")

    def correct(self, fact: EngineAbort) -> None:
        """Believe an engine about an attempt that was in doubt or estimated. The charge that was told
        stays."""
        self.db.flush()
        row = self.db.db.execute(
            "SELECT attempt.id, source, doubt.body, cost_price, charge_price, charge_nusd, overrun_nusd "
            "FROM attempt JOIN epoch ON epoch.id = attempt.epoch JOIN shape ON shape.id = shape "
            "LEFT JOIN doubt ON doubt.attempt = attempt.id WHERE epoch.name = ? AND attempt.seq = ?",
            (fact.epoch, fact.seq),
        ).fetchone()
        if row is None:
            text = "an engine's word on an attempt that is not in the books"
            self.db.alarm(fact.at_us, "lost_intent", text, fact.epoch, fact.seq)
            return
        id, source, body, cost_price, charge_price, charge, overrun = row
        if body is None and source == SOURCE["measured"]:
            return
        prices = self.prices()
        try:
            cost = rate(prices[cost_price], fact.usage)
            if body is not None:
                rated = rate(prices[charge_price], fact.usage)
                charge = min(rated, decode_opened(body).reserved_nusd)
                overrun = rated - charge
        except (KeyError, Unpriced) as error:
            self.db.alarm(
                fact.at_us, "unpriced", f"an engine's word cannot be priced: {error}", fact.epoch, fact.seq
            )
            return
        end = End(fact.seq, fact.at_us, "aborted", fact.usage, "measured", cost, charge, overrun)
        self._rebook(id, end, "the engine's word", "settled_engine")

    # -- transactions ------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything since the last commit visible and count once, in one transaction."""
        db = self.db
        db.begin()
        gone = self._stored_open - self.open.keys()
        fresh = (self.open.keys() - self._stored_open) | (self._moved & self.open.keys())
        db.db.executemany("DELETE FROM open_intent WHERE epoch = ? AND seq = ?", gone)
        db.db.executemany(
            "INSERT OR REPLACE INTO open_intent VALUES (?,?,?)",
            [(*place, encoder.encode(self.open[place])) for place in fresh],
        )
        self._stored_open = set(self.open)
        self._moved.clear()
        db.db.executemany(
            "INSERT INTO epoch_used VALUES (?,?,?) ON CONFLICT DO UPDATE SET nusd = nusd + excluded.nusd",
            [(epoch, node, nusd) for (epoch, node), nusd in self._used.items()],
        )
        self._used.clear()
        db.db.executemany(
            "INSERT INTO epoch_kept VALUES (?,?,?) ON CONFLICT DO UPDATE SET nusd = nusd + excluded.nusd",
            [(epoch, key, nusd) for (epoch, key), nusd in self._kept.items()],
        )
        self._kept.clear()
        for name in self._touched:
            epoch = self.epochs[name]
            db.db.execute(
                "UPDATE epoch SET segment = ?, offset = ?, records = ?, state = ? WHERE id = ?",
                (*epoch.position, epoch.records, epoch.state, epoch.id),
            )
            epoch.note_segment(db)
        self._touched.clear()
        self.overruns.write()
        db.commit()

    @property
    def pending(self) -> bool:
        """True when there is something to commit."""
        return bool(self._touched)

    def folded(self, name: str) -> None:
        """The caps know what a dead epoch used."""
        self.epochs[name].state = "folded"
        self._touched.add(name)

    def rollback(self) -> None:
        self.db.rollback()
        self._load()
