"""Steps padded to recorded graphs, where they are declared: one law in validate, simulate and plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from planning_house import answer, demand, given, own, straight_law
from small_factory import HEAD, run, stream
from test_fleet_machines import deployed

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.models.graphs import shipped
from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.fleet.spec import EngineLaw
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST, closed_loop
from wattmill.twin.law.predictors import served
from wattmill.twin.law.rows import configuration
from wattmill.twin.lowering import limits, lower
from wattmill.twin.prediction import Prediction, predict
from wattmill.units import PS_PER_S

MIXTURE = Deployment(
    architecture=architecture("gpt-oss-120b"),
    accelerator=accelerator("H100-SXM"),
    engine="vllm",
    weight_bits=4.0,
    kv_bits=8.0,
    tp=2,
)
WIDE = msgspec.structs.replace(MIXTURE, graph_sizes=(64,))


def test_a_closed_loop_of_one_fills_every_step_of_its_answer_by_hand() -> None:
    """One sequence in steps of four tokens: three for nothing in each; a prompt of 100 fills no graph."""
    loop = closed_loop(
        isl=100, osl=50, concurrency=1, budget_tok=8_192, batching="mixed", padded=(0, 3, 2, 1, 0)
    )
    assert loop.per_token.padded == pytest.approx(3.0)
    assert loop.to_first_token.padded == 0.0
    none = closed_loop(isl=100, osl=50, concurrency=1, budget_tok=8_192, batching="mixed")
    assert (none.per_token.padded, none.per_token.steps) == (0.0, loop.per_token.steps)


def test_the_closed_form_and_the_events_fill_the_same_steps() -> None:
    """Nine users in steps of 64 tokens: experts are read for 64, and the simulated engine takes as long."""
    isl, osl, users = 512, 512, 9
    rng = np.random.default_rng(0)
    inputs = rng.integers(int(isl * SHORTEST), isl + 1, users * PROMPTS)
    outputs = rng.integers(int(osl * SHORTEST), osl + 1, users * PROMPTS)

    def both(d: Deployment) -> tuple[float, float]:
        ran = simulate(
            [
                (
                    lower(d, isl=isl, concurrency=users, table_tok=600),
                    limits(d, isl=isl, osl=osl, concurrency=users),
                )
            ],
            Requests(input_tok=inputs, output_tok=outputs),
            clients=Clients(concurrency=users),
        )
        said = predict(d, isl=isl, osl=osl, concurrency=users, first_wave=True)
        return float(((ran.end_ps - ran.first_ps) / (outputs - 1)).mean()) / PS_PER_S, said.tpot_s.value

    (events, closed), (padded_events, padded_closed) = both(MIXTURE), both(WIDE)
    assert padded_closed > 1.15 * closed
    assert padded_events / events == pytest.approx(padded_closed / closed, rel=0.02)
    exact = msgspec.structs.replace(MIXTURE, graph_sizes=tuple(range(1, 65)))
    assert both(exact) == (events, closed)


def test_a_row_that_records_its_graphs_is_predicted_with_them() -> None:
    row = {
        "model": "openai/gpt-oss-120b", "gpu": "H100-SXM", "precision": "fp4", "framework": "vllm", "tp": "2",
        "mode": "agg", "isl": "512", "osl": "512", "concurrency": "9", "metric": "tpot_mean", "value": "9",
    }  # fmt: skip

    def said(sizes: str) -> tuple[float, tuple[str, ...]]:
        from wattmill.twin.law.calibration import stored

        found = served(stored(), "tpot_mean", configuration(row | {"graph_sizes": sizes}))
        return found.value, found.assumed

    plain, missing = said("")
    assert said("64")[0] > 1.15 * plain
    assert said("shipped")[0] == said(" ".join(map(str, shipped("vllm", max_num_seqs=256))))[0] > plain
    assert said("many") == (plain, (*missing, "graph_sizes"))


def test_a_declared_deployment_pays_for_its_graphs(tmp_path: Path) -> None:
    homes = (tmp_path / str(n) for n in range(9))

    def table(more: str) -> tuple[int, ...]:
        home = next(homes)
        home.mkdir()
        ran = run(HEAD + deployed("near") + more, home, stream(per_s=0.5, duration_s=5.0), core="compiled")
        law = ran.factory.pools[0].spec.law
        assert isinstance(law, EngineLaw)
        return law.cost.step_ps

    plain, padded = table(""), table("graph_sizes = [1, 8]\n")
    assert [a < b for a, b in zip(plain[1:10], padded[1:10], strict=True)] == [0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert table('graph_sizes = "shipped"\n')[9] > plain[9]  # its 16 slots: 1, 2, 4, 8, 16, 24, 32
    with pytest.raises(ValueError, match="graph_sizes has 2 after 4"):
        table("graph_sizes = [4, 2]\n")


def test_a_planned_candidate_is_asked_with_its_graphs() -> None:
    asked: set[tuple[int, ...]] = set()

    def law(deployment: Deployment, *, isl: int, osl: int, concurrency: int) -> Prediction:
        asked.add(deployment.graph_sizes)
        found: Prediction = straight_law()(deployment, isl=isl, osl=osl, concurrency=concurrency)
        return found

    part = {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": own(2.0)}
    answer(demand(candidates={"h100": part | {"graph_sizes": [1, 64]}}), law)
    assert asked == {(1, 64)}
