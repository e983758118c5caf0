"""Files that strangers keep: other models, parts, engines, spellings and slips. Every row gets its answer."""

import csv
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import UnknownModel, architecture, stand_in
from wattmill.twin.law.calibration import stored
from wattmill.twin.law.predictors import PREDICTORS, Predicted
from wattmill.twin.law.reading import engine, number, per_base, per_second, whole
from wattmill.twin.law.rows import COLUMNS, Side, configuration, read_rows
from wattmill.twin.law.score import report, score
from wattmill.twin.offline.predictor import OFFLINE
from wattmill.twin.offline.rows import offline_row

EVERY = {**PREDICTORS, **OFFLINE}

SERVED = {
    "source": "aiconfigurator silicon_sample (InferenceX dump)",
    "model": "Qwen/Qwen3-32B",
    "precision": "fp8/fp8",
    "gpu": "B200-SXM",
    "n_gpus": "4",
    "tp": "4",
    "pp": "1",
    "ep": "1",
    "attn_dp": "1",
    "mode": "agg",
    "framework": "vllm",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "32",
    "metric": "tpot_mean",
    "value": "9",
    "unit": "ms",
}
QUEUED = {
    "source": "TensorRT-LLM-perf-overview",
    "model": "Qwen3-32B",
    "precision": "fp8",
    "gpu": "B200-SXM",
    "n_gpus": "1",
    "tp": "1",
    "framework": "TensorRT-LLM",
    "isl": "1000",
    "osl": "1000",
    "concurrency": "max (offline, all queued)",
    "metric": "output_throughput",
    "value": "5000",
    "unit": "tokens/s",
}
SUBMITTED = {
    "source": "MLPerf-Inference-v5.1",
    "model": "llama3.1-8b",
    "precision": "fp8",
    "gpu": "H200-SXM",
    "n_gpus": "8",
    "framework": "vLLM",
    "scenario": "Server",
    "metric": "wall_energy_per_output_token",
    "value": "0.1",
    "unit": "J/token",
}

MODELS = [
    "MiniMaxAI/MiniMax-M2",
    "zai-org/GLM-4.5-FP8",
    "zai-org/GLM-4.6",
    "GLM-5",
    "Qwen3-Coder-480B-A35B-Instruct-FP8",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "Qwen3-32B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
    "deepseek-ai/DeepSeek-V3.1-Terminus",
    "deepseek-ai/DeepSeek-V3.2-Exp",
    "deepseek_r1",
    "moonshotai/Kimi-K2-Instruct-0905",
    "nvidia/Kimi-K2.5-NVFP4",
    "llama-3.3-70b",
    "RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8",
    "amd/Llama-3.1-405B-Instruct-FP8-KV",
    "Llama-4-Maverick-17B-128E-Instruct-FP8",
    "mistralai/Mistral-Large-Instruct-2411",
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "openai/gpt-oss-20b",
    "google/gemma-3-27b-it",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "microsoft/phi-4",
    "gptj-99.9",
    "Qwen2.5-72B-Instruct-AWQ",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "zai-org/GLM-4.7-Flash",
]

PARTS = {
    "NVIDIA H100-SXM-80GB": "H100-SXM",
    "8x H100": "H100-SXM",
    "NVIDIA H100 80GB HBM3": "H100-SXM",
    "H100 PCIe": "H100-PCIe",
    "NVIDIA H100 NVL": "H100-NVL",
    "NVIDIA H200-SXM-141GB-CTS x8": "H200-SXM",
    "GB300 NVL72": "GB300",
    "NVIDIA B300 288GB": "B300-SXM",
    "AMD Instinct MI325X 256GB HBM3E": "MI325X",
    "AMD Instinct MI355X": "MI355X",
    "A100 80GB PCIe": "A100-PCIe-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-SXM-40GB",
    "H20": "H20",
    "NVIDIA L40S": "L40S",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-BSE",
    "Intel(R) Arc(TM) Pro B60": "Arc-Pro-B60",
    "INTEL(R) XEON(R) 6980P": "Xeon-6980P",
    "Gaudi 3": "Gaudi-3",
    "Google TPU v5p": "TPU-v5p",
    "TPU v6e": "TPU-v6e",
    "TPU v7": "TPU-7x",
    "AWS Trainium 2": "Trainium2",
}


