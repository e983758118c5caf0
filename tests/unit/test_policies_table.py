"""What each built-in policy prefers, by hand calculation, and what exploring and budgets do to it."""

from __future__ import annotations

import msgspec
import pytest
from inline_snapshot import snapshot

from wattmill.app.declared.policy_named import UnknownPolicy, policy_named
from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.ranking import Look, Place
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Hints, Route

ASK = Request(
    id="req_000000000000_1", endpoint="chat", model="m", pool=None, stream=False, input_bound_tok=800,
    max_output_tok=40, privacy="public",
)  # fmt: skip
MONEY = Weights(usd_per_s=0.0)
CALLER = Caller(key=3, name="org/team/key", path=(1, 2, 3))


def pool(name: str, **changes: object) -> Pool:
    base = Pool(
        name=name,
        models=frozenset({"m"}),
        capabilities=frozenset({"chat"}),
        context_tok=2_048,
        privacy="private",
        slots=2,
        queue=2,
        charge_in_nusd_per_mtok={"m": 100_000_000},
        charge_out_nusd_per_mtok={"m": 400_000_000},
        prefill_tok_per_s=200.0,
        decode_tok_per_s=40.0,
    )
    return msgspec.structs.replace(base, **changes)


SMALL = pool("small", quality={"m": 0.4}, region="eu", operator="us-ourselves")
LARGE = pool(
    "large",
    quality={"m": 0.9},
    region="us",
    operator="them",
    slots=8,
    decode_tok_per_s=400.0,
    prefill_tok_per_s=2_000.0,
    charge_in_nusd_per_mtok={"m": 1_000_000_000},
    charge_out_nusd_per_mtok={"m": 4_000_000_000},
)
GREEN = pool(
    "green",
    region="eu",
    decode_tok_per_s=20.0,
    charge_out_nusd_per_mtok={"m": 500_000_000},
    carbon_g_per_kwh=20.0,
    energy_j_per_tok=3.6,
    energy_j_per_in_tok=0.36,
)
COAL = pool("coal", carbon_g_per_kwh=800.0, energy_j_per_tok=3.6, energy_j_per_in_tok=0.36)


def decide(
    name: str,
    *pools: Pool,
    ask: Request = ASK,
    caller: Caller = CALLER,
    busy: tuple[int, ...] | None = None,
    weights: Weights = MONEY,
    draw: float = 0.0,
    hints: Hints = NO_HINTS,
) -> Route | Refusal:
    fleet = Fleet(id=7, at_us=0, pools=pools)
    return POLICIES[name](
        ask, caller, fleet, busy=busy or (0,) * len(pools), weights=weights, draw=draw, hints=hints
    )


def order(answer: Route | Refusal) -> list[str]:
    assert isinstance(answer, Route), answer
    return [c.pool for c in answer.candidates]


def test_fastest_goes_where_the_answer_is_complete_first() -> None:
    assert order(decide("fastest", SMALL, LARGE)) == ["large", "small"]


def test_greenest_prefers_known_grams_and_puts_the_unknown_last() -> None:
    answer = decide("greenest", SMALL, COAL, GREEN)
    assert order(answer) == ["green", "coal", "small"]
    assert isinstance(answer, Route)
    # 200 tok x 0.36 J + 40 tok x 3.6 J = 216 J = 0.00006 kWh, x 20 g/kWh
    assert answer.candidates[0].score == pytest.approx(0.0012)


def test_greenest_says_so_where_nothing_is_known() -> None:
    answer = decide("greenest", LARGE, SMALL)
    assert isinstance(answer, Route)
    assert answer.reason.startswith("of no place the carbon is known")
    assert order(answer) == ["small", "large"]


def test_a_cascade_begins_with_the_smallest_model_whatever_it_costs() -> None:
    dear_small = msgspec.structs.replace(SMALL, charge_out_nusd_per_mtok={"m": 9_000_000_000})
    assert order(decide("cascade", LARGE, dear_small)) == ["small", "large"]


def test_a_client_who_found_a_small_answer_wanting_begins_with_a_larger_model() -> None:
    middle = pool("middle", quality={"m": 0.6})
    for steps, wanted in ((0, "small"), (1, "middle"), (2, "large"), (9, "large")):
        request = msgspec.structs.replace(ASK, steps=steps)
        assert order(decide("cascade", LARGE, middle, SMALL, ask=request))[0] == wanted
    assert order(decide("cascade", SMALL, ask=msgspec.structs.replace(ASK, steps=3))) == ["small"]


