"""One law: measured rows are obtained again by the engine that `simulate` runs."""

import numpy as np
import pytest

from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.law.calibration import stored
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST
from wattmill.twin.law.features import features
from wattmill.twin.law.groups import deployment_groups
from wattmill.twin.law.rows import configuration, measured_rows
from wattmill.twin.lowering import limits, lower
from wattmill.units import PS_PER_S

CASES = [
    ("meta-llama/Llama-3.1-70B", "H100-SXM", "vllm", "4", "1024", "1024", "16"),
    ("meta-llama/Llama-3.1-70B", "B200-SXM", "trtllm", "4", "1024", "1024", "32"),
    ("openai/gpt-oss-120b", "B200-SXM", "vllm", "2", "1024", "1024", "64"),
    ("openai/gpt-oss-120b", "H200-SXM", "trtllm", "4", "8192", "1024", "16"),
    ("deepseek-ai/DeepSeek-R1", "B200-SXM", "sglang", "8", "1024", "1024", "64"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].split('/')[1]} {c[1]} {c[2]}")
def test_a_validated_row_comes_out_of_the_simulator(case):
    columns = ("model", "gpu", "framework", "tp", "isl", "osl", "concurrency")
    rows = [
        row
        for row in measured_rows("inferencex")
        if tuple(row[c] for c in columns) == case and row["mode"] == "agg" and "InferenceX" in row["source"]
    ]
    assert rows, "the case is in the measured table"
    c = configuration(rows[0])
    d = c.deployment(c.decode)
    rng = np.random.default_rng(0)
    count = c.concurrency * PROMPTS
    inputs = rng.integers(int(c.isl * SHORTEST), c.isl + 1, count)
    outputs = rng.integers(int(c.osl * SHORTEST), c.osl + 1, count)
    run = simulate(
        [
            (
                lower(d, isl=c.isl, concurrency=c.concurrency),
                limits(d, isl=c.isl, osl=c.osl, concurrency=c.concurrency),
            )
        ],
        Requests(input_tok=inputs, output_tok=outputs),
        clients=Clients(concurrency=c.concurrency),
    )
    tpot_s = float(((run.end_ps - run.first_ps) / (outputs - 1)).mean()) / PS_PER_S
    ttft_s = float((run.first_ps - run.at_ps).mean()) / PS_PER_S
    first, each = features(c)
    fit, groups = stored().fit, deployment_groups(d)
    closed_tpot = float(np.exp(fit.log_seconds(each[None, :], [groups]))[0])
    closed_ttft = float(np.exp(fit.log_seconds(first[None, :], [groups]))[0])
    # The same law and client. A prompt of the simulator's client comes when the step after an end has begun
    # and waits for all of it; the closed form counts half a step. The first tenth comes before any step.
    assert tpot_s == pytest.approx(closed_tpot, rel=0.05)
    assert ttft_s == pytest.approx(closed_ttft + (0.9 - 0.5) * closed_tpot, rel=0.12)
    measured = {
        m: np.median([float(r["value"]) / 1000 for r in rows if r["metric"] == m])
        for m in ("ttft_mean", "tpot_mean")
    }
    assert tpot_s == pytest.approx(measured["tpot_mean"], rel=0.35)
    assert measured["ttft_mean"] / 2 < ttft_s < measured["ttft_mean"] * 2
