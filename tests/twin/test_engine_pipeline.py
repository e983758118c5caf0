"""Pipelines in the compiled engine: by hand, beside the closed form, beside the slow simulator, in a factory.

The slow simulator plays pipelines in every agreement test (`costs` draws up to three stages): of whole
traces, of machines that fail, of prompts that are handed over. Here stand those in which memory is short.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_engine import Guest, walked
from slow_machines import lasts_ps
from small_factory import HEAD, holds, run, stream
from test_engine_core import MS_PS, costs, played, traces
from test_fleet_machines import deployed

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.engine.experiment import Clients, Failures, Requests, simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.twin.fleet.spec import EngineLaw
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST
from wattmill.twin.lowering import limits, lower
from wattmill.twin.prediction import predict
from wattmill.units import PS_PER_S

COST = StepCost(
    step_ps=(10 * MS_PS,),
    decode_ps=MS_PS,
    prefill_ps_per_tok=2 * MS_PS,
    stages=2,
    power_mw=(0, 400, 400),
    idle_mw=100,
)
LIMITS = EngineLimits(max_num_seqs=4, budget_tok=4, kv_blocks=20)


def test_two_batches_in_two_stages_by_hand() -> None:
    """Prompts of 4 tokens, answers of 2 and 3, 4 tokens a step: each prompt is a batch, 10 + 4 x 2 = 18 ms at
    each stage, an answer's step 10 + 1 = 11.

        first request    18 -> 36, then from 36: 47, at the second stage behind the other's prompt: 54 -> 65
        second request   18 behind: 36 -> 54, from 54: 65 -> 76, from 76: 87 -> 98

    Five steps keep each stage for 18 + 18 + 11 + 11 + 11 = 69 ms, and 29 of the 98 are bubbles."""
    ran = simulate([(COST, LIMITS)], Requests(at_ps=[0, 0], input_tok=[4, 4], output_tok=[2, 3]))
    assert (ran.first_ps // MS_PS).tolist() == [36, 54]
    assert (ran.end_ps // MS_PS).tolist() == [65, 98]
    assert (ran.busy_ps // MS_PS).tolist() == [69]
    # 0.4 W while all stages work, half of it while one of the two does; 0.1 W in the bubbles.
    assert (ran.busy_uj.tolist(), ran.idle_uj.tolist()) == ([27_600], [2_900])


def test_the_chunks_of_a_prompt_follow_each_other_through_the_stages() -> None:
    """8 tokens in two chunks: the second is at the first stage while the first is at the second."""
    ran = simulate([(COST, LIMITS)], Requests(at_ps=[0], input_tok=[8], output_tok=[1]))
    assert (ran.end_ps // MS_PS).tolist() == [54]


def test_a_machine_dies_with_its_batches_in_flight() -> None:
    """The two prompts above; between 18 and 36 ms, at `died`, the first is at the second stage and the other
    at the first. Worked were 18 + 2 x (died - 18) ms of one stage, half as many of both, all for nothing."""
    fails = next(
        Failures(mtbf_s=0.02, mttr_s=10.0, tries=1, seed=seed)
        for seed in range(100)
        if 18 * MS_PS < lasts_ps(0.02, seed, 0, 0) < 36 * MS_PS
    )
    died = lasts_ps(0.02, fails.seed, 0, 0)
    ran = simulate(
        [(COST, LIMITS)], Requests(at_ps=[0, 0], input_tok=[4, 4], output_tok=[2, 3]), failures=fails
    )
    assert ran.lost.tolist() == [1, 1]
    assert ran.busy_ps.tolist() == [died // 2 + (died - 18 * MS_PS) // 2]
    assert ran.void_uj.tolist() == pytest.approx([0.4e6 * ran.busy_ps[0] / PS_PER_S], abs=2)
    assert (ran.void_tok.tolist(), ran.computed_tok.tolist()) == ([0], [0])


@pytest.mark.parametrize("scheduler", ["vllm", "sglang", "trtllm"])
@settings(deadline=None, max_examples=60)
@given(
    costs(),
    st.integers(2, 4),
    traces(),
    st.sampled_from([2, 3, 6]),
    st.sampled_from([(10, 16), (11, 16), (14, 16), (39, 4), (160, 1)]),
    st.booleans(),
    st.sampled_from([24, 40]),
)
def test_the_slow_simulator_agrees_where_the_batches_of_a_pipeline_share_little_memory(
    scheduler: str,
    cost: StepCost,
    stages: int,
    trace: list[Guest],
    seqs: int,
    memory: tuple[int, int],
    caching: bool,
    budget_tok: int,
) -> None:
    cost = msgspec.structs.replace(cost, stages=stages)
    bounds = EngineLimits(
        scheduler=scheduler,  # type: ignore[arg-type]
        max_num_seqs=seqs,
        budget_tok=budget_tok,
        kv_blocks=memory[0],
        block_tok=memory[1],
        prefix_cache=caching,
        prefix_tok=16,
    )
    fast = played([(cost, bounds)], trace)
    slow = walked(cost, bounds, trace)
    told = (fast.begun_ps, fast.first_ps, fast.end_ps, fast.cached_tok, fast.preemptions)
    assert [tuple(int(one[g.index]) for one in told) for g in trace] == [
        (g.begun_ps, g.first_ps, g.end_ps, g.cached_tok, g.preemptions) for g in trace
    ]
    assert fast.busy_ps.tolist() == [slow.busy_ps]
    assert fast.steps.tolist() == [slow.steps]
    assert slow.most_blocks <= bounds.kv_blocks


@pytest.mark.parametrize("pp", [2, 4])
def test_even_batches_take_as_long_as_the_closed_form_of_the_law_says(pp: int) -> None:
    """Of prompts as long as answers; where prompts rule, the closed form has more bubbles than the events."""
    d = Deployment(
        architecture=architecture("Llama-3.1-70B-Instruct"),
        accelerator=accelerator("H100-SXM"),
        engine="trtllm",
        weight_bits=8.0,
        kv_bits=16.0,
        tp=4,
        pp=pp,
    )
    isl, osl, users = 1_024, 1_024, 64
    rng = np.random.default_rng(0)
    inputs = rng.integers(int(isl * SHORTEST), isl + 1, users * PROMPTS)
    outputs = rng.integers(int(osl * SHORTEST), osl + 1, users * PROMPTS)
    ran = simulate(
        [(lower(d, isl=isl, concurrency=users), limits(d, isl=isl, osl=osl, concurrency=users))],
        Requests(input_tok=inputs, output_tok=outputs),
        clients=Clients(concurrency=users),
    )
    tpot_s = float(((ran.end_ps - ran.first_ps) / (outputs - 1)).mean()) / PS_PER_S
    ttft_s = float((ran.first_ps - ran.at_ps).mean()) / PS_PER_S
    said = predict(d, isl=isl, osl=osl, concurrency=users, first_wave=True)
    assert tpot_s == pytest.approx(said.tpot_s.value, rel=0.02)
    assert ttft_s == pytest.approx(said.ttft_s.value, rel=0.05)
    assert 0.8 < float(ran.busy_ps[0]) / float(ran.end_ps.max()) < 0.95  # the rest are bubbles


def test_a_declared_pipeline_is_played_in_its_stages_and_its_books_hold(tmp_path: Path) -> None:
    text = HEAD + deployed("near").replace("Llama-3.1-8B", "Llama-3.1-70B")
    text += "pp = 2\ntp = 4\nstage_gb_per_s = 50.0\n[pools.near.twin.outages]\nmtbf_h = 0.01\nmttr_s = 5.0\n"
    ran = run(text, tmp_path, stream(per_s=4.0, duration_s=60.0, output_tok="200"), core="compiled")
    pool = ran.factory.pools[0]
    assert isinstance(pool.spec.law, EngineLaw) and pool.spec.law.cost.stages == 2
    assert "8 x H100-SXM" in pool.spec.origin.source
    assert pool.failures > 0 and any(a.status == "failed" for a in ran.attempts)
    in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
    assert in_facts == sum(sum(one.counted_tok) for one in ran.factory.pools)
    assert holds(ran.audit)


def test_a_pipeline_that_ended_leaves_nothing_to_the_machine_that_starts_in_its_place(tmp_path: Path) -> None:
    """Replicas come and go with the load; each is as new when it comes back."""
    text = HEAD + deployed("near").replace("Llama-3.1-8B", "Llama-3.1-70B") + "pp = 2\ntp = 4\n"
    text += "[pools.near.twin.scaling]\nmost = 4\ntarget = 0.3\nlook_s = 2.0\nup_after_s = 2.0\n"
    text += "down_after_s = 5.0\n[pools.near.twin.outages]\nmtbf_h = 0.01\nmttr_s = 5.0\n"
    ran = run(text, tmp_path, stream(per_s=3.0, duration_s=90.0, output_tok="150"), core="compiled")
    pool = ran.factory.pools[0]
    assert pool.cold_starts > 2 and pool.ended and pool.failures
    in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
    assert in_facts == sum(sum(one.counted_tok) for one in ran.factory.pools)
    assert holds(ran.audit)


def test_llama_cpp_has_one_batch_in_flight_and_no_stages() -> None:
    with pytest.raises(ValueError, match="stages is 2, must be 1 for llamacpp"):
        simulate(
            [(COST, msgspec.structs.replace(LIMITS, scheduler="llamacpp"))],
            Requests(at_ps=[0], input_tok=[1], output_tok=[1]),
        )