def test_every_policy_gives_its_own_reason() -> None:
    dear = msgspec.structs.replace(GREEN, quality={"m": 0.7})
    reasons = {
        name: decide(name, SMALL, LARGE, dear, busy=(1, 0, 0), hints=Hints(turn=1)) for name in POLICIES
    }
    assert {name: r.reason for name, r in reasons.items() if isinstance(r, Route)} == snapshot(
        {
            "cheapest-adequate": "small is cheaper than green and no slower",
            "fastest": "large is expected to be done first, in 0.20 s",
            "greenest": "green is expected to emit the least, 0.0012 g of CO2",
            "cascade": "small has the model to begin with; 2 better ones stand behind it",
            "round-robin": "it is the turn of large",
            "least-loaded": "large has the smallest share of its slots taken",
        }
    )


def test_round_robin_takes_turns_over_the_places_that_are_allowed() -> None:
    down = pool("down", healthy=False)
    firsts = [
        order(decide("round-robin", SMALL, down, LARGE, GREEN, hints=Hints(turn=turn)))[0]
        for turn in range(6)
    ]
    assert firsts == ["small", "large", "green"] * 2


def test_least_loaded_compares_shares_of_slots_and_ties_go_to_the_first() -> None:
    assert order(decide("least-loaded", SMALL, LARGE, busy=(1, 3))) == ["large", "small"]
    assert order(decide("least-loaded", SMALL, LARGE, busy=(1, 4))) == ["small", "large"]


def test_carbon_quality_and_speed_weigh_what_the_declaration_says() -> None:
    assert order(decide("cheapest-adequate", COAL, GREEN)) == ["coal", "green"]
    carbon = Weights(usd_per_s=0.0, usd_per_kg_co2=1.0)
    assert order(decide("cheapest-adequate", COAL, GREEN, weights=carbon)) == ["green", "coal"]
    grade = Weights(usd_per_s=0.0, usd_per_quality=0.01)
    assert order(decide("cheapest-adequate", SMALL, LARGE, weights=grade)) == ["large", "small"]
    speed = Weights(usd_per_s=0.0, usd_per_tok_per_s=0.00001)
    assert order(decide("cheapest-adequate", SMALL, LARGE, weights=speed)) == ["large", "small"]


def test_what_nobody_knows_counts_as_the_worst_that_is_known() -> None:
    weights = Weights(usd_per_s=0.0, usd_per_kg_co2=1.0)
    answer = decide("cheapest-adequate", COAL, GREEN, SMALL, weights=weights)
    assert isinstance(answer, Route)
    by = {c.pool: c.score for c in answer.candidates}
    assert by["small"] == pytest.approx(by["coal"])


def test_a_frugal_request_pays_nothing_for_seconds() -> None:
    weights = Weights(usd_per_s=1.0)
    assert order(decide("cheapest-adequate", SMALL, LARGE, weights=weights))[0] == "large"
    frugal = msgspec.structs.replace(ASK, frugal=True)
    assert order(decide("cheapest-adequate", SMALL, LARGE, weights=weights, ask=frugal))[0] == "small"


def test_exploring_puts_another_allowed_place_first_and_says_so() -> None:
    weights = Weights(usd_per_s=0.0, explore=0.1)
    usual = decide("cheapest-adequate", SMALL, GREEN, LARGE, weights=weights, draw=0.1)
    assert order(usual) == ["small", "green", "large"]
    firsts = set()
    for k in range(10):
        answer = decide("cheapest-adequate", SMALL, GREEN, LARGE, weights=weights, draw=k / 100)
        firsts.add(order(answer)[0])
        assert isinstance(answer, Route) and "is tried instead of small" in answer.reason
        assert answer.draw == k / 100
    assert firsts == {"green", "large"}


def test_exploring_never_cuts_an_answer_short() -> None:
    tight = pool("tight", context_tok=210)
    answer = decide("cheapest-adequate", SMALL, tight, weights=Weights(explore=1.0), draw=0.5)
    assert order(answer) == ["small", "tight"]


def test_a_shared_prefix_saves_what_the_price_of_cached_tokens_saves() -> None:
    cached = msgspec.structs.replace(SMALL, charge_cached_nusd_per_mtok={"m": 10_000_000}, hit_share=0.5)
    answer = decide("cheapest-adequate", cached, hints=Hints(shared_tok=(160,)))
    assert isinstance(answer, Route)
    (only,) = answer.candidates
    # 80 of 200 tokens at $0.01/M instead of $0.10/M, and 120 tokens to compute at 200/s
    assert only.expected_nusd == 36_000 - 80 * 90
    assert only.expected_ttft_s == pytest.approx(0.6)


