"""The installed operator tables (`make test-operators`): what is opened, what can be read, what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.law.crossval import TABLE
from wattmill.twin.law.rows import measured_rows
from wattmill.twin.law.samples import samples
from wattmill.twin.operators.crossval import _data, _fitted
from wattmill.twin.operators.mixture import Operators, stored_factors
from wattmill.twin.operators.sources import ALLOWED, KINDS, LATENCY, VERSION, Wheel, installed
from wattmill.twin.operators.tables import Tables
from wattmill.twin.prediction import predict

FOLDER = os.environ.get("WATTMILL_OPERATORS", "")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WATCHED = """
import os, sys
opened = set()
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.add(os.path.realpath(os.fsdecode(args[0])))
sys.addaudithook(hook)
sys.modules["pandas"] = None  # nobody needs it
from wattmill.twin.operators.sources import ALLOWED, installed
from wattmill.cli.twin import twin_app
try:
    twin_app(["validate", sys.argv[1], "--operators", "--json"], prog_name="wattmill twin")
except SystemExit as done:
    assert done.code == 0, done.code
data = os.path.realpath(installed().folder)
package = os.path.dirname(os.path.dirname(data))
inside = {os.path.relpath(p, data) for p in opened if p.startswith(package + os.sep)}
assert os.path.exists(os.path.join(package, "systems", "silicon_sample.csv")), "the wheel changed"
assert not any("silicon_sample" in p for p in opened), opened
assert "aiconfigurator_core" not in sys.modules
tables = {p for p in inside if not p.startswith("..")}
assert tables and tables <= ALLOWED, tables
assert not any(p.endswith((".csv", ".parquet")) for p in inside - tables), inside - tables
print(len(tables), file=sys.stderr)
"""

ROWS = """source,model,precision,gpu,tp,ep,mode,framework,isl,osl,concurrency,metric,value,unit
me,Qwen3-32B,fp8,H100,2,1,agg,vllm,1024,1024,16,tpot_mean,12,ms
me,Qwen3-Coder-480B-A35B,fp8,H200,8,8,agg,sglang,1024,1024,16,tpot_mean,12,ms
me,DeepSeek-R1,fp8,B300,8,8,agg,trtllm,1024,1024,64,ttft_mean,400,ms
me,Llama-3.1-70B,bf16,A100,8,1,agg,vllm,1024,1024,16,tpot_mean,30,ms
me,Llama-3.1-8B,fp8,RTX PRO 6000,1,1,agg,vllm,1024,1024,16,tpot_mean,20,ms
"""


@pytest.fixture(scope="module")
def wheel() -> Wheel:
    assert FOLDER, "run `make test-operators`"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield installed()


@pytest.fixture(scope="module")
def tables(wheel: Wheel) -> Tables:
    return Tables(wheel)


def deployment(model: str, gpu: str, engine: str = "vllm", **split: int) -> Deployment:
    return Deployment(
        architecture=architecture(model),
        accelerator=accelerator(gpu),
        engine=engine,
        weight_bits=8.0,
        kv_bits=8.0,
        **split,
    )


def test_the_sample_of_whole_runs_stays_closed_and_no_pandas_is_needed(tmp_path: Path, wheel: Wheel) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": FOLDER}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) >= 15
    assert "operator tables" in done.stdout


def test_the_laws_own_fit_opens_nothing_of_the_wheel() -> None:
    """The suite's own test of it, with the wheel within reach."""
    name = "test_the_fit_opens_nothing_but_the_measured_tables"
    test = Path(__file__).parents[1] / "twin" / "test_law_fit.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"{test}::{name}"],
        env={**os.environ, "PYTHONPATH": FOLDER},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_every_named_table_that_the_wheel_has_can_be_read(wheel: Wheel) -> None:
    """Some are not there: an engine without latent attention, a part without that engine."""
    there = 0
    for path in sorted(ALLOWED):
        kind = KINDS[path.rsplit("/", 1)[1].removesuffix("_perf.parquet")]
        columns = wheel.columns(path, (*kind.choices, *kind.axes, LATENCY))
        if columns is None:
            continue
        there += 1
        assert len({len(column) for column in columns.values()}) == 1, path
        seconds = columns[LATENCY]
        assert np.issubdtype(seconds.dtype, np.floating) and (seconds > 0.0).mean() > 0.99, path
        assert all((columns[axis] >= 1).all() for axis in kind.axes), path
    assert there >= 180, f"{there} of {len(ALLOWED)}"


def test_stored_factors_are_what_is_fitted_on_the_measured_rows(tables: Tables) -> None:
    rows = measured_rows(TABLE)
    data, _ = _data(samples(rows), tables)
    at = np.flatnonzero(data.covered)
    stored = stored_factors()
    assert len(at) == stored.rows
    for name, values in _fitted(data, at).deviations.items():
        assert values == pytest.approx(stored.deviations[name], abs=1e-3), name


@pytest.mark.parametrize(
    ("gpu", "engine", "basis"),
    [
        ("H100-SXM", "vllm", "H100-SXM vllm 0.24.0"),
        ("B300-SXM", "trtllm", "B300-SXM trtllm 1.3.0rc20"),
        ("RTX-PRO-6000-BSE", "sglang", "RTX-PRO-6000-BSE sglang 0.5.14"),
    ],
)
def test_a_model_without_rows_is_answered_and_says_by_what(
    tables: Tables, gpu: str, engine: str, basis: str
) -> None:
    prior = Operators(tables, stored_factors())
    d = deployment("Qwen/Qwen3-32B", gpu, engine, tp=2)
    found = predict(d, isl=1024, osl=1024, concurrency=16, prior=prior)
    alone = predict(d, isl=1024, osl=1024, concurrency=16)
    assert found.basis.startswith(f"operator tables {VERSION}, {basis}")
    assert 0.4 < found.tpot_s.value / alone.tpot_s.value < 2.5  # two opinions of one machine
    assert found.tpot_s.low < found.tpot_s.value < found.tpot_s.high


def test_larger_batches_take_longer_and_more_devices_less(tables: Tables) -> None:
    prior = Operators(tables, stored_factors())

    def tpot_s(tp: int, n: int) -> float:
        d = deployment("Qwen/Qwen3-32B", "H100-SXM", tp=tp)
        return predict(d, isl=1024, osl=1024, concurrency=n, prior=prior).tpot_s.value

    by_batch = [tpot_s(2, n) for n in (1, 4, 16, 64)]
    assert by_batch == sorted(by_batch)
    assert tpot_s(1, 16) > tpot_s(2, 16) > tpot_s(4, 16)


def test_what_the_wheel_lacks_is_said(tables: Tables) -> None:
    """8 bits on a part without a unit for them; a part that is not in the wheel."""
    prior = Operators(tables, stored_factors())
    from wattmill.twin.law.answer import asked
    from wattmill.twin.law.calibration import stored

    for gpu, why in (
        ("A100-SXM-80GB", "gemm_dtype fp8 or fp8_block"),
        ("MI355X", "no operator tables of MI355X"),
    ):
        c = asked(deployment("Qwen/Qwen3-32B", gpu, tp=2), isl=1024, osl=1024, concurrency=16)
        said = prior.mixed(stored(), c, "tpot_mean", 0.02)
        assert isinstance(said, str) and why in said
