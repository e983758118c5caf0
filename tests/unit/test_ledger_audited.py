"""The audit of a factory's folder: what it covers, what it names, and which alarms stand in the books."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_by_hand import NOW, Factory, by_hand, holds
from wattmill.app.ledger_process import follower
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.book_reading import read_books
from wattmill.app.seeing.health import health
from wattmill.app.seeing.readings import Readings
from wattmill.ledger.following import Follower
from wattmill.ledger.frame import segment_name
from wattmill.ledger.in_doubt import settle
from wattmill.ledger.journal import Journal
from wattmill.ledger.period import window_at
from wattmill.ledger.rating import rate
from wattmill.ledger.rationed import WINDOW_US
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.sqlite_energy import latest_windows, meter_sums
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.tail import Tail
from wattmill.vocab.budget import gauge_of
from wattmill.vocab.fact import End, MeterWindow
from wattmill.vocab.usage import Usage


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    yield from by_hand(tmp_path)


@pytest.mark.parametrize(
    ("vandalism", "law"),
    [
        ("UPDATE meter_window SET idle_uj = idle_uj + 1", "joules of requests"),
        ("UPDATE meter_more SET service_uj = service_uj + 1", "joules of requests"),
        ("UPDATE energy SET uj = uj - 1", "joules of requests"),
        ("UPDATE meter_window SET provenance = (SELECT id FROM name WHERE text = 'edge')", "every joule has"),
        ("UPDATE meter_more SET carbon = (SELECT id FROM name WHERE text = '')", "every joule has"),
        (
            "INSERT INTO posting SELECT (max(id) / 64 + 1) * 64, (SELECT id FROM account WHERE name = "
            "'meter:host' AND commodity = 'uj'), 5 FROM posting",
            "every joule has",
        ),
    ],
)
def test_the_audit_covers_joules_and_grams(factory: Factory, vandalism: str, law: str) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    factory.end(factory.intent())
    start = factory.now - 1_000_000
    meter.append_note(
        MeterWindow(
            "host",
            start,
            start + 1_000_000,
            36_000_071,
            20,
            {"edge": 36_000_011},
            5,
            "modelled",
            "model",
            16,
            9,
            10,
            carbon_ug_per_kwh=400_000_000,
            carbon_source="declared",
        )
    )
    factory.book()
    assert holds(audit_home(factory.home))
    with Books(factory.home.ledger_db) as books:
        (host,) = meter_sums(books.db)
        windows = latest_windows(books.db, 100)
        grams = {n: b for (c, n), b in books.balances().items() if c == "ug"}
    assert (host.requests_uj, host.host_uj, host.service_uj) == (36_000_027, 16, 0)
    assert (host.idle_uj, host.foreign_uj, host.overhead_uj, host.unattributed_uj) == (20, 9, 10, 5)
    for part in ("total", "requests", "idle", "service", "foreign", "overhead", "unattributed"):
        assert sum(getattr(window, f"{part}_uj") for window in windows) == getattr(host, f"{part}_uj"), part
    # 36 J are a hundred-thousandth of a kilowatt-hour: 4,000 ug at 400 g/kWh.
    assert host.ug == 4_000 and grams["grid:host"] == -4_000 and sum(grams.values()) == 0
    db = sqlite3.connect(factory.home.ledger_db)
    db.executescript(vandalism)
    db.close()
    broken = [check for check in audit_home(factory.home).checks if not check.holds]
    assert any(check.name.startswith(law) and check.rows for check in broken), broken
    meter.close()


@pytest.mark.parametrize(
    ("vandalism", "law"),
    [
        (
            "UPDATE account SET balance = balance + 1 WHERE name LIKE 'key:%' AND commodity = 'nusd'",
            "balances are",
        ),
        (
            "DROP TRIGGER posting_stays; UPDATE posting SET amount = amount + 1 WHERE id = (SELECT "
            "min(id) FROM posting)",
            "every",
        ),
        ("UPDATE rollup_hour SET charge_nusd = charge_nusd + 1", "roll-ups by hour"),
        ("UPDATE rollup_minute SET cost_nusd = cost_nusd + 1", "roll-ups by minute"),
        ("UPDATE attempt SET charge_nusd = charge_nusd + 1", "told charges"),
        ("UPDATE attempt SET output_tok = output_tok + 1", "what attempts were told"),
        ("UPDATE epoch_used SET nusd = nusd + 1 WHERE node = 1", "children sum"),
        ("UPDATE attempt SET cost_nusd = cost_nusd + 1", "what attempts were told"),
        ("UPDATE attempt SET overrun_nusd = 1, cost_nusd = cost_nusd", "what attempts were told"),
        ("UPDATE shape SET cost_price = 3", "told charges and costs"),
        (
            "UPDATE attempt SET output_tok = output_tok + CASE id WHEN 1 THEN 5 ELSE -5 END",
            "what attempts were told",
        ),
        ("UPDATE rollup_minute SET requests = 0", "roll-ups are the sums of the attempts"),
        ("UPDATE rollup_hour SET errors = errors + 1", "roll-ups are the sums of the attempts"),
        ("UPDATE attempt SET status = 1", "what journals say"),
        ("UPDATE attempt SET source = 2", "what journals say"),
        (
            "INSERT INTO doubt SELECT 999, epoch, 999, 'edge', x'00', 'open', 0 FROM attempt LIMIT 1",
            "what attempts were told",
        ),
    ],
)
def test_the_audit_names_what_was_tampered_with(factory: Factory, vandalism: str, law: str) -> None:
    factory.end(factory.intent())
    factory.end(factory.intent())
    factory.book()
    assert holds(audit_home(factory.home))
    db = sqlite3.connect(factory.home.ledger_db)
    db.executescript(vandalism)
    db.close()
    report = audit_home(factory.home)
    assert any(not check.holds and check.name.startswith(law) and check.rows for check in report.checks), (
        report
    )
    done = subprocess.run(
        [sys.executable, "-m", "wattmill", "audit", "--json", "--home", str(factory.home.root)],
        capture_output=True,
    )
    assert done.returncode == 1 and json.loads(done.stdout)["holds"] is False


def test_a_cost_that_its_price_does_not_make_is_named(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.end(factory.intent(), cost_nusd=5)
    factory.book()
    (broken,) = (c for c in audit_home(factory.home).checks if not c.holds)
    assert broken.name == "told charges and costs are usage times price"
    assert len(broken.rows) == 1 and "cost 5 nUSD, price version" in broken.rows[0]


def test_an_attempt_that_the_books_stepped_over_is_named(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.book()
    factory.end(factory.intent())
    running = factory.intent()
    reached = Tail(factory.gateway.folder).read().position
    db = sqlite3.connect(factory.home.ledger_db)
    db.execute("UPDATE epoch SET offset = ?", (reached.offset,))
    db.commit()
    db.close()
    factory.book()
    (broken,) = [check for check in audit_home(factory.home).checks if not check.holds]
    assert broken.name == "what journals say is in the books"
    assert [row.split(":")[1] for row in broken.rows] == ["2", str(running)]


def test_an_attempt_at_its_reservation_for_want_of_a_rate_breaks_no_law(factory: Factory) -> None:
    seq = factory.intent()
    usage = Usage(50, 60, audio_out_tok=10)
    factory.gateway.append_end(
        End(seq, factory.now, "finished", usage, "measured", 300_000, 300_000, error="unpriced")
    )
    factory.book()
    report = audit_home(factory.home)
    assert holds(report) and any("a class without a rate" in check.detail for check in report.checks)


def test_a_count_beyond_what_a_database_multiplies_is_rated_exactly(factory: Factory) -> None:
    usage = Usage(50, 1 << 40)
    rated = rate(factory.price, usage)
    factory.end(factory.intent(), usage, charge_nusd=300_000, overrun_nusd=rated - 300_000)
    factory.book()
    assert holds(audit_home(factory.home))


def test_a_limits_unit_that_was_overused_is_the_operators_and_an_alarm(factory: Factory) -> None:
    with Control(factory.home.control_db) as control:
        limit = Limits(control).put(factory.path[1], "output_tok", "life", 500).id
    gauge = gauge_of(limit, "output_tok", window_at("life", "UTC", NOW).index)
    factory.end(factory.intent(held=(gauge, 40)), took=(gauge, 60))
    factory.end(factory.intent(held=(gauge, 40)), took=(gauge, 30))
    factory.gateway.close()
    factory.book()
    report = audit_home(factory.home)
    assert holds(report) and report.overrun_units == {"output_tok": 20} and report.overrun_nusd == 0
    with Books(factory.home.ledger_db) as books:
        (alarm,) = books.alarms()
        assert (
            alarm.kind == "overrun"
            and f"20 output_tok beyond what was reserved of limit {limit}" in alarm.text
        )
        assert books.balances()["over:output_tok", "overrun:edge"] == 20
    with Control(factory.home.control_db) as control:
        assert control.summary(factory.path[1]).limits[0].used == 40 + 30, "never the caller's"
    command = [sys.executable, "-m", "wattmill", "audit", "--home", str(factory.home.root)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "overrun: 20 output tokens beyond what was reserved of limits" in told.stdout
    books_now, _ = read_books(factory.home, factory.now)
    seen = Readings(
        now_us=factory.now, running=True, state=None, workers=[], nodes={}, budgets=[], books=books_now
    )
    assert "Overrun of 20 output tokens under limits." in health(seen).sentence


def test_an_engine_that_always_takes_too_much_is_told_at_once_and_then_counted_and_all_of_it_is_booked(
    factory: Factory,
) -> None:
    def told_after(loop: Follower, attempts: int) -> list[str]:
        for _ in range(attempts):
            factory.end(factory.intent(), charge_nusd=300_000, overrun_nusd=7)
        loop.catch_up()
        with Books(factory.home.ledger_db) as books:
            assert books.balances()["nusd", "overrun:edge"] == 7 * factory.seq
            return [alarm.text for alarm in books.alarms() if alarm.kind == "overrun"][::-1]

    one = "7 nUSD beyond the reservation on edge: the operator's"
    counted = "357 nUSD beyond the reservation on edge by 51 attempts within a minute: the operator's"
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        assert told_after(loop, 1) == [one]
        assert told_after(loop, 50) == [counted]
        factory.now += WINDOW_US
        assert told_after(loop, 1) == [counted, one]
        loop.close()


def test_a_journal_that_was_removed_before_it_was_booked_is_an_alarm(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.book()
    factory.end(factory.intent())
    factory.kill()
    (factory.gateway.folder / segment_name(1)).unlink()
    assert not audit_home(factory.home).holds
    factory.book()
    factory.book()
    with Books(factory.home.ledger_db) as books:
        assert [alarm.kind for alarm in books.alarms()] == ["journal_missing"]


def test_a_correction_for_a_node_that_the_caps_do_not_know_is_an_alarm_and_no_end(factory: Factory) -> None:
    factory.intent(path=(*factory.path[:2], 77))
    factory.kill()
    factory.book()
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        ((attempt, start),) = loop.books.doubts()
        price = control.prices()[start.charge_price]
        loop.books.settle(attempt, settle(start, "none", charge=price, cost=price), at_us=factory.now)
        loop.books.commit()
        loop.step()
        loop.step()
        loop.close()
    with Books(factory.home.ledger_db) as books:
        assert [alarm.kind for alarm in books.alarms()] == ["caps", "caps"]


def test_the_audit_names_a_corrupted_journal_by_epoch_segment_and_offset(factory: Factory) -> None:
    for _ in range(3):
        factory.end(factory.intent())
    factory.book()
    factory.gateway.close()
    bad = Tail(factory.gateway.folder).read().records[2]
    with open(factory.gateway.folder / segment_name(1), "r+b") as file:
        file.seek(bad.offset + 12)
        file.write(b"\xff")
    (row,) = next(c for c in audit_home(factory.home).checks if c.name == "journal checksums hold").rows
    assert f"{factory.gateway.epoch}/000001.wmj offset {bad.offset}" in row


def test_an_audit_says_what_it_looks_at_where_somebody_looks(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.book()
    seen: list[tuple[int, int, str]] = []
    report = audit_home(factory.home, lambda done, steps, name: seen.append((done, steps, name)))
    assert holds(report) and [done for done, _, _ in seen] == list(range(len(seen)))
    assert {steps for _, steps, _ in seen} == {len(seen) - 1} and seen[-1][2] == ""
    command = [sys.executable, "-m", "wattmill", "audit", "--home", str(factory.home.root)]
    terminal, end = os.openpty()
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, check=True)
    assert b"6 of 13: attempts ..." in os.read(terminal, 65_536) and b"every law holds" in said.stdout
    os.close(end)
    os.close(terminal)
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
