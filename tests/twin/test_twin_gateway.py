"""The gateway in the twin: the very same policies, decisions that replay, a process that never loads it."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from tiny_places import MODEL, batch, stream, works

import wattmill.app.worker
import wattmill.distribution.gateway
from wattmill.app.declared.policy_named import policy_named
from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.spec import Weights
from wattmill.twin.factory import simulate
from wattmill.twin.gateway import Gateway, chats
from wattmill.twin.report import Slo, result
from wattmill.twin.spec import Place, Work
from wattmill.twin.workload import at_rate, rate_per_s, with_privacy
from wattmill.vocab.caller import Caller
from wattmill.vocab.route import Route

CALLER = Caller(key=1, name="twin", path=(1,), privacy="public")
WEIGHTS = Weights(others=1.0)
PLACES = [batch("a", usd_out=0.2, kv_tok=65_536, slots=8), batch("b", cache_blocks=9), stream()]


def gateway(places: list[Place] = PLACES, policy: str = "cheapest-adequate", **more: bool) -> Gateway:
    asks = chats(model=MODEL, caller=CALLER, weights=WEIGHTS)
    return Gateway(places, asks=asks, weights=WEIGHTS, seed=3, policy=policy, **more)


def test_the_router_that_a_worker_calls_is_the_one_that_the_twin_calls() -> None:
    """One object decides, learns and sees in both: the class, its methods and the policies behind them."""
    assert wattmill.app.worker.FleetView is wattmill.twin.gateway.FleetView
    assert wattmill.app.worker.Memory is wattmill.twin.gateway.Memory
    asked = gateway()
    assert type(asked.view) is wattmill.app.worker.FleetView
    assert asked.view._policy_of(CALLER)[0] is policy_named("cheapest-adequate")
    assert type(asked.life[0]) is wattmill.distribution.gateway.BackendState
    # Whatever name a worker knows stands for the same function in the twin, and for the replay.
    assert all(asked.view._policy_called(name)[0] is policy_named(name) for name in POLICIES)


@settings(deadline=None, max_examples=40)
@given(works(most=40, prefixes=True))
def test_each_decision_of_the_twin_replays_from_what_it_says(trace: list[Work]) -> None:
    asked = gateway(keep=True)
    fleets = {}
    refresh = asked.refresh

    def watched(now_us: int) -> None:
        refresh(now_us)
        fleets[asked.view.fleet.id] = asked.view.fleet

    asked.refresh = watched  # type: ignore[method-assign]
    simulate(trace, PLACES, asked, refresh_us=50_000)
    assert len(asked.decisions) == len(trace)
    for ask, caller, route in asked.decisions:
        assert isinstance(route, Route)
        fleet = fleets[route.snapshot]
        assert asked.view.again(ask, caller, route, fleet=fleet, weights=WEIGHTS) == route


@settings(deadline=None, max_examples=40)
@given(works(most=40, prefixes=True))
def test_what_is_in_line_comes_out_of_it(trace: list[Work]) -> None:
    asked = gateway()
    simulate(trace, PLACES, asked)
    assert [(life.ahead_tok, life.serving, life.busy) for life in asked.life] == [(0, 0, 0)] * 3


def crowd(count: int, every_us: int, privacy: str = "internal") -> list[Work]:
    return [
        Work(at_us=i * every_us, input_tok=400, output_tok=50, max_output_tok=64, privacy=privacy)
        for i in range(count)
    ]


def test_private_work_never_leaves_the_places_that_may_see_it() -> None:
    shy = [PLACES[0], stream()]
    shy[1] = msgspec.structs.replace(shy[1], pool=msgspec.structs.replace(shy[1].pool, privacy="public"))
    trace = with_privacy(crowd(400, 10_000), {"public": 0.5, "private": 0.5}, seed=2)
    run = simulate(trace, shy, gateway(shy, "fastest"))
    assert {one.place for one in run.served if trace[one.work].privacy == "private"} == {0}
    assert {one.place for one in run.served if trace[one.work].privacy == "public"} == {0, 1}


def test_it_learns_that_prompts_wait_for_each_other_in_a_batch_but_not_at_a_bought_place() -> None:
    for place, least, most in ((PLACES[0], 0.4, 1.0), (stream(slots=100), 0.0, 0.1)):
        asked = gateway([place])
        simulate(crowd(600, 60_000), [place], asked)
        assert least <= asked.view.fleet.pools[0].ahead_share <= most


def test_a_run_in_figures() -> None:
    """Two requests, one after the other, at a bought place: 60 ms to the first token, then 49 x 5 ms."""
    trace, place = crowd(2, 1_000_000), stream()
    run = simulate(trace, [place], gateway([place]))
    told = result(
        run, trace, [place], model=MODEL, slo=lambda work: Slo(0.061, 0.005), usd_per_s=0.1, refused_usd=1.0
    )
    assert told.ttft_s == pytest.approx((0.06, 0.06, 0.06))
    assert told.seconds == pytest.approx(2 * 0.305)
    assert told.charge_usd == pytest.approx(2 * (400 * 1.0 + 50 * 4.0) / 1e6)
    assert told.objective_usd == pytest.approx(told.charge_usd + 0.061)
    assert (told.served, told.in_slo, told.carbon_known, told.by_place) == (2, 2, 0, (2,))


def test_time_is_pressed_to_the_rate_that_is_asked() -> None:
    trace = at_rate(crowd(50, 123_457), 40.0)
    assert rate_per_s(trace) == pytest.approx(40.0, rel=1e-4)
    assert [w.input_tok for w in trace] == [400] * 50


def test_the_process_that_serves_loads_neither_the_twin_nor_its_solver() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import wattmill.app.worker, sys; "
            "print([m for m in sys.modules if m.startswith(('wattmill.twin', 'highspy', 'numpy'))])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "[]"
