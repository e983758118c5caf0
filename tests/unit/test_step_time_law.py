"""The step-time law: by hand on one case, and what no coefficients may break."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.models.graphs import padding, paddings, shipped, sizes_of
from wattmill.models.step_time import (
    DATASHEET,
    Coefficients,
    Work,
    seconds,
    speculated,
    step_s,
    terms,
    tokens_per_step,
)

NOTHING = Coefficients(**dict.fromkeys(Coefficients.__struct_fields__, 0.0))


def deployed(model: str, gpu: str = "H100", **split: int) -> Deployment:
    return Deployment(
        architecture=architecture(model),
        accelerator=accelerator(gpu),
        engine="vllm",
        weight_bits=8,
        kv_bits=8,
        **split,
    )


def test_a_decode_step_of_llama_70b_by_hand():
    found = terms(deployed("Llama-3.1-70B", tp=4), Work(decode_n=10, context_tok=10_000))
    tables = 2 * 128256 * 8192
    assert found.weights == pytest.approx((70.6e9 - tables + tables) / 4 / 3.35e12)  # the head has 16 bits
    assert found.kv == pytest.approx(80 * 2 * 8 * 128 * 10_000 / 4 / 3.35e12)
    assert found.decode_flop == pytest.approx(2 * 70.6e9 * 10 / (4 * 1979e12))
    assert found.collective == 2 * 80 * 2  # two a layer, log2(4) stages
    assert found.link == pytest.approx(2 * 80 * 2 * 3 / 4 * 10 * 8192 * 2 / 450e9)
    assert (found.layer, found.step, found.sequence) == (80, 1, 10)
    assert found.experts == found.latent == found.attention == found.prefill_flop == found.mixed == 0


def test_a_chunk_pays_for_the_tokens_before_it():
    found = terms(
        deployed("Llama-3.1-8B"),
        Work(prefill_tok=100, prefill_attention_tok2=(300**2 - 200**2) / 2, mixed_steps=1),
    )
    assert found.attention == pytest.approx(4 * 32 * 128 * 32 * 25_000 / 989e12)


def test_the_law_is_the_sum_of_its_terms():
    one = step_s(deployed("Llama-3.1-8B"), DATASHEET, decode_n=8, context_tok=8_000)
    parts = [
        step_s(
            deployed("Llama-3.1-8B"),
            Coefficients(
                **{f: getattr(DATASHEET, f) if f == name else 0.0 for f in DATASHEET.__struct_fields__}
            ),
            decode_n=8,
            context_tok=8_000,
        )
        for name in DATASHEET.__struct_fields__
    ]
    assert one == pytest.approx(sum(parts))
    assert step_s(deployed("Llama-3.1-8B"), NOTHING, decode_n=8, context_tok=8_000) == 0


models = st.sampled_from(["Llama-3.1-8B", "DeepSeek-R1", "gpt-oss-120b", "Qwen3.5-397B-A17B", "GLM-5"])
splits = st.sampled_from([{"tp": 1}, {"tp": 8}, {"tp": 4, "ep": 4}, {"attn_dp": 8, "ep": 8}])


@given(models, splits, st.integers(1, 4000), st.integers(1, 30_000))
def test_more_work_never_takes_less_time(model, split, decode_n, context):
    d = deployed(model, "B200", **split)
    less = step_s(d, DATASHEET, decode_n=decode_n, context_tok=decode_n * context)
    more = step_s(d, DATASHEET, decode_n=decode_n + 1, context_tok=(decode_n + 1) * context)
    with_prompt = step_s(
        d,
        DATASHEET,
        decode_n=decode_n,
        context_tok=decode_n * context,
        prefill_tok=100,
        prefill_attention_tok2=5_000,
    )
    # Evening out over ranks may win back a little of what one more sequence costs.
    assert more >= less * 0.999
    assert with_prompt > less


@given(models, st.integers(1, 2000), st.integers(1, 20_000), st.integers(2, 50))
def test_many_equal_steps_are_the_law_of_their_sum(model, decode_n, context, steps):
    d = deployed(model, "H200", tp=8)
    touched = d.architecture.experts_touched(decode_n)
    one = Work(decode_n=decode_n, context_tok=decode_n * context, touched=touched)
    many = Work(
        steps=steps,
        decode_n=decode_n * steps,
        context_tok=decode_n * context * steps,
        touched=touched * steps,
    )
    assert seconds(terms(d, many), DATASHEET) == pytest.approx(steps * seconds(terms(d, one), DATASHEET))


def test_spreading_a_latent_cache_by_attention_ranks_reads_less_of_it():
    work = Work(decode_n=800, context_tok=800 * 4_000)
    copied = terms(deployed("DeepSeek-R1", "H200", tp=8), work)
    spread = terms(deployed("DeepSeek-R1", "H200", attn_dp=8, ep=8), work)
    assert spread.kv < copied.kv / 5
    assert spread.weights > copied.weights * 7  # each rank reads the dense layers whole


def test_the_fullest_expert_rank_sets_the_pace():
    work = Work(decode_n=64, context_tok=64_000)
    even, uneven = deployed("DeepSeek-R1", "H200", tp=8), deployed("DeepSeek-R1", "H200", tp=8, ep=8)
    assert terms(uneven, work).decode_flop > terms(even, work).decode_flop


def test_experts_in_four_bits_leave_attention_in_sixteen():
    d = Deployment(
        architecture=architecture("gpt-oss-120b"),
        accelerator=accelerator("B200"),
        engine="vllm",
        weight_bits=4,
        kv_bits=8,
    )
    a = d.architecture
    assert d.dense_bits == 16 and d.flop_bits == 4
    found = terms(d, Work(decode_n=1, context_tok=1000, touched=a.experts_touched(1)))
    assert found.weights == pytest.approx((a.dense_params - a.vocab * a.hidden) * 2 / 7.7e12)
    assert found.experts == pytest.approx(a.expert_params * 4 / 128 / 2 / 7.7e12)


def test_four_bit_weights_without_a_unit_are_multiplied_in_sixteen():
    assert deployed("Llama-3.1-8B").flop_bits == 8
    four = {"architecture": architecture("Llama-3.1-8B"), "engine": "vllm", "weight_bits": 4, "kv_bits": 8}
    assert Deployment(accelerator=accelerator("H100"), **four).flop_bits == 16
    assert Deployment(accelerator=accelerator("B200"), **four).flop_bits == 4
    assert Deployment(accelerator=accelerator("B200"), weight_only=True, **four).flop_bits == 16


def test_a_step_is_padded_to_the_next_captured_size():
    d = deployed("Llama-3.1-8B")
    captured = msgspec.structs.replace(d, graph_sizes=(8, 16, 32))
    nine = step_s(captured, DATASHEET, decode_n=9, context_tok=9_000)
    # Seven tokens more are multiplied: 2 FLOPs a weight of the matrices, at the law's factor for decoding.
    flop = d.architecture.linear_flop_per_tok / d.accelerator.flop_per_s(d.flop_bits)
    more = nine - step_s(d, DATASHEET, decode_n=9, context_tok=9_000)
    assert more == pytest.approx(DATASHEET.decode_flop * 7 * flop / d.gpus, rel=1e-6)
    assert padding(9, (8, 16, 32)) == 7 and padding(33, (8, 16, 32)) == 0 and padding(9, ()) == 0
    # Two attention ranks: of nine sequences the fuller has five, so both compute eight.
    assert paddings((4, 8), ranks=2)[9] == 7 and paddings((4, 8), ranks=2)[8] == 0
    # Drafts: three sequences verify two tokens each, six are computed as eight.
    assert paddings((4, 8), each=2)[3] == 2 and len(paddings((4, 8), each=2)) == 5


def test_vllm_records_the_steps_that_its_source_says():
    sizes = shipped("vllm", max_num_seqs=256)
    assert sizes[:7] == (1, 2, 4, 8, 16, 24, 32) and sizes[-3:] == (480, 496, 512) and len(sizes) == 51
    assert shipped("vllm", max_num_seqs=8) == (1, 2, 4, 8, 16)
    with pytest.raises(ValueError, match="sizes that sglang records are not known here; declare them"):
        sizes_of("shipped", "sglang", max_num_seqs=8)
    with pytest.raises(ValueError, match="graph_sizes has 4 after 8"):
        sizes_of((8, 4), "vllm", max_num_seqs=8)
    assert sizes_of(None, "sglang", max_num_seqs=8) == ()


def test_accepted_drafts_by_hand():
    assert tokens_per_step(drafted=0, acceptance=0.7) == 1
    assert tokens_per_step(drafted=2, acceptance=0.5) == pytest.approx(1 + 0.5 + 0.25)
    assert tokens_per_step(drafted=3, acceptance=1.0) == 4
    d = deployed("Llama-3.1-8B")
    plain = Work(decode_n=4, context_tok=4_000)
    drafted = speculated(plain, d, drafted=2, acceptance=0.5)
    assert drafted.steps == pytest.approx(1 / 1.75)
    assert seconds(terms(d, drafted), DATASHEET) < seconds(terms(d, plain), DATASHEET)
