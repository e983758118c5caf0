"""`make replay-proof` in small: a life with a reload, a kill and a restart, and each decision taken again, by
`wattmill replay` and in the twin."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from replay_proof import Proof, verdict
from wattmill.app.home import Home
from wattmill.app.seeing.period import Period, period
from wattmill.scheduling.spec import Weights
from wattmill.twin.factory import simulate
from wattmill.twin.gateway import Gateway
from wattmill.twin.recorded import Replayed
from wattmill.twin.spec import Place, StreamLaw
from wattmill.units import PS_PER_S


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proof, dict[str, Any]]]:
    """One recorded life of two workers, and what `wattmill replay` says to it."""
    proof = Proof(tmp_path_factory.mktemp("life"), requests=1_600, seed=3, askers=6)
    try:
        yield proof, asyncio.run(proof.run())
    finally:
        proof.close()


@pytest.mark.timeout(120)
def test_every_decision_of_two_workers_through_a_reload_a_kill_and_a_restart_is_identical(
    life: tuple[Proof, dict[str, Any]],
) -> None:
    proof, told = life
    assert verdict(proof, told) == []


def in_the_twin(lived: Period) -> tuple[Gateway, Replayed]:
    """Return the twin's gateway before places of the recorded names, and the recorded decisions for it."""
    law = StreamLaw(prefill_ps_per_tok=PS_PER_S // 5_000, decode_ps=PS_PER_S // 100)
    pools = lived.recorded[0].fleet.pools
    places = [Place(pool=pool, law=law) for pool in pools]

    def nobody(index: int, work: object) -> Any:
        raise AssertionError("what is recorded is not asked again")

    gateway = Gateway(places, asks=nobody, weights=Weights(), seed=1, start_us=lived.start_us)
    replayed = Replayed(gateway, lived.recorded)
    run = simulate(lived.works, places, replayed)
    assert len(run.served) + len(run.refused) == len(lived.works)
    return gateway, replayed


@pytest.mark.timeout(120)
def test_the_recorded_life_in_the_twin_is_decided_identically(life: tuple[Proof, dict[str, Any]]) -> None:
    proof, told = life
    lived = period(Home(proof.factory.home))
    _, replayed = in_the_twin(lived)
    assert replayed.differed == []
    assert replayed.identical == told["decisions"] == len(lived.works) > 1_500
    assert lived.left_out == 0 and sum(work.output_tok > 1 for work in lived.works) > 500


@pytest.mark.timeout(120)
def test_a_recorded_view_that_was_another_is_noticed_in_the_twin(
    life: tuple[Proof, dict[str, Any]],
) -> None:
    lived = period(Home(life[0].factory.home))
    was = next(
        at for at, one in enumerate(lived.recorded)
        if len(one.route.candidates) > 1 and one.route.policy == "cheapest-adequate"
    )  # fmt: skip
    one = lived.recorded[was]
    dearer = tuple(
        msgspec.structs.replace(pool, overhead_s=pool.overhead_s + 60.0)
        if pool.name == one.route.candidates[0].pool
        else pool
        for pool in one.fleet.pools
    )
    lived.recorded[was] = one._replace(fleet=msgspec.structs.replace(one.fleet, pools=dearer))
    _, replayed = in_the_twin(lived)
    assert [differed.work for differed in replayed.differed] == [was]
