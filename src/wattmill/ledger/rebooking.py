"""Corrections: the books come to say something else of an attempt, by a new transaction, never by an edit.

Its row, its minute and hour, its tier and its doubt follow; caps that were told its reservation get an
adjustment.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wattmill.ledger import gauges
from wattmill.ledger.attempt_rows import SOURCE, STATUS
from wattmill.ledger.book import MONEY, Posting, decode_opened, difference, money_postings, token_postings
from wattmill.ledger.frame import encoder
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.stores.sqlite_schema import NO_GOOD_END, STATUSES
from wattmill.ledger.stores.sqlite_tiers import tiers_of
from wattmill.vocab.fact import End


def rebook(db: LedgerDb, attempt: int, end: End, why: str, state: str) -> bool:
    """Make the books say `end` of an attempt: one balanced transaction of what differs from what they say.

    Args:
        db: the books.
        attempt: its id there.
        end: what is known now.
        why: the note of the transaction.
        state: what becomes of its doubt, if it is in doubt.

    Returns:
        Whether there is an adjustment that the caps have to be told.
    """
    adjusted = False
    db.flush()
    epoch_name, seq, key, status, pool, model, ended_us, body = db.db.execute(
        "SELECT epoch.name, attempt.seq, key, attempt.status, shape.pool, model, start_us + "
        "ended_us, doubt.body "
        "FROM attempt JOIN epoch ON epoch.id = attempt.epoch JOIN shape ON shape.id = shape "
        "LEFT JOIN doubt ON doubt.attempt = attempt.id WHERE attempt.id = ?",
        (attempt,),
    ).fetchone()
    place = next(text for text, id in db.names.items() if id == pool)
    if body is not None and STATUSES[status] == "failed":
        # Its client saw nothing, and pays nothing: what was made counts against the caps alone.
        end = msgspec.structs.replace(
            end, status="failed", charge_nusd=0, overrun_nusd=0, kept_nusd=end.charge_nusd
        )
    usage = end.usage
    new = token_postings(place, f"key:{key}", usage) if usage is not None else []
    new += money_postings(place, f"key:{key}", end.charge_nusd, end.cost_nusd, end.overrun_nusd)
    lines = difference(db.standing(attempt), new)
    tx = db.post(lines)
    db.note(tx, end.at_us, why, f"{epoch_name}:{seq}")
    db.db.execute("INSERT INTO correction VALUES (?,?)", (tx, attempt))
    was, now = STATUSES[status], end.status
    delta = _measures(lines, key, place)
    failed, aborted = (
        int(now in NO_GOOD_END) - int(was in NO_GOOD_END),
        int(now == "aborted") - int(was == "aborted"),
    )
    db.roll_up(ended_us, key, pool, model, **delta, errors=failed, aborted=aborted)
    if (tiered := tiers_of(db.db, [attempt]).get(attempt)) is not None:
        output = sum(delta.get(name, 0) for name in ("tok_output", "tok_reasoning", "tok_audio_output"))
        money = [(name, delta.get(name, 0)) for name in ("charge_nusd", "cost_nusd")]
        db.tiers.add(ended_us, db.name(tiered[0]), [("output_tok", output), *money])
    cached = 0 if usage is None else usage.cached_tok
    db.db.execute(
        "UPDATE attempt SET status=?, source=?, prefill_tok=?, cached_tok=?, output_tok=?, "
        "charge_nusd=?, "
        "cost_nusd=?, overrun_nusd=?, ttft_us=ifnull(?, ttft_us), cause=? WHERE id = ?",
        (
            STATUS[now], SOURCE[end.usage_source], 0 if usage is None else usage.prompt_tok - cached,
            cached,
            0 if usage is None else usage.output_tok, end.charge_nusd, end.cost_nusd, end.overrun_nusd,
            end.ttft_us, None if end.error is None else db.name(end.error), attempt,
        ),
    )  # fmt: skip
    charged = delta.get("charge_nusd", 0)
    if body is not None:
        start = decode_opened(body)
        standing = gauges.standing_after(start, end)
        told = gauges.correction(start, charged, standing)
        db.db.execute(
            "UPDATE doubt SET state = ?, body = ? WHERE attempt = ?",
            (state, encoder.encode(msgspec.structs.replace(start, held=standing)), attempt),
        )
        if told:
            # The epoch's use was told to the caps with the reservation in it: they learn the difference,
            # once for each correction of an attempt, also if the books are made anew from the journals.
            (number,) = db.db.execute(
                "SELECT count(*) FROM correction WHERE attempt = ?", (attempt,)
            ).fetchone()
            adjusted = True
            db.db.execute(
                "INSERT INTO adjustment VALUES (?,?)",
                (f"{epoch_name}:{seq}:c{number}", encoder.encode(told)),
            )
    if end.overrun_nusd:
        text = f"{end.overrun_nusd} nUSD beyond the reservation on {place}: the operator's"
        db.alarm(end.at_us, "overrun", text, epoch_name, seq)
    return adjusted


def _measures(lines: Sequence[Posting], key: int, pool: str) -> dict[str, int]:
    """Return what some postings say of a key, as roll-up measures."""
    sums: dict[str, int] = {}
    for commodity, account, amount in lines:
        if account == f"key:{key}":
            name = "charge_nusd" if commodity == MONEY else commodity.replace(":", "_")
        elif account == f"cost:{pool}":
            name = "cost_nusd"
        elif account == f"overrun:{pool}":
            name = "overrun_nusd"
        else:
            continue
        sums[name] = sums.get(name, 0) + amount
    return sums
