"""The offline law: what a row says, how large its batch is, that the fit finds what made the data, and the
stored coefficients' error on the rows they come from."""

from __future__ import annotations

from math import exp, log

import msgspec
import numpy as np
import pytest

from wattmill.compute.catalogue import accelerator
from wattmill.twin.law.intervals import quantiles
from wattmill.twin.law.rows import measured_rows
from wattmill.twin.offline.batch import cycles, deployment, most_sequences, starved
from wattmill.twin.offline.calibration import kept, stored
from wattmill.twin.offline.crossval import energy_held_out, training
from wattmill.twin.offline.energy import cap_share_of, draw
from wattmill.twin.offline.fit import cell_weights, fit
from wattmill.twin.offline.folds import held_out, keys
from wattmill.twin.offline.law import Problem, layout
from wattmill.twin.offline.levels import EXTRAS, OF_THE_HOST, TERMS
from wattmill.twin.offline.novelty import Seen, bounds, scatter_groups, scatters_of
from wattmill.twin.offline.predictor import METRICS, predicted
from wattmill.twin.offline.rows import THROUGHPUT, Split, distinct, offline_row

OVERVIEW = {
    "source": "TensorRT-LLM-perf-overview",
    "model": "Llama-3.3-70B-Instruct",
    "precision": "fp4",
    "gpu": "B200-SXM",
    "n_gpus": "1",
    "tp": "1",
    "pp": "1",
    "framework": "TensorRT-LLM",
    "framework_version": "v1.0",
    "isl": "1000",
    "osl": "2000",
    "scenario": "offline max throughput",
    "metric": "output_throughput",
    "value": "6271",
}
MLPERF = {
    "source": "MLPerf-Inference-v4.1",
    "model": "llama2-70b-99.9",
    "precision": "fp16",
    "gpu": "H100-SXM",
    "n_gpus": "8",
    "framework": "TensorRT",
    "framework_version": "10.2.0",
    "osl": "290.1",
    "scenario": "Server",
    "metric": "output_throughput",
    "value": "21721",
    "system": "DGX-H100",
}


@pytest.fixture(scope="module")
def trained():
    _, rows = training()
    problem = Problem(rows)
    measured = np.log([row.tok_per_s_per_gpu for row in rows])
    return problem, measured, fit(problem, measured)


def test_a_row_of_the_overview_says_everything():
    row = offline_row(OVERVIEW)
    assert row.missing == ()
    assert row.splits == (Split(),)
    assert (row.weight_bits, row.kv_bits, row.tok_per_s_per_gpu) == (4.0, 8.0, 6271.0)


def test_an_mlperf_row_declares_lengths_splits_and_the_bits_that_ran():
    row = offline_row(MLPERF)
    assert row.missing == ("isl", "tp")
    assert row.isl == 294
    assert row.weight_bits == 8.0  # "fp16" of v4.1 ran FP8
    assert offline_row({**MLPERF, "gpu": "B200-SXM"}).weight_bits == 4.0
    assert row.tpot_limit_s == 0.2
    assert Split(tp=2) in row.splits and Split(pp=8) in row.splits


def test_a_row_of_unknown_things_is_still_described():
    row = offline_row({"metric": "output_throughput", "value": "10", "gpu": "Etched-1", "model": "Zebra-40B"})
    assert {"model", "gpu", "isl", "osl", "precision", "tp"} <= set(row.missing)


def test_runs_submitted_again_count_once():
    other = {**MLPERF, "model": "llama2-70b-99", "submitter": "another", "value": "21724"}
    rows = [offline_row(r) for r in (MLPERF, other, {**MLPERF, "value": "23000"}, OVERVIEW)]
    assert distinct(rows) == [0, 2, 3]


