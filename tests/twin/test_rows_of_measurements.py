"""What a measured row describes, and what is assumed where it says nothing."""

import pytest

from wattmill.twin.law.rows import COLUMNS, Side, configuration, digest, identity, measured_rows, read_rows

ROW = {
    "source": "InferenceX dump",
    "model": "deepseek-ai/DeepSeek-R1",
    "precision": "nvfp4/nvfp4",
    "gpu": "B200-SXM",
    "n_gpus": "8",
    "tp": "8",
    "pp": "1",
    "ep": "8",
    "attn_dp": "1",
    "mode": "agg",
    "framework": "sglang",
    "framework_version": "0.5.9",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "16",
    "metric": "tpot_mean",
    "value": "11.0",
    "unit": "ms",
}


def test_one_run_recorded_under_two_sizes_is_one_configuration():
    multiplied = configuration({**ROW, "tp": "64", "n_gpus": "64"})
    assert multiplied == configuration(ROW)
    assert multiplied.gpus == 8
    spread = configuration({**ROW, "tp": "1", "ep": "8", "attn_dp": "64", "n_gpus": "64"})
    assert spread.decode == Side(tp=1, ep=8, attn_dp=8)


def test_a_disaggregated_row_has_workers_of_two_kinds():
    c = configuration({**ROW, "mode": "disagg 1P4D", "tp": "p1/d8", "ep": "p4/d8", "attn_dp": "p4/d1"})
    assert (c.prefill, c.prefill_workers) == (Side(tp=1, ep=4, attn_dp=4), 1)
    assert (c.decode, c.decode_workers) == (Side(tp=8, ep=8, attn_dp=1), 4)
    assert c.gpus == 36 and not c.missing


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"mode": "disagg ?P?D", "tp": "p8/d8"}, ("workers",)),
        ({"concurrency": ""}, ("concurrency",)),
        ({"isl": "long"}, ("isl",)),
        ({"model": "acme/Thinker-70B-A5B"}, ("model",)),
        ({"gpu": "Groq LPU v1"}, ("gpu",)),
        ({"gpu": "Abacus"}, ("gpu",)),
        ({"tp": "28", "ep": "1"}, ("tp",)),
        ({"precision": "", "model": "meta-llama/Llama-3.1-8B-Instruct"}, ()),
    ],
)
def test_what_a_row_lacks_is_assumed_and_named(change, missing):
    assert configuration({**ROW, **change}).missing == missing


def test_an_empty_row_still_describes_something():
    c = configuration({})
    assert {"model", "gpu", "isl", "osl", "concurrency", "precision", "tp"} == set(c.missing)
    assert c.gpus == 2  # what holds the weights of the model that is assumed


def test_a_fold_holds_all_concurrencies_dates_and_versions_of_one_curve():
    other = {**ROW, "concurrency": "64", "measured": "2026-01-01", "framework_version": "0.5.8"}
    assert configuration(other).fold == configuration(ROW).fold
    assert configuration({**ROW, "model": "nvidia/DeepSeek-V3.1-NVFP4"}).fold == configuration(ROW).fold
    for column, value in (("isl", "8192"), ("gpu", "H200-SXM"), ("framework", "vllm"), ("ep", "1")):
        assert configuration({**ROW, column: value}).fold != configuration(ROW).fold


def test_a_rows_identity_is_its_columns_and_nothing_else():
    assert digest({**ROW, "comment": "x"}) == digest(ROW) == digest({**ROW, "ref": ""})
    assert digest({**ROW, "value": "11.1"}) != digest(ROW)
    rows = measured_rows("trtllm_perf_overview")
    assert identity(rows) == identity(list(reversed(rows))) != identity(rows[1:])


def test_a_file_keeps_columns_that_are_not_ours(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("metric,value,rack\nttft_mean,12,A7\n", encoding="utf-8")
    (row,) = read_rows(path)
    assert row["rack"] == "A7" and set(COLUMNS) < set(row)


def test_a_file_without_values_says_what_it_needs(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("model,gpu\nx,y\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no column metric, value"):
        read_rows(path)


def test_nothing_in_the_measured_tables_is_left_unread():
    rows = measured_rows("inferencex")
    assert len(rows) == 5260
    complete = [row for row in rows if not configuration(row).missing]
    assert len(complete) == 3832
    assert len({configuration(row).fold for row in complete}) > 400
