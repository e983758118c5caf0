"""A power limit: what messages ask for, how the factory gets below it and back, and what that is worth."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.power.signal.account import Sample, reached
from wattmill.power.signal.formats import BadEvent, dsx_status, read_events
from wattmill.power.signal.policy import Governor, in_force
from wattmill.power.signal.spec import FlexRules, Orders, PowerEvent, Seen

NOW = 1_800_000_000.0


@dataclass
class Plant:
    """A factory of one number: what was let in draws for `answer_s`, top tier and lower tiers alike."""

    top: float = 20.0  # work per second that is never held back
    low: float = 120.0
    idle_w: float = 20.0
    j_per_work: float = 0.3
    most: float = 150.0
    answer_s: float = 8.0
    seed: int = 1
    rules: FlexRules = field(default_factory=lambda: FlexRules(rebound_s=300.0))

    def run(self, event_at: int, ends_at: int, event: PowerEvent) -> list[tuple[Sample, float]]:
        """Return each second's sample with the lower work let in."""
        dice, governor, orders = random.Random(self.seed), Governor(self.rules), Orders()
        inside: list[tuple[float, float]] = []
        waits, out = 0.0, []
        for second in range(ends_at):
            now_s = NOW + second
            if second == event_at:
                governor.tell(event)
            waits += self.low * dice.uniform(0.7, 1.3)
            top = self.top * dice.uniform(0.7, 1.3)
            inside = [(work, end_s) for work, end_s in inside if end_s > now_s]
            room = max(0.0, self.most * self.answer_s - sum(work for work, _ in inside) - top)
            take = min(waits, room, waits if orders.lower_work_per_s is None else orders.lower_work_per_s)
            waits -= take
            inside += [(top, now_s + self.answer_s), (take, now_s + self.answer_s)]
            served = sum(work for work, _ in inside) / self.answer_s * orders.engine_share
            watts = self.idle_w + self.j_per_work * served * dice.uniform(0.98, 1.02)
            orders = governor.look(
                Seen(
                    now_s=now_s, power_w=watts, idle_w=self.idle_w, lower_work_per_s=take,
                    all_work_per_s=take + top, lower_waiting=int(waits > 1),
                )
            )  # fmt: skip
            sample = Sample(
                now_s, orders.phase, watts, orders.target_w, orders.lower_work_per_s, orders.engine_share
            )
            out.append((sample, take))
        return out


def event(*, told: int = 700, notice: int = 0, lasts: int = 180, keep: float = 0.75) -> PowerEvent:
    start_s = NOW + told + notice
    return PowerEvent(id="e", told_s=NOW + told, start_s=start_s, end_s=start_s + lasts, keep=keep)


@pytest.mark.parametrize(
    ("plant", "notice", "keep"),
    [
        (Plant(), 0, 0.75),
        (Plant(), 60, 0.75),
        (Plant(answer_s=3.0), 0, 0.75),
        (Plant(answer_s=20.0), 0, 0.75),
        (Plant(), 0, 0.5),
    ],
)
def test_a_limit_is_met_within_ten_seconds_and_kept(plant: Plant, notice: int, keep: float) -> None:
    asked = event(notice=notice, keep=keep)
    samples = [sample for sample, _ in plant.run(700, 1400, asked)]
    base_w = sum(s.power_w for s in samples[100:700]) / 600
    got = reached(
        samples, start_s=asked.start_s, end_s=asked.ends_s, limit_w=base_w * keep, baseline_w=base_w
    )
    assert got is not None and got.met, got
    assert got.joules_not_used is not None
    # It is not met by switching everything off: what the limit leaves is used.
    assert got.mean_w > 0.9 * base_w * keep
    # What was put off comes back, and makes no new peak.
    assert got.peak_before_w is not None and got.peak_after_w is not None
    assert got.peak_after_w <= 1.02 * got.peak_before_w


def test_engines_are_slowed_no_further_than_declared_and_only_once_lower_tiers_are_held_back() -> None:
    plant = Plant()
    active = [sample for sample, _ in plant.run(700, 900, event(keep=0.1)) if sample.phase == "active"]
    assert min(s.engine_share for s in active) == plant.rules.least_engine_share
    slowed = [s for s in active if s.engine_share < 1.0]
    assert slowed and all(s.lower_work_per_s == 0.0 for s in slowed)


def test_a_limit_below_idle_is_told_to_be_infeasible_with_what_is_reached() -> None:
    governor = Governor(FlexRules())
    governor.look(Seen(now_s=NOW, power_w=50.0, idle_w=20.0))
    governor.tell(PowerEvent(id="x", told_s=NOW, start_s=NOW + 60, end_s=NOW + 90, limit_w=15.0))
    noticed = governor.look(Seen(now_s=NOW + 1, power_w=50.0, idle_w=20.0))
    assert noticed.phase == "noticed" and noticed.floor_w == 20.0
    active = governor.look(Seen(now_s=NOW + 61, power_w=50.0, idle_w=20.0))
    assert active.phase == "active" and active.floor_w == 20.0 and active.lower_work_per_s == 0.0