def test_an_engine_that_never_evicts_reserves_whole_requests():
    row = offline_row(OVERVIEW)
    replica = deployment(row, row.splits[0])
    # 8-bit cache: 2 x 8 heads x 128 x 80 layers = 163,840 bytes a token; requests of 3,000 tokens
    assert replica.kv_bytes_per_tok() == 163_840
    # beside the cache: 2 GB, and the logits of a step of 8,192 tokens over 128,256 words in 32 bits, 4.2 GB
    room = replica.kv_tokens(other_bytes=2e9 + 8_192 * 128_256 * 4)
    assert most_sequences(row, replica) == pytest.approx(room / 3_000)
    eager = msgspec.structs.replace(row, engine="vllm")
    assert most_sequences(eager, replica) == pytest.approx(room / 2_000)


def test_throughput_is_batch_times_output_over_the_cycle():
    # One row, all coefficients at their start: B osl / t, devices and host in the norm of 1.5
    row = msgspec.structs.replace(offline_row(OVERVIEW), requests=None)
    problem = Problem([row])
    start = problem.layout.start
    cycle = cycles(row)[0]
    parts = dict(zip(TERMS, cycle.terms[-1] * np.exp(start[: len(TERMS)]), strict=True))
    host = sum(parts.pop(name) for name in OF_THE_HOST)
    seconds = (host**1.5 + sum(parts.values()) ** 1.5) ** (1 / 1.5)
    assert exp(problem.log_throughput(start)[0]) == pytest.approx(cycle.batch[-1] * row.osl / seconds)


def test_a_limit_on_the_time_per_token_is_kept():
    row = msgspec.structs.replace(offline_row(OVERVIEW), scenario="Server", tpot_limit_s=0.03, requests=None)
    problem = Problem([row])
    theta = problem.layout.start
    solved = problem.chosen(theta)
    headroom = exp(theta[problem.layout.extras + list(EXTRAS).index("headroom Server")])
    per_tok = exp(float(solved.log_batch[0])) / exp(float(solved.log_throughput[0]))
    assert per_tok == pytest.approx(headroom * 0.03, rel=1e-6)
    free = Problem([msgspec.structs.replace(row, tpot_limit_s=None)])
    assert solved.log_throughput[0] < free.log_throughput(theta)[0]


def test_a_system_that_says_default_runs_one_engine_over_its_devices_with_the_engines_own_slots():
    untuned = {**MLPERF, "framework": "vLLM", "n_gpus": "8", "system": "vLLM_8xL40S-reference-default_config"}
    row = offline_row(untuned)
    assert (row.splits, row.slots, row.missing) == ((Split(tp=8),), 256, ("isl", "tp"))
    assert most_sequences(row, deployment(row, row.splits[0])) == 256.0
    assert offline_row({**untuned, "system": "tuned"}).slots is None


def test_a_part_short_of_watts_computes_slower():
    # H100 NVL: the units of 700 W/PFLOP/s x 0.835 PFLOP/s = 585 W on a limit of 400 W
    assert starved(accelerator("H100-NVL")) == pytest.approx(700 * 0.8355 / 400, rel=0.01)
    assert starved(accelerator("H200-SXM")) == 1.0
    assert starved(msgspec.structs.replace(accelerator("H100-NVL"), tdp_w=None)) == 1.0


def test_a_model_too_large_for_copies_of_its_attention_is_split_there_too():
    row = offline_row(
        {**MLPERF, "model": "deepseek-r1", "precision": "fp4", "gpu": "H100-SXM", "n_gpus": "8"}
    )
    assert all(most_sequences(row, deployment(row, split)) < 1.0 for split in row.splits)
    (found,) = cycles(row)
    assert (found.gpus, found.ranks) == (8, 1) and found.batch[-1] > 100


def test_a_part_of_a_generation_never_seen_is_less_sure_than_a_sister_of_known_ones():
    law = stored()
    sister, stranger = (offline_row({**OVERVIEW, "gpu": name}) for name in ("B300-SXM", "Gaudi-3"))
    assert scatters_of(sister, law.seen) == ("accelerator",)
    assert scatters_of(stranger, law.seen) == ("generation",)
    (low, high), (lower, higher) = law.bounds(sister), law.bounds(stranger)
    assert lower < low < 1.0 < high < higher


