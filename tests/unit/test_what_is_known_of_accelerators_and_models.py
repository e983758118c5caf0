"""The catalogues: every figure has a source, names find their part, and the KV laws count by hand."""

import csv
import json
from importlib.resources import files

import pytest

from wattmill.cli.twin import twin_app
from wattmill.compute.catalogue import UnknownAccelerator, accelerator, accelerators
from wattmill.models.architectures import UnknownModel, architecture, architectures
from wattmill.models.deployment import Deployment


def test_every_part_has_a_source_a_date_and_a_mark():
    assert len(accelerators()) >= 26
    for part in accelerators():
        assert part.source and part.as_of and part.memory_bytes > 0 and part.bandwidth_bytes_per_s > 0
        assert not (part.verified and part.source.split(";")[0] in {"M", "P"})


def test_every_model_has_a_source_a_date_and_a_mark():
    assert len(architectures()) >= 100
    for model in architectures():
        assert model.source and model.as_of
        assert model.verified == ("memory" not in model.source), model.name  # not a part of it, either
    assert not architecture("CohereLabs/c4ai-command-a").verified  # taken from memory, and says so
    assert "32768" in architecture("Mistral-Large-2407").caveat  # two sources, two figures, both shown


def test_sizes_add_up_to_the_total_that_was_published():
    """A second look at what was copied: attention, feed-forward, experts, embeddings against the total.

    Low-rank queries of latent attention, states of linear layers and what a caveat names are not in these
    sizes, so the total may be a few percent off; a slip in one figure moves it by more.
    """
    text = (files("wattmill") / "data" / "architectures.csv").read_text(encoding="utf-8")
    far = {}
    for row in csv.DictReader(text.splitlines()):
        total, embedding = _params_b(row), float(row["vocab"]) * float(row["hidden"]) / 1e9
        stated = float(row["params_b"])
        off = min(
            abs(total / stated - 1), abs((total - embedding) / stated - 1)
        )  # one table may serve both ends
        if off > 0.035 and not row["caveat"]:
            far[row["name"]] = off
    assert not far


def _params_b(row: dict[str, str]) -> float:
    def size(column: str) -> float:
        return float(row[column] or 0)

    hidden, heads = size("hidden"), size("heads")
    if rank := size("kv_lora_rank"):
        nope, rope, value = size("qk_nope_dim"), size("qk_rope_dim"), size("v_head_dim")
        attention = hidden * heads * (nope + rope) + hidden * (rank + rope)
        attention += rank * heads * (nope + value) + heads * value * hidden
    else:
        attention = hidden * size("head_dim") * 2 * (heads + size("kv_heads"))
    expert = 3 * size("expert_width") * size("ffn_expert")
    experts = expert * (size("experts") + size("shared_experts")) + hidden * size("experts")
    dense = 3 * hidden * size("ffn_dense")
    layers, mixed = size("layers"), size("moe_layers")
    return (
        layers * attention + (layers - mixed) * dense + mixed * experts + 2 * size("vocab") * hidden
    ) / 1e9


def test_conflicting_figures_stay_side_by_side():
    rubin = accelerator("Rubin-R200")
    assert not rubin.verified
    assert rubin.bandwidth_bytes_per_s == 13e12 and "22 (2026 figure)" in rubin.notes


def test_parts_that_hold_weights_in_sram_are_listed_and_not_predicted():
    assert [p.name for p in accelerators() if not p.predicted] == [
        "Rubin-R200",
        "Groq-LPU-v1",
        "Cerebras-WSE-3",
    ]


@pytest.mark.parametrize("name", ["H100-SXM", "h100", "NVIDIA H100 SXM", "H100_SXM"])
def test_a_part_is_found_under_its_common_names(name):
    assert accelerator(name).name == "H100-SXM"


def test_an_unknown_part_names_its_neighbours():
    with pytest.raises(UnknownAccelerator, match=r"Near it: .*H100-SXM"):
        accelerator("H100-SXN")


def test_a_width_without_a_unit_runs_on_the_next_wider():
    assert accelerator("H100").flop_per_s(4) == 1979e12
    assert accelerator("A100").flop_per_s(8) == 312e12
    with pytest.raises(ValueError, match="Rubin-R200 has no published dense figure at 16 bits"):
        accelerator("Rubin-R200").flop_per_s(16)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-V3.1-NVFP4"),
        ("meta-llama/Llama-3.1-8B-Instruct", "nvidia/Llama-3.1-8B-Instruct-FP8"),
        ("zhipuai/GLM-5", "zai-org/GLM-5-FP8"),
        ("SmolLM2-135M-Instruct-Q8_0", "HuggingFaceTB/SmolLM2-135M"),
        ("nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8", "nvidia/Nemotron-3-Ultra"),
        ("nvidia/Kimi-K2.7-Code-NVFP4", "moonshotai/Kimi-K2-Instruct"),
        ("nvidia/Nemotron-H-56B-Base-8K", "nvidia/Nemotron-H-56B"),
        ("nvidia/Gemma-4-31B-IT-NVFP4", "google/gemma-4-31B"),
        ("CohereLabs/c4ai-command-a-03-2025", "command-a"),
        ("Ernie 4.5 300B", "baidu/ERNIE-4.5-300B-A47B"),
        ("dsv3", "deepseek-r1"),
    ],
)
def test_names_that_share_sizes_share_one_architecture(left, right):
    assert architecture(left) is architecture(right)


