"""`wattmill twin validate` and `crossval`: any file is scored; nothing is claimed that was not held out."""

import csv
import json
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from wattmill.cli.twin import twin_app
from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.law.calibration import stored
from wattmill.twin.law.crossval import TABLE
from wattmill.twin.law.folds import held_out, keys, summary
from wattmill.twin.law.pictures import validation_charts
from wattmill.twin.law.rows import COLUMNS, identity, measured_rows
from wattmill.twin.law.samples import samples
from wattmill.twin.law.score import report, score
from wattmill.twin.prediction import Disaggregation, Speculation, predict


def row(**change: str) -> dict[str, str]:
    base = next(r for r in measured_rows(TABLE) if r["mode"] == "agg" and r["framework"] == "vllm")
    return {**base, **change}


STRANGE = [
    row(),
    row(gpu="MI355X", value="14.1"),
    row(gpu="Abacus-9", value="5"),
    row(model="acme/Thinker-70B", value="20"),
    row(framework="llama.cpp", value="200"),
    row(concurrency="", value="12"),
    row(isl="1000000", value="90000"),
    row(mode="disagg ?P?D", tp="p8/d8", ep="p8/d8", attn_dp="p1/d1", value="7"),
    row(value="not a number"),
    row(metric="cups_of_coffee", value="3"),
]


def test_any_row_gets_a_number_an_interval_and_a_class(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [*COLUMNS, "rack"])
        writer.writeheader()
        writer.writerows({**r, "rack": "A7"} for r in STRANGE)
    with pytest.raises(SystemExit) as done:
        twin_app(["validate", str(path), "--json", "--by", "gpu"], prog_name="wattmill twin")
    assert done.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["unreadable"], said["seen"]) == (10, 1, 1)
    assert said["not_predicted"] == {"cups_of_coffee": 1}
    groups = {f["group"]: f for f in said["figures"]}
    assert groups["all"]["rows"] == 8 and groups["all"]["coverage_pct"] == 100
    assert groups["inputs missing"]["rows"] == 4
    assert groups["gpu=MI355X"]["rows"] == 1
    assert groups["complete inputs"]["rows"] == 4
    assert groups["all"]["chance_pct"] is not None


