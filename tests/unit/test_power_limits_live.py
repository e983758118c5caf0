"""Power limits in the supervisor: messages taken or refused, orders given, the account kept, over lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from power_house import World

from wattmill.app.flexing import in_force, shelf
from wattmill.app.flexing.shelf import EventReport, Shelf
from wattmill.app.running import flexer
from wattmill.app.running.throttle import Throttle
from wattmill.cli.power import told
from wattmill.power.signal.spec import Orders


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path / "home")


def test_an_event_is_taken_obeyed_accounted_for_and_over(world: World) -> None:
    world.go(100)
    world.send(id="e", reduce=0.25, duration_s=60, notice_s=60)
    world.go(1)
    noticed = world.report("e")
    assert (noticed.state, noticed.baseline_w, noticed.limit_w) == ("noticed", 60.0, 45.0)
    world.go(60)
    orders = in_force.read(world.home)
    assert orders is not None and orders.orders.phase == "active" and orders.orders.target_w == 45.0
    assert not orders.orders.batches and orders.orders.lower_work_per_s == 0.0
    world.watts = 40.0
    world.go(70)
    recovering = world.report("e")
    assert recovering.state == "recovering" and recovering.reached is not None
    world.go(900)
    over = world.report("e")
    assert over.state == "over" and over.reached is not None
    assert over.reached.joules_not_used == pytest.approx((60.0 - 40.0) * 60, rel=0.05)
    assert "no new demand peak" in "\n".join(told(over))
    final = in_force.read(world.home)
    assert final is not None and final.orders.lower_work_per_s is None and final.orders.batches


def test_a_restart_in_mid_event_goes_on_with_the_baseline_of_its_notice(world: World) -> None:
    world.go(60)
    world.send(id="e", reduce=0.25, duration_s=300)
    world.go(30)
    world.flexer = world.live()  # the first one was killed: it said no goodbye
    world.watts = 30.0
    world.go(3)
    orders = in_force.read(world.home)
    assert orders is not None and orders.orders.event == "e" and orders.orders.limit_w == 45.0


def test_what_cannot_be_understood_is_laid_aside_with_the_reason(world: World) -> None:
    world.send(reduce=25, duration_s=60)
    (world.shelf.inbox / "huge.json").write_bytes(b" " * ((1 << 20) + 1))
    world.go(1)
    whys = [why for _, why in world.shelf.refusals()]
    assert len(whys) == 2 and any("at most 1" in why for why in whys) and any("bytes" in w for w in whys)
    assert not world.shelf.waiting()


def test_a_reduction_of_an_unknown_baseline_is_refused_not_guessed(world: World) -> None:
    world.send(id="e", reduce=0.25, duration_s=60)
    world.go(3)
    report = world.report("e")
    assert report.problem is not None and "nothing is done" in report.problem
    assert world.flexer.orders.phase == "none"


def test_a_limit_below_idle_says_infeasible_and_what_is_the_least(world: World) -> None:
    world.go(10)
    world.send(id="e", limit_w=5, duration_s=60)
    world.go(5)
    report = world.report("e")
    assert report.infeasible_floor_w == 20.0
    assert "infeasible" in "\n".join(told(report))


def test_while_work_that_was_put_off_comes_back_the_orders_do_not_lapse(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery lasts as long as anybody waits: longer than the time that workers were told at first."""
    monkeypatch.setattr(world.flexer, "_work", lambda now_s: (5.0, 5.0, 3))
    world.go(30)
    world.send(id="e", limit_w=40, duration_s=10)
    world.go(int(10 + world.settings.flex.rebound_s + 100))
    told = in_force.read(world.home)
    assert told is not None and told.orders.phase == "recovering"
    assert told.orders.lower_work_per_s is not None
    assert told.until_s is not None and told.until_s > world.clock.s


