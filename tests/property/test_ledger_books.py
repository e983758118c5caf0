"""The books balance and count once, after any history, with a crash between any two steps."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from wattmill.ledger.attribution import Weights, Work, split
from wattmill.ledger.book import COMMODITIES, imbalance, window_postings
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.epoch import Who
from wattmill.ledger.in_doubt import RULES, divide, settle
from wattmill.ledger.settling import settle_held
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_schema import MEASURES
from wattmill.ledger.stores.sqlite_tiers import tier_sums, tiers_of
from wattmill.ledger.tail import Found, Position
from wattmill.vocab.fact import End, EngineAbort, EngineCount, Intent, MeterWindow, Progress, Refused
from wattmill.vocab.price import Price
from wattmill.vocab.request import Terms
from wattmill.vocab.shares import largest_remainder
from wattmill.vocab.usage import Usage

EPOCHS = ("00000000000a", "00000000000b")
PRICE = {
    id: Price(id=id, book="b", model="m", rates_nusd_per_mtok=(10**8,) * 4 + (10**9,) * 3, request_nusd=id)
    for id in (1, 2)
}
INTENT = Intent(
    0, 0, 0, 0, (1, 2, 3), "edge", "m", "chat", True, 500, 500, 900_000, 1, 2, reserved_cost_nusd=900_000,
    terms=Terms(tier="high", promise_ttft_s=0.02, promise_tok_per_s=1_000.0), queued_us=5,
)  # fmt: skip

usages = st.builds(
    lambda a, b, c, d: Usage(a + b, c + d, cached_tok=b, reasoning_tok=d),
    *[st.integers(0, 300) for _ in range(4)],
)
operations = st.one_of(
    st.tuples(st.just("intent"), st.sampled_from(["edge", "local"]), st.integers(3, 5)),
    st.tuples(st.just("retry"), st.sampled_from(["edge", "local"]), st.integers(3, 5)),
    st.tuples(st.just("end"), st.sampled_from(["finished", "aborted", "failed", "cut"]), usages),
    st.tuples(st.just("progress"), st.integers(0, 50), st.none()),
    st.tuples(st.just("die"), st.none(), st.none()),
    st.tuples(st.just("late"), st.just("finished"), usages),
    st.tuples(st.just("abort"), st.none(), usages),
    st.tuples(st.just("window"), st.integers(0, 10**7), st.integers(0, 10**7)),
    st.tuples(st.just("count"), st.integers(0, 500), st.integers(0, 500)),
    st.tuples(st.just("settle"), st.sampled_from([r for r in RULES if r != "engine"]), st.none()),
    st.tuples(st.just("refuse"), st.none(), st.none()),
    st.tuples(st.just("crash"), st.none(), st.none()),
    st.tuples(st.just("commit"), st.none(), st.none()),
)


class History:
    """Facts as a factory would write them, booked step by step, with crashes of the ledger process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.books = Bookkeeper(LedgerDb(self.path), lambda: PRICE)
        self.now = 10_000_000
        self.written: dict[str, list[Found]] = {}
        self.running: list[tuple[str, int]] = []
        self.lost: list[tuple[str, int]] = []
        self.epoch = EPOCHS[0]
        self.seq = 0
        self.counted = [0, 0]
        self.begin(EPOCHS[0])

    def begin(self, epoch: str) -> None:
        self.epoch = epoch
        self.written[epoch] = []

    def write(self, fact: object, epoch: str | None = None) -> None:
        facts = self.written[epoch or self.epoch]
        facts.append(Found(fact, 1, len(facts)))  # type: ignore[arg-type]

    def book(self, commit: bool) -> None:
        for name, facts in self.written.items():
            state = self.books.enter(name, Who("gateway", 0, 1, 5_000_000))
            done = state.position.offset
            self.books.book(name, facts[done:], Position(1, len(facts)))
            if name != self.epoch:
                self.books.bury(name, self.now)
        if commit:
            self.books.commit()
            settle_held(self.books, read_until_us=self.now)
            self.books.commit()

    def crash(self) -> None:
        self.books.db.close()
        self.books = Bookkeeper(LedgerDb(self.path), lambda: PRICE)

    def play(self, op: tuple[str, object, object]) -> None:
        kind, a, b = op
        self.now += 50_000
        if kind in ("intent", "retry"):
            self.seq += 1
            retry = kind == "retry" and self.seq > 1
            self.write(
                replace(
                    INTENT, seq=self.seq, request=self.seq - retry, attempt=int(retry), at_us=self.now,
                    pool=a,
                    path=(1, 2, b),
                )
            )  # fmt: skip
            self.running.append((self.epoch, self.seq))
        elif kind == "end" and self.running:
            epoch, seq = self.running.pop(0)
            self.write(self.end(seq, a, b), epoch)
        elif kind == "progress" and self.running:
            self.write(Progress(self.running[-1][1], self.now, a))  # type: ignore[arg-type]
        elif kind == "die" and self.epoch == EPOCHS[0]:
            self.lost, self.running = self.running, []
            self.begin(EPOCHS[1])
        elif kind == "late" and self.lost:
            self.book(True)
            epoch, seq = self.lost.pop()
            self.write(self.end(seq, a, b), epoch)
        elif kind == "abort" and self.lost:
            self.write(EngineAbort(self.lost[0][1], EPOCHS[0], self.now, b))  # type: ignore[arg-type]
        elif kind == "window":
            assert isinstance(a, int) and isinstance(b, int)
            shares = {"edge": a, "local": b}
            self.write(
                MeterWindow(
                    "host", self.now - 100_000, self.now, 7 + a + b + 11, 7, shares, 11, "modelled", "test"
                )
            )
        elif kind == "count":
            self.counted = [self.counted[0] + a, self.counted[1] + b]  # type: ignore[operator]
            self.write(EngineCount("edge", "one", self.now, *self.counted, True))
        elif kind == "settle":
            self.book(True)
            for attempt, start in self.books.doubts()[:1]:
                how = settle(start, a, charge=PRICE[2], cost=PRICE[1])  # type: ignore[arg-type]
                self.books.settle(attempt, how, at_us=self.now)
            self.books.commit()
        elif kind == "refuse":
            self.seq += 1
            self.write(Refused(self.seq, self.now, (1, 2, 3), "chat", "m", "budget_exceeded", "no"))
        elif kind == "crash":
            self.book(False)
            self.crash()
        elif kind == "commit":
            self.book(True)

    def end(self, seq: int, status: object, usage: object) -> End:
        assert isinstance(usage, Usage)
        source = "measured" if status != "aborted" else "estimated"
        charge = 0 if status == "failed" else 1000 + usage.output_tok
        return End(
            seq, self.now, status, usage, source, 500 + usage.prompt_tok, charge,
            overrun_nusd=usage.output_tok % 7,  # type: ignore[arg-type]
            ttft_us=10_000, duration_us=40_000, started_us=self.now - 39_000,
        )  # fmt: skip


