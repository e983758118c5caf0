"""Operator tables: only named ones are opened, sizes off the grid are refused, a step's operators add up."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tables import CHOICES, ENGINE, MS, SYSTEM, made, read

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.law.answer import asked
from wattmill.twin.operators.features import NAMES, sums
from wattmill.twin.operators.grid import Grid, OffGrid
from wattmill.twin.operators.sources import ALLOWED, KINDS, VERSION, Wheel, installed, table
from wattmill.twin.operators.tables import Tables
from wattmill.twin.operators.walk import PARTS, Step, operators

LAYERS_70B = 80


def deployment(model: str = "meta-llama/Llama-3.1-70B-Instruct", **change: object) -> Deployment:
    plain = Deployment(
        architecture=architecture(model),
        accelerator=accelerator("H100-SXM"),
        engine=ENGINE,
        weight_bits=8.0,
        kv_bits=8.0,
        tp=8,
    )
    return msgspec.structs.replace(plain, **change)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(made(tmp_path_factory.mktemp("wheel")))


# What is opened


def test_a_sample_of_whole_runs_can_not_be_opened(tmp_path):
    wheel = made(tmp_path)
    inside = sorted(path.relative_to(wheel.folder).as_posix() for path in wheel.folder.rglob("*.csv"))
    assert inside
    for path in (*inside, "../silicon_sample.csv", "silicon_sample.csv", "h100_sxm/../../silicon_sample.csv"):
        with pytest.raises(PermissionError, match="none of the"):
            wheel.columns(path, ["value"])


def test_a_named_table_that_is_a_link_to_the_sample_stays_closed(tmp_path):
    wheel = made(tmp_path)
    path = table("gemm", SYSTEM, ENGINE)
    assert path is not None
    (wheel.folder / path).unlink()
    (wheel.folder / path).symlink_to(wheel.folder.parent / "silicon_sample.csv")
    with pytest.raises(PermissionError, match=r"leads to 'silicon_sample\.csv'"):
        wheel.columns(path, ["n"])


def test_a_table_that_an_installer_linked_into_place_is_read(tmp_path):
    """Some keep one copy of a wheel and link its files into each environment, under their own names."""
    wheel = made(tmp_path / "store")
    path = table("gemm", SYSTEM, ENGINE)
    assert path is not None
    file = tmp_path / "linked" / path
    file.parent.mkdir(parents=True)
    file.symlink_to(wheel.folder / path)
    assert Wheel(tmp_path / "linked", read).columns(path, ["n"]) is not None


def test_every_table_that_may_be_opened_is_one_of_the_named_kinds():
    assert len(ALLOWED) > 100
    assert not any(
        "silicon" in path or ".." in path or not path.endswith("_perf.parquet") for path in ALLOWED
    )
    assert {path.rsplit("/", 1)[1].removesuffix("_perf.parquet") for path in ALLOWED} == set(KINDS)


def test_sums_of_every_sort_of_model_open_named_tables_and_nothing_else(tmp_path):
    """With an audit hook, on a made-up wheel; `make test-operators` does the same on the real one."""
    script = """
import os, sys
from pathlib import Path
from made_tables import made
wheel = made(Path(sys.argv[1]))
import numpy, wattmill.twin.law.rows
from wattmill.twin.operators import features, sources, tables
from test_operator_tables import deployment
from wattmill.twin.law.answer import asked
cs = [asked(deployment(model, ep=ep), isl=1000, osl=100, concurrency=16)
      for model, ep in (("meta-llama/Llama-3.1-70B", 1), ("deepseek-ai/DeepSeek-R1", 8))]