def answered(rows: list[dict[str, str]]) -> list[Predicted]:
    """Return the answers, each sound: a finite number inside its interval, and a class."""
    scored = score(rows, EVERY)
    assert len(scored) == len(rows)
    found = []
    for s in scored:
        p = s.predicted
        assert p is not None, s.row
        assert 0.0 < p.low <= p.value <= p.high < math.inf, s.row
        assert p.klass in ("interpolated", "extrapolated", "inputs missing")
        found.append(p)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_benchmarked_are_known_by_their_serving_names(name):
    assert architecture(name).params > 1e9


@pytest.mark.parametrize(("said", "part"), PARTS.items())
def test_parts_are_found_under_the_names_of_tables(said, part):
    assert accelerator(said).name == part


def test_every_model_on_every_part_gets_a_number_an_interval_and_a_class():
    rows = [
        {**row, "model": model, "gpu": part}
        for at, model in enumerate([*MODELS, "acme/Thinker-80B-A3B", "acme/Nameless", ""])
        for row in (SERVED, {**SERVED, "metric": "ttft_mean"}, QUEUED, SUBMITTED)
        for part in [*PARTS, "Abacus", ""][at % 6 :: 6]
    ]
    answered(rows)


def test_what_is_new_has_a_wider_interval_than_what_was_measured():
    def width(**change: str) -> float:
        (p,) = answered([{**SERVED, "model": "Llama-3.1-70B", "gpu": "H100-SXM", **change}])
        return p.high / p.low

    known, part = width(), width(gpu="MI355X")
    model, both = width(model="Qwen3-32B"), width(model="Qwen3-32B", gpu="MI355X")
    assert known < min(part, model) and both > max(part, model)
    nameless = width(model="acme/Thinker-70B", tp="")
    assert nameless > known
    law = stored()
    c = configuration({**SERVED, "gpu": "MI355X", "tp": ""})
    assert law.scatter_of("tpot_mean", "inputs missing", c) == (
        law.spreads["tpot_mean, inputs missing, new"],
    )


def test_watts_of_a_part_that_nobody_metered_are_less_sure():
    """Servers of two parts were measured at the wall; their few watts of error say nothing of others."""
    watts = {**SUBMITTED, "metric": "system_wall_power", "unit": "W", "value": "6000"}

    def width(row: dict[str, str], gpu: str) -> float:
        (p,) = answered([{**row, "gpu": gpu}])
        return p.high / p.low

    for row in (watts, SUBMITTED):
        metered, other = width(row, "H200-SXM"), width(row, "MI300X")
        guessed, unpublished = width(row, "Abacus"), width(row, "TPU-v5e")
        assert metered < other < min(guessed, unpublished)
    assert width(QUEUED, "Abacus") > 3 * width(QUEUED, "MI300X")  # its figures are a guess, too
    assert width(watts, "B200-SXM") < 1.3 and width(watts, "MI300X") > 1.6 and width(watts, "Abacus") > 4


def test_nothing_measured_of_another_counts_as_measured_of_what_is_not_known():
    c = configuration({**SERVED, "model": "acme/Thinker-70B", "gpu": "Abacus"})
    assert c.missing == ("model", "gpu")
    assert c.architecture.name == "acme/Thinker-70B (sizes of another)"
    assert c.architecture.params == 70e9
    assert not any(k.model == c.architecture.name or k.gpu == c.accelerator.name for k in stored().groups)
    row = offline_row({**QUEUED, "model": "acme/Thinker-70B", "gpu": "Abacus"})
    assert row.missing == ("model", "gpu") and row.generation not in ("hopper", "blackwell")