def test_batches_wait_from_the_ramp_until_power_is_back() -> None:
    samples = Plant(rules=FlexRules(rebound_s=60.0, ramp_up_s=10.0))
    governor = Governor(samples.rules)
    phases = {}
    for second in range(400):
        if second == 100:
            governor.tell(event(told=100, notice=60, lasts=60))
        told = governor.look(Seen(now_s=NOW + second, power_w=50.0, idle_w=20.0))
        phases.setdefault(told.phase, told.batches)
    assert phases == {"none": True, "noticed": True, "ramp": False, "active": False, "recovering": False}
    assert told == Orders()  # all is as if nothing had been


def test_what_work_draws_is_learnt_from_a_look_now_and_then_before_any_event() -> None:
    """Idle 100 W, 200 W with 1,000 work a second, half of it of lower tiers: 20 W less are 200 of theirs."""
    governor = Governor(FlexRules(margin=0.0))
    for second in range(300):
        work = (500.0, 1000.0) if second % 5 == 0 else (None, None)
        governor.look(
            Seen(
                now_s=NOW + second, power_w=200.0, idle_w=100.0, lower_work_per_s=work[0],
                all_work_per_s=work[1],
            )
        )  # fmt: skip
    governor.tell(PowerEvent(id="x", told_s=NOW + 300, start_s=NOW + 300, end_s=NOW + 400, limit_w=180.0))
    told = governor.look(
        Seen(
            now_s=NOW + 300, power_w=200.0, idle_w=100.0, lower_work_per_s=500.0, all_work_per_s=1000.0,
            lower_waiting=9,
        )
    )  # fmt: skip
    assert told.lower_work_per_s == pytest.approx(500.0 - 200.0 - 100.0, rel=0.05)  # and half of it at once


def test_without_notice_nothing_ramps_before_the_start() -> None:
    governor = Governor(FlexRules())
    governor.look(Seen(now_s=NOW, power_w=50.0, idle_w=20.0))
    governor.tell(event(told=0, notice=0, lasts=10))
    assert governor.look(Seen(now_s=NOW, power_w=50.0, idle_w=20.0)).phase == "active"


def test_what_was_told_last_holds_and_a_lifting_event_frees() -> None:
    first = PowerEvent(id="a", told_s=1.0, start_s=10.0, end_s=100.0, limit_w=50.0)
    second = PowerEvent(id="b", told_s=2.0, start_s=20.0, end_s=40.0, limit_w=30.0)
    lifted = PowerEvent(id="c", told_s=3.0, start_s=60.0, end_s=100.0)
    events = [first, second, lifted]
    holds = {at: in_force(events, at) for at in (5.0, 15.0, 25.0, 45.0, 70.0)}
    assert holds == {5.0: None, 15.0: first, 25.0: second, 45.0: first, 70.0: None}


@given(
    powers=st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    keep=st.floats(0, 1),
    idle=st.floats(0, 1e3),
    works=st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
)
def test_orders_are_sane_whatever_a_meter_says(
    powers: list[float], keep: float, idle: float, works: list[float]
) -> None:
    governor = Governor(FlexRules(baseline_s=20.0, rebound_s=10.0))
    for second, (watts, work) in enumerate(zip(powers, works, strict=False)):
        if second == 10:
            governor.tell(PowerEvent(id="e", told_s=NOW + 10, start_s=NOW + 15, end_s=NOW + 30, keep=keep))
        told = governor.look(
            Seen(now_s=NOW + second, power_w=watts, idle_w=idle, lower_work_per_s=work, all_work_per_s=work)
        )
        assert 0.4 <= told.engine_share <= 1.0
        assert told.lower_work_per_s is None or 0.0 <= told.lower_work_per_s < float("inf")
        assert told.target_w is None or told.target_w >= 0.0


# ---- messages


def test_dsx_flex_targets_are_read_with_their_units_and_times() -> None:
    message = {
        "specversion": "1.0.2", "id": "5f0f", "source": "//grid/v1/isv/a", "type": "grid.loadtarget.set.v1",
        "time": "2027-01-15T08:00:00Z", "datacontenttype": "application/json", "subject": "loadtarget",
        "correlationid": "c-1", "traceparent": "00-0-0-00",
        "data": {"targets": [
            {"interval": {"start_time": "2027-01-15T08:05:00Z", "end_time": "2027-01-15T11:05:00Z"},
             "load_constraint": {"value": 7.5, "unit": "megawatt"}, "strategy": {"best_effort": False}},
            {"interval": {"start_time": "2027-01-15T11:05:00Z"}, "load_constraint": None},
        ]},
    }  # fmt: skip
    now_s = 1_800_000_000.0  # 2027-01-15T08:00:00Z
    first, then = read_events(json.dumps(message).encode(), now_s=now_s, id="x")
    assert (first.limit_w, first.start_s, first.ends_s) == (7.5e6, now_s + 300, now_s + 300 + 3 * 3600)
    assert first.best_effort is False and first.correlation == "c-1" and first.source == "dsx-flex"
    assert then.lifts and then.end_s is None and then.start_s == first.ends_s


