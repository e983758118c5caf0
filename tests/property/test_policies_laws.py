"""Laws 5 and 7 for every policy: hard rules are hard, and what is recorded decides the same again."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.app.seeing.decisions import request_of
from wattmill.ledger.frame import decoder, encoder
from wattmill.scheduling import filters
from wattmill.scheduling.lengths import SIZES, Lengths, two_digits
from wattmill.scheduling.policies import POLICIES, default_telling
from wattmill.scheduling.prefix import LENGTHS, Prefixes, prefix_of
from wattmill.scheduling.ranking import Freed
from wattmill.scheduling.scarcity import Scarcity
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.fact import Intent, Refused
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.request import Request, terms_of
from wattmill.vocab.route import Hints, Route

MODELS = ("a", "b")
CAPS = ("chat", "completions", "tools", "vision")
rate = st.integers(0, 10**10)


def mostly(usual: object, *others: object) -> st.SearchStrategy[Any]:
    """Three times in four what lets a request through: what everything refuses tests one rule only."""
    return st.sampled_from((usual,) * (3 * len(others)) + others)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    pools = tuple(
        Pool(
            name=f"p{i}",
            models=frozenset(draw(mostly(MODELS, ("a",), ("b",), ()))),
            capabilities=frozenset(draw(mostly(CAPS, ("chat",), ("completions", "tools"), ()))),
            context_tok=draw(mostly(100_000, 10, 1_000, 4_096)),
            privacy=draw(mostly("private", "internal", "public")),
            region=draw(mostly("eu", "us", "")),
            operator=draw(mostly("we", "they", "")),
            healthy=draw(mostly(True, False)),
            breaker_open=draw(mostly(False, True)),
            slots=draw(st.integers(1, 4)),
            queue=draw(st.integers(0, 8)),
            charge_in_nusd_per_mtok=dict.fromkeys(MODELS, draw(rate)),
            charge_out_nusd_per_mtok=dict.fromkeys(MODELS, draw(rate)),
            charge_cached_nusd_per_mtok={"a": draw(rate)},
            prefill_tok_per_s=draw(st.floats(1, 1e5)),
            decode_tok_per_s=draw(st.floats(1, 1e5)),
            energy_j_per_tok=draw(st.none() | st.floats(0, 10)),
            energy_j_per_in_tok=0.1,
            carbon_g_per_kwh=draw(st.none() | st.floats(0, 1_000)),
            quality={"a": draw(st.floats(0, 1))},
            energy_usd_per_kwh=draw(st.sampled_from((None, 0.0, 0.3))),
            slowdown=draw(st.floats(0, 2)),
            hit_share=draw(st.floats(0, 1)),
        )
        for i in range(draw(st.integers(2, 4)))
    )
    return Fleet(id=draw(st.integers(1, 9)), at_us=0, pools=pools)


requests = st.builds(
    Request,
    id=st.just("req_0123456789ab_7"),
    endpoint=mostly("chat", "completions"),
    model=mostly("a", "b", "none"),
    pool=mostly(None, "p0", "p1"),
    stream=st.booleans(),
    input_bound_tok=st.integers(0, 20_000),
    max_output_tok=st.none() | st.integers(1, 4_096),
    choices=st.integers(1, 3),
    needs=mostly(frozenset(), frozenset({"tools"}), frozenset({"vision"})),
    privacy=mostly("public", "internal", "private"),
    residency=mostly(None, frozenset({"eu"}), frozenset({"us"}), frozenset()),
    operators=mostly(None, frozenset({"we"}), frozenset({"they"}), frozenset()),
    evidence=st.sampled_from(((), ("card:1",))),
    keep=st.booleans(),
    tier=st.sampled_from(("", "premium")),
    promise_ttft_s=st.none() | st.floats(0.001, 10),
    promise_tok_per_s=mostly(None, 1.0, 100.0, 1e4),
    left_nusd=mostly(None, 0, 10**6, 10**9),
    frugal=st.booleans(),
    steps=st.integers(0, 9),
)
callers = st.builds(
    Caller,
    key=st.just(1),
    name=st.just("o/t/k"),
    path=st.just((1,)),
    models=mostly(None, frozenset({"a"}), frozenset({"b"})),
    pools=mostly(None, frozenset({"p0", "p2"}), frozenset({"p1"})),
    residency=mostly(None, frozenset({"eu"}), frozenset({"eu", "us"})),
    operators=mostly(None, frozenset({"we"}), frozenset({"we", "they"})),
)
weights_ = st.builds(
    Weights,
    explore=st.sampled_from((0.0, 0.5, 1.0)),
    usd_per_kg_co2=st.sampled_from((0.0, 0.1)),
    energy=st.sampled_from((0.0, 1.0)),
    usd_per_quality=st.sampled_from((0.0, 0.01)),
)


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    fleet = draw(fleets())
    shared = tuple(draw(st.integers(0, 5_000)) for _ in fleet.pools)
    return {
        "request": draw(requests),
        "caller": draw(callers),
        "fleet": fleet,
        "busy": tuple(draw(st.integers(0, 8)) for _ in fleet.pools),
        "weights": draw(weights_),
        "now_s": draw(st.floats(0, 2e9)),
        "draw": draw(st.floats(0, 1, exclude_max=True)),
        "hints": Hints(
            asker=3,
            turn=draw(st.integers(0, 9)),
            output_tok=draw(st.none() | st.integers(1, 5_000)),
            shared_tok=draw(st.sampled_from(((), shared))),
        ),
    }


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(question=questions())
def test_no_policy_ever_proposes_a_place_that_breaks_a_hard_rule(name: str, question: dict[str, Any]) -> None:
    route = POLICIES[name](**question)
    if isinstance(route, Refusal):
        assert route.code in CODES and route.route is not None and not route.route.candidates
        return
    ask, caller, fleet = question["request"], question["caller"], question["fleet"]
    by_name = {pool.name: (pool, n) for pool, n in zip(fleet.pools, question["busy"], strict=True)}
    for candidate in route.candidates:
        pool, in_flight = by_name[candidate.pool]
        assert ask.model in pool.models and ask.pool in (None, pool.name)
        assert caller.pools is None or pool.name in caller.pools
        assert caller.models is None or ask.model in caller.models
        assert {ask.endpoint, *ask.needs} <= pool.capabilities
        assert PRIVACY_CLASSES.index(ask.privacy) <= PRIVACY_CLASSES.index(pool.privacy)
        for names, own in (
            (caller.residency, pool.region),
            (ask.residency, pool.region),
            (caller.operators, pool.operator),
            (ask.operators, pool.operator),
        ):
            assert names is None or own in names
        assert pool.healthy and not pool.breaker_open
        assert in_flight < pool.slots + pool.queue
        assert ask.input_bound_tok / question["weights"].bound_tok_per_tok < pool.context_tok
        assert ask.promise_tok_per_s is None or pool.decode_tok_per_s >= ask.promise_tok_per_s
    told = [c.pool for c in route.candidates] + [e.pool for e in route.excluded]
    assert sorted(told) == sorted(by_name)
    assert all(e.rule in filters.RULES for e in route.excluded)


@given(question=questions())
def test_all_policies_allow_the_same_places(question: dict[str, Any]) -> None:
    answers = [policy(**question) for policy in POLICIES.values()]
    allowed = {
        frozenset(c.pool for c in answer.candidates) if isinstance(answer, Route) else answer.code
        for answer in answers
    }
    assert len(allowed) == 1


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(question=questions())
def test_a_decision_is_taken_again_from_its_records(name: str, question: dict[str, Any]) -> None:
    """Everything goes through the bytes of the journal, and nothing of the live objects is used again."""
    ask, answer = question["request"], POLICIES[name](**question)
    fleet = msgspec.msgpack.decode(msgspec.msgpack.encode(question["fleet"]), type=Fleet)
    weights = msgspec.msgpack.decode(msgspec.msgpack.encode(question["weights"]), type=Weights)
    caller = msgspec.msgpack.decode(msgspec.msgpack.encode(question["caller"]), type=Caller)
    if isinstance(answer, Refusal):
        refused = decoder.decode(
            encoder.encode(
                Refused(7, 0, (1,), ask.endpoint, ask.model, answer.code, answer.message[:512],
                        ask=msgspec.msgpack.encode(ask), route=answer.route)
            )
        )  # fmt: skip
        assert isinstance(refused, Refused) and refused.route is not None
        again_ask, route = msgspec.msgpack.decode(refused.ask, type=Request), refused.route
    else:
        model = ask.model if ask.pool is None else f"{ask.pool}/{ask.model}"
        intent = decoder.decode(
            encoder.encode(
                Intent(7, 7, 0, 0, (1,), answer.candidates[0].pool, model, ask.endpoint, ask.stream,
                       ask.input_bound_tok, 1, 1, 1, 1, ask.max_output_tok, answer, None, ask.privacy, 1,
                       ask.choices, tuple(sorted(ask.needs)), ask.pool is not None,
                       terms=terms_of(ask), evidence=ask.evidence)
            )
        )  # fmt: skip
        assert isinstance(intent, Intent) and intent.route is not None
        again_ask, route = request_of(intent, "0123456789ab"), intent.route
    assert again_ask == ask
    again = POLICIES[name](
        again_ask, caller, fleet, busy=route.busy, weights=weights, now_s=route.now_s, draw=route.draw,
        hints=route.hints,
    )  # fmt: skip
    assert again == answer


@given(question=questions(), other=requests)
def test_what_the_filters_remember_is_what_they_would_find(question: dict[str, Any], other: Request) -> None:
    caller, fleet = question["caller"], question["fleet"]
    for ask in (question["request"], other):
        first = filters.sieved(ask, caller, fleet)
        assert filters.sieved(ask, caller, fleet) is first
        assert first == filters._sieve(ask, caller, fleet, [])[0]


@given(question=questions(), data=st.data())
def test_a_view_in_which_some_places_have_changed_is_sieved_as_if_all_were_new(
    question: dict[str, Any], data: st.DataObject
) -> None:
    ask, caller, fleet = question["request"], question["caller"], question["fleet"]
    filters.sieved(ask, caller, fleet)
    changed = data.draw(st.sets(st.integers(0, max(0, len(fleet.pools) - 1))))
    pools = [
        msgspec.structs.replace(pool, healthy=not pool.healthy, slots=pool.slots + 1, context_tok=77)
        if at in changed
        else pool
        for at, pool in enumerate(fleet.pools)
    ]
    if data.draw(st.booleans()):
        pools = pools[1:]
    later = msgspec.structs.replace(fleet, id=fleet.id + 1, pools=tuple(pools))
    assert filters.sieved(ask, caller, later) == filters._sieve(ask, caller, later, [])[0]


@given(question=questions(), scarcity=st.sampled_from((0.0, 1.0)))
def test_what_a_decision_tells_of_full_places_is_what_another_one_would_find_there(
    question: dict[str, Any], scarcity: float
) -> None:
    weights = Weights(
        others=1.0, scarcity=scarcity, explore=question["weights"].explore,
        leg="cost" if question["fleet"].id % 2 else "charge", refusal_usd=None if scarcity else 0.001,
    )  # fmt: skip
    pools = tuple(
        msgspec.structs.replace(pool, slot_usd_per_s=0.01 * at, ahead_share=0.25 * at, decode_share=0.3)
        for at, pool in enumerate(question["fleet"].pools)
    )
    ahead_tok = tuple(1_000 * at for at in range(len(pools)))
    question = question | {
        "weights": weights,
        "fleet": msgspec.structs.replace(question["fleet"], pools=pools),
        "hints": msgspec.structs.replace(question["hints"], ahead_tok=ahead_tok),
    }
    freed: list[Freed] = []
    told = default_telling(**question, freed=freed)
    assert told == POLICIES["cheapest-adequate"](**question)
    at = {pool.name: index for index, pool in enumerate(pools)}
    found = Scarcity()._freed(
        question["request"], question["caller"], question["fleet"], question["busy"], weights,
        question["hints"], at,
    )  # fmt: skip
    assert freed == sorted(found)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 5_000)),
        max_size=60,
    )
)
def test_learned_lengths_stay_between_what_was_seen_and_what_was_declared(
    answers: list[tuple[str, int, int, int]],
) -> None:
    lengths = Lengths(expected_tok=128, most=4)
    for model, key, bound_tok, tok in answers:
        lengths.learn(model, key, bound_tok, tok)
        seen = [128, *(t for _, _, _, t in answers)]
        for size in (bound_tok, 10**9):  # what was met, and a size that never was
            told = lengths.expected_tok(model, key, size)
            assert told is not None and two_digits(min(seen)) * 0.9 <= told <= two_digits(max(seen)) * 1.1
    assert len(lengths) <= (SIZES + 2) * 4
    assert lengths.expected_tok("unheard of", 1, 1) is None


def texts(longest: int) -> st.SearchStrategy[bytes]:
    return st.tuples(st.integers(0, longest), st.integers(0, 9)).map(
        lambda size_seed: random.Random(size_seed[1]).randbytes(size_seed[0])
    )


@given(texts(3_000), texts(2_000), texts(2_000), st.integers(0, 2))
def test_a_shared_prefix_is_never_overestimated_and_at_most_halved(
    common: bytes, one: bytes, two: bytes, at: int
) -> None:
    true = len(common)
    for x, y in zip(one, two, strict=False):
        if x != y:
            break
        true += 1
    prefixes = Prefixes(3)
    prefixes.send(prefix_of(common + one, "m"), at)
    shared = prefixes.shared_bytes(prefix_of(common + two, "m"))
    assert prefixes.shared_bytes(prefix_of(common + two, "other model")) == ()
    if not shared:
        assert true < LENGTHS[0]
        return
    assert [n for i, n in enumerate(shared) if i != at] == [0, 0]
    assert true / 2 < shared[at] <= true