def test_sizes_in_a_name_scale_the_nearest_model():
    scaled = stand_in("acme/Thinker-100B-A4B")
    assert scaled.params == 100e9 and scaled.experts
    assert 0 < scaled.active_params < 12e9
    assert stand_in("acme/Huge-2T").params == 2e12
    # A name like that of a known mixture, and its size: the experts count, though the name does not say them.
    assert stand_in("baidu/ERNIE-4.5-300B-Turbo").active_params == 47e9
    assert stand_in("acme/Thinker-70B").active_params == 70e9
    assert stand_in("acme/Zero-0B").params == stand_in("acme/Nameless").params == 70.6e9
    with pytest.raises(UnknownModel):
        architecture("acme/Thinker-100B-A4B")


SLIPS = {
    "tp": ["8x2", "0", "-4", "999999", "TP8", "8/1", "p0/d0"],
    "pp": ["two", "4096", "p2/d2"],
    "ep": ["64x", "yes"],
    "attn_dp": ["true", "1e9"],
    "n_gpus": ["", "8x2", "1e30", "many"],
    "isl": ["1e30", "8k", "1,024", "12%", "nan", "-1"],
    "osl": ["1", "1e30", "inf", "2k"],
    "concurrency": ["1e12", "0", "3.7", "max"],
    "mode": ["disagg 0P1D", "DISAGG 2p1d", "aggregated", "disagg 999999P1D"],
    "precision": ["fp8_e4m3", "Q4_K_M", "AWQ", "fp32", "??"],
    "framework": ["TensorRT-LLM", "dynamo-trt", "TGI", ""],
    "unit": ["s", "us", "fortnights", "mJ/token", "kW", "ktok/s"],
    "gpu": ["NaN", "8xMI300X", "Groq LPU v1"],
    "scenario": ["SingleStream", "Interactive", "unheard of"],
}


def test_slips_in_cells_are_read_or_named_and_never_drop_a_row():
    rows = [
        {**row, column: said}
        for row in (SERVED, QUEUED, SUBMITTED)
        for column, cells in SLIPS.items()
        for said in cells
    ]
    answered(rows)
    missing = {
        (column, said): configuration({**SERVED, column: said}).missing
        for column, cells in SLIPS.items()
        for said in cells
    }
    assert missing["isl", "8k"] == missing["isl", "1,024"] == missing["tp", "p0/d0"] == ()
    assert missing["tp", "8x2"] == missing["tp", "999999"] == ("tp",)
    assert missing["attn_dp", "true"] == ("attn_dp",) and missing["pp", "4096"] == ("pp",)
    assert missing["concurrency", "1e12"] == missing["concurrency", "0"] == ("concurrency",)
    assert missing["mode", "disagg 0P1D"] == missing["mode", "disagg 999999P1D"] == ("workers",)


WORDS = st.one_of(
    st.sampled_from([cell for cells in SLIPS.values() for cell in cells] + MODELS + list(PARTS)),
    st.text(alphabet="0123456789.,-%xkpdPDeE/ abnif", max_size=8),
    st.integers(min_value=0, max_value=10**12).map(str),
)


@settings(max_examples=30)
@given(
    base=st.sampled_from([SERVED, QUEUED, SUBMITTED]),
    metric=st.sampled_from(sorted(EVERY)),
    change=st.dictionaries(st.sampled_from([c for c in COLUMNS if c not in ("metric", "value")]), WORDS),
)
def test_no_row_whatever_stands_in_it_is_without_an_answer(base, metric, change):
    answered([{**base, **change, "metric": metric}])


def test_a_row_may_state_its_figure_in_another_unit():
    milli, whole_s = answered([SERVED, {**SERVED, "unit": "s", "value": "0.009"}])
    assert milli.value == pytest.approx(1000 * whole_s.value)
    joule, mj = answered([SUBMITTED, {**SUBMITTED, "unit": "mJ/token", "value": "100"}])
    assert mj.value == pytest.approx(1000 * joule.value)
    (odd,) = answered([{**SERVED, "unit": "fortnights"}])
    assert odd.assumed == ("unit",) and odd.klass == "inputs missing"
    assert (per_second("ms/token"), per_second("s"), per_second("")) == (1000, 1, 1000)
    assert per_base("kW") == 0.001 and per_base("tokens/s/GPU") == 1.0


