"""Operator tables beside the law: where nothing was measured, and nowhere else; off unless asked for."""

import csv
import json
from functools import partial
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import pytest
from made_tables import made
from test_operator_tables import deployment

from wattmill.app.declared.plan import Place
from wattmill.app.declared.twin_settings import DeploymentTimes
from wattmill.app.simulating.deployed import deployed_law
from wattmill.compute.catalogue import accelerator
from wattmill.twin.law.answer import asked
from wattmill.twin.law.calibration import stored
from wattmill.twin.law.rows import COLUMNS
from wattmill.twin.law.spec import METRICS
from wattmill.twin.operators import mixture
from wattmill.twin.operators.crossval import at_level, strangers
from wattmill.twin.operators.features import NAMES, sums
from wattmill.twin.operators.levelled import levelled
from wattmill.twin.operators.mixture import Operators, stored_factors
from wattmill.twin.operators.sources import VERSION
from wattmill.twin.operators.tables import Tables
from wattmill.twin.operators.walk import PARTS
from wattmill.twin.prediction import Speculation, predict

ASKED = {"isl": 1024, "osl": 1024, "concurrency": 16}
UNSEEN = "Qwen/Qwen3-32B"  # 64 heads over 8, as the made tables have
SEEN = "meta-llama/Llama-3.1-70B"


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Operators:
    return Operators(Tables(made(tmp_path_factory.mktemp("wheel"))), stored_factors())


def test_what_was_measured_is_answered_by_the_law_alone(prior):
    assert stored().unmeasured(deployment(SEEN)) == ()
    assert predict(deployment(SEEN), **ASKED, prior=prior) == predict(deployment(SEEN), **ASKED)


def test_an_unseen_model_is_answered_by_both_and_says_so(prior):
    plain = predict(deployment(UNSEEN), **ASKED)
    found = predict(deployment(UNSEEN), **ASKED, prior=prior)
    assert plain.basis is None and plain.klass == found.klass == "extrapolated"
    assert found.basis == f"operator tables {VERSION}, H100-SXM vllm 0.24.0"
    assert found.outside == plain.outside
    for name in ("ttft_s", "tpot_s", "output_tok_per_s"):
        interval = getattr(found, name)
        assert interval.low < interval.value < interval.high
        assert interval.value != getattr(plain, name).value


def test_the_mixture_is_the_weighted_mean_of_logarithms(prior):
    c = asked(deployment(UNSEEN), **ASKED)
    law, factors = stored(), stored_factors()
    found = prior.mixed(law, c, "tpot_mean", 0.02)
    assert not isinstance(found, str)
    total = sums(prior._tables, c)
    by_sum = factors.seconds(c, total.each)
    assert found.value_s == pytest.approx(by_sum**0.9 * 0.02**0.1)
    # By hand: global and engine's factors on each term.
    deviations = factors.deviations
    logs = [a + b for a, b in zip(deviations["global"], deviations["engine=vllm"], strict=True)]
    assert by_sum == pytest.approx(
        sum(t * 2.718281828459045**x for t, x in zip(total.each, logs, strict=True))
    )


def test_factors_leave_the_tables_as_they_are():
    """What was fitted says that measured operators add up to measured tokens: within a tenth."""
    factors = stored_factors()
    assert factors.names == NAMES and factors.version == VERSION
    for engine in ("vllm", "sglang", "trtllm"):
        for at in range(len(PARTS)):
            total = factors.deviations["global"][at] + factors.deviations[f"engine={engine}"][at]
            assert abs(total) < 0.1, (engine, PARTS[at], total)


def test_stored_errors_left_out_are_smaller_than_the_laws():
    held = {(h.folds, h.metric, h.method): h for h in stored_factors().held_out}
    for left in ("model", "accelerator", "model and accelerator"):
        law, both = held[left, "tpot_mean", "law"], held[left, "tpot_mean", "both"]
        assert law.rows == both.rows > 1000
        assert both.median_pct < law.median_pct and both.mape_pct < law.mape_pct


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("new", [("model",), ("accelerator",), ("model", "accelerator")])
def test_an_interval_is_that_of_what_was_left_out_in_the_same_way(metric, new):
    factors = stored_factors()
    scatter = factors.spreads[f"{metric}, {' and '.join(new)} left out"]
    assert scatter.rows > 1000
    low, high = factors.bounds(metric, new, 2.0)
    assert (low, high) == scatter.bounds(2.0, ()) and low < 2.0 < high


