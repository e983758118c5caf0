"""What one place's engine lived through in a period, attempt by attempt, as it is booked."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from wattmill.ledger.stores.sqlite_schema import SOURCES, STATUSES
from wattmill.vocab.usage import Provenance


class Ran(NamedTuple):
    """One attempt. Instants are microseconds since 1970, UTC, on the clock of the worker that sent it."""

    model: str  # as asked
    stream: bool  # to the client
    arrived_us: int  # its request came
    left_us: int  # it was sent to the place
    first_us: int | None  # first content; None: none came, or the answer came whole
    ended_us: int
    queued_us: int  # of the time before it left: waited at the gate, with a tier
    number: int  # 0: the first attempt of its request
    status: str  # vocab.fact.Status or "in_doubt"
    source: str  # of the token counts, vocab.fact.UsageSource
    prefill_tok: int  # computed
    cached_tok: int
    output_tok: int
    cost_nusd: int
    cost_price: int  # version of the price
    energy_uj: int | None  # settled so far; None: no window yet


_WHOLE_US = 1_000
"""Where an engine answers in one piece, its first content and its end are told within less than this."""

_RAN = (
    "SELECT m.text, s.stream, e.start_us + a.ended_us - a.duration_us, a.duration_us, a.lead_us, "
    "a.ttft_us, "
    "e.start_us + a.ended_us, {queued}, a.number, a.status, a.source, a.prefill_tok, a.cached_tok, "
    "a.output_tok, a.cost_nusd, s.cost_price, energy.uj "
    "FROM attempt a JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape "
    "JOIN name p ON p.id = s.pool JOIN name m ON m.id = s.model "
    "LEFT JOIN energy ON energy.attempt = a.id {tier} "
    "WHERE p.text = ? AND e.start_us + a.ended_us >= ? AND e.start_us + a.ended_us - a.duration_us < ? "
    "ORDER BY 3, a.id"
)


def ran(db: sqlite3.Connection, pool: str, *, since_us: int, until_us: int) -> list[Ran]:
    """Return the attempts at `pool` that were in flight at any instant of [since, until), by arrival."""
    tiers = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempt_tier'").fetchone() is not None
    text = _RAN.format(
        queued="ifnull(t.queued_us, 0)" if tiers else "0",
        tier="LEFT JOIN attempt_tier t ON t.attempt = a.id" if tiers else "",
    )
    return [
        Ran(
            model, bool(stream), arrived, arrived + lead,
            None if ttft is None or (not stream and duration - ttft < _WHOLE_US) else arrived + ttft,
            ended, queued, number, STATUSES[status], SOURCES[source], prefill, cached, output, cost, price,
            uj,
        )
        for (
            model, stream, arrived, duration, lead, ttft, ended, queued, number, status, source, prefill,
            cached, output, cost, price, uj,
        ) in db.execute(text, (pool, since_us, until_us))
    ]  # fmt: skip


def pools(db: sqlite3.Connection) -> list[str]:
    """Return the names of all places that anything was ever sent to."""
    return [
        text
        for (text,) in db.execute("SELECT DISTINCT text FROM shape JOIN name ON name.id = pool ORDER BY text")
    ]


def foreign_share(db: sqlite3.Connection, *, since_us: int, until_us: int) -> float | None:
    """Return which share of the joules above idle went to programs that are not the factory's, over the meter
    windows that touch the period; None without any."""
    total, foreign = db.execute(
        "SELECT sum(total_uj - idle_uj), sum((SELECT sum(line.amount) FROM posting line JOIN account k "
        "ON k.id = line.account WHERE line.id >= w.tx << 6 AND line.id < (w.tx + 1) << 6 "
        "AND k.commodity = 'uj' AND k.name LIKE 'foreign:%')) FROM meter_window w "
        "WHERE start_us < ? AND start_us + length_us > ?",
        (until_us, since_us),
    ).fetchone()
    return (foreign or 0) / total if total else None


def energy_known_by(db: sqlite3.Connection, *, since_us: int, until_us: int) -> tuple[Provenance, ...]:
    """Return how the joules of the meter windows that touch the period are known, each word once."""
    return tuple(
        text
        for (text,) in db.execute(
            "SELECT DISTINCT p.text FROM meter_window JOIN name p ON p.id = provenance "
            "WHERE start_us < ? AND start_us + length_us > ? ORDER BY 1",
            (until_us, since_us),
        )
    )
