"""What a slot is worth to others: the price of a full place, by hand, and what it does to a decision."""

from __future__ import annotations

import msgspec
import pytest

from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.scarcity import LESSONS, Scarcity, unpriced
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Route

CALLER = Caller(key=1, name="o/t/k", path=(1,))
WEIGHTS = Weights(usd_per_s=0.001, expected_output_tok=100, others=1.0)


def pool(name: str, usd_out: float, **changes: object) -> Pool:
    base = Pool(
        name=name,
        models=frozenset({"m"}),
        capabilities=frozenset({"chat"}),
        context_tok=100_000,
        privacy="private",
        slots=2,
        queue=8,
        charge_in_nusd_per_mtok={"m": 0},
        charge_out_nusd_per_mtok={"m": round(usd_out * 1e9)},
        prefill_tok_per_s=1_000.0,
        decode_tok_per_s=100.0,
    )
    return msgspec.structs.replace(base, **changes)


CHEAP, DEAR = pool("cheap", 10.0), pool("dear", 80.0)


def ask(prompt_tok: int = 1_000) -> Request:
    return Request(
        id="r", endpoint="chat", model="m", pool=None, stream=True, input_bound_tok=4 * prompt_tok,
        max_output_tok=100,
    )  # fmt: skip


def decide(
    pools: tuple[Pool, ...], busy: tuple[int, ...], *, prompt_tok: int = 1_000, weights: Weights = WEIGHTS
) -> Route | Refusal:
    return POLICIES["cheapest-adequate"](
        ask(prompt_tok), CALLER, Fleet(id=1, at_us=0, pools=pools), busy=busy, weights=weights
    )


def taught(busy: tuple[int, ...], *, free: int = 0, weights: Weights = WEIGHTS) -> list[tuple[float, float]]:
    """Return the prices after one decision at this load and `free` at none."""
    scarcity = Scarcity()
    scarcity.begin(2)
    scarcity.refresh(0.0, weights)
    fleet = Fleet(id=1, at_us=0, pools=(CHEAP, DEAR))
    for load in [busy] + [(0, 0)] * free:
        scarcity.learn(
            ask(), CALLER, fleet, decide(fleet.pools, load, weights=weights), busy=load,
            weights=weights, hints=NO_HINTS, at={"cheap": 0, "dear": 1},
        )  # fmt: skip
    return scarcity.refresh(0.0, weights)


def slot_usd(prices: list[tuple[float, float]]) -> list[float]:
    return [slot for slot, _ in prices]


def test_a_full_place_is_worth_what_a_free_slot_would_have_saved_for_each_second_that_it_is_held() -> None:
    """2 s at each place: cheap costs 0.001 + 0.002 USD with a slot free, dear 0.008 + 0.002. Cheap has 2 of 2
    slots taken, and each waits half a service time, 1 s, for oneself and for one behind: 0.005. So a slot
    would have saved 0.002 USD, 0.001 a second."""
    assert slot_usd(taught((2, 0))) == pytest.approx([0.001, 0.0])


def test_requests_that_find_a_free_slot_pull_the_price_down_and_time_forgets_it() -> None:
    assert slot_usd(taught((2, 0), free=3)) == pytest.approx([0.001 / 4**0.5, 0.0])
    assert taught((0, 0), free=3) == [(0.0, 0.0)] * 2
    scarcity = Scarcity()
    scarcity.begin(2)
    assert scarcity.refresh(0.0, WEIGHTS) == scarcity.refresh(99.0, WEIGHTS) == [(0.0, 0.0)] * 2


def test_where_all_is_full_a_slot_saves_a_refusal() -> None:
    """Nobody is taken: a free slot would have saved 500 s of waiting, less what serving costs there."""
    assert slot_usd(taught((10, 10))) == pytest.approx([(0.5 - 0.003) / 2, (0.5 - 0.010) / 2])
    declared = msgspec.structs.replace(WEIGHTS, refusal_usd=0.02)
    assert slot_usd(taught((10, 10), weights=declared)) == pytest.approx(
        [(0.02 - 0.003) / 2, (0.02 - 0.010) / 2]
    )


def test_what_a_refusal_costs_is_spread_over_the_slot_seconds_of_those_that_find_no_slot() -> None:
    """2 s at each place, nobody slower for them; nothing while all are served."""
    declared = msgspec.structs.replace(WEIGHTS, refusal_usd=0.02)
    assert [turned for _, turned in taught((2, 0), weights=declared)] == [0.0, 0.0]
    assert [turned for _, turned in taught((10, 10), weights=declared)] == pytest.approx([0.01, 0.01])