def test_openadr_intervals_follow_each_other_and_levels_mean_what_is_declared() -> None:
    message = {
        "objectType": "EVENT", "programID": "p", "eventName": "peak",
        "payloadDescriptors": [{"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "MW"}],
        "intervalPeriod": {"start": "2027-01-15T08:10:00Z", "duration": "PT1H30M"},
        "intervals": [
            {"id": 0, "payloads": [{"type": "IMPORT_CAPACITY_LIMIT", "values": [7.5]}]},
            {"id": 1, "payloads": [{"type": "SIMPLE", "values": [2]}]},
            {"id": 2, "payloads": [{"type": "PRICE", "values": [0.3]}]},
            {"id": 3, "payloads": [{"type": "SIMPLE", "values": [0]}]},
        ],
    }  # fmt: skip
    limit, level, normal = read_events(json.dumps(message).encode(), now_s=NOW, id="x")
    assert limit.limit_w == 7.5e6 and limit.start_s == NOW + 600 and limit.ends_s == NOW + 600 + 5400
    assert level.keep == 0.75 and level.start_s == limit.ends_s
    assert normal.lifts


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"{", "JSON"),
        (b"[]", "one JSON object"),
        (b'{"duration_s": 10}', "one of reduce"),
        (b'{"reduce": 0.25, "limit_w": 4, "duration_s": 10}', "one of reduce"),
        (b'{"reduce": 25, "duration_s": 10}', "above 0 and at most 1"),
        (b'{"reduce": 0.2, "duration_s": 0}', "duration_s"),
        (b'{"reduce": 0.2, "duration_s": 10, "watts": 3}', "watts"),
        (b'{"limit_w": -3, "duration_s": 10}', "limit_w"),
        (b'{"specversion": "1.0.2", "type": "grid.other"}', "grid.loadtarget.set.v1"),
        (
            b'{"specversion": "1.0.2", "type": "grid.loadtarget.set.v1", "id": "a", "data": "eyJ.x.y"}',
            "signed",
        ),
        (
            b'{"specversion": "1.0.2", "type": "grid.loadtarget.set.v1", "id": "a", "data": {"targets": '
            b'[{"load_constraint": {"value": 3, "unit": "horsepower"}}]}}',
            "megawatt",
        ),
        (b'{"intervals": [{"payloads": [{"type": "SIMPLE", "values": [9]}]}]}', "0, 1, 2 or 3"),
        (
            b'{"intervals": [{"intervalPeriod": {"duration": "P1M"}, "payloads": []}]}',
            "days and below",
        ),
        (
            b'{"intervalPeriod": {"start": "2027-01-15T08:00:00"}, "intervals": [{"payloads": []}]}',
            "time zone",
        ),
    ],
)
def test_what_a_sender_gets_wrong_is_said(message: bytes, why: str) -> None:
    with pytest.raises(BadEvent, match=why):
        read_events(message, now_s=NOW, id="x")


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(message: bytes) -> None:
    try:
        read_events(message, now_s=NOW, id="x")
    except BadEvent:
        pass


def test_the_power_state_goes_out_as_dsx_flex_tells_it() -> None:
    status = dsx_status(
        feed="factory", now_s=NOW, event=event(told=0, notice=0), phase="active", power_w=46.0, limit_w=45.0,
        least_w=20.0, most_w=65.0, message_id="m", source="//grid/v1/agent", traceparent="00-1-1-00",
    )  # fmt: skip
    feed = status["data"]["feeds"]["factory"]
    assert status["type"] == "grid.powerstate.status.v1" and status["time"].endswith("Z")
    assert feed["calculated_load"] == {"value": 46.0, "unit": "watt"} and feed["compliant"] is False
    assert feed["targets"][0]["load_constraint"] == {"value": 45.0, "unit": "watt"}


# ---- the account


def test_joules_and_peaks_are_those_of_a_hand_calculation() -> None:
    def power(second: int) -> float:
        return 60.0 if second < 100 else 40.0 if second < 160 else 66.0 if second < 180 else 60.0

    samples = [Sample(float(s), "none", power(s), None, None, 1.0) for s in range(240)]
    got = reached(samples, start_s=100.0, end_s=160.0, limit_w=45.0, baseline_w=60.0)
    assert got is not None
    assert got.joules_not_used == 60 * 60 - 40 * 60
    assert got.rebound_j == pytest.approx(6.0 * 20)
    assert (got.met_after_s, got.over_s, got.mean_w) == (0.0, 0.0, 40.0)
    assert (got.peak_before_w, got.peak_after_w) == (60.0, 66.0) and got.met


def test_a_limit_that_is_never_met_is_said_to_be() -> None:
    samples = [Sample(float(s), "active", 60.0, 45.0, 0.0, 1.0) for s in range(100)]
    got = reached(samples, start_s=0.0, end_s=100.0, limit_w=45.0, baseline_w=None)
    assert got is not None and not got.met and got.met_after_s is None and got.over_s == 80.0
    assert got.joules_not_used is None