def test_the_last_unfilled_wave_is_paid():
    row = offline_row(OVERVIEW)
    steady = msgspec.structs.replace(row, requests=None)
    theta = Problem([row]).layout.start
    batch = cycles(steady)[0].batch[-1]
    once_and_a_bit = msgspec.structs.replace(row, requests=int(batch) + 2)
    slow, full = (Problem([r]).log_throughput(theta)[0] for r in (once_and_a_bit, steady))
    assert slow < full - 0.1


def test_the_slope_is_the_derivative(trained):
    problem, _, theta = trained
    slope = problem.jacobian(problem.chosen(theta))
    rng = np.random.default_rng(1)
    for _ in range(3):
        way = rng.normal(size=len(theta)) * problem.layout.width
        step = 1e-5
        there, here = (problem.log_throughput(theta + sign * step * way) for sign in (1, -1))
        numeric, analytic = (there - here) / (2 * step), slope @ way
        steady = np.array([row.requests is None and row.tpot_limit_s is None for row in problem.rows])
        assert np.median(np.abs(numeric - analytic)[steady]) < 1e-4


def test_the_fit_finds_the_coefficients_that_made_the_data(trained):
    problem, _, theta = trained
    made = problem.log_throughput(theta)
    again = problem.log_throughput(fit(problem, made, weights=np.ones(len(problem.rows))))
    assert np.median(np.abs(again - made)) < 0.01


def test_a_cell_counts_by_the_root_of_its_rows(trained):
    problem, _, _ = trained
    use = np.arange(len(problem.rows)) % 3 > 0
    weights = cell_weights(problem, use)
    assert not weights[~use].any() and weights[use].mean() == pytest.approx(1.0)
    total: dict[tuple[str, str], float] = {}
    count: dict[tuple[str, str], int] = {}
    for row, weight, used in zip(problem.rows, weights, use, strict=True):
        total[row.cell] = total.get(row.cell, 0.0) + weight
        count[row.cell] = count.get(row.cell, 0) + int(used)
    shares = {total[cell] / count[cell] ** 0.5 for cell in total if count[cell]}
    assert max(shares) == pytest.approx(min(shares)) and len(set(count.values())) > 5


def test_a_group_never_seen_deviates_by_nothing(trained):
    problem, _, theta = trained
    row = msgspec.structs.replace(offline_row(OVERVIEW), family="overview trtllm v9.9")
    known = msgspec.structs.replace(row, family="overview trtllm v1.0")
    shift = theta[problem.layout.at["family", "overview trtllm v1.0"]]
    unseen, seen = (Problem([r], problem.layout).log_throughput(theta)[0] for r in (row, known))
    assert seen - unseen == pytest.approx(shift)


def test_stored_coefficients_are_those_of_the_fit(trained):
    problem, _, theta = trained
    law = stored()
    deviations, extras = kept(problem.layout, theta)
    assert law.deviations.keys() == deviations.keys()
    repeated, at = law.problem(problem.rows)
    stored_figures, fresh = repeated.log_throughput(at), problem.log_throughput(theta)
    assert np.max(np.abs(stored_figures - fresh)) < 0.02
    assert law.extras.keys() == extras.keys()


def test_every_offline_row_gets_a_number_an_interval_and_a_class():
    rows = [row for table in ("trtllm_perf_overview", "mlperf_llm_closed") for row in measured_rows(table)]
    for metric in METRICS:
        asked = [row for row in rows if row["metric"] == metric]
        answers = predicted(metric, asked)
        assert len(answers) == len(asked) > 0
        for answer in answers:
            assert 0.0 < answer.low <= answer.value <= answer.high
            assert answer.klass in ("interpolated", "extrapolated", "inputs missing")
            assert answer.nearest is not None


def test_seen_rows_are_met_within_a_tenth_in_the_median():
    rows = [row for row in measured_rows("trtllm_perf_overview") if row["metric"] in THROUGHPUT]
    errors = [
        abs(answer.value / float(row["value"]) - 1.0)
        for metric in THROUGHPUT
        for row, answer in _answered([row for row in rows if row["metric"] == metric], metric)
    ]
    assert len(errors) == 328
    assert float(np.median(errors)) < 0.10