def test_the_last_seats_of_a_queue_are_for_small_requests() -> None:
    """A slot-second costs 0.01 USD there, a refusal 0.05. In the last of 8 seats a small one (0.2 + 1 s) is
    worth its seat and a large one (4 + 1 s) is refused; with half the seats free both are taken."""
    declared = msgspec.structs.replace(WEIGHTS, refusal_usd=0.05)
    busy = msgspec.structs.replace(CHEAP, slot_usd_per_s=0.0001, turned_usd_per_s=0.01)
    for in_flight, prompt_tok, kept in ((9, 200, True), (9, 4_000, False), (5, 200, True), (5, 4_000, True)):
        answer = decide((busy,), (in_flight,), prompt_tok=prompt_tok, weights=declared)
        assert isinstance(answer, Route) is kept
    # Who would be refused everywhere is what teaches the price, refused by a queue or by its worth.
    scarcity = Scarcity()
    scarcity.begin(1)
    answer = decide((busy,), (9,), prompt_tok=4_000, weights=declared)
    scarcity.learn(
        ask(4_000), CALLER, Fleet(id=1, at_us=0, pools=(busy,)), answer, busy=(9,), weights=declared,
        hints=NO_HINTS, at={"cheap": 0},
    )  # fmt: skip
    ((slot, turned),) = scarcity.refresh(0.0, declared)
    assert slot > 0.0 and turned == pytest.approx(0.05 / 5)


def test_only_some_decisions_of_a_refresh_are_looked_at() -> None:
    scarcity = Scarcity()
    scarcity.begin(1)
    assert scarcity.lessons == LESSONS
    for _ in range(3):
        scarcity.learn(
            ask(), CALLER, Fleet(id=1, at_us=0, pools=(CHEAP,)), decide((CHEAP,), (0,)), busy=(0,),
            weights=WEIGHTS, hints=NO_HINTS, at={"cheap": 0},
        )  # fmt: skip
    assert scarcity.lessons == LESSONS - 3
    scarcity.refresh(0.25, WEIGHTS)
    assert scarcity.lessons == LESSONS


def test_work_that_gains_little_leaves_the_scarce_place_to_work_that_gains_much() -> None:
    """A slot of cheap is worth 0.004 USD a second, a quarter of it at half its slots: a prompt of 1,000
    tokens holds it for 2 s and still saves 0.007; one of 20,000 tokens would hold it for 21 s."""
    scarce = msgspec.structs.replace(CHEAP, slot_usd_per_s=0.004)
    for prompt_tok, best in ((1_000, "cheap"), (20_000, "dear")):
        answer = decide((scarce, DEAR), (1, 0), prompt_tok=prompt_tok)
        assert isinstance(answer, Route) and answer.candidates[0].pool == best
        unmoved = decide((scarce, DEAR), (0, 0), prompt_tok=prompt_tok)
        assert isinstance(unmoved, Route) and unmoved.candidates[0].pool == "cheap"
        selfish = decide(
            (scarce, DEAR),
            (1, 0),
            prompt_tok=prompt_tok,
            weights=msgspec.structs.replace(WEIGHTS, others=0.0),
        )
        assert isinstance(selfish, Route) and selfish.candidates[0].pool == "cheap"


def test_a_price_is_in_the_score_and_not_in_what_the_tenant_pays_or_waits() -> None:
    scarce = msgspec.structs.replace(CHEAP, slot_usd_per_s=0.004)
    plain, priced = decide((CHEAP,), (2,)), decide((scarce,), (2,))
    assert isinstance(plain, Route) and isinstance(priced, Route)
    (a,), (b,) = plain.candidates, priced.candidates
    assert (a.expected_nusd, a.expected_ttft_s, a.expected_s) == (
        b.expected_nusd, b.expected_ttft_s, b.expected_s,
    )  # fmt: skip
    assert b.score - a.score == pytest.approx(0.004 * 2.0)
    assert decide((scarce,), (2,), weights=unpriced(WEIGHTS)).candidates[0].score == a.score  # type: ignore[union-attr]


def test_what_costs_more_than_a_refusal_is_refused_only_where_that_is_declared() -> None:
    scarce = msgspec.structs.replace(CHEAP, slot_usd_per_s=0.02)
    assert isinstance(decide((scarce,), (2,)), Route)
    declared = msgspec.structs.replace(WEIGHTS, refusal_usd=0.02)
    answer = decide((scarce,), (2,), weights=declared)
    assert isinstance(answer, Refusal) and answer.code == "overloaded" and answer.retry_after_s
    assert answer.route is not None and [e.rule for e in answer.route.excluded] == ["worth"]
    assert "refusal_usd" in answer.message
    small = decide((scarce,), (1,), weights=declared)
    assert isinstance(small, Route)  # 0.003 + a quarter of 0.04