def check(books: Books) -> None:
    sums = dict.fromkeys(COMMODITIES, 0)
    for (commodity, _), balance in books.balances().items():
        sums[commodity] += balance
    assert not any(sums.values()), sums
    unbalanced = books.db.execute(
        "SELECT p.id >> 6, commodity, sum(amount) FROM posting p JOIN account a ON a.id = p.account "
        "GROUP BY 1, 2 HAVING sum(amount) <> 0"
    ).fetchall()
    assert unbalanced == []
    wrong = books.db.execute(
        "SELECT name, balance FROM account a WHERE balance <> "
        "(SELECT ifnull(sum(amount), 0) FROM posting WHERE account = a.id)"
    ).fetchall()
    assert wrong == []
    for name in MEASURES:
        minute, hour = (
            books.db.execute(f"SELECT ifnull(sum({name}), 0) FROM rollup_{step}").fetchone()[0]
            for step in ("minute", "hour")
        )
        assert minute == hour, name
    node = books.by_node()
    total = books.overview().sums
    assert total.charge_nusd == sum(n.charge_nusd for n in node.values())
    assert total.energy_uj == sum(n.energy_uj for n in node.values())
    assert total.input_tok + total.output_tok == sum(sum(n.tokens.values()) for n in node.values())
    rows = books.recent(10**6)
    assert sum(r.charge_nusd for r in rows) == total.charge_nusd
    assert sum(r.cost_nusd for r in rows) == total.cost_nusd
    tokens = sum(r.prefill_tok + r.cached_tok + r.output_tok for r in rows)
    assert tokens == total.input_tok + total.output_tok
    energy = books.energy()
    assert sum(r.energy_uj or 0 for r in rows) == energy.requests_uj
    tiers = {r.id for r in rows} - set(tiers_of(books.db, [r.id for r in rows]))
    assert not tiers
    for tier in tier_sums(books.db, 0):  # all of them have the same one
        assert (tier.requests, tier.charge_nusd, tier.cost_nusd, tier.output_tok) == (
            total.requests, total.charge_nusd, total.cost_nusd, total.output_tok,
        )  # fmt: skip
        assert tier.kept + tier.left <= len(rows) and tier.ttft_kept <= tier.ttft_n <= len(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(operations, max_size=40))
