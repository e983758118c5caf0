"""A folder as a factory leaves it: explained, audited, reconciled, backed up and restored, swept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from wattmill.app.home import Home
from wattmill.app.ledger_process import follower
from wattmill.app.running.lag import read_lag
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.book_reading import read_books
from wattmill.app.seeing.explain import UnknownRequest, _share, explain, settled_against_told
from wattmill.app.seeing.figures import figures
from wattmill.app.seeing.health import health
from wattmill.app.seeing.readings import Readings
from wattmill.app.seeing.request_list import request_page
from wattmill.app.seeing.request_view import request_view
from wattmill.cli.explain import lines
from wattmill.ledger import epoch as epochs
from wattmill.ledger.audit import Report
from wattmill.ledger.backup import BackupError, backup, restore
from wattmill.ledger.following import Follower
from wattmill.ledger.frame import segment_name
from wattmill.ledger.in_doubt import settle
from wattmill.ledger.journal import Journal
from wattmill.ledger.period import window_at
from wattmill.ledger.rating import rate
from wattmill.ledger.rationed import WINDOW_US
from wattmill.ledger.retention import sweep
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.sqlite_energy import latest_windows, meter_sums
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.tail import Tail
from wattmill.vocab.budget import gauge_of
from wattmill.vocab.fact import End, EngineCount, Intent, MeterWindow, Progress, Refused, Replayed
from wattmill.vocab.price import Price
from wattmill.vocab.route import Candidate, Excluded, Route
from wattmill.vocab.usage import Usage

NOW = 1_790_000_000_000_000
ROUTE = Route(
    (Candidate("edge", 31_000, 0.1, 1.0, 0.001), Candidate("local", 33_000, 0.2, 0.8, 0.002)),
    (Excluded("cloud", "privacy"),),
    "edge is cheapest",
    7,
)
USUAL = Usage(50, 60, cached_tok=20)
RATES = (10**8, 10**7, None, None, 10**9, 10**9, None)


class Factory:
    """One gateway worker and one meter writing, by hand."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.create()
        with Control(self.home.control_db) as control:
            org = control.put_org("demo", cap_nusd=10**12)
            team = control.put_team(org, "load")
            key, _ = control.create_key(team, "k")
            self.path = (org, team, key.id)
            self.cost = control.publish_price(
                "edge cost", "m", RATES, effective_us=0, source="test", provenance="declared"
            )
            self.charge = control.publish_price(
                "standard", "m", RATES, effective_us=0, source="test", provenance="declared"
            )
        self.price = Price(id=0, book="b", model="m", rates_nusd_per_mtok=RATES)
        self.seq = 0
        self.now = NOW
        self.gateway = Journal(self.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW)

    def intent(self, pool: str = "edge", **more: object) -> int:
        self.seq += 1
        self.now += 10_000
        fact = Intent(
            self.seq, self.seq, 0, self.now, self.path, pool, "m", "chat", True, 100, 200, 300_000,
            _id(self.cost),
            _id(self.charge), asked_output_tok=200, route=ROUTE, label="mine", reserved_cost_nusd=300_000,
        )  # fmt: skip
        self.gateway.append_intent(replace(fact, **more))
        return self.seq

    def end(self, seq: int, usage: Usage | None = USUAL, **more: object) -> None:
        self.now += 500_000
        money = rate(self.price, usage) if usage else 0
        fact = End(
            seq, self.now, "finished", usage, "measured", money, money, ttft_us=100_000, duration_us=500_000,
            started_us=self.now - 499_000, finish_reason="stop",
        )  # fmt: skip
        self.gateway.append_end(replace(fact, **more))

    def id(self, seq: int) -> str:
        return f"req_{self.gateway.epoch}_{seq:x}"

    def book(self) -> None:
        with Control(self.home.control_db) as control:
            loop = follower(self.home, control)
            loop.catch_up()
            loop.close()

    def kill(self) -> None:
        """The worker dies: its lock is dropped, no footer is written."""
        self.gateway._stop = True
        self.gateway._wake.set()
        self.gateway._flusher.join()
        os.close(self.gateway._fd)
        os.close(self.gateway._lock_fd)

    def restart(self) -> None:
        self.gateway = Journal(self.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW)


def _id(price: object) -> int:
    return price if isinstance(price, int) else price.id  # type: ignore[attr-defined, no-any-return]


def holds(report: Report) -> bool:
    assert report.holds, [(c.name, c.rows) for c in report.checks if not c.holds]
    return True


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    made = Factory(tmp_path / "home")
    yield made
    if made.gateway._stop is False:
        made.gateway.close()


