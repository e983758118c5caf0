"""The journals against the books: checksums, and that each attempt which was written is booked as written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from wattmill.ledger import epoch as epochs
from wattmill.ledger.audit_check import Check, check
from wattmill.ledger.frame import BadHeader, segment_name
from wattmill.ledger.stores.sqlite_schema import SOURCES, STATUSES
from wattmill.ledger.tail import Found, Tail
from wattmill.vocab.fact import End, Intent

# CROSS JOIN keeps the order: few numbers, each looked up by its index, however many attempts there are.
_BOOKED = (
    "SELECT a.seq, a.key, p.text, a.status, a.source, a.charge_nusd, a.cost_nusd, a.overrun_nusd, "
    "a.prefill_tok, a.cached_tok, a.output_tok, "
    "EXISTS (SELECT 1 FROM correction c WHERE c.attempt = a.id) "
    "OR EXISTS (SELECT 1 FROM doubt d WHERE d.attempt = a.id) "
    "FROM json_each(?1) j CROSS JOIN attempt a ON a.epoch = ?2 AND a.seq = j.value "
    "CROSS JOIN shape s ON s.id = a.shape CROSS JOIN name p ON p.id = s.pool"
)


def journals(db: sqlite3.Connection, journal: Path) -> tuple[Check, Check]:
    """Return whether checksums hold, and whether what the journals say is what the books say.

    Of a journal whose old segments were swept, what is still there. What stands behind the place that the
    books have reached is not booked yet, unless its writer is dead and they have closed it.
    """
    damaged: list[str] = []
    broken: list[str] = []
    records = torn = ends = 0
    known = {
        name: (id, (segment, offset), state)
        for id, name, segment, offset, state in db.execute(
            "SELECT id, name, segment, offset, state FROM epoch"
        )
    }
    for name in epochs.names(journal):
        folder = journal / name
        tail = Tail(folder)
        id, reached, state = known.get(name, (0, (0, 0), "live"))
        running: dict[int, Intent] = {}
        late = 0
        dead = not epochs.alive(folder)
        if state == "live" and reached[0] and not (folder / segment_name(reached[0])).exists():
            damaged.append(f"{name}: segment {reached[0]} is gone, and was not booked to its end")
        try:
            while True:
                batch = tail.read(10_000, final=dead)
                records += len(batch.records)
                torn += sum(damage.kind == "torn" for damage in batch.damages)
                damaged += [str(damage) for damage in batch.damages if damage.kind != "torn"]
                booked = [found for found in batch.records if (found.segment, found.offset) < reached]
                late += len(batch.records) - len(booked)
                over = _paired(booked, running)
                ends += len(over)
                broken += _compared(db, id, name, over)
                if batch.at_end:
                    break
        except BadHeader as error:
            damaged.append(str(error))
        finally:
            tail.close()
        if state != "live" and late:
            broken.append(f"{name}: {late} records stand behind the place at which the books closed it")
        broken += _unended(db, id, name, running)
    detail = f"{records} records" + (f", {torn} torn last records of dead epochs" if torn else "")
    return (
        check("journal checksums hold", detail, damaged),
        check("what journals say is in the books", f"{ends} ends of attempts", broken),
    )


def _paired(booked: Sequence[Found], running: dict[int, Intent]) -> list[tuple[End, Intent | None]]:
    over: list[tuple[End, Intent | None]] = []
    for fact, _, _ in booked:
        if isinstance(fact, Intent):
            running[fact.seq] = fact
        elif isinstance(fact, End):
            over.append((fact, running.pop(fact.seq, None)))
    return over


def _compared(
    db: sqlite3.Connection, epoch: int, name: str, over: Sequence[tuple[End, Intent | None]]
) -> Iterator[str]:
    rows = {row[0]: row[1:] for row in db.execute(_BOOKED, (json.dumps([e.seq for e, _ in over]), epoch))}
    for end, intent in over:
        row = rows.get(end.seq)
        if row is None:
            yield f"{name}:{end.seq}: ended {end.status} with a charge of {end.charge_nusd} nUSD, not booked"
            continue
        *said, corrected = row
        if intent is None or corrected:
            continue  # its beginning was swept; or later postings say otherwise, each with its reason
        usage = end.usage
        cached = 0 if usage is None else usage.cached_tok
        written = [
            intent.key, intent.pool, STATUSES.index(end.status), SOURCES.index(end.usage_source),
            end.charge_nusd, end.cost_nusd, end.overrun_nusd,
            0 if usage is None else usage.prompt_tok - cached, cached,
            0 if usage is None else usage.output_tok,
        ]  # fmt: skip
        if said != written:
            words = "key, place, status, source, charge, cost, overrun, computed, cached and output tokens"
            yield f"{name}:{end.seq}: the journal says {written}, the books {said} ({words})"


def _unended(db: sqlite3.Connection, epoch: int, name: str, running: dict[int, Intent]) -> Iterator[str]:
    """Attempts that began and did not end are remembered as open, or are in doubt (or were)."""
    rows = db.execute(
        "SELECT j.value FROM json_each(?1) j WHERE NOT EXISTS (SELECT 1 FROM attempt WHERE epoch = ?2 AND "
        "seq = j.value) AND NOT EXISTS (SELECT 1 FROM open_intent WHERE epoch = ?2 AND seq = j.value)",
        (json.dumps(list(running)), epoch),
    )
    for (seq,) in rows:
        yield f"{name}:{seq}: began on {running[seq].pool}, and the books know nothing of it"
