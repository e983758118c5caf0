"""Whether a promise was kept, and what the books, `explain` and the board say of it."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from wattmill.app.declared.tier_settings import TierSettings, tier_plans
from wattmill.app.seeing.health import health
from wattmill.app.seeing.readings import BookReading, Readings, Window
from wattmill.app.seeing.tier_figures import tier_views
from wattmill.ledger.book import Opened, opened
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.epoch import Who
from wattmill.ledger.frame import decoder, encoder
from wattmill.ledger.promise import Kept, kept
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_tiers import TierSums, tier_sums, tiers_of
from wattmill.ledger.tail import Found, Position
from wattmill.vocab.fact import End, Intent, Refused
from wattmill.vocab.request import Terms
from wattmill.vocab.usage import Usage

EPOCH = "00000000000a"


def intent(seq: int = 1, *, stream: bool = True, attempt: int = 0, **terms: object) -> Intent:
    wanted = {"tier": "premium", "promise_ttft_s": 1.0, "promise_tok_per_s": 20.0} | terms
    return Intent(
        seq, seq - attempt, attempt, seq * 1_000_000, (1, 2, 3), "edge", "m", "chat", stream, 100, 200,
        900_000, 1, 2, reserved_cost_nusd=900_000, terms=Terms(**wanted), queued_us=250_000,  # type: ignore[arg-type]
    )  # fmt: skip


def end(
    seq: int = 1, status: str = "finished", *, ttft: float | None = 0.5, total: float = 1.5, out: int = 40
) -> End:
    ttft_us = None if ttft is None else int(ttft * 1e6)
    return End(
        seq, seq * 1_000_000 + 2_000_000, status, Usage(50, out), "measured", 100, 300,  # type: ignore[arg-type]
        ttft_us=ttft_us, duration_us=int(total * 1e6),
    )  # fmt: skip


def of(start: Intent) -> Opened:
    return opened(start)


@pytest.mark.parametrize(
    ("start", "how", "verdict"),
    [
        (intent(), end(), Kept(True, True, True)),
        (intent(), end(ttft=1.2), Kept(False, True, False)),
        (intent(), end(total=3.0), Kept(True, False, False)),  # 39 tokens in 2.5 s are too few
        (intent(), end(total=3.0, out=5), Kept(True, None, True)),  # too short an answer to judge its speed
        (intent(), end(status="failed"), Kept(None, None, False)),
        (intent(), end(status="cut"), Kept(None, None, False)),
        (intent(), end(status="aborted"), Kept(True, True, True)),
        (intent(), end(status="aborted", ttft=None, total=0.4), Kept(None, None, None)),  # left too early
        (intent(), end(status="aborted", ttft=None, total=4.0), Kept(False, None, False)),  # and rightly so
        (intent(stream=False), end(total=2.9), Kept(True, None, True)),  # 1 s and 40 tokens at 20 a second
        (intent(stream=False), end(total=3.1), Kept(False, None, False)),
        (intent(promise_ttft_s=None, promise_tok_per_s=None), end(total=99.0), Kept(None, None, True)),
    ],
)
def test_an_attempt_is_judged_by_the_promise_that_its_intent_recorded(
    start: Intent, how: End, verdict: Kept
) -> None:
    assert kept(of(start), how) == verdict


def book(path: Path, *facts: object) -> None:
    books = Bookkeeper(LedgerDb(path))
    books.enter(EPOCH, Who("gateway", 0, 0, 0))  # type: ignore[call-arg]
    found = [Found(fact, 1, n) for n, fact in enumerate(facts)]  # type: ignore[arg-type]
    books.book(EPOCH, found, Position(1, len(found)))
    books.commit()
    books.db.close()


def test_the_books_count_what_was_asked_kept_and_refused_and_a_retry_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    no = Refused(9, 9_000_000, (1, 2, 3), "chat", "m", "overloaded", "full", tier="premium", queued_us=5)
    other_no = Refused(10, 9_000_000, (1, 2, 3), "chat", "m", "budget_exceeded", "poor", tier="premium")
    book(
        path,
        intent(1), end(1),
        intent(2), end(2, ttft=3.0, total=5.0),
        intent(3), end(3, "failed"), intent(4, attempt=1), end(4),
        no, other_no,
    )  # fmt: skip
    with Books(path) as books:
        (sums,) = tier_sums(books.db, 0)
        assert (sums.requests, sums.kept, sums.refused, sums.offered) == (3, 2, 1, 4)
        assert sums.kept_share == 0.5
        assert (sums.ttft_n, sums.ttft_kept, sums.speed_n, sums.speed_kept) == (3, 2, 3, 2)
        assert (sums.charge_nusd, sums.cost_nusd) == (4 * 300, 4 * 100)
        assert sums.queued_n == 4 and sums.queued_us == 3 * 250_000 + 5
        rows = books.recent(10)
        assert set(tiers_of(books.db, [row.id for row in rows]).values()) == {("premium", 250_000)}


def test_books_from_before_tiers_have_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    db = LedgerDb(path)
    db.db.executescript("DROP TABLE rollup_tier; DROP TABLE attempt_tier;")
    db.close()
    with Books(path) as books:
        assert tier_sums(books.db, 0) == [] and tiers_of(books.db, [1]) == {}
    LedgerDb(path).close()  # a writer makes them
    with Books(path) as books:
        assert books.db.execute("SELECT count(*) FROM rollup_tier").fetchone() == (0,)


def test_the_board_tells_declared_tiers_the_highest_first_and_those_that_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    book(path, intent(1), end(1), intent(2, tier="gone"), end(2))
    plans = tier_plans({"free": TierSettings(), "premium": TierSettings(ttft_s=1.5)})
    with Books(path) as books:
        views = tier_views(plans, tier_sums(books.db, 0), {"free": 7})
    assert [view.name for view in views] == ["premium", "free", "gone"]
    premium, free, gone = views
    assert premium.price == "$45 /Mtok" and premium.promise == "first token 1.5 s, 40 tok/s"
    assert premium.kept.value == 1.0 and premium.margin.value == 200
    assert free.kept.value is None and free.waiting.value == 7 and free.promise == "nothing"
    assert gone.price == "not declared any more" and gone.offered.value == 1


def test_a_tier_that_keeps_too_little_is_named_the_highest_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    facts: list[object] = []
    for n in range(1, 61):
        tier = ("free", "high", "premium")[n % 3]
        late = 0.5 if tier == "premium" or n > 12 else 9.0
        facts += [intent(n, tier=tier), end(n, ttft=late if tier != "free" else 9.0, total=late + 9.0, out=5)]
    book(path, *facts)
    plans = tier_plans({"free": TierSettings(), "high": TierSettings(), "premium": TierSettings()})
    with Books(path) as books:
        r = Readings(
            now_us=0, running=True, state=None, workers=[], nodes={}, budgets=[],
            books=empty_books(tiers=tier_sums(books.db, 0)), tiers=plans,
        )  # fmt: skip
    told = health(r)
    # Free keeps nothing either, and promises nothing.
    assert told.mood == "watch" and told.sentence == "Tier high kept 80 % of its promises in the last hour."


def empty_books(*, tiers: list[TierSums]) -> BookReading:
    nothing = Window(seconds=10.0, cells=[])
    return BookReading(
        difference={}, in_doubt=0, unmetered=0, overrun_nusd=0, lag_s=0.0, last_10s=nothing, last_60s=nothing,
        hour=[], today=[], meter_60s=None, meter_hour=None, energy_today_uj={}, ttft={}, refusals_today={},
        recent=[], tiers=tiers,
    )  # fmt: skip


FROZEN_INTENT = (
    "3AAcAQEBAM4AD0JAkwECA6RlZGdloW2kY2hhdMNkzMjOAA27oAECwMDAqGludGVybmFszgANu6ABkMKYwMCncHJlbWl1bcs/"
    "8AAAAAAAAMtANAAAAAAAAMDCw84AA9CQAJCQ"
)
FROZEN_REFUSED = "ngQJzgCJVECTAQIDpGNoYXShbapvdmVybG9hZGVkpGZ1bGzAxADAp3ByZW1pdW0FAA=="


def test_facts_of_a_tier_are_read_for_ever() -> None:
    """Written once by the version that introduced them; never made again."""
    old = decoder.decode(base64.b64decode(FROZEN_INTENT))
    assert isinstance(old, Intent) and old.queued_us == 250_000
    assert old.terms is not None and old.terms.tier == "premium" and old.terms.promise_tok_per_s == 20.0
    no = decoder.decode(base64.b64decode(FROZEN_REFUSED))
    assert isinstance(no, Refused) and (no.tier, no.queued_us) == ("premium", 5)


def test_what_is_written_today_is_read_today() -> None:
    for fact in (intent(), Refused(1, 2, (3,), "chat", "m", "overloaded", "x", tier="free", queued_us=9)):
        assert decoder.decode(encoder.encode(fact)) == fact
    assert msgspec.structs.replace(intent(), queued_us=0).queued_us == 0