opened = set()
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.add(os.path.realpath(os.fsdecode(args[0])))
sys.addaudithook(hook)
found = [features.sums(tables.Tables(wheel), c) for c in cs]
root = os.path.realpath(wheel.folder.parent)
inside = {os.path.relpath(p, os.path.join(root, "data")) for p in opened if p.startswith(root + os.sep)}
assert not found[0].missing + found[1].missing
assert inside and inside <= sources.ALLOWED, inside
assert not any("silicon" in p for p in opened), opened
print(len(inside))
"""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(here)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(CHOICES) - 1  # all but those of attention ranks, done.stdout


def test_without_the_wheel_it_is_named(monkeypatch):
    def absent(name: str) -> str:
        raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(ModuleNotFoundError, match="aiconfigurator-core is missing"):
        installed()


def test_another_version_of_the_wheel_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.13.0")
    with pytest.raises(ValueError, match=f"must be {VERSION}, got 0.13.0"):
        installed()


# Interpolation


def test_between_two_sizes_logarithms_are_straight():
    grid = Grid(("m",), [np.array([1, 100])], np.array([1.0, 10.0]))
    assert grid.seconds({"m": 10}) == pytest.approx(10**0.5)
    assert grid.seconds({"m": 100}) == pytest.approx(10.0)


@pytest.mark.parametrize("m", [0.5, 101])
def test_off_the_grid_is_refused_with_what_was_measured(m):
    grid = Grid(("m",), [np.array([1, 100])], np.array([1.0, 10.0]))
    with pytest.raises(OffGrid, match=r"m .* is outside of the measured 1 to 100"):
        grid.seconds({"m": m})


def test_of_several_kernels_the_fastest_counts():
    grid = Grid(("m",), [np.array([1, 1, 2])], np.array([3.0, 2.0, 5.0]))
    assert grid.seconds({"m": 1}) == pytest.approx(2.0)


def test_a_corner_that_was_not_measured_is_refused():
    # Batches of 1 and 2 at length 10, of 1 alone at length 20.
    sizes = [np.array([10, 10, 20]), np.array([1, 2, 1])]
    grid = Grid(("length", "batch"), sizes, np.array([1.0, 2.0, 2.0]))
    assert grid.seconds({"length": 15, "batch": 1}) == pytest.approx(1.5, rel=0.01)
    with pytest.raises(OffGrid, match="batch"):
        grid.seconds({"length": 15, "batch": 2})


def test_what_comes_apart_is_done_in_equal_parts():
    grid = Grid(("m",), [np.array([1, 100])], np.array([1.0, 10.0]), parts=("m",))
    assert grid.seconds({"m": 150}) == pytest.approx(2 * 75**0.5)


@given(
    times=st.lists(st.floats(0.01, 100.0), min_size=9, max_size=9),
    at=st.tuples(st.floats(1.0, 64.0), st.floats(2.0, 50.0)),
)
def test_an_interpolated_time_lies_between_measured_ones(times, at):
    a, b = np.meshgrid([1, 8, 64], [2, 10, 50], indexing="ij")
    grid = Grid(("a", "b"), [a.ravel(), b.ravel()], np.array(times))
    found = grid.seconds({"a": at[0], "b": at[1]})
    assert min(times) * (1 - 1e-9) <= found <= max(times) * (1 + 1e-9)


# The walk


def sizes(found, kind):
    return [(o.times, dict(o.sizes)) for o in found if o.kind == kind]


def test_a_dense_model_by_hand():
    """Llama-3.1-70B on 8 devices: 80 layers of 64 heads over 8 of keys, hidden 8,192, inner width 28,672."""
    found = operators(deployment(), Step(decode_n=32, context_tok=1000))
    assert sizes(found, "gemm") == [
        (80, {"n": (8 + 2) * 128, "k": 8192, "m": 32}),
        (80, {"n": 8192, "k": 1024, "m": 32}),
        (80, {"n": 2 * 3584, "k": 8192, "m": 32}),
        (80, {"n": 8192, "k": 3584, "m": 32}),
        (1, {"n": 128256 / 8, "k": 8192, "m": 32}),
    ]
    assert sizes(found, "generation_attention") == [(80, {"batch_size": 32, "step": 1000})]
    assert sizes(found, "custom_allreduce") == [(160, {"message_size": 32 * 8192})]
    assert not sizes(found, "context_attention")


def test_products_of_a_model_read_its_weights_once():
    """One token through all products touches every weight: the areas add up to the parameters."""
    for name in ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"):
        a = architecture(name)
        found = operators(deployment(name, tp=1), Step(decode_n=1, context_tok=100))
        area = sum(times * s["n"] * s["k"] for times, s in sizes(found, "gemm"))
        assert area == pytest.approx(a.params - a.vocab * a.hidden, rel=0.02), name


def test_latent_attention_and_experts_by_hand():
    """DeepSeek-R1, experts over 8 devices: 61 layers, 58 of them with 256 experts of 2,048, 128 heads."""
    found = operators(deployment("deepseek-ai/DeepSeek-R1", ep=8), Step(decode_n=64, context_tok=2000))
    assert sizes(found, "generation_mla") == [(61, {"batch_size": 64, "step": 2000})]
    assert sizes(found, "moe") == [(58, {"num_tokens": 64})]
    choice = dict(next(o.choice for o in found if o.kind == "moe"))
    assert (choice["moe_tp_size"], choice["moe_ep_size"], choice["num_experts"]) == (1, 8, 256)
    products = sizes(found, "gemm")
    assert (61, {"n": 1536 + 512 + 64, "k": 7168, "m": 64}) in products
    assert (61, {"n": 16 * 192, "k": 1536, "m": 64}) in products
    assert (61, {"n": 7168, "k": 16 * 128, "m": 64}) in products
    assert (3, {"n": 2 * 18432 // 8, "k": 7168, "m": 64}) in products  # three dense layers
    assert (58, {"n": 2 * 2048 // 8, "k": 7168, "m": 64}) in products  # one shared expert
    assert (58, {"n": 256, "k": 7168, "m": 64}) in products  # the router


def test_attention_ranks_gather_all_tokens_before_experts_and_scatter_after():
    found = operators(
        deployment("deepseek-ai/DeepSeek-R1", tp=1, attn_dp=8, ep=8), Step(decode_n=64, context_tok=2000)
    )
    assert sizes(found, "custom_allreduce") == []
    assert sizes(found, "nccl") == [(58, {"message_size": 64 * 7168})] * 2
    assert sizes(found, "generation_mla") == [(61, {"batch_size": 8, "step": 2000})]
    assert sizes(found, "moe") == [(58, {"num_tokens": 64})]


def test_prompts_beside_are_products_of_all_tokens_and_attention_of_their_own():
    step = Step(decode_n=10, context_tok=500, prompt_n=2, prompt_tok=1000)
    found = operators(deployment(), step)
    assert all(s["m"] == 2010 for times, s in sizes(found, "gemm") if times == LAYERS_70B)
    assert sizes(found, "context_attention") == [(80, {"isl": 1000, "batch_size": 2})]
    assert sizes(found, "generation_attention") == [(80, {"batch_size": 10, "step": 500})]
    assert sizes(found, "gemm")[-1] == (1, {"n": 16032, "k": 8192, "m": 12})  # ten tokens and two firsts


def test_tokens_that_fill_a_graph_are_products_and_no_attention(tables):
    found = operators(deployment(), Step(decode_n=10, context_tok=500, padded=6))
    assert {s["m"] for times, s in sizes(found, "gemm") if times == LAYERS_70B} == {16}
    assert sizes(found, "generation_attention") == [(80, {"batch_size": 10, "step": 500})]
    plain, filled = (
        sums(tables, asked(deployment(graph_sizes=graphs), isl=100, osl=1000, concurrency=10))
        for graphs in ((), (64,))
    )
    each = [dict(zip(NAMES, s.each, strict=True)) for s in (plain, filled)]
    assert each[1]["products"] > 1.5 * each[0]["products"]
    assert each[1]["attention"] == pytest.approx(each[0]["attention"])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("Qwen/Qwen3.5-397B-A17B", "linear attention"),
        ("zai-org/GLM-5", "latent attention of sizes"),
    ],
)
def test_what_no_table_holds_is_refused_by_name(model, why):
    with pytest.raises(OffGrid, match=why):
        operators(deployment(model), Step(decode_n=1, context_tok=100))


@pytest.mark.parametrize("bits", [4.0, 8.0])
def test_weights_that_are_unpacked_first_are_refused(bits):
    """A product in 16 bits reads four times what such a checkpoint holds: its time would be no stand-in."""
    with pytest.raises(OffGrid, match=f"unpacked from {bits:g} bits"):
        operators(deployment(weight_bits=bits, weight_only=True), Step(decode_n=1, context_tok=100))


def test_experts_of_four_bits_leave_attention_in_sixteen():
    found = operators(
        deployment("moonshotai/Kimi-K2-Instruct", weight_bits=4.0, weight_only=True),
        Step(decode_n=1, context_tok=100),
    )
    assert {dict(o.choice)["gemm_dtype"] for o in found if o.kind == "gemm"} == {("bfloat16",), "bfloat16"}
    assert [dict(o.choice)["moe_dtype"] for o in found if o.kind == "moe"] == [("int4_wo",)]


# Sums


def test_a_run_of_decode_steps_adds_up_by_hand(tables):
    """Without prompts in the way, a token takes one step: made tables, one request at a time."""
    c = asked(deployment(), isl=2, osl=2000, concurrency=1)
    found = sums(tables, c)
    assert found.missing == "" and found.basis == f"operator tables {VERSION}, H100-SXM vllm 0.24.0"
    each = dict(zip(NAMES, found.each, strict=True))
    layer = [(1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584)]
    by_hand = 80 * sum(MS["gemm"](n, k, 1.0) for n, k in layer) + MS["gemm"](16032, 8192, 1.0)
    assert each["products"] == pytest.approx(by_hand / 1000.0, rel=0.01)
    assert each["links"] == pytest.approx(160 * MS["custom_allreduce"](8192) / 1000.0, rel=0.01)
    # The context grows from 2 to some 1,800 tokens; its mean is what is looked up.
    assert 700 < (each["attention"] * 1000.0 / 80 / 1e-6) ** 2 < 1100
    assert each["experts"] == 0.0 and each["step"] == pytest.approx(1.0, rel=0.01)
    assert len(PARTS) == 5


def test_an_accelerator_or_engine_without_tables_has_no_sum(tables):
    for change, why in (
        ({"accelerator": accelerator("MI300X")}, "no operator tables of MI300X"),
        ({"engine": "llama.cpp"}, "no operator tables of llama.cpp"),
        ({"tp": 4}, "no table of"),
        ({"pp": 2}, "pipeline stages"),
    ):
        found = sums(tables, asked(deployment(**change), isl=1000, osl=100, concurrency=8))
        assert found.each is None and why in found.missing


def test_longer_than_measured_has_no_sum(tables):
    found = sums(tables, asked(deployment(), isl=200_000, osl=100, concurrency=1))
    assert found.each is None and "outside of the measured" in found.missing


def test_a_table_that_the_engine_lacks_is_borrowed_and_named(tables):
    c = asked(deployment(engine="sglang"), isl=1000, osl=100, concurrency=8)
    found = sums(tables, c)
    assert found.basis.startswith(f"operator tables {VERSION}, H100-SXM sglang 0.5.14 (")
    assert "gemm of vllm" in found.basis


def test_attention_that_is_older_than_windows_has_none(tmp_path):
    wheel = made(tmp_path)
    path = table("generation_attention", SYSTEM, ENGINE)
    older = Wheel(wheel.folder, lambda file, names: read(file, [n for n in names if n != "window_size"]))
    assert path is not None
    found = older.columns(path, ["step", "window_size", "latency"])
    assert found is not None and set(found["window_size"]) == {0}


def test_a_file_that_is_not_there_is_no_table(tmp_path):
    assert Wheel(tmp_path, read).columns(next(iter(ALLOWED)), ["m"]) is None