def test_a_finished_request_is_explained_before_and_after_it_is_booked(factory: Factory) -> None:
    seq = factory.intent()
    running = explain(factory.home, factory.id(seq))
    assert running.tries[0].status == "running" and not running.tries[0].booked
    factory.end(seq)
    before = explain(factory.home, factory.id(seq))
    factory.book()
    after = explain(factory.home, factory.id(seq))
    assert not before.tries[0].booked and after.tries[0].booked
    assert before.charge_nusd == after.charge_nusd == rate(factory.price, Usage(50, 60, cached_tok=20))
    assert after.tries[0].tokens == {"input": 30, "cached_input": 20, "output": 60} == before.tries[0].tokens
    assert after.spender == "demo/load/k" and after.label == "mine"
    assert [c.pool for c in after.candidates] == ["edge", "local"] and after.excluded == {"cloud": "privacy"}
    text = "\n".join(f"{a} {b}" for a, b in lines(after))
    for word in (
        "edge is cheapest",
        "runner-up",
        "cloud: the data is too sensitive for the place (privacy)",
        "30 input, 20 cached input, 60 output",
        "demo/load",
    ):
        assert word in text, text
    assert holds(audit_home(factory.home))


def test_an_aborted_a_failed_over_and_a_refused_request_tell_their_whole_story(factory: Factory) -> None:
    aborted = factory.intent()
    factory.end(aborted, Usage(50, 3), status="aborted", usage_source="estimated", error="client_left")
    first = factory.intent()
    factory.end(first, None, status="failed", usage_source="none", error="connection reset", ttft_us=None)
    second = factory.intent("local", request=first, attempt=1, route=None)
    factory.end(second)
    factory.seq += 1
    refusal = Refused(
        factory.seq, factory.now, factory.path, "chat", "m", "budget_exceeded", "team 'load' has no money"
    )
    factory.gateway.append_note(refusal)
    stories = []
    for _ in range(2):
        stories.append([explain(factory.home, factory.id(seq)) for seq in (aborted, first, refusal.seq)])
        factory.book()
    for one, over, no in stories:
        assert one.tries[0].status == "aborted" and one.tries[0].source == "estimated" and one.charge_nusd > 0
        assert [(t.pool, t.status) for t in over.tries] == [("edge", "failed"), ("local", "finished")]
        assert over.tries[0].charge_nusd == 0 and over.tries[0].cause == "connection reset"
        assert (no.refusal, no.message, no.spender) == (
            "budget_exceeded",
            "team 'load' has no money",
            "demo/load/k",
        )
    assert holds(audit_home(factory.home))