def test_what_is_new_is_named_as_its_interval_is_stored():
    """New is what ran on other engines alone: gpt-oss never on SGLang, H100 on it only by guessed inputs."""
    for d, new in (
        (deployment(SEEN), ()),
        (deployment("openai/gpt-oss-120b", weight_bits=4.0), ()),
        (deployment("openai/gpt-oss-120b", weight_bits=4.0, engine="sglang"), ("model", "accelerator")),
        (
            deployment("openai/gpt-oss-120b", engine="sglang", accelerator=accelerator("H200-SXM")),
            ("model",),
        ),
        (deployment(UNSEEN), ("model",)),
        (deployment(SEEN, accelerator=accelerator("B300-SXM")), ("accelerator",)),
        (deployment(UNSEEN, accelerator=accelerator("B300-SXM")), ("model", "accelerator")),
    ):
        assert stored().unmeasured(d) == new


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tp": 4}, "no table of"),
        ({"accelerator": accelerator("MI355X")}, "no operator tables of MI355X"),
        ({"pp": 2}, "pipeline stages"),
    ],
)
def test_off_the_tables_the_law_stands_alone(prior, change, why):
    d = deployment(UNSEEN, **change)
    said = prior.mixed(stored(), asked(d, **ASKED), "tpot_mean", 0.02)
    assert isinstance(said, str) and why in said
    assert predict(d, **ASKED, prior=prior) == predict(d, **ASKED)


def test_speculation_is_not_walked(prior):
    drafted = Speculation(drafted=3, acceptance=0.7)
    found = predict(deployment(UNSEEN), **ASKED, speculation=drafted, prior=prior)
    assert found.basis is None and found == predict(deployment(UNSEEN), **ASKED, speculation=drafted)


def row(model: str, metric: str) -> dict[str, str]:
    plain = dict.fromkeys(COLUMNS, "")
    return plain | {
        "source": "InferenceX",
        "model": model,
        "precision": "fp8",
        "gpu": "H100",
        "tp": "8",
        "mode": "agg",
        "framework": "vllm",
        "isl": "1024",
        "osl": "1024",
        "concurrency": "16",
        "metric": metric,
        "value": "14",
        "unit": "ms",
    }


def test_validate_takes_the_tables_when_asked(tmp_path, capsys, monkeypatch, prior):
    from wattmill.cli.twin import twin_app

    monkeypatch.setattr(mixture, "operators_installed", lambda: prior)
    path, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(row(model, "tpot_mean") for model in (UNSEEN, SEEN))
        writer.writerow(row(UNSEEN, "output_throughput") | {"unit": "tok/s"})
    with pytest.raises(SystemExit) as done:
        twin_app(
            ["validate", str(path), "--operators", "--rows", str(out), "--json"], prog_name="wattmill twin"
        )
    assert done.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["operators"] == {f"operator tables {VERSION}, H100-SXM vllm 0.24.0": 2}
    with out.open(encoding="utf-8") as opened:
        answers = list(csv.DictReader(opened))
    assert [bool(a["basis"]) for a in answers] == [True, False, True]
    assert answers[0]["class"] == "extrapolated"
    # The client of the table sends all at once: not the steady one that `predict` asks for by default.
    found = predict(deployment(UNSEEN), **ASKED, first_wave=True, prior=prior)
    assert float(answers[0]["predicted"]) == pytest.approx(found.tpot_s.value * 1000.0, rel=1e-4)
    assert float(answers[2]["predicted"]) == pytest.approx(found.output_tok_per_s.value, rel=1e-4)


def test_without_the_wheel_validate_says_what_to_install(tmp_path, capsys, monkeypatch):
    from wattmill.cli.main import run

    def absent() -> Operators:
        raise ModuleNotFoundError("no operator tables", name="aiconfigurator_core")

    monkeypatch.setattr(mixture, "operators_installed", absent)
    path = tmp_path / "rows.csv"
    path.write_text("model,metric,value\nLlama-3.1-70B,tpot_mean,14\n", encoding="utf-8")
    with pytest.raises(SystemExit) as done:
        run(["twin", "validate", str(path), "--operators"])
    assert done.value.code == 2
    assert "pip install 'wattmill[twin-operators]'" in capsys.readouterr().err


def test_a_simulated_engine_has_the_laws_shape_at_the_level_of_both(prior):
    d = deployment(UNSEEN)
    law, basis = levelled(d, prior, **ASKED)
    both = predict(d, **ASKED, prior=prior)
    assert basis == both.basis
    assert predict(d, **ASKED, calibration=law).tpot_s.value == pytest.approx(both.tpot_s.value)
    alone = predict(d, **ASKED).ttft_s.value
    found = predict(d, **ASKED, calibration=law).ttft_s.value
    assert abs(found - both.ttft_s.value) < abs(alone - both.ttft_s.value)
    assert levelled(deployment(SEEN), prior, **ASKED) == (stored(), "")