def test_when_meters_fall_silent_the_last_word_holds_to_the_events_end_and_no_longer(world: World) -> None:
    world.go(30)
    world.send(id="e", limit_w=30, duration_s=100)
    world.go(20)
    assert world.flexer.orders.engine_share < 1.0

    def silent(seconds: int) -> None:
        for _ in range(seconds):
            world.clock.s += 1.0
            world.power = None
            world.flexer.tick()

    silent(60)
    assert world.flexer.orders.phase == "active"
    silent(60)
    assert world.flexer.orders == Orders()
    told = in_force.read(world.home)
    assert told is not None and told.orders.engine_share == 1.0 and told.orders.lower_work_per_s is None


def test_what_was_refused_is_counted_over_deaths_of_workers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([(5.0, 0), (90.0, 50), None, (3.0, 3), (9.0, 4)])

    def ask(path: object, operation: str, *, timeout_s: float) -> dict[str, Any] | None:
        said = next(counts, (9.0, 4))
        if said is None:
            return None  # too busy to answer
        work, refused = said
        by_tier = {"free": refused}, {"free": refused * 10.0}
        power = {"work": work, "lower_work": work, "refused": by_tier[0], "refused_work": by_tier[1]}
        return {"power": power}

    world.go(10)
    monkeypatch.setattr(flexer, "ask", ask)
    world.send(id="e", limit_w=40, duration_s=60)
    world.go(8)
    gave = world.flexer._reports["e"].gave_way
    assert gave.refused == {"free": 54} and gave.refused_work == {"free": 540.0}


def test_a_full_disk_ends_nothing_and_an_event_is_obeyed_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Shelf, report: EventReport) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shelf, "keep", full)
    world.go(10)
    world.send(id="e", limit_w=40, duration_s=60)
    world.go(5)
    assert world.flexer.orders.phase == "active"


def test_old_reports_and_refused_messages_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "KEPT", 3)
    world.go(10)
    for n in range(6):
        world.send(id=f"e{n}", limit_w=40, duration_s=1, notice_s=10_000)
        world.go(1)
        world.send(reduce=9, duration_s=1)
        world.go(1)
    assert [report.event.id for report in world.shelf.reports()] == ["e5", "e4", "e3"]
    assert len(world.shelf.refusals()) == 3 and len(list(world.shelf.refused.iterdir())) == 6


def test_a_lifted_event_ends_at_once(world: World) -> None:
    world.go(30)
    world.send(id="e", limit_w=40, duration_s=600)
    world.go(5)
    assert world.flexer.orders.phase == "active"
    world.send(id="l", lift=True, duration_s=600)
    world.go(2)
    assert world.flexer.orders.phase == "recovering"


def test_ids_of_strangers_do_not_leave_the_folder(world: World) -> None:
    world.send(id="../../etc/passwd", limit_w=40, duration_s=60)
    world.go(2)
    assert world.report("../../etc/passwd").event.id == "../../etc/passwd"
    assert [path.parent for path in world.home.root.rglob("*passwd*")] == [world.shelf.events]


def test_a_report_survives_its_own_format(world: World) -> None:
    world.go(10)
    world.send(id="e", limit_w=40, duration_s=5)
    world.go(20)
    report = world.report("e")
    assert msgspec.json.decode(msgspec.json.encode(report), type=EventReport) == report


def _state(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2]


def _cpu_s(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_slowed_engine_gets_its_share_and_is_never_left_stopped() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        throttle = Throttle(lambda: [busy.pid])
        throttle.set(0.3)
        time.sleep(0.3)
        began_s, used_s = time.monotonic(), _cpu_s(busy.pid)
        time.sleep(1.2)
        share = (_cpu_s(busy.pid) - used_s) / (time.monotonic() - began_s)
        assert share < 0.5  # alone it would get nearly all of a core; on a loaded machine less
        throttle.set(1.0)
        assert _state(busy.pid) != "T"
        throttle.set(0.3)
        throttle.close()
        assert _state(busy.pid) != "T"
    finally:
        busy.send_signal(signal.SIGKILL)
        busy.wait()
