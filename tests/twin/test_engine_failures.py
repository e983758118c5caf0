"""Machines that fail inside the compiled engine: by hand, in the mean, step by step beside the slow one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_engine import Guest
from slow_machines import Machine, lasts_ps, walked
from test_engine_core import MS_PS, costs, played, traces

from wattmill.twin.engine.experiment import Clients, Failures, Requests, simulate
from wattmill.twin.engine.live import END, Engine, Event
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import PS_PER_S

PLAIN = StepCost(step_ps=(10 * MS_PS,), power_mw=(1, 1_000), idle_mw=200)
LIMITS = EngineLimits(max_num_seqs=8, budget_tok=512, kv_blocks=256)


def test_a_failure_by_hand() -> None:
    """One machine, 10 ms a step, one request of one prompt token and 50 answers. It dies after `first` ms,
    having given one token for each whole 10 ms; it is repaired, and all of it is computed again."""
    fails = next(
        Failures(mtbf_s=0.3, mttr_s=0.1, seed=seed)
        for seed in range(100)
        if lasts_ps(0.3, seed, 0, 0) < 450 * MS_PS and lasts_ps(0.3, seed, 0, 2) > 550 * MS_PS
    )
    first, repair = lasts_ps(0.3, fails.seed, 0, 0), lasts_ps(0.1, fails.seed, 0, 1)
    ran = simulate([(PLAIN, LIMITS)], Requests(at_ps=[0], input_tok=[1], output_tok=[50]), failures=fails)
    assert ran.begun_ps.tolist() == [first + repair]
    assert ran.end_ps.tolist() == [first + repair + 500 * MS_PS]
    assert ran.void_tok.tolist() == [first // (10 * MS_PS)]
    assert (ran.failures.tolist(), ran.broke.tolist(), ran.lost.tolist()) == ([1], [1], [0])
    assert ran.down_ps.tolist() == [repair]
    # 1 W while a step runs, 0.2 W never here: wasted until it died, the answer's 0.5 s, nothing in between.
    assert ran.energy_uj.tolist() == [500_000]
    assert ran.void_uj.tolist() == pytest.approx([first / PS_PER_S * 1e6], abs=100)
    assert ran.idle_uj.tolist() == [0]


def test_after_its_last_try_a_request_is_lost() -> None:
    """It needs 10 s, and machines live half a second in the mean."""
    ran = simulate(
        [(PLAIN, LIMITS)] * 2,
        Requests(at_ps=[0, 0], input_tok=[1, 1], output_tok=[1_000, 2]),
        failures=Failures(mtbf_s=0.5, mttr_s=0.1, tries=4),
    )
    assert (ran.lost.tolist(), ran.broke.tolist(), ran.end_ps[0]) == ([1, 0], [4, 0], -1)


def test_machines_are_down_for_as_long_as_their_means_say() -> None:
    """Down for 1 of 5 seconds; requests of one step keep the experiment going for 2,000 s."""
    at_ps = np.arange(20_000) * 100 * MS_PS
    ran = simulate(
        [(PLAIN, LIMITS)] * 4,
        Requests(at_ps=at_ps, input_tok=np.ones(20_000), output_tok=np.ones(20_000)),
        failures=Failures(mtbf_s=4.0, mttr_s=1.0),
    )
    share = float(ran.down_ps.sum()) / 4 / float(ran.end_ps.max())
    # n cycles of exponential times: the share's standard error is u (1 - u) sqrt(2 / n).
    assert abs(share - 0.2) < 4 * 0.2 * 0.8 * (2 / int(ran.failures.sum())) ** 0.5
    assert not ran.lost.any()


def test_clients_of_a_benchmark_go_on_when_their_requests_are_lost() -> None:
    ran = simulate(
        [(PLAIN, LIMITS)],
        Requests(input_tok=[1] * 40, output_tok=[30] * 40),
        clients=Clients(concurrency=4, warm_ups=4),
        failures=Failures(mtbf_s=0.5, mttr_s=0.2, tries=1),
    )
    assert 0 < int(ran.lost.sum()) < 40
    assert ((ran.end_ps >= 0) != (ran.lost == 1)).all()


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (Failures(mtbf_s=0.0, mttr_s=1.0), "mtbf_s is 0.0, mttr_s is 1.0: both must be > 0"),
        (Failures(mtbf_s=1.0, mttr_s=1.0, tries=0), "tries is 0, must be >= 1"),
    ],
)
def test_failures_that_say_nothing_are_refused(fails: Failures, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        simulate([(PLAIN, LIMITS)], Requests(at_ps=[0], input_tok=[1], output_tok=[1]), failures=fails)


@pytest.mark.parametrize("scheduler", ["vllm", "sglang", "trtllm", "llamacpp"])
@settings(deadline=None, max_examples=60)
@given(
    st.lists(costs(), min_size=1, max_size=3),
    traces(),
    st.sampled_from([1, 3]),
    st.sampled_from([(11, 16), (40, 16), (160, 1)]),
    st.booleans(),
    st.builds(
        Failures,
        mtbf_s=st.sampled_from([0.1, 0.4, 2.0]),
        mttr_s=st.sampled_from([0.02, 0.3]),
        tries=st.integers(1, 3),
        seed=st.integers(0, 50),
    ),
)
def test_the_slow_simulator_agrees_to_the_picosecond_where_machines_fail(
    scheduler: str,
    three: list[StepCost],
    trace: list[Guest],
    seqs: int,
    memory: tuple[int, int],
    caching: bool,
    fails: Failures,
) -> None:
    blocks, block_tok = memory
    limits = EngineLimits(
        scheduler=scheduler,  # type: ignore[arg-type]
        max_num_seqs=seqs,
        budget_tok=160,
        kv_blocks=blocks * (seqs if scheduler == "llamacpp" else 1),
        block_tok=block_tok,
        prefix_cache=caching,
        prefix_tok=16,
    )
    if scheduler == "llamacpp":
        three = [msgspec.structs.replace(cost, stages=1, piece_tok=8) for cost in three]
    fast = played([(cost, limits) for cost in three], trace, failures=fails)
    machines = [Machine(cost, limits) for cost in three]
    walked(machines, trace, fails)
    for index, guest in enumerate(trace):
        assert (bool(fast.lost[index]), int(fast.broke[index])) == (guest.lost, guest.broke)
        if not guest.lost:
            told = (fast.begun_ps, fast.first_ps, fast.end_ps, fast.cached_tok, fast.preemptions)
            slow = (guest.begun_ps, guest.first_ps, guest.end_ps, guest.cached_tok, guest.preemptions)
            assert tuple(int(one[index]) for one in told) == slow
    assert fast.busy_ps.tolist() == [m.busy_ps + m.engine.busy_ps for m in machines]
    assert fast.steps.tolist() == [m.steps + m.engine.steps for m in machines]
    assert fast.failures.tolist() == [m.failures for m in machines]
    assert fast.void_tok.tolist() == [m.void_tok for m in machines]


@settings(deadline=None, max_examples=25)
@given(costs(), traces(), st.integers(0, 50), st.booleans())
def test_an_engine_that_dies_between_two_looks_tells_what_it_had_and_goes_on(
    cost: StepCost, trace: list[Guest], when: int, caching: bool
) -> None:
    """What it had is what the slow one had; what comes later finds an empty machine."""
    limits = EngineLimits(max_num_seqs=3, budget_tok=40, kv_blocks=12, prefix_tok=16, prefix_cache=caching)
    dies_ps = when * 20 * MS_PS + 7
    engine = Engine([(cost, limits)], prefixes=True)
    machine = Machine(cost, limits)
    later = [g for g in trace if g.here_ps > dies_ps]
    told: list[Event] = []
    for guest in trace:
        if guest in later:
            continue
        told += engine.advance(guest.here_ps - 1)
        engine.take(
            guest.index, 0, guest.here_ps, input_tok=guest.input_tok, output_tok=guest.output_tok,
            max_output_tok=guest.asked_tok, prefix=guest.ids,
        )  # fmt: skip
    told += engine.advance(dies_ps - 1)
    broken = engine.break_off(0, dies_ps)
    slow = [g for g in trace if g not in later]
    coming = list(slow)
    for guest in slow:
        guest.target_tok = guest.input_tok
    while coming or machine.engine.ends_ps >= 0:
        ends_ps = machine.engine.ends_ps
        if coming and (ends_ps < 0 or coming[0].here_ps <= ends_ps):
            machine.engine.waiting.append(coming.pop(0))
            now = machine.engine.waiting[-1].here_ps
        elif ends_ps >= dies_ps:
            break
        else:
            machine.engine.finish()
            now = ends_ps
        if not coming or coming[0].here_ps != now:
            machine.begin(now)
    here = [*machine.engine.waiting, *machine.engine.running]
    had = sorted(
        (
            g.index,
            g.input_tok if g.given_tok else g.there_tok if g in machine.engine.running else 0,
            g.given_tok,
        )
        for g in here
    )
    assert [(tag, prompt_tok, given_tok) for tag, prompt_tok, _, given_tok in broken] == had
    assert all(cached_tok <= prompt_tok for _, prompt_tok, cached_tok, _ in broken)
    assert engine.load[0] == 0
    for guest in later:
        told += engine.advance(guest.here_ps - 1)
        engine.take(
            guest.index, 0, guest.here_ps, input_tok=guest.input_tok, output_tok=guest.output_tok,
            max_output_tok=guest.asked_tok, prefix=guest.ids,
        )  # fmt: skip
    told += engine.finish()  # conservation is looked at in there
    ended = [event.tag for event in told if event.kind == END]
    assert sorted([*ended, *(tag for tag, _, _, _ in broken)]) == [g.index for g in trace]
