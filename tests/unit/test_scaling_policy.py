"""How many replicas: by hand, and what holds for any load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wattmill.scheduling.scaling.policy import scale
from wattmill.scheduling.scaling.spec import PoolLoad, Scaled, ScalingMemory, ScalingRules

RULES = ScalingRules(
    least=1, most=10, target=0.5, window_s=60.0, up_after_s=30.0, down_after_s=120.0, most_at_once=3
)


NEW = ScalingMemory()


def look(load: PoolLoad, memory: ScalingMemory = NEW, *, now_s: float = 0.0) -> Scaled:
    return scale(load, RULES, memory, now_s=now_s)


def test_by_hand_forty_requests_want_ten_replicas_of_eight_slots_and_three_come_at_once() -> None:
    # 40 / (8 x 0.5) = 10 wanted, one there, three at most by one decision.
    first = look(PoolLoad(ready=1, starting=0, slots=8, in_flight=10, waiting=30))
    assert first.replicas == 4
    assert first.reason == "40 requests want 10 replicas of 8 slots at 0.5"
    soon = look(PoolLoad(1, 3, 8, 10, 30), first.memory, now_s=20.0)
    assert (soon.replicas, soon.reason) == (4, "")  # asked for 20 s ago: they may still come
    later = look(PoolLoad(4, 0, 8, 32, 8), first.memory, now_s=30.0)
    assert later.replicas == 7


def test_by_hand_what_has_not_been_needed_for_two_minutes_goes() -> None:
    memory, at_s = ScalingMemory(), 0.0
    said = []
    for at_s in range(0, 160, 10):
        told = look(PoolLoad(ready=4, starting=0, slots=8, in_flight=3, waiting=0), memory, now_s=at_s)
        memory = told.memory
        said.append((at_s, told.replicas))
    # 3 / 4 = 1 replica sufficed since 0 s: at 120 s three of four go.
    assert [at for at, replicas in said if replicas != 4] == [120]
    assert dict(said)[120] == 1


def test_by_hand_the_load_is_smoothed_over_the_window() -> None:
    one = look(PoolLoad(8, 0, 8, 32, 0))
    two = look(PoolLoad(8, 0, 8, 0, 0), one.memory, now_s=60.0)
    assert one.memory.load == 32.0
    assert two.memory.load is not None and abs(two.memory.load - 32.0 / 2.718281828) < 1e-6


LOADS = st.builds(
    PoolLoad,
    ready=st.integers(0, 12), starting=st.integers(0, 4), slots=st.integers(1, 64),
    in_flight=st.integers(0, 2_000), waiting=st.integers(0, 2_000),
)  # fmt: skip


@given(st.lists(st.tuples(LOADS, st.floats(0.1, 400.0)), min_size=1, max_size=30))
def test_replicas_stay_within_their_bounds_and_change_by_no_more_than_allowed(
    looks: list[tuple[PoolLoad, float]],
) -> None:
    memory, now_s = ScalingMemory(), 0.0
    for load, passed_s in looks:
        now_s += passed_s
        told = look(load, memory, now_s=now_s)
        there = load.ready + load.starting
        if told.reason:
            assert RULES.least <= told.replicas <= RULES.most
            assert told.memory.changed_s == now_s
            if RULES.least <= there <= RULES.most:
                assert 0 < abs(told.replicas - there) <= RULES.most_at_once
        else:
            assert told.replicas == there
        memory = told.memory


@given(LOADS, st.integers(1, 500))
def test_more_load_never_wants_fewer_replicas(load: PoolLoad, more: int) -> None:
    assert look(load._replace(waiting=load.waiting + more)).replicas >= look(load).replicas


@given(LOADS)
def test_the_same_look_says_the_same(load: PoolLoad) -> None:
    assert look(load) == look(load)