def validated(*said: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as done:
        twin_app(["validate", *said], prog_name="wattmill twin")
    told = capsys.readouterr()
    assert done.value.code == 0, told.err
    return told.out


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_figures_are_those_of_the_rows_worked_out_again(tmp_path, capsys):
    """From the table of answers alone: by the standard library, not by the code that printed them."""
    rows = [
        *[
            r
            for table in ("inferencex", "trtllm_perf_overview", "mlperf_llm_closed")
            for r in measured_rows(table)
        ][::37],
        *STRANGE,
    ]
    path = written(tmp_path / "rows.csv", [{**row, "class": "theirs"} for row in rows])
    answers = tmp_path / "answers.csv"
    said = json.loads(validated(str(path), "--json", "--by", "GPU", "--rows", str(answers), capsys=capsys))
    with answers.open(newline="", encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    assert [t["model"] for t in told] == [row["model"] for row in rows]  # every row, in its order
    known = {f["metric"] for f in said["figures"]}
    for t in told:
        if t["metric"] in known:
            assert t["class"] in ("interpolated", "extrapolated", "inputs missing")
            assert 0 < float(t["low_80"]) <= float(t["predicted"]) <= float(t["high_80"])
            assert (t["class"] == "inputs missing") == bool(t["assumed"]), t
        else:
            assert t["predicted"] == ""
    for f in said["figures"]:
        group = [t for t in told if t["metric"] == f["metric"] and belongs(t, f["group"])]
        measured = [
            (float(t["predicted"]) / float(t["value"]) - 1, t) for t in group if is_number(t["value"])
        ]
        errors = [e for e, _ in measured]
        assert f["rows"] == len(errors), f
        assert f["seen"] == sum(t["seen"] == "yes" for _, t in measured)
        assert f["mape_pct"] == pytest.approx(100 * statistics.mean(map(abs, errors)), rel=1e-4, abs=0.006)
        assert f["median_pct"] == pytest.approx(
            100 * statistics.median(map(abs, errors)), rel=1e-4, abs=0.006
        )
        assert f["bias_pct"] == pytest.approx(100 * statistics.median(errors), rel=1e-4, abs=0.006)
        inside = sum(float(t["low_80"]) <= float(t["value"]) <= float(t["high_80"]) for _, t in measured)
        assert f["inside_80_pct"] == pytest.approx(100 * inside / len(errors), abs=0.006)


def belongs(told: dict[str, str], group: str) -> bool:
    return {
        "all": True,
        "complete inputs": told["class"] != "inputs missing",
        told["class"]: True,
        f"client {told['client']}": True,
        f"gpu={told['gpu']}": True,
    }.get(group, False)


def is_number(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def test_a_picture_shows_every_metric_with_the_line_of_agreement(tmp_path, capsys):
    rows = [row(metric="tpot_mean", value=v, gpu=g) for g in ("H100-SXM", "MI355X") for v in ("9", "90")]
    slip = row(metric="tpot_mean", value="1e-300")
    path = written(tmp_path / "rows.csv", [*rows, slip, row(metric="ttft_mean", value="0.4", unit="s")])
    said = validated(str(path), "--plots", str(tmp_path / "plots"), capsys=capsys)
    drawn = tmp_path / "plots" / "predicted-measured.svg"
    assert f"wrote {drawn}" in said
    text = drawn.read_text()
    ET.fromstring(text)
    assert text.count("<circle") == 5 and text.count("stroke-dasharray") == 2  # the slip is not drawn
    assert "tpot_mean: predicted against measured" in text and "ttft_mean: predicted" in text
    tpot, ttft = validation_charts(score([slip, *rows, row(metric="ttft_mean", value="0.4", unit="s")]))
    assert "1 of them too far off to be drawn" in tpot.says
    assert ttft.series[0].points[0][0] == pytest.approx(400)  # seconds beside milliseconds: one axis
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        twin_app(["validate", str(path), "--plots", str(tmp_path / "file")], prog_name="wattmill twin")
    assert "cannot be written" in capsys.readouterr().err


def test_answers_can_be_scored_again(tmp_path, capsys):
    path, once, twice = (tmp_path / f"{name}.csv" for name in ("rows", "once", "twice"))
    written(path, STRANGE)
    first = json.loads(validated(str(path), "--json", "--rows", str(once), capsys=capsys))
    again = json.loads(validated(str(once), "--json", "--rows", str(twice), capsys=capsys))
    assert first["figures"] == again["figures"]
    assert once.read_text() == twice.read_text()


def test_a_table_says_what_is_wrong_with_it(tmp_path, capsys):
    said = {
        "metric,value,model,model\ntpot_mean,12,a,b\n": "names the column 'model' twice",
        'metric,value,model\ntpot_mean,12,"Qwen3\nttft_mean,10,x\n': "a quote is opened and never closed",
        "name,value\nx,12\n": "has no column metric; its first line names name, value. Needed are metric and",
    }
    for text, why in said.items():
        path = tmp_path / "rows.csv"
        path.write_text(text)
        with pytest.raises(SystemExit) as done:
            twin_app(["validate", str(path)], prog_name="wattmill twin")
        assert done.value.code == 1 and why in capsys.readouterr().err
    path.write_text("metric,value,unit,model,Model\ntpot_mean,12,ms,Qwen3-32B,shown so\n")
    assert "Model=shown so" in validated(str(path), "--by", "Model", capsys=capsys)
    path.write_text("metric,value\ntpot_mean,1e-300\n")
    assert "e+30" in validated(str(path), capsys=capsys)  # no cell of three hundred digits


def test_grouping_by_a_column_that_is_not_there_says_so():
    with pytest.raises(ValueError, match="no row has a column 'colour'; there are"):
        report("x", [row()], by="colour")


def test_the_stored_coefficients_are_those_of_the_rows_that_come_with_them():
    law = stored()
    assert law.identity == identity(measured_rows(law.table))
    assert law.rows == 5260


def test_a_small_crossval_beats_a_look_up_table_where_a_curve_is_left_out():
    rows = [r for r in measured_rows(TABLE) if r["framework"] == "vllm" and "Llama-3.1-70B" in r["model"]]
    s = samples([r for r in rows if r["gpu"] == "H100-SXM"])
    found = {(h.metric, h.method): h for h in summary(held_out(s, "curves"))}
    assert found["tpot_mean", "law"].median_pct < found["tpot_mean", "look-up"].median_pct
    assert found["tpot_mean", "law"].rows == found["tpot_mean", "boosting"].rows == len(s) / 2


@pytest.mark.parametrize(
    "asked",
    [
        ["--only", "offline", "--write", "x.json"],
        ["--only", "serving", "--write-offline", "x.json"],
        ["--engine", "vllm", "--write-offline", "x.json"],
    ],
)
def test_a_file_that_a_refit_would_not_write_is_refused_at_once(asked, capsys):
    with pytest.raises(SystemExit):
        twin_app(["crossval", *asked], prog_name="wattmill twin")
    assert "--write-offline" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["curves", "model", "accelerator"])
def test_no_fold_is_torn(left):
    s = samples(measured_rows(TABLE)[::7])
    fold = keys(s, left, parts=5)
    groups = {"curves": s.folds}.get(left) or [
        c.architecture.name if left == "model" else c.accelerator.name for c in s.configurations
    ]
    assert all(len({f for f, g in zip(fold, groups, strict=True) if g == name}) == 1 for name in set(groups))


def deployed(model: str, gpu: str, **split: int) -> Deployment:
    return Deployment(
        architecture=architecture(model),
        accelerator=accelerator(gpu),
        engine="vllm",
        weight_bits=8,
        kv_bits=8,
        **split,
    )


def test_a_prediction_says_what_it_rests_on():
    known = predict(deployed("Llama-3.1-70B", "H100", tp=4), isl=1024, osl=1024, concurrency=32)
    assert known.klass == "interpolated"
    assert known.nearest is not None and "Llama-3.1-70B H100-SXM vllm" in known.nearest
    for figure in (known.ttft_s, known.tpot_s, known.output_tok_per_s):
        assert figure.low < figure.value < figure.high
    unseen = predict(deployed("Llama-3.1-70B", "MI355X", tp=4), isl=1024, osl=1024, concurrency=32)
    assert unseen.klass == "extrapolated"
    assert unseen.tpot_s.high / unseen.tpot_s.low > known.tpot_s.high / known.tpot_s.low


def test_a_part_that_is_only_listed_is_refused():
    with pytest.raises(ValueError, match="Groq-LPU-v1 is listed, not predicted"):
        predict(deployed("Llama-3.1-70B", "Groq-LPU-v1", tp=4), isl=1024, osl=1024, concurrency=32)
    with pytest.raises(ValueError, match="osl must be at least 2, got 1"):
        predict(deployed("Llama-3.1-70B", "H100"), isl=1024, osl=1, concurrency=32)


def test_speculation_and_workers_of_their_own_change_what_is_predicted():
    d = deployed("Llama-3.1-70B", "H100", tp=4)
    plain = predict(d, isl=4096, osl=512, concurrency=16)
    drafted = predict(
        d, isl=4096, osl=512, concurrency=16, speculation=Speculation(drafted=3, acceptance=0.8)
    )
    assert plain.tpot_s.value / 3.4 < drafted.tpot_s.value < plain.tpot_s.value / 1.5
    apart = predict(
        d, isl=4096, osl=512, concurrency=16, disaggregation=Disaggregation(prefill=d, prefill_workers=2)
    )
    assert apart.tpot_s.value < plain.tpot_s.value


def test_a_row_that_was_written_again_is_still_one_that_the_fit_had_seen():
    """Another source, a unit's digits, capitals: a copy of the training does not pass for a test of it."""
    copied = row(source="our own export", ref="", measured="", framework_version="")
    copied = {**copied, "value": f"{float(copied['value']):.6f}", "gpu": copied["gpu"].lower()}
    other = {**copied, "value": str(1.01 * float(copied["value"]))}
    assert [s.seen for s in score([copied, other, {**copied, "concurrency": "77"}])] == [True, False, False]
