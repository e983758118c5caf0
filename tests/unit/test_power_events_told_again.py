"""Power events over deaths, repeats and one another: what the account says stays true."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from power_house import World

from wattmill.app.seeing.power import lifting
from wattmill.cli.power import told
from wattmill.power.signal.account import Sample, merged
from wattmill.power.signal.formats import BadEvent, read_events

NOW = 1_800_000_000.0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path / "home")


def test_a_kill_in_mid_event_loses_nothing_of_its_account(world: World) -> None:
    world.go(100)
    world.send(id="e", reduce=0.25, duration_s=120)
    world.go(3)
    world.watts = 40.0
    world.go(60)
    world.flexer = world.live()  # the first one was killed: it said no goodbye
    world.go(30)
    got = world.report("e").reached
    assert got is not None and got.met_after_s is not None and got.met_after_s <= 4.0
    assert got.joules_not_used == pytest.approx(20.0 * 90, rel=0.1)
    assert got.peak_before_w == 60.0, "the time before is remembered, too"
    world.send(id="f", reduce=0.5, duration_s=60)
    world.go(1)
    assert world.report("f").problem is None, "what was seen before the death is a baseline"


def test_an_event_that_ended_while_nobody_looked_is_over(world: World) -> None:
    world.go(100)
    world.send(id="e", reduce=0.25, duration_s=30)
    world.go(5)
    world.clock.s += 100.0
    world.flexer = world.live()
    assert world.report("e").state == "over"


def test_an_event_that_is_told_again_keeps_its_baseline_and_its_beginning(world: World) -> None:
    world.go(100)
    world.send(id="e", reduce=0.25, duration_s=600)
    world.go(1)
    world.watts = 44.0
    world.go(300)
    began_s = world.report("e").event.start_s
    world.send(id="e", reduce=0.25, duration_s=600)
    world.go(5)
    again = world.report("e")
    assert (again.limit_w, again.baseline_w, again.event.start_s) == (45.0, 60.0, began_s)
    assert again.event.end_s is not None and again.event.end_s > began_s + 600
    assert again.reached is not None and again.reached.met_after_s == pytest.approx(1.0, abs=1.0)


def test_a_message_that_was_taken_but_not_put_away_is_no_second_event(world: World) -> None:
    """Killed between the two: after the restart the same message lies there still."""
    world.go(100)
    message = json.dumps({"id": "e", "reduce": 0.25, "duration_s": 600}).encode()
    world.shelf.put(message)
    world.go(1)
    world.shelf.put(message)
    world.flexer = world.live()
    world.go(5)
    report = world.report("e")
    assert (report.problem, report.state, report.limit_w) == (None, "active", 45.0)


def test_a_polled_event_of_openadr_changes_nothing_by_coming_again(world: World) -> None:
    world.go(100)
    start = "2027-01-15T08:05:00Z"
    message = {
        "programID": "p", "eventName": "peak", "intervalPeriod": {"start": start, "duration": "PT1H"},
        "intervals": [{"payloads": [{"type": "SIMPLE", "values": [2]}]}],
    }  # fmt: skip
    for _ in range(10):
        world.send(**message)
        world.go(60)
        world.watts = 44.0
    report = world.report("peak.0")
    assert (report.baseline_w, report.limit_w) == (60.0, 45.0)
    assert report.event.start_s == pytest.approx(1_800_000_300.0)


def test_what_is_drawn_after_a_lift_is_not_held_against_the_event(world: World) -> None:
    world.go(100)
    world.send(id="e", limit_w=40, duration_s=200)
    world.watts = 39.0
    world.go(30)
    message = lifting(world.report("e").event, world.clock.s)
    assert message is not None
    world.shelf.put(message)
    world.watts = 60.0
    for seconds in (60, 300):
        world.go(seconds)
        report = world.report("e")
        assert report.state == "lifted" and report.reached is not None
        assert report.reached.over_s == 0.0 and report.reached.mean_w == pytest.approx(39.0, abs=1.0)
    assert "lifted" in told(report)[0]


def test_an_event_that_a_later_one_covers_says_so_and_comes_back(world: World) -> None:
    world.go(100)
    world.send(id="a", limit_w=50, duration_s=200)
    world.go(10)
    world.send(id="b", limit_w=40, duration_s=20)
    world.go(12)
    assert {one.event.id: one.state for one in world.shelf.reports()} == {"a": "replaced", "b": "active"}
    world.go(30)
    assert {one.event.id: one.state for one in world.shelf.reports()} == {"a": "active", "b": "over"}
    assert world.flexer.orders.limit_w == 50.0


def test_a_defect_of_the_reader_does_not_end_every_life_of_the_factory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr("wattmill.app.running.flexer.read_events", broken)
    world.send(limit_w=40, duration_s=60)
    world.go(2)
    ((_, why),) = world.shelf.refusals()
    assert "defect" in why and not world.shelf.waiting()


def test_an_event_of_hours_is_accounted_for_from_its_beginning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattmill.app.running.flexer._KEPT_SAMPLES", 120)
    monkeypatch.setattr("wattmill.app.running.flexer._BEFORE_S", 60.0)
    world.go(100)
    world.send(id="e", reduce=0.25, duration_s=1_000)
    world.go(4)
    world.watts = 40.0
    world.go(980)
    for _ in range(2):
        got = world.report("e").reached
        assert got is not None and got.met_after_s == pytest.approx(4.0, abs=1.0)
        assert got.joules_not_used == pytest.approx(20.0 * 980, rel=0.01)
        assert (got.over_s, got.peak_before_w) == (0.0, 60.0)
        world.flexer = world.live()
        world.go(6)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(["none", "active"])), min_size=2, max_size=200),
    st.integers(2, 50),
)
def test_coarser_samples_hold_the_same_joules_and_the_same_instants_of_change(
    looks: list[tuple[float, str]], most: int
) -> None:
    fine = [Sample(float(at), phase, watts, None, None, 1.0) for at, (watts, phase) in enumerate(looks)]  # type: ignore[arg-type]
    coarse = merged(fine, most)

    def joules(samples: list[Sample]) -> float:
        pairs = itertools.pairwise(samples)
        return sum(one.power_w * (after.at_s - one.at_s) for one, after in pairs)

    assert joules(coarse) == pytest.approx(joules(fine), rel=1e-9, abs=1e-6)
    assert coarse[-1] == fine[-1] and len(coarse) <= len(fine)
    begins = {b.at_s for a, b in itertools.pairwise(fine) if a.phase != b.phase}
    assert begins <= {one.at_s for one in coarse}


# ---- what strangers may write

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just([]) | st.just({})
)
DSX: dict[str, Any] = {
    "specversion": "1.0.2", "id": "a", "type": "grid.loadtarget.set.v1", "correlationid": "c",
    "data": {"targets": [{
        "interval": {"start_time": "2027-01-15T08:05:00Z", "end_time": "2027-01-15T11:05:00Z"},
        "load_constraint": {"value": 7.5, "unit": "megawatt"}, "strategy": {"best_effort": False},
    }]},
}  # fmt: skip
ADR: dict[str, Any] = {
    "programID": "p", "eventName": "peak", "id": "7",
    "payloadDescriptors": [{"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "MW"}],
    "intervalPeriod": {"start": "2027-01-15T08:10:00Z", "duration": "PT1H30M"},
    "intervals": [
        {"id": 0, "payloads": [{"type": "SIMPLE", "values": [2]}], "intervalPeriod": {"duration": "PT1H"}},
    ],
}  # fmt: skip
OWN: dict[str, Any] = {"id": "e", "reduce": 0.25, "duration_s": 60.0, "notice_s": 1.0}


def places(message: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = (
        message.items()
        if isinstance(message, dict)
        else enumerate(message)
        if isinstance(message, list)
        else ()
    )
    return [path, *(place for key, value in below for place in places(value, (*path, key)))]


def with_value(message: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = dict(message) if isinstance(message, dict) else list(message)
    changed[path[0]] = with_value(message[path[0]], path[1:], value)
    return changed


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_stands_at_a_place_of_a_message_it_is_read_or_refused_in_words(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([DSX, ADR, OWN]))
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(message)))
        message = with_value(message, place, data.draw(SCALARS))
    text = json.dumps(message).encode()
    try:
        events = read_events(text, now_s=NOW, id="x")
    except BadEvent as error:
        assert str(error)
        return
    assert len({event.id for event in events}) == len(events)
    for event in events:
        assert NOW <= event.start_s < min(event.ends_s, 2.6e11)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b'{"limit_w": 30, "duration_s": 10, "notice_s": 1e18}', "years 1970 and 9999"),
        (b'{"limit_w": 30, "duration_s": 1e300}', "years 1970 and 9999"),
        (b"[" * 300_000, "JSON"),
        (
            json.dumps({**ADR, "intervals": ADR["intervals"] * 2}).encode(),
            "id of its own|one of its own",
        ),
        (json.dumps({**ADR, "intervalPeriod": "now"}).encode(), "intervalPeriod must be an object"),
        (json.dumps(with_value(DSX, ("data", "targets", 0, "strategy"), [1])).encode(), "must be an object"),
    ],
)  # fmt: skip
def test_what_would_have_ended_a_reader_is_refused_with_the_reason(message: bytes, why: str) -> None:
    with pytest.raises(BadEvent, match=why):
        read_events(message, now_s=NOW, id="x")
