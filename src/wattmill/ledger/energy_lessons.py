"""What windows teach of a token's joules, kept with the books: the last windows and the weights in force."""

from __future__ import annotations

from collections.abc import Iterable

from wattmill.ledger.attribution import Weights, Work, work_of
from wattmill.ledger.learning import Observation, fit, weights_of
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.units import US_PER_S
from wattmill.vocab.fact import MeterWindow

KEPT = 1_800
"""Windows of a pool that are learnt from: half an hour of work at one a second."""

_IDLE_EVERY = 10  # of windows without work one in so many is kept: they tell the drift of idle
_TIMES = (60, 120, 240, 480)
_EVERY = 600


def weights_in_force(db: LedgerDb) -> dict[str, Weights]:
    """Return the learnt weights by pool. Pools without have declared ones."""
    rows = db.db.execute("SELECT pool, prefill, decode, context, cached, source FROM energy_weights")
    return {
        pool: Weights(int(prefill), int(decode), int(context), int(cached), source)
        for pool, prefill, decode, context, cached, source in rows
        if source
    }


def learn(db: LedgerDb, window: MeterWindow, works: Iterable[Work]) -> None:
    """Remember what a window's pools did and drew, and now and then learn anew.

    Everything stands in the store and is written with the window, so that books which crashed learn what
    others would have. A share of several pools teaches nothing of either.
    """
    works = list(works)
    for pool, uj in window.shares_uj.items():
        if "|" in pool:
            continue
        done = work_of(pool, window, works)
        if not uj and (done.prefill or done.decode):
            continue  # the host around a chip: what the pool's engine drew is another meter's
        if not (done.prefill or done.decode) and window.start_us // US_PER_S % _IDLE_EVERY:
            continue
        db.begin()
        db.db.execute(
            "INSERT INTO energy_lesson (pool, start_us, length_us, prefill, decode, context, uj) "
            "VALUES (?,?,?,?,?,?,?)",
            (
                pool, window.start_us, window.end_us - window.start_us, done.prefill, done.decode,
                done.context, uj,
            ),
        )  # fmt: skip
        (seen,) = db.db.execute(
            "INSERT INTO energy_weights (pool) VALUES (?) ON CONFLICT DO UPDATE SET seen = seen + 1 "
            "RETURNING seen",
            (pool,),
        ).fetchone()
        if seen in _TIMES or seen % _EVERY == 0:
            _learn_anew(db, pool)


def _learn_anew(db: LedgerDb, pool: str) -> None:
    rows = db.db.execute(
        "SELECT id, start_us, length_us, prefill, decode, context, uj FROM energy_lesson WHERE pool = ? "
        "ORDER BY id DESC LIMIT ?",
        (pool, KEPT),
    ).fetchall()
    db.db.execute("DELETE FROM energy_lesson WHERE pool = ? AND id < ?", (pool, rows[-1][0]))
    learnt = weights_of(
        fit(
            [
                Observation(start / US_PER_S, length / US_PER_S, prefill, decode, context, uj)
                for _, start, length, prefill, decode, context, uj in reversed(rows)
            ]
        )
    )
    if learnt is None:  # the last ones are of another load: what is not known now is declared
        db.db.execute("UPDATE energy_weights SET source = '' WHERE pool = ?", (pool,))
        return
    db.db.execute(
        "UPDATE energy_weights SET prefill = ?, decode = ?, context = ?, cached = ?, source = ? "
        "WHERE pool = ?",
        (*(str(weight) for weight in learnt[:4]), learnt.source, pool),
    )
