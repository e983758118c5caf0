"""Prefill and decode on machines of their own: by hand, conserved, and step by step beside the slow one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from slow_engine import Guest
from slow_machines import Machine, walked
from test_engine_core import MS_PS, costs, played, traces

from wattmill.twin.engine.experiment import Clients, Failures, HandOver, Requests, simulate
from wattmill.twin.engine.live import END, FIRST, Engine, Event
from wattmill.twin.engine.spec import EngineLimits, StepCost

LIMITS = EngineLimits(max_num_seqs=8, budget_tok=512, kv_blocks=256)


def test_a_hand_over_by_hand() -> None:
    """Two prompts of 100 tokens in one step of 10 + 200 x 0.1 = 30 ms; the link carries each in 1 ms + 100 x
    0.05 ms = 6 ms, one after the other: there at 36 and 42 ms. The decode machine, 10 ms a step, gives the
    first its second token at 46 ms, then both: third and second token at 56 ms; the last one at 66 ms."""
    cost = StepCost(
        step_ps=(10 * MS_PS,),
        prefill_ps_per_tok=MS_PS // 10,
        handover_ps=MS_PS,
        handover_ps_per_tok=MS_PS // 20,
    )
    ran = simulate(
        [(cost, LIMITS)] * 2,
        Requests(at_ps=[0, 0], input_tok=[100, 100], output_tok=[3, 3]),
        hand_over=HandOver(prefill=1),
    )
    assert (ran.first_ps // MS_PS).tolist() == [30, 30]
    assert (ran.end_ps // MS_PS).tolist() == [56, 66]
    assert ran.replica.tolist() == [1, 1]
    assert (ran.busy_ps // MS_PS).tolist() == [30, 30]
    assert (ran.handed.tolist(), ran.handed_tok.tolist()) == ([2], [200])
    assert (ran.link_busy_ps.tolist(), ran.link_wait_ps.tolist()) == ([12 * MS_PS], [6 * MS_PS])


def test_an_answer_of_one_token_ends_where_its_prompt_was_computed() -> None:
    ran = simulate(
        [(StepCost(step_ps=(MS_PS,)), LIMITS)] * 2,
        Requests(at_ps=[0], input_tok=[9], output_tok=[1]),
        hand_over=HandOver(prefill=1),
    )
    assert (ran.replica.tolist(), ran.handed.tolist()) == ([0], [0])


def test_a_slow_link_holds_the_memory_of_prompts_and_so_the_next_prompt() -> None:
    """Memory for one prompt: the second begins when the link, a second each, has carried the first over."""
    cost = StepCost(step_ps=(10 * MS_PS,), handover_ps=1_000 * MS_PS)
    small = EngineLimits(max_num_seqs=8, budget_tok=512, kv_blocks=8)
    ran = simulate(
        [(cost, small)] * 2,
        Requests(at_ps=[0, 0], input_tok=[100, 100], output_tok=[2, 2]),
        hand_over=HandOver(prefill=1),
    )
    assert (ran.begun_ps // MS_PS).tolist() == [0, 1_010]


def test_the_last_admitted_loses_its_memory_though_another_began_to_decode_later() -> None:
    """Found by the law below. Request 4, taken back at 164 ms, comes in again at 172 ms before 5, which was
    handed over and decodes at once, while 4 computes its 17 tokens first. When memory runs out at 256 ms, 5
    came in last and goes, though 4 began to decode after it."""
    cost = StepCost(
        step_ps=(8 * MS_PS,),
        prefill_ps_per_tok=MS_PS // 5,
        attention_ps_per_ktok=3_000_001,
        handover_ps=1,
    )
    limits = EngineLimits(max_num_seqs=3, budget_tok=160, kv_blocks=11, chunked_prefill=False)
    ran = simulate(
        [(cost, limits)] * 2,
        Requests(at_ps=[0] * 6, input_tok=[100, 1, 1, 1, 1, 1], output_tok=[40, 1, 1, 17, 40, 17]),
        hand_over=HandOver(prefill=1),
    )
    assert ran.preemptions.tolist() == [0, 0, 0, 0, 2, 1]
    assert (ran.end_ps // MS_PS).tolist() == [343, 28, 28, 172, 416, 400]


@pytest.mark.parametrize(
    ("prefill", "scheduler", "says"),
    [
        (2, "vllm", "prefill is 2, must be between 1 and 1"),
        (1, "llamacpp", "its replicas cannot hand over"),
    ],
)
def test_replicas_that_cannot_hand_over_are_refused(prefill: int, scheduler: str, says: str) -> None:
    limits = msgspec.structs.replace(LIMITS, scheduler=scheduler)
    with pytest.raises(ValueError, match=says):
        simulate(
            [(StepCost(step_ps=(MS_PS,)), limits)] * 2,
            Requests(at_ps=[0], input_tok=[1], output_tok=[1]),
            hand_over=HandOver(prefill=prefill),
        )


def test_a_benchmark_client_keeps_its_places_full_over_both_kinds() -> None:
    ran = simulate(
        [(StepCost(step_ps=(MS_PS,), handover_ps=MS_PS), LIMITS)] * 3,
        Requests(input_tok=[64] * 60, output_tok=[20] * 60),
        clients=Clients(concurrency=6, warm_ups=6),
        hand_over=HandOver(prefill=1),
    )
    assert (ran.end_ps > 0).all() and set(ran.replica.tolist()) == {1, 2}


LINKS = st.sampled_from([(1, 0), (7_000_003, 50_000_001), (30 * MS_PS, 2 * MS_PS)])
FAILS = st.one_of(
    st.none(),
    st.builds(
        Failures,
        mtbf_s=st.sampled_from([0.15, 0.6]),
        mttr_s=st.sampled_from([0.02, 0.3]),
        tries=st.integers(1, 3),
        seed=st.integers(0, 50),
    ),
)


@pytest.mark.parametrize("scheduler", ["vllm", "sglang", "trtllm"])
@settings(deadline=None, max_examples=80)
@given(
    st.lists(costs(), min_size=2, max_size=4),
    st.integers(1, 3),
    LINKS,
    st.booleans(),
    traces(),
    st.sampled_from([1, 3]),
    st.sampled_from([(11, 16), (40, 16), (160, 1)]),
    st.booleans(),
    st.booleans(),
    FAILS,
)
def test_the_slow_simulator_agrees_to_the_picosecond_where_prompts_are_handed_over(
    scheduler: str,
    several: list[StepCost],
    prefill: int,
    link: tuple[int, int],
    shared: bool,
    trace: list[Guest],
    seqs: int,
    memory: tuple[int, int],
    caching: bool,
    chunked: bool,
    fails: Failures | None,
) -> None:
    blocks, block_tok = memory
    prefill = min(prefill, len(several) - 1)
    limits = EngineLimits(
        scheduler=scheduler,  # type: ignore[arg-type]
        max_num_seqs=seqs,
        budget_tok=160,
        kv_blocks=blocks,
        block_tok=block_tok,
        prefix_cache=caching,
        prefix_tok=16,
        chunked_prefill=chunked,
    )
    several = [
        msgspec.structs.replace(cost, handover_ps=link[0], handover_ps_per_tok=link[1]) for cost in several
    ]
    over = HandOver(prefill=prefill, shared_link=shared)
    fast = played([(cost, limits) for cost in several], trace, hand_over=over, failures=fails)
    machines = [
        Machine(cost, limits, prefill_only=number < prefill, link=0 if shared else number)
        for number, cost in enumerate(several)
    ]
    walked(machines, trace, fails)
    for index, guest in enumerate(trace):
        assert (bool(fast.lost[index]), int(fast.broke[index])) == (guest.lost, guest.broke)
        if not guest.lost:
            told = (fast.begun_ps, fast.first_ps, fast.end_ps, fast.cached_tok, fast.preemptions)
            slow = (guest.begun_ps, guest.first_ps, guest.end_ps, guest.cached_tok, guest.preemptions)
            assert tuple(int(one[index]) for one in told) == slow
    assert fast.busy_ps.tolist() == [m.busy_ps + m.engine.busy_ps for m in machines]
    assert fast.steps.tolist() == [m.steps + m.engine.steps for m in machines]
    assert fast.void_tok.tolist() == [m.void_tok for m in machines]


@settings(deadline=None, max_examples=30)
@given(st.lists(costs(), min_size=3, max_size=3), LINKS, traces(), st.booleans())
def test_a_policy_outside_sees_what_a_whole_trace_gives_where_prompts_are_handed_over(
    three: list[StepCost], link: tuple[int, int], trace: list[Guest], to_news: bool
) -> None:
    limits = EngineLimits(max_num_seqs=3, budget_tok=40, kv_blocks=12, prefix_tok=16)
    replicas = [
        (msgspec.structs.replace(cost, handover_ps=link[0], handover_ps_per_tok=link[1]), limits)
        for cost in three
    ]
    whole = played(replicas, trace, hand_over=HandOver(prefill=2))
    to = range(2, 3)
    engine = Engine(replicas, prefixes=True, hands_to=[(to, 0), (to, 1), None])
    told: list[Event] = []
    for guest in trace:
        while engine.next_ps < guest.here_ps:
            told += engine.advance(guest.here_ps - 1, to_news=to_news)
        least = min(range(2), key=lambda r: engine.load[r])
        engine.take(
            guest.index, least, guest.here_ps, input_tok=guest.input_tok, output_tok=guest.output_tok,
            max_output_tok=guest.asked_tok, prefix=guest.ids,
        )  # fmt: skip
    told += engine.finish()
    ends = {event.tag: event for event in told if event.kind == END}
    assert sorted(event.tag for event in told if event.kind == FIRST) == list(range(len(trace)))
    assert [ends[i].at_ps for i in range(len(trace))] == whole.end_ps.tolist()
    assert [ends[i].replica for i in range(len(trace))] == whole.replica.tolist()
    assert [ends[i].energy_uj for i in range(len(trace))] == whole.energy_uj.tolist()


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(20, 400), min_size=2, max_size=14, unique=True),
    gaps_ms=st.lists(st.integers(0, 90), min_size=14, max_size=14),
    outputs=st.lists(st.integers(2, 30), min_size=14, max_size=14),
    turns=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 3)), max_size=8, unique_by=lambda t: t[0]),
)
def test_a_machine_that_starts_or_is_to_end_gets_nothing_and_finishes_what_it_has(
    prompts: list[int], gaps_ms: list[int], outputs: list[int], turns: list[tuple[int, int]]
) -> None:
    """The slow witness is one link as a queue and a count of who is where: each hand-over goes to the least
    loaded of those that are up at its instant; with nobody up it waits for the first that comes up."""
    cost = StepCost(
        step_ps=(10 * MS_PS + 7,),
        prefill_ps_per_tok=MS_PS // 10,
        handover_ps=1_000_003,
        handover_ps_per_tok=1_009,
    )
    engine = Engine([(cost, LIMITS)] * 4, hands_to=[(range(1, 4), 0), None, None, None])
    up = {1: True, 2: True, 3: True}
    happens: list[tuple[int, int, int]] = [(at * MS_PS + 1, -1, machine) for at, machine in turns]
    at_ps = 0
    for n in range(len(prompts)):
        at_ps += gaps_ms[n] * MS_PS
        happens.append((at_ps, n, 0))
    changes: list[tuple[int, int, bool]] = []
    events: list[Event] = []
    for now_ps, tag, machine in sorted(happens):
        events += engine.advance(now_ps)
        if tag >= 0:
            engine.take(tag, 0, now_ps, input_tok=prompts[tag], output_tok=outputs[tag], max_output_tok=30)
            continue
        up[machine] = not up[machine]
        if up[machine]:
            engine.up(machine, now_ps)
        else:
            engine.down(machine)
        changes.append((now_ps, machine, up[machine]))
    last_ps = 2_000 * MS_PS
    for machine in up:
        events += engine.advance(last_ps)
        engine.up(machine, last_ps)
        changes.append((last_ps, machine, True))
    events += engine.finish()
    ended = {e.tag: e for e in events if e.kind == END}
    firsts = [e for e in events if e.kind == FIRST]
    assert len(ended) == len(firsts) == len(prompts), "nothing is lost, whoever comes and goes"

    free_ps, delivered = 0, []
    for first in sorted(firsts, key=lambda e: e.at_ps):
        free_ps = max(free_ps, first.at_ps) + 1_000_003 + 1_009 * prompts[first.tag]
        delivered.append((free_ps, first.tag))
    instants = {at for at, _ in delivered} | {at for at, _, _ in changes}
    assume(not instants & {e.at_ps for e in ended.values()})
    assume(len({e.at_ps for e in firsts}) == len(firsts))  # of one step: their turn is the core's to say
    went: dict[int, tuple[int, int]] = {}
    for due_ps, tag in delivered:
        is_up = _up_at(due_ps, changes)
        if not any(is_up.values()):
            due_ps = min((at for at, _, comes in changes if at >= due_ps and comes), default=last_ps)
            is_up = _up_at(due_ps, changes)
            assert is_up[ended[tag].replica]
            went[tag] = (due_ps, ended[tag].replica)  # several come at once: only that somebody was up
            continue
        load = {
            machine: sum(m == machine and at <= due_ps < ended[t].at_ps for t, (at, m) in went.items())
            for machine in (1, 2, 3)
        }
        expected = min((m for m in (1, 2, 3) if is_up[m]), key=lambda m: (load[m], m))
        assert ended[tag].replica == expected
        went[tag] = (due_ps, expected)


def _up_at(now_ps: int, changes: list[tuple[int, int, bool]]) -> dict[int, bool]:
    up = {1: True, 2: True, 3: True}
    for at_ps, machine, comes in changes:
        if at_ps <= now_ps:
            up[machine] = comes
    return up
