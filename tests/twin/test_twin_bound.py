"""The lower bound: no schedule of a small instance beats it, whatever the prices; the solver's are good."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_places import MODEL, MS_PS, batch, stream, works

from wattmill.twin.bound.ascent import refined, split
from wattmill.twin.bound.certificate import Prices, certified, mended
from wattmill.twin.bound.lp import capacity_per_s, lower_bound
from wattmill.twin.bound.search import better_schedule
from wattmill.twin.bound.terms import Terms, most_cached_tok, terms
from wattmill.twin.factory import Fixed, simulate
from wattmill.twin.model import charge_nusd
from wattmill.twin.spec import Place, Work
from wattmill.units import NUSD_PER_USD, PS_PER_S
from wattmill.vocab.caller import Caller

CALLER = Caller(key=1, name="twin", path=(1,), privacy="public")
WORTH = {"usd_per_s": 0.002, "refused_usd": 0.02}


def played_usd(trace: Sequence[Work], places: Sequence[Place], where: Sequence[int]) -> float:
    """Return what a schedule costs; inf where more than slots and queue were in flight at a place."""
    run = simulate(trace, places, Fixed(where))
    for at, place in enumerate(places):
        here = [s for s in run.served if s.place == at]
        events = sorted([(s.at_ps, 1) for s in here] + [(s.end_ps, -1) for s in here])
        if max(itertools.accumulate(n for _, n in events), default=0) > place.pool.slots + place.pool.queue:
            return math.inf
    charge = sum(charge_nusd(places[s.place].pool, MODEL, trace[s.work], s.cached_tok) for s in run.served)
    seconds = sum(s.end_ps - s.at_ps for s in run.served) / PS_PER_S
    return charge / NUSD_PER_USD + WORTH["usd_per_s"] * seconds + WORTH["refused_usd"] * len(run.refused)


def best_usd(trace: Sequence[Work], places: Sequence[Place]) -> float:
    """Return the least over all schedules, one by one."""
    every = itertools.product(range(-1, len(places)), repeat=len(trace))
    return min(played_usd(trace, places, where) for where in every)


def used(trace: Sequence[Work], places: Sequence[Place]) -> Terms:
    return terms(trace, places, model=MODEL, caller=CALLER, **WORTH)


FLEETS = [
    [batch("a"), batch("b", slots=1, queue=1, usd_out=0.3, overhead_ps=30 * MS_PS)],
    [batch("a", slots=2, queue=0, cache_blocks=6), stream(slots=1, queue=1)],
    [batch("tight", kv_tok=4_200), stream()],
]


@settings(max_examples=40, deadline=None)
@given(
    works(most=4, within_us=200_000, prefixes=True),
    st.sampled_from(FLEETS),
    st.sampled_from([0.03, 0.2, 5.0]),
)
def test_no_schedule_beats_the_solved_bound(trace: list[Work], places: list[Place], window_s: float) -> None:
    best = best_usd(trace, places)
    solved = lower_bound(used(trace, places), window_s=window_s)
    assert solved.bound.usd <= best * (1 + 1e-9)
    finer = refined(solved, halvings=1, rounds=4)
    assert solved.bound.usd <= finer.bound.usd <= best * (1 + 1e-9)


prices = st.floats(0, 1e-2) | st.floats(0, 10.0)


@settings(max_examples=60, deadline=None)
@given(works(most=4, within_us=200_000), st.sampled_from(FLEETS), st.integers(1, 5), st.data())
def test_no_schedule_beats_the_bound_of_any_prices(
    trace: list[Work], places: list[Place], windows: int, data: st.DataObject
) -> None:
    edges = np.arange(windows) * 0.1

    def row() -> np.ndarray:
        return np.array(data.draw(st.lists(prices, min_size=windows, max_size=windows)))

    any_prices = [
        Prices(row(), row(), row(), row(), row(), row(), data.draw(st.floats(0, 0.01))) for _ in places
    ]
    bound = certified(used(trace, places), edges, any_prices)
    best = best_usd(trace, places)
    assert bound.usd <= best * (1 + 1e-9)


def test_windows_cut_in_two_prove_as_much_and_ascent_more() -> None:
    """Mixed work that must partly be refused: a programme's prices, of groups, refuse too much of it."""
    rng = np.random.default_rng(5)
    trace = [
        Work(at_us=i * 20_000, input_tok=int(n), output_tok=int(m), max_output_tok=64)
        for i, (n, m) in enumerate(zip(rng.integers(50, 900, 300), rng.integers(1, 64, 300), strict=True))
    ]
    solved = lower_bound(used(trace, [batch("only", kv_tok=65_536)]), window_s=2.0)
    edges_s, prices = split(solved.edges_s, solved.prices)
    halved = certified(solved.terms, edges_s, prices)
    assert len(edges_s) == 2 * len(solved.edges_s) - 1
    assert halved.usd >= solved.bound.usd * (1 - 1e-9)
    assert refined(solved, halvings=1).bound.usd > 1.01 * solved.bound.usd


