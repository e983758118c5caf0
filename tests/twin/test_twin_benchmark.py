"""`make policies` in small: whole traces, LiteLLM's rules as their page has them, a table that is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_places import MODEL, batch, stream

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import policies_rivals as rivals  # noqa: E402
from policies_fleet import MODEL as SERVED  # noqa: E402
from policies_fleet import PLACES, REFUSED_USD  # noqa: E402
from wattmill.twin.factory import check  # noqa: E402
from wattmill.twin.model import charge_nusd, steps_ps  # noqa: E402
from wattmill.twin.spec import Served, StepLaw, Work  # noqa: E402
from wattmill.twin.workload import from_csv, from_jsonl  # noqa: E402
from wattmill.units import NUSD_PER_USD, PS_PER_S  # noqa: E402
from wattmill.vocab.caller import Caller  # noqa: E402

CALLER = Caller(key=1, name="twin", path=(1,), privacy="public")
WORK = Work(at_us=0, input_tok=10, output_tok=5, max_output_tok=5)


def test_both_traces_are_whole() -> None:
    azure = from_csv(ROOT / "benchmarks/data/azure_llm_2023_conv.csv.gz", max_output_tok=1_024)
    assert (len(azure), sum(w.input_tok for w in azure), sum(w.output_tok for w in azure)) == (
        19_366, 22_361_870, 4_088_665,
    )  # fmt: skip
    mooncake = from_jsonl(ROOT / "benchmarks/data/mooncake_conversation.jsonl.gz", max_output_tok=2_048)
    assert (len(mooncake), max(w.input_tok for w in mooncake)) == (12_031, 126_195)
    assert all(len(w.blocks) == -(-w.input_tok // 512) for w in mooncake)


def test_the_declared_factory_is_what_its_docstring_says() -> None:
    check(PLACES)
    assert all(place.pool.context_tok >= 131_072 for place in PLACES)
    laws = {place.pool.name: place.law for place in PLACES}
    for name, tpot_ms in {
        "owned-h100x2": (5.5, 9.6, 15.0), "owned-h200": (8.0, 14.0, 22.0), "owned-b200": (4.6, 6.8, 9.7)
    }.items():  # fmt: skip
        law = laws[name]
        assert isinstance(law, StepLaw)
        told = [steps_ps(law, b, b * 1_536, 1) / PS_PER_S * 1_000 for b in (8, 32, 64)]
        assert told == pytest.approx(tpot_ms, abs=0.1)
    longest = Work(at_us=0, input_tok=131_071, output_tok=2_048, max_output_tok=2_048)
    dearest = max(charge_nusd(place.pool, SERVED, longest, 0) for place in PLACES)
    assert dearest / NUSD_PER_USD < REFUSED_USD


def rival(kind: type[rivals._Group]) -> rivals._Group:
    places = [batch("dear", usd_out=3.0), batch("cheap", usd_out=1.0, slots=1, queue=1), stream()]
    return kind(places, model=MODEL, caller=CALLER, seed=1)


def served(place: int, seconds: float) -> Served:
    end_ps = round(seconds * PS_PER_S)
    return Served(0, place, 0, 0, end_ps, end_ps, 0)


def test_least_busy_takes_the_fewest_in_flight_and_the_first_of_equals() -> None:
    assert rival(rivals.LeastBusy).choose(0, WORK, 0, [3, 1, 2]) == 1
    assert rival(rivals.LeastBusy).choose(0, WORK, 0, [2, 2, 2]) == 0


def test_cost_based_takes_the_cheapest_that_is_not_full() -> None:
    assert rival(rivals.CostBased).choose(0, WORK, 0, [0, 1, 0]) == 1
    assert rival(rivals.CostBased).choose(0, WORK, 0, [0, 2, 0]) == 0


def test_latency_based_tries_the_unknown_and_then_takes_the_lowest_mean_within_the_hour() -> None:
    asked = rival(rivals.LatencyBased)
    for place, seconds in ((0, 2.0), (1, 1.0)):
        asked.ended(served(place, seconds), WORK)
    assert asked.choose(0, WORK, 0, [0, 0, 0]) == 2
    asked.ended(served(2, 3.0), WORK)
    asked.ended(served(1, 8.0), WORK)
    assert asked.choose(0, WORK, 0, [0, 0, 0]) == 0
    assert asked.choose(0, WORK, 2 * 3_600 * 1_000_000, [0, 0, 0]) == 0  # all forgotten: the first


def test_simple_shuffle_spreads_evenly_and_refuses_when_all_are_full() -> None:
    asked = rival(rivals.SimpleShuffle)
    chosen = [asked.choose(0, WORK, 0, [0, 0, 0]) for _ in range(3_000)]
    assert all(900 < chosen.count(at) < 1_100 for at in range(3))
    assert asked.choose(0, WORK, 0, [9_999, 9_999, 9_999]) == "overloaded"


def test_a_small_run_on_held_out_traffic(tmp_path: Path) -> None:
    out = tmp_path / "held_out.json"
    program = [sys.executable, str(ROOT / "benchmarks/policies_held_out.py"), "--requests", "300"]
    for seeds in (["--seed", "21", "--seed", "22"], ["--seed", "21"]):
        argv = [*program, *seeds, "--out", str(out)]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
        cells = json.loads(out.read_text())["cells"]
        assert len(cells) == len(said.stdout.splitlines()) == 3 * len(seeds)
        if len(seeds) == 4:
            first = {(c["trace"], c["load"]): c["rows"] for c in cells if c["seed"] == 21}
            other = {(c["trace"], c["load"]): c["rows"] for c in cells if c["seed"] == 22}
            assert first.keys() == other.keys() and first != other, "a seed draws traffic of its own"
        else:
            assert {(c["trace"], c["load"]): c["rows"] for c in cells} == first, "and the same again"
    for cell in cells:
        ours, best = cell["rows"]["cheapest-adequate"], cell["rows"][cell["best_rival"]]
        assert cell["default_against_best"] == pytest.approx(ours["usd_per_1k"] / best["usd_per_1k"] - 1.0)


def test_a_small_run_of_the_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "policies.json"
    said = subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks/policies.py"), "--requests", "400", "--load", "0.8",
            "--windows", "8", "--rounds", "2", "--out", str(out),
        ],
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    told = json.loads(out.read_text(), object_hook=lambda fields: SimpleNamespace(**fields))
    assert [e.trace for e in told.experiments] == [
        "azure_llm_2023_conv", "mooncake_conversation", "mooncake_conversation, prefix caches",
    ]  # fmt: skip
    for experiment in told.experiments:
        rows = vars(experiment.rows)
        assert {"cheapest-adequate", "fastest", "greenest", "round-robin", "least-loaded", "cascade"} <= set(
            rows
        )
        assert {
            f"litellm {s}" for s in ("simple-shuffle", "least-busy", "latency-based", "cost-based")
        } <= set(rows)
        assert all(row.regret >= 0.0 for row in rows.values())
        assert all(sum(row.by_place) == row.served <= row.requests == 400 for row in rows.values())
        best = rows["(best schedule found)"].objective_usd
        assert all(best <= row.objective_usd + 1e-12 for row in rows.values())
    assert "above the bound" in said.stdout