def pool(model: str, *, operators: bool) -> tuple[Place, DeploymentTimes]:
    declared = DeploymentTimes(
        accelerator="H100-SXM", model=model, weight_bits=8.0, kv_bits=8.0, tp=8, operators=operators
    )
    place = SimpleNamespace(pool="near", context_tok=4096, speed=SimpleNamespace(overhead_s=0.0))
    return cast(Place, place), declared


def test_a_simulated_pool_says_what_its_level_rests_on(prior, monkeypatch):
    monkeypatch.setattr(mixture, "operators_installed", lambda: prior)
    plain, with_tables = (deployed_law(*pool(UNSEEN, operators=asks), 16) for asks in (False, True))
    assert "operator tables" not in plain[1].source
    assert f"level of operator tables {VERSION}, H100-SXM vllm" in with_tables[1].source
    assert plain[0].cost != with_tables[0].cost and plain[0].limits == with_tables[0].limits
    measured = [deployed_law(*pool(SEEN, operators=asks), 16) for asks in (False, True)]
    assert measured[0] == measured[1]


def test_a_simulated_pool_is_as_sure_as_what_was_left_out_in_its_way(prior, monkeypatch):
    """On its label stands the error on curves, models or accelerators that were left out: 6, 18 and 15 %."""
    monkeypatch.setattr(mixture, "operators_installed", lambda: prior)
    held = {h.folds: h.median_pct for h in stored().held_out if (h.metric, h.method) == ("tpot_mean", "law")}

    def label(model: str, gpu: str = "H100-SXM", *, operators: bool = False) -> float | None:
        place, declared = pool(model, operators=operators)
        origin = deployed_law(place, msgspec.structs.replace(declared, accelerator=gpu), 16)[1]
        return None if origin.error is None else round(100.0 * origin.error, 2)

    assert label(SEEN) == held["curves"]
    assert label(UNSEEN) == held["model"]
    assert label(SEEN, "MI355X") == held["accelerator"]
    assert label(UNSEEN, "MI355X") == max(held["model"], held["accelerator"])
    moved, both = (
        stored_factors().error_pct("tpot_mean", ("model",), method=method)
        for method in (mixture.LEVELLED, "both")
    )
    assert label(UNSEEN, operators=True) == moved != both  # all loads of a curve, not the one that is met


def test_a_simulated_pool_without_the_wheel_is_refused_with_the_way_out(monkeypatch):
    def absent() -> Operators:
        raise ModuleNotFoundError("no operator tables", name="aiconfigurator_core")

    monkeypatch.setattr(mixture, "operators_installed", absent)
    with pytest.raises(ValueError, match=r"pools\.near\.twin\.deployment\.operators: .*twin-operators"):
        deployed_law(*pool(UNSEEN, operators=True), 16)


def test_a_plan_takes_the_tables_and_names_them(prior, monkeypatch):
    """On the command line and in each variation of a sweep, which works on other machines, too."""
    from planning_house import demand, given, own

    from wattmill.twin.planning.answer import answered
    from wattmill.twin.planning.performance import declared_power
    from wattmill.twin.planning.sweep import Variation, planned

    candidates = {"h100": {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": own(1.3)}}
    asking = demand(models={"q": {"name": UNSEEN, "precisions": ["fp8"]}}, candidates=candidates)
    plain = answered(asking, None, predict, declared_power, extrapolate=True).plan
    found = answered(asking, None, partial(predict, prior=prior), declared_power, extrapolate=True).plan
    assert found.pools and all(
        f"by the law and operator tables {VERSION}, H100-SXM" in pool.beyond for pool in found.pools
    )
    assert not any("operator tables" in pool.beyond for pool in plain.pools)
    monkeypatch.setattr(mixture, "operators_installed", lambda: prior)
    varied = planned(Variation("as declared", asking, None, 1.0, True, operators=True))
    assert varied.objective_usd_per_year == pytest.approx(found.proof.objective_usd_per_year)
    assert varied.objective_usd_per_year != pytest.approx(plain.proof.objective_usd_per_year)


def test_an_interval_of_what_is_new_in_both_ways_rests_on_pairs_that_share_neither():
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "z")]
    assert [pairs[at] for at in strangers(pairs, ("a", "x"))] == [("b", "y"), ("c", "z")]


def test_a_curve_that_is_moved_meets_the_mixture_at_its_most_users_and_keeps_its_shape():
    curves, users = ["a", "a", "b", "a"], [1, 4, 2, 2]
    law, mixed = np.array([1.0, 3.0, 5.0, 2.0]), np.array([1.5, 2.5, 5.25, 2.0])
    assert at_level(curves, users, law, mixed).tolist() == [0.5, 2.5, 5.25, 1.5]