def test_an_unknown_part_is_extrapolated_and_no_lengths_are_missing_inputs():
    (near,) = predicted("output_throughput", [OVERVIEW])
    (far,) = predicted("output_throughput", [{**OVERVIEW, "gpu": "MI355X"}])
    (vague,) = predicted("output_throughput", [MLPERF])
    assert (near.klass, far.klass, vague.klass) == ("interpolated", "extrapolated", "inputs missing")
    assert log(far.high / far.low) > log(near.high / near.low)


def test_folds_take_cells_whole(trained):
    problem, _, _ = trained
    fold = keys(problem.rows, "cells", parts=16, seed=0)
    for cell in {row.cell for row in problem.rows}:
        assert len({f for f, row in zip(fold, problem.rows, strict=True) if row.cell == cell}) == 1


def test_held_out_rows_do_not_enter_their_own_prediction(trained):
    problem, measured, _ = trained
    few = [i for i, row in enumerate(problem.rows) if row.generation == "cdna3"]
    part = Problem([problem.rows[i] for i in few])
    spoiled = measured[few].copy()
    first = keys(part.rows, "cells", parts=16, seed=0)
    out = first == first[0]
    before = held_out(part, spoiled, "cells", rivals=False, intervals=False).predicted[out]
    spoiled[out] += 3.0
    after = held_out(part, spoiled, "cells", rivals=False, intervals=False).predicted[out]
    assert np.allclose(before, after)


def test_bounds_hold_four_of_five():
    assert bounds(np.linspace(-1.0, 1.0, 99)) == pytest.approx((-0.8163, 0.8163), abs=1e-3)


def test_wall_energy_is_watts_over_throughput_and_a_cap_costs_time(trained):
    problem, _, theta = trained
    raw = [row for row in measured_rows("mlperf_llm_closed") if row["metric"] == "system_wall_power"]
    rows = [offline_row(row) for row in raw]
    capped = [(r, float(t["value"])) for r, t in zip(rows, raw, strict=True) if r.capped]
    share = cap_share_of(capped)
    # 6,153 W: (6,153 x 0.95 / 1.1 - 1,000) / 8 / 700 = 0.770
    assert share == pytest.approx(0.775, abs=0.01)
    solved = Problem(rows, problem.layout).chosen(theta)
    for at, row in enumerate(rows):
        drawn = draw(row, solved, at, cap_share=share)
        assert (drawn.slowdown > 1.0) == row.capped
        assert drawn.wall_w == pytest.approx(float(raw[at]["value"]), rel=0.15)


def test_energy_of_a_run_left_out_is_within_the_goals(trained):
    problem, measured, theta = trained
    raw, _ = training()
    walls, errors = energy_held_out(raw, problem, measured, theta)
    found = {(e.folds, e.method): e for e in errors}
    assert walls.runs == 5
    given = found["run left out, energy given throughput", "law"]
    assert given.rows == 10
    assert given.mape_pct <= 8.0
    assert found["run left out, energy", "law"].mape_pct <= 20.0


def test_scatter_is_grouped_by_how_new_a_row_is(trained):
    problem, _, _ = trained
    seen = Seen.of(problem.rows)
    row = offline_row(OVERVIEW)
    assert "tier=same cell" in scatter_groups(row, seen)
    assert "tier=new accelerator" in scatter_groups(offline_row({**OVERVIEW, "gpu": "MI355X"}), seen)
    assert layout(problem.rows).groups == problem.layout.groups


def _answered(rows, metric):
    return zip(rows, predicted(metric, rows), strict=True)


def test_weighted_bounds_are_mirrored_with_the_errors_and_take_equal_weights_for_none():
    rng = np.random.default_rng(5)
    errors, weights = rng.normal(0.1, 0.3, 200), rng.uniform(0.05, 1.0, 200)
    found = quantiles(errors.tolist(), weights=weights.tolist())
    mirrored = quantiles((-errors).tolist(), weights=weights.tolist())
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-12)
    plain, equal = quantiles(errors.tolist()), quantiles(errors.tolist(), weights=[0.3] * 200)
    assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high), abs=0.01)
