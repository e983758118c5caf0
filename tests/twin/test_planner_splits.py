"""The planner finds the split: tensor, attention data, expert and pipeline parallel, on whole nodes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from planning_house import answer, demand, given, interval, own

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.models.step_time import DATASHEET, Work, pipelined, terms
from wattmill.twin.planning.options import BITS
from wattmill.twin.planning.splits import Split, depths, stages, taken_gpus
from wattmill.twin.planning.supply import Candidate
from wattmill.twin.prediction import Prediction, predict

MIXTURE = {"mixture": {"name": "DeepSeek-R1", "precisions": ["fp8"]}}


def candidate(part: str = "B200-SXM", **changes: Any) -> dict[str, Any]:
    return {"accelerator": part, "all_in_kw_per_gpu": given(2.17), "own": own(2.3), **changes}


def deployed(model: str, part: str, **split: int) -> Deployment:
    return Deployment(
        architecture=architecture(model),
        accelerator=accelerator(part),
        engine="vllm",
        weight_bits=BITS["fp8"],
        kv_bits=8.0,
        **split,  # type: ignore[arg-type]
    )


def law_of_splits(alone_ms: float, each_ms: float, wait_ms: float, spread_ms: float) -> Any:
    """A token reads weights from all accelerators of a stage, waits for each further one of a tensor split,
    and for whole experts; stages make nothing faster."""

    def predicted(d: Deployment, *, isl: int, osl: int, concurrency: int) -> Prediction:
        ms = alone_ms / d.stage_gpus + each_ms * concurrency / d.stage_gpus / d.pp
        ms += wait_ms * (d.tp - 1) + (spread_ms if d.ep > 1 else 0.0)
        tpot_s = ms / 1e3
        per_s = concurrency / (20 * tpot_s + tpot_s * (osl - 1)) * osl
        return Prediction(
            ttft_s=interval(20 * tpot_s),
            tpot_s=interval(tpot_s),
            output_tok_per_s=interval(per_s),
            klass="interpolated",
            nearest=None,
        )

    return predicted


# --- what is searched --------------------------------------------------------------------------------------


def test_a_dense_model_is_split_by_tensor_only_and_a_mixture_in_every_way_that_engines_run() -> None:
    node = accelerator("B200-SXM")
    free = Candidate(accelerator="B200-SXM")
    assert [str(s) for s in stages(free, node, architecture("Llama-3.1-70B"))] == ["TP1", "TP2", "TP4", "TP8"]
    found = {str(s) for s in stages(free, node, architecture("DeepSeek-R1"))}
    assert {"TP8", "TP8 EP8", "TP1 DP8 EP8", "TP4 DP2 EP8"} <= found
    assert not [s for s in found if "DP" in s and "EP" not in s], "experts of several ranks are spread"
    assert len(found) == 13  # 7 without attention ranks, 3 + 2 + 1 with


def test_what_a_candidate_declares_is_taken_literally() -> None:
    one = Candidate(accelerator="B200-SXM", tp=(4,), attn_dp=(2,), ep=(8,), pp=(1, 2))
    sizes = architecture("DeepSeek-R1")
    assert [*stages(one, accelerator("B200-SXM"), sizes)] == [Split(4, 8, 1, 2)]
    assert depths(one, sizes, fits_in_one=True) == [1, 2]


def test_stages_of_a_pipeline_are_searched_only_where_no_fabric_holds_the_model() -> None:
    free, sizes = Candidate(accelerator="H100-SXM"), architecture("Llama-3.1-405B")
    assert depths(free, sizes, fits_in_one=True) == [1]
    assert depths(free, sizes, fits_in_one=False) == [1, 2, 4, 8, 16]


def test_a_stage_that_does_not_fill_its_fabric_pays_for_what_it_strands() -> None:
    rack = accelerator("GB200")  # 72 in a fabric, 4 in a node
    assert taken_gpus(rack, Split(tp=16)) == 18, "four stages of 16 take all 72"
    assert taken_gpus(rack, Split(attn_dp=8, ep=8)) == 8, "nine stages of 8 leave nothing"
    assert taken_gpus(rack, Split(tp=32, pp=2)) == 72
    assert taken_gpus(rack, Split(tp=2)) == 2


# --- memory and time of each split, by hand ----------------------------------------------------------------


def test_a_latent_cache_is_copied_by_tensor_parallel_ranks_and_not_by_attention_ranks() -> None:
    """61 layers x (512 + 64) elements x 1 byte = 35,136 bytes a token and copy. Of a B200's 180 GB, 90 % less
    2 GB and the weights are for the cache: 160 GB less 671 / 8 GB."""
    together, apart = (
        deployed("DeepSeek-R1", "B200-SXM", tp=8, ep=8),
        deployed("DeepSeek-R1", "B200-SXM", tp=1, attn_dp=8, ep=8),
    )
    for d, copies in ((together, 8), (apart, 1)):
        room = 0.9 * 180e9 - 2e9 - d.weight_bytes_per_gpu
        assert d.kv_tokens() == pytest.approx(8 * room / (copies * 35_136), rel=1e-6)
    assert apart.kv_tokens() > 6 * together.kv_tokens()
    assert apart.weight_bytes_per_gpu > together.weight_bytes_per_gpu, "dense layers are copied instead"


def test_all_to_all_is_paid_by_spread_experts_and_all_reduce_by_tensor_splits() -> None:
    """DeepSeek-R1 at 64 tokens, by hand: hidden 7168 x 2 bytes a token; eight ranks, all of eight reached:
    2 x 58 layers x 8 x 7/8 x 64/8 tokens; all-reduce: 2 x 61 x 2 x 7/8 x 64 tokens."""
    work = Work(decode_n=64.0, context_tok=64.0 * 1000)
    link = 900e9
    spread = terms(deployed("DeepSeek-R1", "B200-SXM", tp=1, attn_dp=8, ep=8), work)
    assert spread.link == pytest.approx(2 * 58 * 8 * 7 / 8 * 8 * 14_336 / link)
    reduced = terms(deployed("DeepSeek-R1", "B200-SXM", tp=8), work)
    assert reduced.link == pytest.approx(2 * 61 * 2 * 7 / 8 * 64 * 14_336 / link)


def test_the_bubbles_of_a_pipeline_come_out_as_by_hand() -> None:
    """80 layers in 3 stages: 27 in the fullest, 81/80. Two batches, each with prompts in half of its steps:
    in three of four rounds one of them has some, so a token waits for 1.5 times its own prompt work."""
    step = Work(steps=2.0, decode_n=8.0, context_tok=800.0, prefill_tok=100.0, mixed_steps=1.0, touched=4.0)
    three = pipelined(step, stages=3, layers=80, held_by_others=False)
    assert three.decode_n == pytest.approx(8.0 * 81 / 80)
    assert three.prefill_tok == pytest.approx(100.0 * 81 / 80)
    two = pipelined(step, stages=2, layers=80)
    assert (two.decode_n, two.prefill_tok, two.mixed_steps) == (8.0, pytest.approx(150.0), pytest.approx(1.5))
    assert pipelined(step, stages=1, layers=80) is step


def test_stages_hand_over_the_hidden_state_on_the_link_between_nodes() -> None:
    """Llama-3.1-70B: 8192 x 2 bytes a token, 64 tokens, three hand-overs at 50 GB/s: 62.9 microseconds."""
    work = Work(decode_n=64.0, context_tok=0.0)
    plain = deployed("Llama-3.1-70B", "H100-SXM", tp=8, pp=4)
    linked = Deployment(
        **{name: getattr(plain, name) for name in plain.__struct_fields__} | {"stage_link_bytes_per_s": 50e9}
    )
    more = terms(linked, work).link - terms(plain, work).link
    assert more == pytest.approx(3 * 64 * 8192 * 2 / 50e9)
    assert DATASHEET.link > 1.0


def test_stages_make_no_token_faster_and_bubbles_have_a_bound() -> None:
    """Twice the users on two stages see at least the time per token of one stage, and at most twice it."""
    one = predict(deployed("Llama-3.1-70B", "H200-SXM", tp=4), isl=1024, osl=1024, concurrency=32)
    two = predict(deployed("Llama-3.1-70B", "H200-SXM", tp=4, pp=2), isl=1024, osl=1024, concurrency=64)
    assert one.tpot_s.value * (1 - 1e-9) <= two.tpot_s.value <= 2 * one.tpot_s.value
    assert two.klass == "extrapolated", "no measured row of serving ran in stages"


# --- what the plan does with them --------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@over(
    alone=st.floats(8.0, 60.0),
    each=st.floats(0.05, 2.0),
    wait=st.floats(0.0, 2.0),
    spread=st.floats(0.0, 3.0),
)
def test_the_wider_search_is_never_worse_than_tensor_splits_alone(
    alone: float, each: float, wait: float, spread: float
) -> None:
    law = law_of_splits(alone, each, wait, spread)
    tiers = {"slow": {"share": 1.0, "tok_per_s_per_user": 10.0, "ttft_s": 9.0, "usd_per_mtok_output": 5.0}}
    declared = {"tp": [1, 2, 4, 8], "ep": [1], "attn_dp": [1], "pp": [1]}
    parts: dict[str, Any] = {"models": MIXTURE, "tiers": tiers, "limits": {"power_mw": 0.2}}
    narrow = answer(demand(candidates={"b": candidate(**declared)}, **parts), law).plan.proof
    wide = answer(demand(candidates={"b": candidate()}, **parts), law).plan.proof
    assert wide.objective_usd_per_year >= narrow.objective_usd_per_year - 1.0


def test_the_report_says_which_split_was_taken_and_what_holds_the_next_one_back() -> None:
    tiers = {"slow": {"share": 1.0, "tok_per_s_per_user": 10.0, "ttft_s": 9.0, "usd_per_mtok_output": 5.0}}
    law = law_of_splits(40.0, 0.5, 2.0, 0.5)  # a tensor split waits, so attention ranks win
    plan = answer(demand(models=MIXTURE, tiers=tiers, candidates={"b": candidate()}), law).plan
    (pool,) = plan.pools
    assert (pool.tp, pool.attn_dp, pool.ep, pool.pp) == (1, 8, 8, 1)
    assert pool.split == "TP1 DP8 EP8"
    assert pool.instead.startswith("next best is vllm fp8 TP2 DP4 EP8: ")
    assert "fewer requests per accelerator; its batch of" in pool.instead
    beaten = [why for what, why in plan.left.items() if what.startswith("mixture on b, vllm fp8 TP8,")]
    assert beaten
    assert "vllm fp8 TP1 DP8 EP8 does all of it" in beaten[0]


def test_a_model_larger_than_a_node_stands_in_stages_on_whole_nodes() -> None:
    """Llama-3.1-405B in 16 bits is 810 GB: eight H100 hold 640 GB."""
    tiers = {"slow": {"share": 1.0, "tok_per_s_per_user": 10.0, "ttft_s": 9.0, "usd_per_mtok_output": 5.0}}
    plan = answer(
        demand(
            models={"large": {"name": "Llama-3.1-405B", "precisions": ["bf16"]}},
            tiers=tiers,
            candidates={"h": candidate("H100-SXM")},
        ),
        predict,
        extrapolate=True,
    ).plan
    for pool in plan.pools:
        assert pool.pp >= 2
        assert pool.tp * pool.pp % 8 == 0
    assert plan.left["large on h, vllm bf16 TP8"].startswith("101 GB of weights leave no room")


def test_a_refusal_says_which_quantity_lies_outside_of_which_range_and_what_that_does_to_the_interval() -> (
    None
):
    load = {"from": "rate", "utilisation": 0.8, "input_tok": 1155.0, "output_tok": 211.0, "peak_to_mean": 1.8}
    wanted = demand(load=load, candidates={"b": candidate(engines=["trtllm"])})
    with pytest.raises(ValueError, match="--extrapolate") as refused:
        answer(wanted, predict)
    said = str(refused.value)
    assert "output tokens 211, measured 1,024 to 8,192: 4.9 times below, 2 times is let pass" in said
    assert "requests at once" not in said, "what leaves least is said, not a batch of one"
    pool = answer(wanted, predict, extrapolate=True).plan.pools[0]
    outside, inside = (float(part.split("%")[0].split()[-1]) for part in pool.widened.split(", "))
    assert outside < inside < 0, "the interval is wider than one of an interpolated prediction"


def test_more_accelerators_than_any_measured_deployment_of_a_model_has_is_extrapolated() -> None:
    asked = {"isl": 1024, "osl": 1024, "concurrency": 64}
    wide = predict(deployed("Llama-3.1-70B", "H200-SXM", tp=8), **asked)
    wider = predict(deployed("Llama-3.1-70B", "H200-SXM", tp=32), **asked)
    assert (wide.klass, wide.outside) == ("interpolated", ())
    assert wider.klass == "extrapolated"
    assert [str(one) for one in wider.outside] == [
        "accelerators 32, measured 1 to 8: 4.0 times above, 2 times is let pass"
    ]