def test_throughput_at_fixed_concurrency_is_that_of_the_closed_loop():
    closed = {**SERVED, "metric": "output_throughput", "unit": "tokens/s", "value": "3000"}
    each = {**closed, "metric": "output_throughput_per_gpu", "unit": "tokens/s/GPU"}
    ttft, tpot, total, per_gpu = answered([{**SERVED, "metric": "ttft_mean"}, SERVED, closed, each])
    assert total.value == pytest.approx(32 * 1024 / (ttft.value + 1023 * tpot.value) * 1000)
    assert per_gpu.value == pytest.approx(total.value / 4)
    few, many = answered([{**closed, "concurrency": n} for n in ("4", "256")])
    assert many.value > 4 * few.value
    (queued,) = answered([QUEUED])  # all at once: the offline law
    assert queued.value != total.value


def test_a_split_that_is_not_stated_is_the_narrowest_that_holds_the_weights():
    bare = {**SERVED, "tp": "", "n_gpus": ""}
    assert configuration({**bare, "model": "Llama-3.1-8B"}).decode == Side(tp=1, ep=1, attn_dp=1)
    assert configuration({**bare, "model": "Llama-3.1-405B"}).decode == Side(tp=4, ep=1, attn_dp=1)
    assert configuration({**bare, "n_gpus": "16"}).decode == Side(tp=8, ep=1, attn_dp=1)


def test_a_run_that_was_made_had_room_for_its_cache():
    """671 GB of weights on eight parts of 96 GB leave a hundredth of it: the rest of two large numbers."""
    tight, roomy = answered(
        [{**SERVED, "model": "DeepSeek-R1", "tp": "8", "gpu": g} for g in ("H20", "H200")]
    )
    assert tight.value > roomy.value


@pytest.mark.parametrize("parted", [",", ";", "\t"])
def test_a_table_may_be_parted_otherwise_and_written_in_capitals(tmp_path, parted):
    path = tmp_path / "rows.csv"
    names = [name.upper() if name == "metric" else name for name in SERVED]
    with path.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out, delimiter=parted)
        writer.writerow([*names, " rack "])
        writer.writerow([*SERVED.values(), "A7"])
        writer.writerow([*[v if k != "metric" else "TPOT_MEAN" for k, v in SERVED.items()], "A7"])
        writer.writerow([*[v if k != "value" else "12%" for k, v in SERVED.items()], "A7"])
    found = report(str(path), read_rows(path), by="rack", predictors=EVERY)
    assert (found.rows, found.unreadable, found.not_predicted) == (3, 1, {})


@pytest.mark.parametrize(
    "raw", [b"\x1f\x8b\x08\x00broken", b"metric,value\n\xff\xfe,1\n", b"", b"a;b\n1;2\n"]
)
def test_what_is_no_table_says_so(tmp_path, raw):
    path = tmp_path / "rows.csv"
    path.write_bytes(raw)
    with pytest.raises((ValueError, OSError)):
        read_rows(path)


def test_cells_are_read_by_hand():
    assert [number(x) for x in ("12", "1,024.5", "1e3", "85%", "nan", "-3", "0", None)] == [
        *(12.0, 1024.5, 1000.0),
        *[None] * 5,
    ]
    assert [whole(x, most=9000) for x in ("8k", "8.9", "9001", "0.5", "8x2")] == [8192, 8, None, None, None]
    assert [engine(x) for x in ("TensorRT-LLM", "dynamo-trt", "SGLang 0.5", "vLLM", "", "TGI")] == [
        *("trtllm", "trtllm", "sglang", "vllm", "unknown", "tgi")
    ]
