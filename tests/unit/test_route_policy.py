from dataclasses import dataclass

import msgspec
from inline_snapshot import snapshot

from wattmill.scheduling.policy import cheapest_adequate, visible_models
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route


def pool(name: str, **changes: object) -> Pool:
    base = Pool(
        name=name,
        models=frozenset({"m"}),
        capabilities=frozenset({"chat", "tools"}),
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


EDGE = pool("edge")
FAST = pool(
    "cloud",
    privacy="public",
    decode_tok_per_s=400.0,
    prefill_tok_per_s=2_000.0,
    charge_out_nusd_per_mtok={"m": 600_000_000},
)
ASK = Request(
    id="r",
    endpoint="chat",
    model="m",
    pool=None,
    stream=False,
    input_bound_tok=800,
    max_output_tok=40,
    privacy="public",
)
CALLER = Caller(key=3, name="k", path=(1, 2, 3))


def decide(
    request: Request = ASK, *pools: Pool, busy: tuple[int, ...] | None = None, caller: Caller = CALLER
):
    fleet = Fleet(id=7, at_us=0, pools=pools or (EDGE, FAST))
    return cheapest_adequate(request, caller, fleet, busy=busy or (0,) * len(fleet.pools), weights=Weights())


def test_a_second_is_worth_its_price_and_the_reason_says_so():
    route = decide()
    assert isinstance(route, Route)
    assert [c.pool for c in route.candidates] == ["cloud", "edge"]
    assert route.reason == snapshot("cloud saves 1.80 s against the cheaper edge")


def test_without_a_price_on_seconds_the_cheaper_place_wins():
    fleet = Fleet(id=1, at_us=0, pools=(FAST, EDGE))
    route = cheapest_adequate(ASK, CALLER, fleet, busy=(0, 0), weights=Weights(usd_per_s=0.0))
    assert isinstance(route, Route)
    assert route.reason == snapshot(
        "edge is cheaper than cloud, which would be 1.80 s faster for more than that is worth"
    )


def test_expected_cost_and_time_are_those_of_a_hand_calculation():
    route = decide(ASK, EDGE)
    assert isinstance(route, Route)
    (only,) = route.candidates
    # 800 bytes / 4 = 200 tokens at $0.10/M + 40 tokens at $0.40/M; 200/200 s + 40/40 s
    assert (only.expected_nusd, only.expected_ttft_s, only.expected_s) == (36_000, 1.0, 2.0)


def test_a_full_queue_makes_a_newcomer_wait_its_turn():
    route = decide(ASK, EDGE, busy=(3,))
    assert isinstance(route, Route)
    assert route.candidates[0].expected_ttft_s == 1.0 + 2.0  # (3 - 2 + 1) / 2 service times of 2 s


def test_private_data_stays_where_it_may_be_seen():
    route = decide(msgspec.structs.replace(ASK, privacy="private"))
    assert isinstance(route, Route)
    assert [c.pool for c in route.candidates] == ["edge"]
    assert route.reason == snapshot("edge is the only place left; ruled out: cloud (privacy)")


def test_a_place_asked_for_by_name_is_the_only_candidate():
    route = decide(msgspec.structs.replace(ASK, pool="edge"))
    assert isinstance(route, Route)
    assert route.reason == snapshot("edge was asked for by name")


@dataclass
class Case:
    name: str
    code: str
    request: Request = ASK
    pools: tuple[Pool, ...] = (EDGE,)
    busy: tuple[int, ...] = (0,)
    caller: Caller = CALLER


CASES = [
    Case("unknown", "unknown_model", request=msgspec.structs.replace(ASK, model="x")),
    Case("full", "overloaded", busy=(4,)),
    Case("down", "no_healthy_place", pools=(pool("edge", healthy=False),)),
    Case("long", "context_too_long", request=msgspec.structs.replace(ASK, input_bound_tok=9_000)),
    Case("private", "privacy", pools=(FAST,), request=msgspec.structs.replace(ASK, privacy="private")),
    Case("vision", "no_capability", request=msgspec.structs.replace(ASK, needs=frozenset({"vision"}))),
    Case("scope", "out_of_scope", caller=msgspec.structs.replace(CALLER, pools=frozenset({"cloud"}))),
]


def test_every_hard_rule_refuses_with_its_own_code():
    for case in CASES:
        answer = decide(case.request, *case.pools, busy=case.busy, caller=case.caller)
        assert isinstance(answer, Refusal), case.name
        assert answer.code == case.code, case.name


def test_an_unknown_model_is_answered_with_those_the_key_may_use():
    answer = decide(msgspec.structs.replace(ASK, model="gpt-9"))
    assert isinstance(answer, Refusal)
    assert answer.message == snapshot("no place serves model 'gpt-9'; this key may use: m, edge/m, cloud/m")


def test_what_the_named_place_cannot_do_is_answered_with_those_that_can():
    embedder = pool("embedder", capabilities=frozenset({"chat", "embeddings"}))
    private = pool("private", capabilities=frozenset({"embeddings"}))
    ask = msgspec.structs.replace(ASK, endpoint="embeddings", pool="edge", max_output_tok=None)
    caller = msgspec.structs.replace(CALLER, pools=frozenset({"edge", "embedder"}))
    answer = decide(ask, EDGE, embedder, private, busy=(0, 0, 0), caller=caller)
    assert isinstance(answer, Refusal)
    assert answer.message == snapshot(
        "no place that serves model 'm' at 'edge' offers all of: embeddings. "
        "embedder can: name no place (model 'm'), or one of these."
    )


def test_a_key_sees_only_what_it_may_use():
    caller = msgspec.structs.replace(CALLER, pools=frozenset({"edge"}))
    assert visible_models(caller, Fleet(id=1, at_us=0, pools=(EDGE, FAST))) == ["m", "edge/m"]


def test_a_place_that_would_cut_the_answer_short_comes_last():
    small = pool("small", context_tok=210, charge_out_nusd_per_mtok={"m": 1})
    route = decide(ASK, small, EDGE)
    assert isinstance(route, Route)
    assert [c.pool for c in route.candidates] == ["edge", "small"]
    assert route.reason == snapshot("edge has room for the whole answer; small would cut it short")


def test_an_embedding_is_expected_to_cost_its_input_only():
    embedder = pool("embedder", capabilities=frozenset({"embeddings"}))
    route = decide(msgspec.structs.replace(ASK, endpoint="embeddings", max_output_tok=None), embedder)
    assert isinstance(route, Route)
    assert route.candidates[0].expected_nusd == 20_000  # 200 tokens at $0.10/M
