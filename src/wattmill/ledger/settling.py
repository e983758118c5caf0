"""What can only be booked when all attempts of its time are known: joules of a window, counts of an engine.

Both wait until every attempt that could have a part in them has ended or is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.ledger.attempt_rows import MINUTE_US, recent_works
from wattmill.ledger.attribution import DECLARED, Weights, Work, split
from wattmill.ledger.book import TOKENS, unmetered_postings, window_postings
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.energy_lessons import learn, weights_in_force
from wattmill.ledger.in_doubt import divide, settle
from wattmill.ledger.stores.sqlite_schema import SOURCES
from wattmill.vocab.fact import EngineCount, MeterWindow
from wattmill.vocab.usage import TOKEN_CLASSES, Usage

KEEP_US = 15_000_000
"""Attempts are remembered this long after their end: a meter's window arrives within that time."""

ARRIVAL_US = 100_000
"""An engine at rest says nothing of an attempt that left less than this before: it may not be there yet."""

READ_US = 600_000
"""A count is stamped before the engine is asked, and the answer may take this long."""

_RECENT = 10_000
"""So many attempts are looked through for estimates, at most."""

_PROMPT = [
    commodity for commodity, name in zip(TOKENS[:4], TOKEN_CLASSES[:4], strict=True) if name != "cached_input"
]
_OUTPUT = TOKENS[4:]


def settle_held(books: Bookkeeper, *, read_until_us: int) -> int:
    """Book the windows and counts that are ripe; return how many.

    Args:
        books: the books.
        read_until_us: every fact of every journal up to this instant has been booked.
    """
    done = 0
    for id, fact in sorted(books.held, key=lambda item: _at(item[1])):
        at_us = _at(fact)
        counts = isinstance(fact, EngineCount)
        if at_us + READ_US * counts > read_until_us:
            continue
        pool = fact.pool if isinstance(fact, EngineCount) else None
        if any(start.at_us < at_us and pool in (None, start.pool) for start in books.open.values()):
            continue
        if isinstance(fact, MeterWindow):
            _book_window(books, fact)
        else:
            _book_count(books, fact)
        books.db.begin()
        books.db.db.execute("DELETE FROM held WHERE id = ?", (id,))
        books.held = [item for item in books.held if item[0] != id]
        done += 1
    waiting = [fact.start_us if isinstance(fact, MeterWindow) else fact.at_us for _, fact in books.held]
    oldest = min([read_until_us - KEEP_US, *waiting])
    if books.works and books.works[0].end_us < oldest:
        books.works = [work for work in books.works if work.end_us >= oldest]
    return done


def _at(fact: MeterWindow | EngineCount) -> int:
    return fact.end_us if isinstance(fact, MeterWindow) else fact.at_us


def _book_window(books: Bookkeeper, window: MeterWindow) -> None:
    db = books.db
    works = {work.id: work for work in books.works}
    weights = weights_in_force(db)
    parts = split(window, books.works, weights=weights)
    learn(db, window, books.works)
    by_key: dict[int, int] = {}
    for id, uj in parts.by_work.items():
        if uj:
            work = works[id]
            by_key[work.key] = by_key.get(work.key, 0) + uj
            db.energy(id, uj, parts.host.get(id, 0))
            db.roll_up(work.end_us, work.key, db.name(work.pool), db.name(work.model), energy_uj=uj)
    postings = window_postings(window, by_key, parts)
    txs = [db.post(lines) for lines in postings] or [db.post([])]
    carbon_ug = -sum(line.amount for lines in postings for line in lines if line.account.startswith("grid:"))
    of_nobody = parts.unattributed_uj + parts.service_uj + window.foreign_uj + window.overhead_uj
    db.begin()
    db.db.execute(
        "INSERT INTO meter_window VALUES (?,?,?,?,?,?,?,?,?)",
        (
            txs[0], db.name(window.meter), window.start_us, window.end_us - window.start_us, window.total_uj,
            window.idle_uj, of_nobody, db.name(window.provenance), db.name(window.source),
        ),
    )  # fmt: skip
    db.db.execute(
        "INSERT INTO meter_more VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            txs[0], txs[-1], parts.service_uj, window.foreign_uj, window.overhead_uj,
            sum(parts.host.values()), db.name(window.parent), window.resolution_uj, db.name(window.event),
            db.name(_said_of(window, weights)), None if window.carbon_ug_per_kwh is None else carbon_ug,
            db.name(window.carbon_source),
        ),
    )  # fmt: skip


def _said_of(window: MeterWindow, weights: Mapping[str, Weights]) -> str:
    """Return by which weights a window was split."""
    learnt = [f"{pool}: {weights[pool].ratios}" for pool in window.shares_uj if pool in weights]
    return "; ".join(learnt) or DECLARED.source