def test_what_was_cut_or_is_in_doubt_is_not_counted_as_finished(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.end(factory.intent(), status="cut")
    factory.intent()
    factory.kill()
    factory.book()

    def counts() -> dict[str, str]:
        return {one.id: one.figure.text for one in figures(factory.home, factory.now).statuses}

    assert (counts()["finished"], counts()["failed"]) == ("1", "2")
    with Books(factory.home.ledger_db) as books:
        assert len(request_page(books, limit=9, status="finished").rows) == 1
        assert len(request_page(books, limit=9, status="failed").rows) == 2
    assert holds(audit_home(factory.home))


def test_what_is_not_known_is_told_as_unknown_and_never_as_0(factory: Factory) -> None:
    running, unmetered = factory.intent(), factory.intent()
    factory.end(unmetered, None, usage_source="unmetered", charge_nusd=300_000, cost_nusd=300_000)
    factory.book()
    story = explain(factory.home, factory.id(running))
    assert (story.charge_nusd, story.cost_nusd) == (None, None)
    assert any("not known before its end" in value for _, value in lines(story))
    told = dict(lines(explain(factory.home, factory.id(unmetered))))
    assert told["  tokens"].startswith("unknown")
    with Control(factory.home.control_db) as control:
        control.set_cap(factory.path[1], 0)
    assert any("cap of 0" in words for words in explain(factory.home, factory.id(running)).budget)


def test_an_unknown_request_gets_a_clear_answer(factory: Factory) -> None:
    with pytest.raises(UnknownRequest, match="neither in the books nor in a journal"):
        explain(factory.home, factory.id(999))
    with pytest.raises(UnknownRequest, match="is no request id"):
        explain(factory.home, "chatcmpl-1")
    done = subprocess.run(
        [sys.executable, "-m", "wattmill", "explain", factory.id(5), "--home", str(factory.home.root)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "no request" in done.stderr


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


def test_a_backup_of_a_running_factory_restores_to_the_same_books(factory: Factory, tmp_path: Path) -> None:
    for _ in range(5):
        factory.end(factory.intent())
    factory.book()
    factory.end(factory.intent())  # not booked yet: only in the journal
    file = tmp_path / "b.tar"
    home = factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    other = Home(tmp_path / "other")
    restore(file, other.root)
    other.create()
    factory.book()
    with Control(other.control_db) as control:
        loop = follower(other, control)
        loop.catch_up()
        loop.close()
    with Books(home.ledger_db) as one, Books(other.ledger_db) as two:
        assert one.balances() == two.balances() and one.recent() == two.recent()
    a, b = audit_home(home), audit_home(other)
    assert holds(a) and holds(b) and a.places == b.places and a.attempts == b.attempts == 6
    with pytest.raises(BackupError, match="is not empty"):
        restore(file, other.root)
    with pytest.raises(BackupError, match="exists"):
        backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)


def test_a_backup_into_no_folder_says_so(factory: Factory, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"nowhere is no folder; make it, or"):
        home, file = factory.home, tmp_path / "nowhere" / "b.tar"
        backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)


def test_a_damaged_backup_restores_nothing(factory: Factory, tmp_path: Path) -> None:
    factory.end(factory.intent())
    factory.book()
    file = tmp_path / "b.tar"
    home = factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    data = bytearray(file.read_bytes())
    at = data.index(b"SQLite format 3") + 5000
    data[at] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(BackupError, match="checksum"):
        restore(file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name", ["{outside}", "../outside", "admin.token", "journal/../outside", "journal/a/../b"]
)
def test_a_backup_that_names_anything_else_is_refused_and_nothing_outside_is_touched(
    tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    outside.chmod(0o644)
    name = name.format(outside=outside)
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    head = json.dumps({"format": 1, "at_us": 0, "files": {name: entry}}).encode()
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for member, data in (("manifest.json", head), (name, b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(BackupError, match="its manifest names"):
        restore(tmp_path / "b.tar", tmp_path / "other")
    assert outside.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "other").exists()


def test_a_backup_is_readable_by_its_owner_alone(factory: Factory, tmp_path: Path) -> None:
    file, home = tmp_path / "b.tar", factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_booked_old_segments_are_swept_and_an_empty_dead_epoch_goes_with_them(tmp_path: Path) -> None:
    factory = Factory(tmp_path / "home")
    factory.gateway.close()
    factory.gateway = Journal(
        factory.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW, segment_bytes=2_000
    )
    for _ in range(20):
        factory.end(factory.intent())
    folder = factory.gateway.folder
    before = epochs.segments(folder)
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        assert sweep(loop.books.db, factory.home.journal, before_us=1 << 60) == []
        loop.catch_up()
        sweep(loop.books.db, factory.home.journal, before_us=factory.now - 3_000_000)
        some = epochs.segments(folder)
        assert before[-1] in some and len(some) < len(before)
        factory.gateway.close()
        loop.catch_up()
        sweep(loop.books.db, factory.home.journal, before_us=1 << 60)
        loop.close()
    assert not folder.exists()
    story = explain(factory.home, factory.id(1))
    assert story.tries[0].booked and not story.journal_kept
    assert holds(audit_home(factory.home))


def test_the_ledger_process_books_says_its_lag_and_leaves_at_sigterm(factory: Factory) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "wattmill.app.ledger_process", "--home", str(factory.home.root)],
        stderr=subprocess.DEVNULL,
    )
    try:
        factory.end(factory.intent())
        for _ in range(500):
            lag = read_lag(factory.home)
            if lag is not None and lag.committed_us is not None:
                break
            time.sleep(0.02)
        assert lag is not None and lag.behind_records == 0 and lag.committed_us is not None
        factory.end(factory.intent())
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        with Books(factory.home.ledger_db) as books:
            assert len(books.recent()) == 2, "what stood in the journal at SIGTERM is booked"
    finally:
        child.kill()
        child.wait()
    shutil.rmtree(factory.home.run, ignore_errors=True)


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


def test_a_replay_is_explained_by_the_request_whose_answer_it_told(factory: Factory) -> None:
    first = factory.intent()
    factory.end(first)
    again = factory.seq = factory.seq + 1
    factory.gateway.append_note(
        Replayed(again, factory.now, factory.path, "chat", "m", factory.id(first), "mine")
    )
    for _ in range(2):  # before and after the journal is booked
        story = explain(factory.home, factory.id(again))
        assert (story.replay_of, story.charge_nusd, story.tries) == (factory.id(first), 0, ())
        told = dict(lines(story))
        assert told["again"].startswith(f"the answer of {factory.id(first)} was told once more")
        assert "demo/load/k" in told["spender"] and told["charge"] == "0 USD: no place was asked"
        factory.book()
    assert holds(audit_home(factory.home))


def test_a_refusals_story_shows_the_limits_that_stand_above_it(factory: Factory) -> None:
    with Control(factory.home.control_db) as control:
        Limits(control).put(factory.path[1], "requests", "minute", 60)
    factory.seq += 1
    factory.gateway.append_note(
        Refused(factory.seq, factory.now, factory.path, "chat", "m", "limit_reached", "team has a limit ...")
    )
    told = lines(explain(factory.home, factory.id(factory.seq)))
    (line,) = [text for _, text in told if "per minute" in text]
    assert (
        line.startswith("team demo/load")
        and "0 requests of 60 requests per minute used, 60 requests left" in line
    )


def test_what_was_spent_of_a_cap_never_reads_nothing() -> None:
    told = [
        _share(used, cap) for used, cap in ((0, 100_000), (1, 100_000), (61_000, 100_000), (5, None), (0, 0))
    ]
    assert told == ["0% used", "less than 1% used", "61% used", "no cap", "cap of 0: nothing is admitted"]


def test_a_long_batch_lets_others_by_again_and_again_and_the_books_are_the_same(factory: Factory) -> None:
    for _ in range(100):
        factory.end(factory.intent())
    let_by: list[int] = []
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        loop.books.give_way = lambda: let_by.append(1)
        booked = loop.step().records
        loop.close()
    assert booked >= 200
    assert len(let_by) == booked // 32
    assert audit_home(factory.home).holds