def test_an_unknown_model_says_where_to_add_it():
    with pytest.raises(UnknownModel, match=r"architecture_aliases\.csv"):
        architecture("acme/Thinker-9T")


def test_kv_of_each_law_by_hand():
    assert architecture("Llama-3.1-70B").kv_law == "grouped"
    assert architecture("Llama-3.1-70B").kv_elements(1000) == 80 * 2 * 8 * 128 * 1000
    assert architecture("DeepSeek-R1").kv_law == "latent"
    assert architecture("DeepSeek-R1").kv_elements(1000) == 61 * (512 + 64) * 1000
    # gpt-oss: 18 layers see everything, 18 the last 128 tokens.
    assert architecture("gpt-oss-120b").kv_law == "sliding"
    assert architecture("gpt-oss-120b").kv_elements(1000) == (18 * 1000 + 18 * 128) * 2 * 8 * 64
    # Qwen3.5: 15 of 60 layers have a cache that grows; it shows in the difference.
    hybrid = architecture("Qwen3.5-397B-A17B")
    assert hybrid.kv_law == "hybrid"
    assert hybrid.kv_elements(2000) - hybrid.kv_elements(1000) == 15 * 2 * 2 * 256 * 1000


def test_dense_and_expert_parameters_add_up():
    for model in architectures():
        assert model.dense_params > 0
        assert model.dense_params + model.expert_params == pytest.approx(model.params)
        assert 0 < model.active_params <= model.params


def test_experts_touched_by_hand():
    gpt = architecture("gpt-oss-120b")
    assert gpt.experts_touched(1) == pytest.approx(4)
    assert gpt.experts_touched(2) == pytest.approx(128 * (1 - (124 / 128) ** 2))
    assert architecture("Llama-3.1-8B").experts_touched(5) == 0


def _on_h100(model: str, **split: int) -> Deployment:
    return Deployment(
        architecture=architecture(model),
        accelerator=accelerator("H100"),
        engine="vllm",
        weight_bits=8,
        kv_bits=8,
        **split,
    )


def test_a_latent_cache_is_copied_to_every_device_of_a_split():
    alone, split = _on_h100("DeepSeek-R1"), _on_h100("DeepSeek-R1", tp=8)
    assert split.kv_bytes_per_tok_per_gpu == alone.kv_bytes_per_tok_per_gpu
    assert split.kv_bytes_per_tok() == 8 * alone.kv_bytes_per_tok()


def test_grouped_heads_are_split_until_each_device_has_one():
    alone, eight, sixteen = (_on_h100("Llama-3.1-70B", tp=n) for n in (1, 8, 16))
    assert eight.kv_bytes_per_tok_per_gpu == alone.kv_bytes_per_tok_per_gpu / 8
    assert sixteen.kv_bytes_per_tok_per_gpu == eight.kv_bytes_per_tok_per_gpu


def test_weights_that_do_not_fit_leave_no_room():
    assert _on_h100("Llama-3.1-405B").kv_tokens() == 0
    assert _on_h100("Llama-3.1-8B").kv_tokens() == int(
        (80e9 * 0.9 - 2e9 - 8.03e9 - 2 * 128256 * 4096) / 65536
    )


def test_a_split_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tp must be at least 1, got 0"):
        _on_h100("Llama-3.1-8B", tp=0)


def told(*asked: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    with pytest.raises(SystemExit) as done:
        twin_app(["known", *asked], prog_name="wattmill twin")
    said = capsys.readouterr()
    assert done.value.code == code, said.err
    return said.out if code == 0 else said.err


def test_a_user_sees_marks_sources_and_what_disagrees(capsys):
    rubin = told("accelerators", "r200", capsys=capsys)
    assert rubin.split("\n")[3].split()[-2:] == ["no", "no"]  # neither predicted nor verified
    assert "Rubin-R200: unverified, conflicting (2026-11); " in rubin and "22 (2026 figure)" in rubin
    every = json.loads(told("accelerators", "--json", capsys=capsys))
    assert len(every) == len(accelerators()) and {"source", "as_of", "verified", "notes"} <= set(every[0])
    assert "TPU-v5p" in told("accelerators", "tpu", capsys=capsys)
    assert "twin known accelerators NAME` tells sources" in told("accelerators", capsys=capsys)


def test_a_user_sees_a_model_by_the_name_that_serves_it(capsys):
    said = told("models", "nvidia/DeepSeek-R1-NVFP4", capsys=capsys)
    row = next(line for line in said.splitlines() if "latent" in line).split()
    # 61 layers x (512 + 64) elements x 2 bytes; 8 of 256 experts
    assert row[0] == "deepseek-ai/DeepSeek-R1" and row[5] == "70.3" and "8 of 256" in said
    assert "not among the" in told("models", "Nonesuch", capsys=capsys, code=1)
    (facts,) = json.loads(told("models", "Mistral-Large-2407", "--json", capsys=capsys))
    assert facts["kv_elements_per_tok"] == 88 * 2 * 8 * 128 and facts["verified"]


def test_a_user_sees_what_a_price_contains(capsys):
    said = told("prices", "b200", capsys=capsys)
    rent = next(line for line in said.splitlines() if " rental " in line)
    assert "2.9" in rent and "2.17" in rent and "capital, hosting, energy, margin, every hour" in rent
    assert "no price is listed for 'abacus'" in told("prices", "abacus", capsys=capsys, code=1)