def _book_count(books: Bookkeeper, count: EngineCount) -> None:
    """Hold an engine's counters against the books, when it says that it rests and nothing was on its way:
    then it has counted every attempt that left before, whenever its client saw the end.

    What the engine counted and no attempt shows settles attempts in doubt, or becomes unmetered.
    """
    at_us, pool, db = count.at_us, count.pool, books.db
    if not count.idle:
        return
    begins = not count.prompt_tok and not count.output_tok
    near = range(at_us - ARRIVAL_US, at_us + READ_US)
    starts = [start.at_us for start in books.open.values() if start.pool == pool]
    starts += [work.start_us for work in books.works if work.pool == pool]
    if any(start_us in near for start_us in starts) and not begins:
        return
    lost = [(id, start) for id, start in books.doubts(pool) if start.at_us <= at_us]
    # A counter at zero has seen nothing, whatever was on its way.
    booked = _booked(books, pool, at_us - ARRIVAL_US * begins)
    db.flush()
    row = db.db.execute(
        "SELECT first_us, at_us, base_prompt_tok, base_output_tok FROM engine_count "
        "WHERE pool = ? AND instance = ?",
        (pool, count.instance),
    ).fetchone()
    if row is None:
        first_us, last_us, *base = at_us, at_us, *_base(books, count, booked)
    else:
        first_us, last_us, *base = row
    prompt = count.prompt_tok - (booked[0] - base[0])
    output = count.output_tok - (booked[1] - base[1])
    doubts = [(id, start) for id, start in lost if start.at_us >= first_us]
    prices = books.prices()
    doubts = [
        (id, start) for id, start in doubts if start.charge_price in prices and start.cost_price in prices
    ]
    if doubts and prompt >= 0 and output >= 0:
        for (id, start), usage in zip(doubts, divide([s for _, s in doubts], prompt, output), strict=True):
            counted: Usage = usage
            settlement = settle(
                start,
                "engine",
                charge=prices[start.charge_price],
                cost=prices[start.cost_price],
                counted=counted,
            )
            if len(doubts) > 1:
                settlement = settlement._replace(source="estimated")
            books.settle(id, settlement, at_us=at_us)
    elif prompt or output:
        tx = db.post(unmetered_postings(pool, prompt, output))
        name = f"engine {pool}/{count.instance}"
        text = f"{name} counted {prompt} prompt and {output} output tokens beyond the attempts"
        db.note(tx, at_us, "unmetered", text)
        if prompt >= 0 and output >= 0:
            db.alarm(at_us, "unmetered", text)
        elif not _was_estimated(books, pool, last_us, -prompt, -output):
            # Less than the books say was never made: something stands in them twice, or was told too high.
            db.alarm(at_us, "overbooked", text)
    db.begin()
    db.db.execute(
        "INSERT OR REPLACE INTO engine_count VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            pool, count.instance, first_us, at_us, count.prompt_tok, count.output_tok, *base,
            base[0] + count.prompt_tok, base[1] + count.output_tok,
        ),
    )  # fmt: skip


def _was_estimated(books: Bookkeeper, pool: str, since_us: int, prompt_tok: int, output_tok: int) -> bool:
    """Whether so many tokens may be what estimates of attempts that ended since an instant were too high by:
    of a client that left at once, nobody knows how long its prompt was."""
    found = books.db.db.execute(
        "SELECT ifnull(sum(prefill_tok), 0), ifnull(sum(output_tok), 0) "
        "FROM (SELECT * FROM attempt ORDER BY id DESC LIMIT ?) a JOIN epoch e ON e.id = a.epoch "
        "JOIN shape s ON s.id = a.shape JOIN name n ON n.id = s.pool "
        "WHERE n.text = ? AND a.source = ? AND e.start_us + a.ended_us >= ?",
        (_RECENT, pool, SOURCES.index("estimated"), since_us),
    ).fetchone()
    return bool(prompt_tok <= found[0] and output_tok <= found[1])


def _booked(books: Bookkeeper, pool: str, at_us: int) -> tuple[int, int]:
    """Return (computed prompt, output) tokens that the books took from a pool up to an instant."""
    account = f"engine:{pool}"
    prompt = -sum(books.db.balance(commodity, account) for commodity in _PROMPT)
    output = -sum(books.db.balance(commodity, account) for commodity in _OUTPUT)
    later: list[Work] = [work for work in books.works if work.pool == pool and work.start_us > at_us]
    doubts = {id for id, _ in books.doubts(pool)}  # their tokens are not in the books yet
    return (
        prompt - sum(work.prefill_tok for work in later if work.id not in doubts),
        output - sum(work.decode_tok for work in later if work.id not in doubts),
    )


def _base(books: Bookkeeper, count: EngineCount, booked: tuple[int, int]) -> tuple[int, int]:
    """Return what the books had of the pool when this engine's counters stood at zero."""
    if not count.prompt_tok and not count.output_tok:
        return booked
    if count.since_us:
        return _booked_before(books, count.pool, count.since_us)
    row = books.db.db.execute(
        "SELECT booked_prompt_tok, booked_output_tok FROM engine_count WHERE pool = ? ORDER BY at_us "
        "DESC LIMIT 1",
        (count.pool,),
    ).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _booked_before(books: Bookkeeper, pool: str, since_us: int) -> tuple[int, int]:
    """Return (computed prompt, output) tokens in the books of attempts that left before an engine's life
    began: what its forerunner made after its own last reading is among them, and no counter saw it."""
    doubts = {id for id, _ in books.doubts(pool)}
    account = f"engine:{pool}"
    prompt = -sum(books.db.balance(commodity, account) for commodity in _PROMPT)
    output = -sum(books.db.balance(commodity, account) for commodity in _OUTPUT)
    for work in recent_works(books.db, since_us - MINUTE_US):
        if work.pool == pool and work.start_us >= since_us and work.id not in doubts:
            prompt, output = prompt - work.prefill_tok, output - work.decode_tok
    return prompt, output
