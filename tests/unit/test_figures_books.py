"""What the board reads of the books: windows that end when they say, quantiles, faults that are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from board_factory import BoardFactory
from wattmill.app.seeing import book_reading
from wattmill.app.seeing.book_reading import read_books, times, windows
from wattmill.app.seeing.figures import figures
from wattmill.app.seeing.readings import Window
from wattmill.ledger.stores.sqlite_read import AttemptRow, Books


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardFactory]:
    made = BoardFactory(tmp_path_factory.mktemp("books"))
    yield made
    made.close()


def sums(window: Window) -> tuple[int, int, int]:
    cells = window.cells
    return (
        sum(c.attempts for c in cells),
        sum(c.prompt_tok + c.output_tok for c in cells),
        sum(c.charge_nusd for c in cells),
    )


def ended_in(rows: list[AttemptRow], now_us: int, seconds: int) -> tuple[int, int, int]:
    mine = [r for r in rows if now_us - seconds * 1_000_000 < r.ended_us <= now_us]
    tokens = sum(r.prefill_tok + r.cached_tok + r.output_tok for r in mine)
    return len(mine), tokens, sum(r.charge_nusd for r in mine)


def test_a_window_holds_what_ended_in_it_and_nothing_else(factory: BoardFactory) -> None:
    with Books(factory.home.ledger_db) as books:
        rows = books.recent(10_000)
        for back_s in (0, 3, 17, 60, 400):
            now_us = factory.now_us - back_s * 1_000_000
            ten, sixty = windows(books.db, now_us)
            assert sums(ten) == ended_in(rows, now_us, 10) and ten.seconds == 10
            assert sums(sixty) == ended_in(rows, now_us, 60) and sixty.seconds == 60


def test_at_a_pace_beyond_the_bound_a_window_is_as_long_as_what_it_saw(
    factory: BoardFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_reading, "NEWEST", 6)
    with Books(factory.home.ledger_db) as books:
        _, sixty = windows(books.db, factory.now_us)
        oldest = min(r.ended_us for r in books.recent(6))
    assert sum(c.attempts for c in sixty.cells) == 6
    assert sixty.seconds == pytest.approx((factory.now_us - oldest) / 1e6)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=200))
def test_quantiles_are_values_with_that_much_below_them(values: list[int]) -> None:
    found = times(values)
    assert found.count == len(values)
    for quantile, value in ((50, found.p50_us), (95, found.p95_us)):
        assert value in values
        assert sum(v <= value for v in values) * 100 >= quantile * len(values)
        assert sum(v < value for v in values) * 100 < quantile * len(values)


def test_books_that_cannot_be_read_are_a_fault_and_no_zero(tmp_path: Path) -> None:
    factory = BoardFactory(tmp_path, requests=3, busy_s=4)
    factory.home.ledger_db.write_bytes(b"this is no database" * 300)
    for tail in ("-wal", "-shm"):
        Path(f"{factory.home.ledger_db}{tail}").unlink(missing_ok=True)
    books, fault = read_books(factory.home, factory.now_us)
    assert books is None and fault is not None
    told = figures(factory.home, factory.now_us, control=factory.control)
    assert told.health.mood == "act" and "cannot be read" in told.health.sentence
    assert told.books["difference"].value is None and told.money["charge_today"].value is None
    factory.close()