def test_the_books_balance_after_any_history(ops: list[tuple[str, object, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        for op in ops:
            history.play(op)
        history.book(True)
        with Books(history.path) as books:
            check(books)
            ended = [
                f.fact.seq for facts in history.written.values() for f in facts if isinstance(f.fact, End)
            ]
            rows = books.recent(10**6)
            assert len({(r.epoch, r.seq) for r in rows}) == len(rows)
            assert {r.seq for r in rows} >= set(ended)
        history.books.db.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(operations.filter(lambda op: op[0] != "settle"), max_size=30))
def test_books_with_crashes_say_what_books_without_say(ops: list[tuple[str, object, object]]) -> None:
    results = []
    for crashing in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            history = History(Path(folder))
            for op in ops:
                if op[0] == "crash":
                    continue
                history.play(op)
                if crashing:
                    history.book(False)
                    history.crash()
            history.book(True)
            with Books(history.path) as books:
                results.append(books.balances())
            history.books.db.close()
    assert results[0] == results[1]


works = st.builds(
    lambda id, pool, start, first, rest, prefill, decode: Work(
        id, 1, pool, "m", start, None if first is None else start + first, start + (first or 0) + rest,
        prefill, decode
    ),
    st.integers(1, 1000), st.sampled_from(["edge", "local", "else"]), st.integers(0, 2_000_000),
    st.one_of(st.none(), st.integers(0, 500_000)), st.integers(0, 500_000), st.integers(0, 2000),
    st.integers(0, 2000),
)  # fmt: skip


@given(
    st.lists(works, max_size=20, unique_by=lambda w: w.id),
    st.integers(0, 10**9),
    st.dictionaries(st.sampled_from(["edge", "local", "edge|local"]), st.integers(0, 10**9)),
    st.tuples(*[st.integers(0, 10**9)] * 4),
    st.one_of(st.none(), st.integers(0, 2 * 10**9)),
    st.sampled_from([{}, {"edge": Weights(3, 11, 0, 1, "x")}]),
)
def test_every_microjoule_of_a_window_has_exactly_one_account(
    items: list[Work],
    idle: int,
    shares: dict[str, int],
    rest: tuple[int, int, int, int],
    carbon: int | None,
    weights: dict[str, Weights],
) -> None:
    other, service, foreign, overhead = rest
    total = idle + sum(shares.values()) + sum(rest)
    window = MeterWindow(
        "host", 500_000, 1_500_000, total, idle, shares, other, "modelled", "test",
        service, foreign, overhead,
        carbon_ug_per_kwh=carbon,
    )  # fmt: skip
    parts = split(window, items, weights=weights)
    of_nobody = parts.unattributed_uj + parts.service_uj + foreign + overhead
    assert sum(parts.by_work.values()) + idle + of_nobody == total
    assert parts.unattributed_uj >= other and all(uj >= 0 for uj in parts.by_work.values())
    assert all(0 <= uj <= parts.by_work[id] for id, uj in parts.host.items())
    assert sum(parts.host.values()) + parts.service_uj == service
    in_flight = {w.id for w in items if w.start_us < window.end_us and w.end_us >= window.start_us}
    assert set(parts.by_work) <= in_flight
    by_key = {key: sum(uj for id, uj in parts.by_work.items() if id % 90 == key) for key in range(90)}
    sums: dict[str, int] = {}
    for lines in window_postings(window, by_key, parts):
        assert not imbalance(lines) and len(lines) <= 64
        for commodity, account, amount in lines:
            if not account.startswith(("meter:", "grid:")):
                sums[commodity] = sums.get(commodity, 0) + amount
    assert sums.get("uj", 0) == total
    assert sums.get("ug", 0) == round(Fraction(total * (carbon or 0), 3_600_000 * 10**6))


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), min_size=1).filter(any))
def test_the_largest_remainder_splits_exactly(total: int, weights: list[int]) -> None:
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    assert all(
        abs(part * sum(weights) - total * weight) < sum(weights)
        for part, weight in zip(parts, weights, strict=True)
    )


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100)), min_size=1, max_size=5),
    st.integers(0, 9999),
    st.integers(0, 9999),
)
def test_an_engines_count_is_divided_over_attempts_in_doubt_to_the_token(
    seen: list[tuple[int, int]], prompt: int, output: int
) -> None:
    from wattmill.ledger.book import opened

    starts = [replace(opened(INTENT), output_clamp_tok=c, progress_tok=min(p, c)) for c, p in seen]
    usages = divide(starts, prompt, output)
    assert sum(u.prompt_tok for u in usages) == prompt and sum(u.output_tok for u in usages) == output
    if output >= sum(s.progress_tok for s in starts):
        assert all(u.output_tok >= s.progress_tok for u, s in zip(usages, starts, strict=True))
