"""One attempt as rows beside its postings: itself, its minute and hour, its tier, its place among retries."""

from __future__ import annotations

from wattmill.ledger.attribution import Work
from wattmill.ledger.book import Opened, decode_opened
from wattmill.ledger.epoch_state import EpochState
from wattmill.ledger.promise import kept
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.stores.sqlite_schema import NO_GOOD_END, SOURCES, STATUSES
from wattmill.units import US_PER_S
from wattmill.vocab.fact import End

STATUS = {name: i for i, name in enumerate(STATUSES)}
SOURCE = {name: i for i, name in enumerate(SOURCES)}
MINUTE_US = 60 * US_PER_S
_NOTHING = (0,) * 7


def insert_attempt(
    db: LedgerDb, epoch: EpochState, start: Opened, end: End, tx: int, status: str | None = None
) -> Work:
    """Gather the rows of an attempt that ended (or is in doubt), and return what attribution needs of it."""
    name = db.name
    pool, model = name(start.pool), name(start.model)
    shape = db.shape(
        pool,
        model,
        name(start.endpoint),
        int(start.stream),
        name(start.privacy),
        start.cost_price,
        start.charge_price,
    )
    usage = end.usage
    classes = _NOTHING if usage is None else usage.by_class()
    cached = classes[1]
    prefill = 0 if usage is None else usage.prompt_tok - cached
    output = 0 if usage is None else usage.output_tok
    arrived = end.at_us - end.duration_us
    started = end.started_us or start.at_us
    key = start.key
    what = status or end.status
    db.attempt(
        (
            tx, epoch.id, start.seq, start.seq - start.request, start.attempt, key, shape, STATUS[what],
            SOURCE[end.usage_source], end.at_us - epoch.start_us, end.duration_us, started - arrived,
            end.ttft_us,
            prefill, cached, output, end.charge_nusd, end.cost_nusd, end.overrun_nusd,
            None if end.error is None else name(end.error),
        )
    )  # fmt: skip
    if start.attempt:
        db.begin()
        db.db.execute("INSERT INTO retry VALUES (?,?,?)", (epoch.id, start.request, start.seq))
    ttft = end.ttft_us
    db.bucket(
        end.at_us, key, pool, model,
        (
            int(start.attempt == 0), 1, int(what in NO_GOOD_END), int(what == "aborted"), *classes,
            end.charge_nusd, end.cost_nusd, end.overrun_nusd, 0, ttft or 0, int(ttft is not None),
            end.duration_us,
        ),
    )  # fmt: skip
    if start.tier:
        _tier(db, tx, start, end)
    first = None if ttft is None else arrived + ttft
    return Work(tx, key, start.pool, start.model, started, first, end.at_us, prefill, output, cached)


def _tier(db: LedgerDb, attempt: int, start: Opened, end: End) -> None:
    found = kept(start, end)
    tier = db.name(start.tier)
    first = int(start.attempt == 0)
    db.tiers.attempt(attempt, tier, start.queued_us)
    db.tiers.add(
        end.at_us,
        tier,
        (
            ("requests", first),
            ("kept", int(found.whole is True)),
            ("left", int(found.whole is None)),
            ("ttft_n", int(found.ttft is not None)),
            ("ttft_kept", int(found.ttft is True)),
            ("speed_n", int(found.speed is not None)),
            ("speed_kept", int(found.speed is True)),
            ("queued_n", int(bool(first and start.queued_us))),
            ("queued_us", first * start.queued_us),
            ("output_tok", 0 if end.usage is None else end.usage.output_tok),
            ("charge_nusd", end.charge_nusd),
            ("cost_nusd", end.cost_nusd),
        ),
    )


def recent_works(db: LedgerDb, since_us: int | None) -> list[Work]:
    """Return what attribution needs of the attempts that ended since `since_us`, the oldest first; with None
    those of a minute before the last: their window may still come."""
    works = []
    unseen = {
        id: decode_opened(body)
        for id, body in db.db.execute("SELECT attempt, body FROM doubt WHERE state IN ('open', 'uncounted')")
    }
    for id, key, pool, model, ended, duration, lead, ttft, prefill, output, cached in db.db.execute(
        "SELECT attempt.id, key, p.text, m.text, start_us + ended_us, duration_us, lead_us, "
        "ttft_us, prefill_tok, "
        "output_tok, cached_tok FROM attempt JOIN epoch ON epoch.id = attempt.epoch "
        "JOIN shape ON shape.id = shape JOIN name p ON p.id = pool JOIN name m ON m.id = model "
        "ORDER BY attempt.id DESC"
    ):
        if since_us is None:
            since_us = ended - MINUTE_US
        if ended < since_us:
            break
        arrived = ended - duration
        first = None if ttft is None else arrived + ttft
        work = Work(id, key, pool, model, arrived + lead, first, ended, prefill, output, cached)
        works.append(likely(work, unseen[id]) if id in unseen else work)
    return works[::-1]


def likely(work: Work, start: Opened) -> Work:
    """Return the work of an attempt whose tokens nobody counted: what was seen of it, and the prompt."""
    return work._replace(prefill_tok=start.input_bound_tok, decode_tok=start.progress_tok)
