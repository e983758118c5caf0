"""Attempts in doubt, engines' counters, meters' joules: what is settled, by whom, what is nobody's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_by_hand import NOW, Factory, by_hand, holds
from wattmill.app.ledger_process import follower
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.explain import explain, settled_against_told
from wattmill.app.seeing.request_view import request_view
from wattmill.cli.explain import lines
from wattmill.ledger.journal import Journal
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.vocab.fact import End, EngineCount, MeterWindow, Progress
from wattmill.vocab.usage import Usage


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    yield from by_hand(tmp_path)


def test_a_dead_workers_open_attempt_is_in_doubt_at_its_reservation_until_reconciled(
    factory: Factory,
) -> None:
    seq = factory.intent()
    factory.gateway.append_note(Progress(seq, factory.now, 40))
    factory.book()
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == [], "a living worker's attempts are never in doubt, however old"
    factory.kill()
    factory.book()
    with Books(factory.home.ledger_db) as books:
        (doubt,) = books.doubts()
        assert doubt.reserved_nusd == 300_000 and doubt.request_id == factory.id(seq)
        assert books.balances()["nusd", f"key:{factory.path[-1]}"] == 300_000
    report = audit_home(factory.home)
    assert holds(report) and report.in_doubt == (factory.id(seq),)
    with Control(factory.home.control_db) as control:
        assert control.live_epochs() == []
        assert {b.used_nusd for b in control.summaries()} == {300_000}
    command = [sys.executable, "-m", "wattmill", "reconcile", "--home", str(factory.home.root)]
    listed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert [row["request_id"] for row in json.loads(listed.stdout)] == [factory.id(seq)]
    done = subprocess.run([*command, factory.id(seq), "--by", "delivered"], capture_output=True, text=True)
    assert done.returncode == 0 and "settled 1 attempts" in done.stdout, done.stderr
    delivered = rate(factory.price, Usage(100, 40))
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == [] and books.balances()["nusd", f"key:{factory.path[-1]}"] == delivered
    with Control(factory.home.control_db) as control:
        assert {b.used_nusd for b in control.summaries()} == {delivered}
    assert holds(audit_home(factory.home))


def test_what_ended_with_nothing_counted_can_be_reconciled_too(factory: Factory) -> None:
    seq = factory.intent()
    factory.end(seq, None, status="aborted", usage_source="unmetered", charge_nusd=300_000, cost_nusd=300_000)
    factory.gateway.close()
    factory.book()
    report = audit_home(factory.home)
    assert holds(report) and report.in_doubt == (), "its end was seen: it is not in doubt"
    command = [sys.executable, "-m", "wattmill", "reconcile", "--home", str(factory.home.root)]
    listed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert [(row["request_id"], row["state"]) for row in json.loads(listed.stdout)] == [
        (factory.id(seq), "uncounted")
    ]
    subprocess.run(
        [*command, factory.id(seq), "--by", "delivered"], capture_output=True, text=True, check=True
    )
    seen = rate(factory.price, Usage(100, 0))
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == [] and books.balances()["nusd", f"key:{factory.path[-1]}"] == seen
    with Control(factory.home.control_db) as control:
        assert {b.used_nusd for b in control.summaries()} == {seen}
    assert holds(audit_home(factory.home))


@pytest.mark.parametrize("rule", ["worst", "none", "engine"])
def test_what_failed_with_nothing_counted_is_settled_without_charging_its_client(
    factory: Factory, rule: str
) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", factory.now, 0, 0, True))
    seq = factory.intent()
    factory.end(
        seq, None, status="failed", usage_source="unmetered", kept_nusd=300_000, cost_nusd=300_000, error="e"
    )
    factory.gateway.close()
    factory.book()
    with Control(factory.home.control_db) as control:
        assert {b.used_nusd for b in control.summaries()} == {300_000}, "nobody knows what was made"
    if rule == "engine":
        meter.append_note(EngineCount("edge", "one", factory.now + 9_000_000, 44, 33, True))
        factory.restart()
        factory.book()
    else:
        command = [sys.executable, "-m", "wattmill", "reconcile", "--home", str(factory.home.root)]
        subprocess.run([*command, factory.id(seq), "--by", rule], capture_output=True, check=True)
    made = {"worst": 300_000, "none": 0, "engine": rate(factory.price, Usage(44, 33))}[rule]
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == []
        (row,) = books.recent()
        assert (row.status, row.charge_nusd, row.cost_nusd) == ("failed", 0, made)
        assert books.balances().get(("nusd", f"key:{factory.path[-1]}"), 0) == 0
    with Control(factory.home.control_db) as control:
        assert {b.used_nusd for b in control.summaries()} == {made}
    assert holds(audit_home(factory.home))


def test_a_late_end_record_wins_over_doubt_and_over_its_settlement(factory: Factory) -> None:
    seq = factory.intent()
    epoch = factory.gateway.folder
    factory.kill()
    factory.book()
    from wattmill.ledger.tail import Found

    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        late = End(seq, factory.now + 5, "finished", Usage(50, 60), "measured", 7, 99)
        state = loop.books.epochs[epoch.name]
        loop.books.book(epoch.name, [Found(late, state.position.segment, 0)], state.position)
        loop.books.commit()
        loop.step()
        loop.close()
        assert {b.used_nusd for b in control.summaries()} == {99}
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == [] and [d.state for d in books.doubts(settled=True)] == ["late_end"]
        (row,) = books.recent()
        assert (row.status, row.charge_nusd, row.cost_nusd) == ("finished", 99, 7)
        assert books.balances()["nusd", "in_doubt"] == 0


def test_an_engines_counter_settles_a_doubt_and_shows_what_nobody_can_be_charged_with(
    factory: Factory,
) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", factory.now, 0, 0, True))
    factory.end(factory.intent(), Usage(50, 60))
    lost = factory.intent()
    factory.gateway.append_note(Progress(lost, factory.now, 10))
    factory.kill()
    factory.book()
    meter.append_note(EngineCount("edge", "one", factory.now + 9_000_000, 50 + 44, 60 + 33, True))
    factory.restart()
    factory.book()
    with Books(factory.home.ledger_db) as books:
        assert books.doubts() == []
        row = books.recent()[0]
        assert (row.prefill_tok, row.output_tok, row.source) == (44, 33, "measured")
        assert row.charge_nusd == rate(factory.price, Usage(44, 33))
    factory.now += 20_000_000
    meter.append_note(EngineCount("edge", "one", factory.now, 94 + 500, 93, True))
    factory.book()
    report = audit_home(factory.home)
    (place,) = report.places
    assert place.witness == "engine counter" and place.unmetered_tok == 500 and place.difference_tok == 0
    assert place.engine_tok == (594, 93) == place.books_tok
    assert holds(report)
    meter.close()


def test_an_engine_that_counted_less_than_the_books_say_breaks_the_audit(factory: Factory) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", NOW - 5_000_000, 0, 0, True))
    factory.book()
    factory.end(factory.intent())  # 30 computed prompt tokens and 60 of output
    factory.book()
    factory.now += 20_000_000
    meter.append_note(EngineCount("edge", "one", factory.now, 30, 30, True))
    factory.gateway.close()
    factory.book()
    report = audit_home(factory.home)
    (broken,) = (c for c in report.checks if not c.holds)
    assert broken.name == "tokens that engines say are tokens in the books"
    assert "-30 output tokens" in broken.rows[0]
    meter.close()


def test_an_estimate_that_the_engine_corrects_breaks_no_law(factory: Factory) -> None:
    """Of a client that left before its prompt was counted, nobody knows how long it was."""
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", NOW - 5_000_000, 0, 0, True))
    factory.book()
    factory.end(factory.intent(), Usage(46, 0), status="aborted", usage_source="estimated")
    factory.book()
    factory.now += 20_000_000
    meter.append_note(EngineCount("edge", "one", factory.now, 38, 0, True))
    factory.gateway.close()
    factory.book()
    report = audit_home(factory.home)
    (place,) = report.places
    assert place.engine_tok == (38, 0) == place.books_tok and place.unmetered_tok == -8
    assert holds(report)
    meter.close()


def test_what_a_killed_engine_made_after_its_last_reading_is_not_held_against_its_successor(
    factory: Factory,
) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", factory.now - 1_000_000, 0, 0, True, NOW - 2_000_000))
    factory.end(factory.intent())  # 30 computed prompt tokens and 60 of output, and then it is killed
    born_us = factory.now + 1_000_000
    factory.now += 5_000_000
    factory.end(factory.intent())
    factory.book()
    factory.now += 20_000_000
    meter.append_note(EngineCount("edge", "two", factory.now, 30, 60, True, born_us))
    factory.gateway.close()
    factory.book()
    report = audit_home(factory.home)
    assert holds(report)
    (place,) = report.places
    assert (place.books_tok, place.since_tok, place.unmetered_tok) == ((30, 60), (30, 60), 0)
    meter.close()


def test_a_count_waits_for_slow_clients_and_skips_what_may_not_have_arrived(factory: Factory) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    meter.append_note(EngineCount("edge", "one", factory.now - 1_000_000, 0, 0, True))
    slow = factory.intent()
    meter.append_note(EngineCount("edge", "one", factory.now + 200_000, 30, 60, True))  # the engine is done
    factory.now += 5_000_000
    near = factory.intent()
    meter.append_note(EngineCount("edge", "one", factory.now + 50_000, 30, 60, True))  # not there yet
    factory.book()
    with Books(factory.home.ledger_db) as books:
        (row,) = books.db.execute("SELECT prompt_tok FROM engine_count").fetchall()
        assert row == (0,), "an attempt of before the reading has not ended yet"
    factory.end(slow, started_us=NOW + 10_000)
    factory.end(near)
    factory.book()
    report = audit_home(factory.home)
    assert holds(report)
    (place,) = report.places
    assert (place.engine_tok, place.books_tok, place.unmetered_tok) == ((30, 60), (30, 60), 0)
    assert place.since_tok == (30, 60)
    meter.close()


def test_joules_of_a_window_go_to_the_attempts_in_it_and_the_rest_is_named(factory: Factory) -> None:
    meter = Journal(factory.home.journal, kind="meter", worker=0, wall_us=lambda: NOW)
    seq = factory.intent()
    factory.end(seq, told_uj=10)
    early = explain(factory.home, factory.id(seq))
    assert (early.energy_uj, early.told_uj) == (None, 10)
    assert (
        "no meter window is settled for it yet" in dict(lines(early))["energy"]
        and "told with the answer" in dict(lines(early))["energy"]
    )
    start = factory.now - 1_000_000
    window = MeterWindow(
        "host", start, start + 1_000_000, 45, 20, {"edge": 11, "local": 9}, 5, "modelled", "host model"
    )
    meter.append_note(window)
    open_one = factory.intent(at_us=start + 10)
    factory.book()
    with Books(factory.home.ledger_db) as books:
        assert books.energy().windows == 0, "an attempt of its time still runs"
    factory.end(open_one)
    factory.book()
    with Books(factory.home.ledger_db) as books:
        energy = books.energy()
        assert (energy.total_uj, energy.idle_uj, energy.unattributed_uj, energy.requests_uj) == (
            45,
            20,
            14,
            11,
        )
        assert sum(row.energy_uj or 0 for row in books.recent()) == 11
    story = explain(factory.home, factory.id(seq))
    assert story.energy_provenance == "modelled" and story.energy_source == "host model"
    assert (story.energy_uj, story.told_uj) == (11, 10)
    assert dict(lines(story))["energy"].endswith("settled 10.0% above what was told")
    assert settled_against_told(9, 10) == "settled 10.0% below what was told"
    assert settled_against_told(10, 10) == "settled as told" and settled_against_told(11, None) is None
    view = request_view(story)
    assert (view.energy.value, view.told.value, view.told.provenance) == (story.energy_uj, 10, "modelled")
    assert holds(audit_home(factory.home))
    meter.close()
