"""Runaways are seen within five steps, honest work is left alone, and it costs microseconds."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import runaway
from runaway_sessions import BENIGN, RUNAWAYS, Call, generations, seeded_rng, trace_sessions
from wattmill.agents.runaway.policy import RING, Trail, enter, leave, sub_runs
from wattmill.agents.runaway.sketch import sketch
from wattmill.agents.runaway.spec import Rules
from wattmill.agents.runaway.watch import Watch

SEED = 4  # not one that the rules were looked at with


@pytest.mark.parametrize("kind", RUNAWAYS)
def test_a_runaway_is_told_within_five_steps(kind: str) -> None:
    for n in range(25):
        found = runaway.play(RUNAWAYS[kind](seeded_rng(kind, SEED, n)))
        assert found is not None and 1 <= found[0].step <= 5, (kind, n, found)


def test_a_storm_of_sub_runs_is_told_within_five_generations() -> None:
    for n in range(50):
        levels = generations(random.Random(f"{SEED}/{n}"))
        told = [level for opened, level, _ in levels if sub_runs(opened, level, Rules())]
        assert told and told[0] <= 5


def test_less_than_one_in_a_hundred_benign_sessions_is_told() -> None:
    told = {
        kind: sum(runaway.play(make(seeded_rng(kind, SEED, n))) is not None for n in range(150))
        for kind, make in BENIGN.items()
    }
    assert 150 * len(BENIGN) >= 1_000
    assert sum(told.values()) < 150 * len(BENIGN) / 100, told


def test_none_of_the_sessions_of_the_agent_trace_is_told() -> None:
    sessions = list(trace_sessions())
    assert len(sessions) == 63 and sum(len(calls) for _, calls in sessions) == 783
    assert [name for name, calls in sessions if runaway.play(calls)] == []


def test_the_thresholds_are_those_that_were_fixed_before_the_test() -> None:
    """They were committed before the first session was counted. Whoever moves one repeats the whole count."""
    rules = Rules()
    assert (rules.repeats, rules.last_repeats, rules.word_repeats, rules.twins) == (3, 4, 12, 64)
    assert (rules.pause_s, rules.leaps, rules.leap_tok) == (3.0, 3, 64_000)
    assert (rules.loads, rules.load_tok) == (4, 24_000)
    assert (rules.heavy_calls, rules.heavy_tok, rules.heavy_tok_per_min) == (5, 256_000, 2_000_000)
    assert (rules.retries, rules.retry_s, rules.children, rules.direct_children) == (4, 1.0, 32, 128)


def said(*contents: str, tool: bool = False) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    if tool:
        messages.append({"role": "tool", "tool_call_id": f"call_{random.random()}", "content": contents[-1]})
    return json.dumps(messages).encode()


def test_calls_of_a_tool_loop_are_alike_but_for_ids_times_and_figures() -> None:
    one = said("look", "looking", "not there, 10:03:17, attempt 3, id 9f8a", tool=True)
    two = said("look", "looking", "not there, 10:04:59, attempt 4, id 00cd", tool=True)
    assert sketch(one) == sketch(two)
    assert sketch(one) != sketch(said("look", "looking", "it is there", tool=True))


def test_items_of_a_batch_differ_by_their_figures_alone() -> None:
    assert sketch(said("Is 7919 prime?")) != sketch(said("Is 7920 prime?"))


def test_content_before_role_is_read_as_well() -> None:
    def reversed_keys(text: str) -> bytes:
        return json.dumps(
            [{"content": "be brief", "role": "system"}, {"content": text, "role": "user"}]
        ).encode()

    assert sketch(reversed_keys("one question")) != sketch(reversed_keys("another question"))
    assert sketch(reversed_keys("one question")) == sketch(reversed_keys("one question"))


@given(st.binary(max_size=9_000))
def test_a_sketch_never_fails_whatever_the_bytes(data: bytes) -> None:
    pair, last, wordy = sketch(data)
    assert 0 <= pair < 2**32 and 0 <= last < 2**32 and isinstance(wordy, bool)
    assert sketch(memoryview(data)) == (pair, last, wordy)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.booleans(), st.integers(0, 2_000_000), st.booleans(), st.floats(0, 100)
        ),
        max_size=80,
    )
)
def test_a_trail_stays_small_and_counts_its_calls(calls: list[tuple[int, bool, int, bool, float]]) -> None:
    trail, now_s, inside = Trail(), 0.0, []
    for pair, wordy, tok, failed, wait_s in calls:
        now_s += wait_s
        enter(trail, pair, pair, wordy, tok, now_s, Rules())
        inside.append((pair, failed))
        if failed:
            leave(trail, *inside.pop(0), now_s)
        assert len(trail.pairs) <= RING and len(trail.lasts) <= RING
        assert trail.in_flight == len(inside)
    for pair, failed in inside:
        leave(trail, pair, failed, now_s)
    assert trail.in_flight == 0


def test_who_backs_off_is_no_storm_and_who_does_not_is_one() -> None:
    def verdicts(wait_s: float) -> list[bool]:
        trail, now_s, out = Trail(), 0.0, []
        for _ in range(8):
            out.append(enter(trail, 1, 1, True, 100, now_s, Rules()) is not None)
            leave(trail, 1, True, now_s + 0.01)
            now_s += 0.01 + wait_s
        return out

    assert any(verdicts(0.1)[:5]) and not any(verdicts(1.5))


def test_a_success_ends_a_storm() -> None:
    trail = Trail()
    for n in range(20):
        assert enter(trail, 1, 1, True, 100, n * 10.0, Rules()) is None
        leave(trail, 1, n % 2 == 0, n * 10.0 + 0.1)


def test_the_same_question_side_by_side_is_a_vote_up_to_a_point() -> None:
    trail = Trail()
    told = [enter(trail, 7, 7, True, 100, 0.0, Rules()) is not None for _ in range(100)]
    assert not any(told[:64]) and told[-1]


def test_trails_are_bounded_and_the_longest_unused_is_forgotten() -> None:
    watch = Watch(most=3)
    first = watch.trail("a")
    watch.trail("b"), watch.trail("c")
    assert watch.trail("a") is first
    watch.trail("d")
    assert len(watch) == 3 and watch.trail("a") is first
    watch.forget("a")
    assert watch.trail("a") is not first


def test_detection_costs_a_few_microseconds_a_call() -> None:
    # The goal is 5 us; machines under other load get room, a parser or a regex over the prompt would not fit.
    assert runaway.cost_us(rounds=5_000) < 25


def test_three_equal_calls_are_no_runaway_yet() -> None:
    trail = Trail()
    calls = [Call(n * 1.0, n + 0.5, said("same"), 100) for n in range(3)]
    assert runaway.play(calls) is None
    for n in range(3):
        pair, last, wordy = sketch(said("same"))
        enter(trail, pair, last, wordy, 100, float(n), Rules())
        leave(trail, pair, False, n + 0.5)
    assert trail.repeats == 2