def test_a_learned_length_is_expected_but_never_more_than_was_asked_for() -> None:
    open_end = msgspec.structs.replace(ASK, max_output_tok=None)
    answer = decide("cheapest-adequate", SMALL, ask=open_end, hints=Hints(output_tok=300))
    assert isinstance(answer, Route) and answer.candidates[0].expected_nusd == 20_000 + 300 * 400
    answer = decide("cheapest-adequate", SMALL, hints=Hints(output_tok=300))
    assert isinstance(answer, Route) and answer.candidates[0].expected_nusd == 20_000 + 40 * 400


def test_a_batch_slows_decoding_by_what_was_learned() -> None:
    batching = msgspec.structs.replace(SMALL, slots=8, slowdown=0.25)
    answer = decide("cheapest-adequate", batching, busy=(4,))
    assert isinstance(answer, Route)
    assert answer.candidates[0].expected_s == pytest.approx(1.0 + 40 / 40 * 2.0)


def test_a_promise_that_is_late_now_comes_last_and_one_that_can_never_hold_is_refused() -> None:
    quick = msgspec.structs.replace(ASK, promise_ttft_s=0.5, tier="premium")
    answer = decide("cheapest-adequate", SMALL, LARGE, ask=quick)
    assert order(answer) == ["large", "small"]
    assert isinstance(answer, Route) and answer.reason == (
        "large keeps the promise of the tier; small would not just now"
    )
    never = msgspec.structs.replace(ASK, promise_tok_per_s=1_000.0, tier="ultra")
    refusal = decide("cheapest-adequate", SMALL, LARGE, ask=never)
    assert isinstance(refusal, Refusal) and refusal.code == "promise" and "'ultra'" in refusal.message


def test_caps_that_leave_less_than_one_token_rule_a_place_out() -> None:
    poor = msgspec.structs.replace(ASK, left_nusd=20_400)
    assert order(decide("cheapest-adequate", LARGE, SMALL, ask=poor)) == ["small"]
    refusal = decide("cheapest-adequate", LARGE, SMALL, ask=msgspec.structs.replace(ASK, left_nusd=20_399))
    assert isinstance(refusal, Refusal) and refusal.code == "budget_exceeded"


def test_residency_and_operator_are_named_when_they_refuse() -> None:
    stay = msgspec.structs.replace(CALLER, residency=frozenset({"eu"}))
    assert order(decide("fastest", SMALL, LARGE, caller=stay)) == ["small"]
    refusal = decide("fastest", LARGE, caller=stay)
    assert isinstance(refusal, Refusal) and refusal.code == "residency" and "in eu" in refusal.message
    own = msgspec.structs.replace(ASK, operators=frozenset({"us-ourselves"}))
    refusal = decide("fastest", LARGE, ask=own)
    assert isinstance(refusal, Refusal) and refusal.code == "operator"
    undeclared = decide("fastest", pool("somewhere"), caller=stay)
    assert isinstance(undeclared, Refusal) and undeclared.code == "residency"


def test_an_open_breaker_is_a_place_that_is_down() -> None:
    refusal = decide("fastest", msgspec.structs.replace(SMALL, breaker_open=True))
    assert isinstance(refusal, Refusal) and refusal.code == "no_healthy_place"
    assert refusal.route is not None and refusal.route.excluded[0].rule == "breaker"


def dearest(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    return [-float(place[3].expected_nusd) for place in places], "the dearest"


def too_few(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    return [0.0], None


_calls: list[int] = []


def moody(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    _calls.append(1)
    return [float((i + len(_calls)) % 3) for i in range(len(places))], None


def test_a_policy_of_ones_own_chooses_among_what_the_hard_rules_allow() -> None:
    mine = policy_named(f"{__name__}:dearest")
    fleet = Fleet(id=1, at_us=0, pools=(SMALL, LARGE, pool("secret", models=frozenset({"x"}))))
    answer = mine(ASK, CALLER, fleet, busy=(0, 0, 0), weights=Weights())
    assert order(answer) == ["large", "small"]
    assert isinstance(answer, Route) and answer.policy == f"{__name__}:dearest"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cheapest", "no policy 'cheapest'"),
        ("no.such.module:f", "cannot be imported"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        (f"{__name__}:ASK", "is no function"),
        (f"{__name__}:too_few", "failed on a first question"),
        (f"{__name__}:moody", "is not pure"),
    ],
)
def test_a_policy_that_is_none_is_refused_at_the_start_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(UnknownPolicy, match=words):
        policy_named(name)