def crowd(count: int, every_us: int, output_tok: int = 60) -> list[Work]:
    return [
        Work(at_us=i * every_us, input_tok=500, output_tok=output_tok, max_output_tok=64)
        for i in range(count)
    ]


def test_one_place_with_a_crowd_is_bound_well() -> None:
    """There is no choice here: the distance is the bound's own looseness, 30 % at most on a busy place."""
    place = batch("only", slots=16, kv_tok=65_536)
    trace = crowd(600, 250_000)
    usd = played_usd(trace, [place], [0] * len(trace))
    bound = lower_bound(used(trace, [place]), window_s=5.0).bound.usd
    assert 0.7 * usd <= bound <= usd


def test_what_never_waits_is_bound_exactly() -> None:
    """Each alone at a bought place: charge and time alone, to the last digit."""
    trace = crowd(5, 2_000_000)
    usd = played_usd(trace, [stream()], [0] * 5)
    assert lower_bound(used(trace, [stream()]), window_s=1.0).bound.usd == pytest.approx(usd, rel=1e-6)


def test_the_price_of_a_full_place_rises_and_that_of_an_empty_one_is_nothing() -> None:
    """The cheap place cannot take all; its time is worth something, the dear one's is not."""
    places = [batch("cheap", usd_out=0.1, kv_tok=65_536), stream("dear", slots=100, usd_out=8.0)]
    solved = lower_bound(used(crowd(400, 20_000), places), window_s=2.0)
    assert float(np.mean(solved.prices[0].time)) > 1e-3
    assert float(np.max(solved.prices[1].time)) < 1e-9


def test_mended_prices_meet_every_condition_of_the_proof() -> None:
    rng = np.random.default_rng(3)
    place = used(crowd(3, 1_000), [batch()]).places[0]
    raw = Prices(*(rng.uniform(-1, 1, 7) for _ in range(6)), 0.9)
    p = mended(place, raw, usd_per_s=0.5)
    assert all(np.all(row >= 0) for row in p[:-1]) and 0 <= p.load <= 0.5
    assert np.all(p.load + p.alone <= 0.5 + p.room + 1e-12)
    owed = p.slots * place.slots + p.held * place.held_tok + p.load * place.bend * p.tangent**2
    assert np.all(p.time[:-1] * place.step_s >= owed[:-1] - 1e-12)
    assert p.time[-1] == p.slots[-1] == p.held[-1] == p.tangent[-1] == p.room[-1] == 0.0


def test_the_longest_beginning_that_anyone_had_before_is_the_most_that_a_cache_can_hold() -> None:
    def work(*blocks: int) -> Work:
        return Work(at_us=0, input_tok=512 * len(blocks), output_tok=1, max_output_tok=1, blocks=blocks)

    trace = [work(1, 2, 3), work(1, 2, 4), work(9), work(1, 2, 4, 5), work(1, 2, 3)]
    assert most_cached_tok(trace) == [0, 1_024, 0, 1_536, 1_535]


def test_capacity_is_what_all_slots_can_do() -> None:
    """8 + 4 x 1 ms a step for 4 tokens, a little for context; 0.2 ms a prompt token: near 1 / 0.28 s."""
    place = batch("only", kv_ps_per_tok=0, attention_ps_per_ktok=0, kv_tok=65_536)
    per_request_s = 60 * 0.008 / 4 + 59 * 0.001 + 500 * 0.0002
    assert capacity_per_s(used(crowd(50, 1_000), [place])) == pytest.approx(1 / per_request_s, rel=1e-6)
    assert capacity_per_s(used(crowd(50, 1_000), [place, place])) == pytest.approx(
        2 / per_request_s, rel=1e-6
    )


def test_the_search_never_ends_worse_than_it_began_and_mends_a_foolish_start() -> None:
    places = [batch("a", kv_tok=65_536), batch("b", kv_tok=65_536)]
    trace = crowd(80, 30_000)
    foolish = [0] * len(trace)
    found = better_schedule(trace, places, foolish, model=MODEL, caller=CALLER, seed=1, rounds=25, **WORTH)
    start = played_usd(trace, places, foolish)
    assert found.usd == pytest.approx(played_usd(trace, places, found.places))
    assert found.usd < 0.8 * start
    assert found.usd >= lower_bound(used(trace, places), window_s=0.5).bound.usd


@pytest.mark.parametrize(
    "places", [[batch("only", kv_tok=65_536)], [stream(slots=1)], [batch("a"), stream()]]
)
def test_of_alike_work_the_certificate_is_the_programme(places: list[Place]) -> None:
    """Strong duality: where all work is alike, grouping loses nothing, and the two must meet."""
    solved = lower_bound(used(crowd(60, 8_000), places), window_s=0.5)
    assert len(solved.edges_s) == 3  # every last window is a column of the programme
    assert max(float(np.max(p.time)) for p in solved.prices) > 1e-4  # a constant that matters
    assert solved.bound.usd == pytest.approx(solved.programme_usd, rel=1e-6)
