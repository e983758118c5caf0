"""The compiled engine: a slow, obvious simulator agrees to the picosecond, for each scheduler and feature."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_engine import Guest, walked

from wattmill.twin.engine.experiment import Clients, Failures, HandOver, Outcome, Requests, simulate
from wattmill.twin.engine.live import END, FIRST, Engine, Event
from wattmill.twin.engine.spec import CERTAIN, ONE, EngineLimits, StepCost, tokens_per_step

MS_PS = 1_000_000_000
DRAFTS = [(1, CERTAIN // 2), (3, round(0.8 * CERTAIN)), (2, CERTAIN)]  # tokens, how often each is accepted
TABLE = (1, *(8 * MS_PS + (n // 8) * 123_456_789 for n in range(1, 40)))


@st.composite
def costs(draw: st.DrawFn) -> StepCost:
    verify_tok, per_step, accept = draw(
        st.sampled_from(
            [(1, ONE, 0), (1, ONE, 0), (3, ONE + 40_000, 0), (4, 3 * ONE - 7, 0)]
            + [(k + 1, tokens_per_step(drafted=k, accept=a), a) for k, a in DRAFTS]
        )
    )
    return StepCost(
        step_ps=draw(st.sampled_from([(8 * MS_PS,), TABLE])),
        beyond_ps_per_tok=draw(st.sampled_from([0, 1_234_567])),
        decode_ps=draw(st.sampled_from([0, MS_PS])),
        context_ps_per_tok=draw(st.sampled_from([0, 700])),
        prefill_ps_per_tok=200_000_000,
        attention_ps_per_ktok=3_000_001,
        stages=draw(st.sampled_from([1, 1, 2, 3])),
        verify_tok=verify_tok,
        tokens_per_step=per_step,
        accept=accept,
        draw_seed=draw(st.integers(0, 9)),
        power_mw=(1, 300, 400, 450),
        idle_mw=100,
    )


@st.composite
def traces(draw: st.DrawFn) -> list[Guest]:
    """Few requests with small prompts; arrivals of one instant and one-token answers included."""
    count = draw(st.integers(1, 14))
    within_ps = draw(st.sampled_from([0, 300 * MS_PS, 3_000 * MS_PS]))
    made = []
    for index, at_ps in enumerate(
        sorted(draw(st.lists(st.integers(0, within_ps), min_size=count, max_size=count)))
    ):
        input_tok = draw(st.sampled_from([1, 2, 15, 16, 17, 33, 64, 100]))
        output_tok = draw(st.sampled_from([1, 2, 3, 17, 40]))
        branch = draw(st.integers(0, 2))
        forks = draw(st.integers(0, 4))
        ids = tuple(
            1_000 * (branch if depth >= forks else 7) + 50 * (forks if depth >= forks else 0) + depth
            for depth in range((input_tok + output_tok) // 16)
        )
        asked = output_tok + draw(st.sampled_from([0, 0, 8]))
        made.append(Guest(index, at_ps, input_tok, output_tok, asked, ids))
    return made


def played(
    replicas: list[tuple[StepCost, EngineLimits]],
    trace: list[Guest],
    *,
    hand_over: HandOver | None = None,
    failures: Failures | None = None,
) -> Outcome:
    return simulate(
        replicas,
        Requests(
            at_ps=[g.here_ps for g in trace],
            input_tok=[g.input_tok for g in trace],
            output_tok=[g.output_tok for g in trace],
            max_output_tok=[g.asked_tok for g in trace],
            prefix_ids=np.concatenate([np.array(g.ids, np.int64) for g in trace]),
            prefix_from=np.cumsum([0, *(len(g.ids) for g in trace)]),
        ),
        hand_over=hand_over,
        failures=failures,
    )


@pytest.mark.parametrize("scheduler", ["vllm", "sglang", "trtllm", "llamacpp"])
@settings(deadline=None, max_examples=80)
@given(
    costs(),
    traces(),
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([24, 40, 160]),
    st.sampled_from([(10, 16), (11, 16), (18, 16), (40, 16), (39, 4), (160, 1), (400, 1)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 3, 8, 160]),
)
def test_the_slow_simulator_agrees_to_the_picosecond(
    scheduler: str,
    cost: StepCost,
    trace: list[Guest],
    seqs: int,
    budget_tok: int,
    memory: tuple[int, int],
    caching: bool,
    chunked: bool,
    piece_tok: int,
) -> None:
    blocks, block_tok = memory
    if scheduler == "llamacpp":
        cost = msgspec.structs.replace(cost, piece_tok=piece_tok, stages=1)
    limits = EngineLimits(
        scheduler=scheduler,  # type: ignore[arg-type]
        max_num_seqs=seqs,
        budget_tok=budget_tok if chunked else 160,
        kv_blocks=blocks * (seqs if scheduler == "llamacpp" else 1),
        block_tok=block_tok,
        prefix_cache=caching,
        prefix_tok=16,
        chunked_prefill=chunked,
    )
    fast = played([(cost, limits)], trace)
    slow = walked(cost, limits, trace)
    assert list(
        zip(
            fast.begun_ps.tolist(),
            fast.first_ps.tolist(),
            fast.end_ps.tolist(),
            fast.cached_tok.tolist(),
            fast.preemptions.tolist(),
            strict=True,
        )
    ) == [(g.begun_ps, g.first_ps, g.end_ps, g.cached_tok, g.preemptions) for g in trace]
    assert fast.busy_ps.tolist() == [slow.busy_ps]
    assert fast.steps.tolist() == [slow.steps]
    assert scheduler == "llamacpp" or slow.most_blocks <= limits.kv_blocks


def test_a_hand_calculated_batch() -> None:
    """Prompts of 4 tokens, answers of 2 and 3; a step costs 10 ms, 1 ms a decoder, 2 ms a prompt token, and
    takes 6 tokens: 4 + 2 at first (22 ms), the rest beside a decoder (10 + 1 + 4), then alone (10 + 1)."""
    cost = StepCost(step_ps=(10 * MS_PS,), decode_ps=MS_PS, prefill_ps_per_tok=2 * MS_PS)
    limits = EngineLimits(max_num_seqs=2, budget_tok=6, kv_blocks=10)
    run = simulate([(cost, limits)], Requests(at_ps=[0, 0], input_tok=[4, 4], output_tok=[2, 3]))
    assert (run.first_ps // MS_PS).tolist() == [22, 37]
    assert (run.end_ps // MS_PS).tolist() == [37, 59]


def test_a_step_in_pieces_by_hand() -> None:
    """llama.cpp with memory by slot. Slot 0 answers when slot 1 begins a prompt of 5 tokens in steps of 4:
    1 + 3 tokens are a piece of one token each and a piece of two (2 x 10 ms); the last two of the prompt
    beside the answer are a piece of two and a piece of one. In one go each step would take 10 ms."""
    cost = StepCost(step_ps=(10 * MS_PS,), piece_tok=4)
    limits = EngineLimits(scheduler="llamacpp", max_num_seqs=2, budget_tok=4, kv_blocks=40, block_tok=1)
    ran = simulate([(cost, limits)], Requests(at_ps=[0, 5 * MS_PS], input_tok=[1, 5], output_tok=[4, 2]))
    assert (ran.first_ps // MS_PS).tolist() == [10, 50]
    assert (ran.end_ps // MS_PS).tolist() == [60, 60]
    whole = simulate(
        [(msgspec.structs.replace(cost, piece_tok=0), limits)],
        Requests(at_ps=[0, 5 * MS_PS], input_tok=[1, 5], output_tok=[4, 2]),
    )
    assert (whole.end_ps // MS_PS).tolist() == [40, 40]


def test_a_benchmark_client_keeps_its_places_full_and_warms_up_apart() -> None:
    """One prompt token and one answer token each, 10 ms a step, two at once: warm-ups in two steps (2 + 1),
    then five requests in three. The client hears of an end when the next step, if there is one, has begun."""
    cost = StepCost(step_ps=(10 * MS_PS,))
    limits = EngineLimits(max_num_seqs=8, budget_tok=64, kv_blocks=64)
    run = simulate(
        [(cost, limits)],
        Requests(input_tok=[1] * 8, output_tok=[1] * 8),
        clients=Clients(concurrency=2, warm_ups=3),
    )
    assert (run.at_ps // MS_PS).tolist() == [0, 0, 10, 20, 20, 30, 30, 40]
    assert (run.end_ps // MS_PS).tolist() == [10, 10, 20, 30, 30, 40, 40, 50]


def test_the_turns_of_a_session_wait_for_each_other_and_find_their_beginning() -> None:
    """The second turn begins 5 ms after the first ended, with all of it cached but what is no whole id."""
    cost = StepCost(step_ps=(10 * MS_PS,), prefill_ps_per_tok=MS_PS)
    limits = EngineLimits(max_num_seqs=8, budget_tok=64, kv_blocks=64, prefix_tok=16)
    run = simulate(
        [(cost, limits)],
        Requests(
            at_ps=[0, 0], input_tok=[20, 40], output_tok=[14, 1], after=[-1, 0], think_ps=[0, 5 * MS_PS],
            prefix_ids=[1, 2, 1, 2], prefix_from=[0, 2, 4],
        ),
    )  # fmt: skip
    assert (run.end_ps // MS_PS).tolist() == [160, 183]
    assert (run.at_ps // MS_PS).tolist() == [0, 165]
    assert run.cached_tok.tolist() == [0, 32]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"budget_tok": 1}, "budget_tok is 1, must be >= max_num_seqs x verify_tok"),
        ({"kv_blocks": 1}, "request 0: 20 \\+ 3 tokens need 2 blocks of 16, and a replica has 1"),
        ({"prefix_tok": 8}, "prefix_tok is 8, must be a multiple of block_tok, 16"),
        ({"chunked_prefill": False}, "does not fit into a step of 8"),
    ],
)
def test_an_engine_that_could_never_work_is_refused_with_a_reason(change: dict[str, int], says: str) -> None:
    fields = {"max_num_seqs": 4, "budget_tok": 8, "kv_blocks": 8} | change
    with pytest.raises(ValueError, match=says):
        simulate(
            [(StepCost(step_ps=(MS_PS,)), EngineLimits(**fields))],  # type: ignore[arg-type]
            Requests(at_ps=[0], input_tok=[20], output_tok=[3]),
        )


@settings(deadline=None, max_examples=40)
@given(st.lists(costs(), min_size=2, max_size=3), traces(), st.booleans())
def test_a_policy_outside_sees_what_a_whole_trace_gives(
    three: list[StepCost], trace: list[Guest], caching: bool
) -> None:
    limits = EngineLimits(max_num_seqs=3, budget_tok=40, kv_blocks=12, prefix_tok=16, prefix_cache=caching)
    replicas = [(cost, limits) for cost in three]
    whole = played(replicas, trace)
    engine = Engine(replicas, prefixes=True)
    told: list[Event] = []
    for guest in trace:
        told += engine.advance(guest.here_ps - 1)
        least = min(range(len(three)), key=lambda r: engine.load[r])
        engine.take(
            guest.index, least, guest.here_ps, input_tok=guest.input_tok, output_tok=guest.output_tok,
            max_output_tok=guest.asked_tok, prefix=guest.ids,
        )  # fmt: skip
    told += engine.finish()
    ends = {event.tag: event for event in told if event.kind == END}
    assert sorted(event.tag for event in told if event.kind == FIRST) == list(range(len(trace)))
    assert [ends[i].at_ps for i in range(len(trace))] == whole.end_ps.tolist()
    assert [ends[i].first_ps for i in range(len(trace))] == whole.first_ps.tolist()
    assert [ends[i].replica for i in range(len(trace))] == whole.replica.tolist()
    assert [ends[i].energy_uj for i in range(len(trace))] == whole.energy_uj.tolist()
    assert sum(engine.busy_uj(r) for r in range(len(three))) >= sum(e.energy_uj for e in ends.values())


def test_the_engine_makes_room_for_any_number_of_requests_at_once() -> None:
    replicas = [(StepCost(step_ps=(MS_PS,)), EngineLimits(max_num_seqs=4, budget_tok=8, kv_blocks=64))]
    engine = Engine(replicas)
    for tag in range(5_000):
        engine.take(tag, 0, 0, input_tok=1, output_tok=2, max_output_tok=2)
    assert engine.load[0] == 5_000
    assert sorted(event.tag for event in engine.finish() if event.kind == END) == list(range(5_000))
    assert engine.load[0] == 0
