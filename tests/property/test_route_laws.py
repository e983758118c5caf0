"""Hard rules are hard, and the same view gives the same decision (laws 5 and 7)."""

from hypothesis import given
from hypothesis import strategies as st

from wattmill.scheduling.policy import cheapest_adequate
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route

MODELS = ("a", "b")
CAPS = ("chat", "completions", "tools", "vision")
privacy = st.sampled_from(PRIVACY_CLASSES)
rate = st.integers(0, 10**10)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Fleet, tuple[int, ...]]:
    pools = tuple(
        Pool(
            name=f"p{i}",
            models=frozenset(draw(st.sets(st.sampled_from(MODELS)))),
            capabilities=frozenset(draw(st.sets(st.sampled_from(CAPS)))),
            context_tok=draw(st.integers(1, 4_096)),
            privacy=draw(privacy),
            healthy=draw(st.booleans()),
            slots=draw(st.integers(1, 4)),
            queue=draw(st.integers(0, 4)),
            charge_in_nusd_per_mtok=dict.fromkeys(MODELS, draw(rate)),
            charge_out_nusd_per_mtok=dict.fromkeys(MODELS, draw(rate)),
            prefill_tok_per_s=draw(st.floats(1, 1e5)),
            decode_tok_per_s=draw(st.floats(1, 1e5)),
        )
        for i in range(draw(st.integers(1, 4)))
    )
    return Fleet(id=1, at_us=0, pools=pools), tuple(draw(st.integers(0, 8)) for _ in pools)


requests = st.builds(
    Request,
    id=st.just("r"),
    endpoint=st.sampled_from(("chat", "completions")),
    model=st.sampled_from((*MODELS, "none")),
    pool=st.sampled_from((None, "p0", "p1")),
    stream=st.booleans(),
    input_bound_tok=st.integers(0, 20_000),
    max_output_tok=st.none() | st.integers(1, 4_096),
    needs=st.frozensets(st.sampled_from(CAPS[2:])),
    privacy=privacy,
)
callers = st.builds(
    Caller,
    key=st.just(1),
    name=st.just("k"),
    path=st.just((1,)),
    models=st.none() | st.frozensets(st.sampled_from(MODELS)),
    pools=st.none() | st.frozensets(st.sampled_from(("p0", "p1", "p2"))),
)


@given(fleets(), requests, callers)
def test_no_candidate_ever_breaks_a_hard_rule(view, request, caller):
    fleet, busy = view
    route = cheapest_adequate(request, caller, fleet, busy=busy, weights=Weights())
    if not isinstance(route, Route):
        return
    by_name = {pool.name: (pool, n) for pool, n in zip(fleet.pools, busy, strict=True)}
    for candidate in route.candidates:
        pool, in_flight = by_name[candidate.pool]
        assert request.model in pool.models
        assert request.pool in (None, pool.name)
        assert caller.pools is None or pool.name in caller.pools
        assert caller.models is None or request.model in caller.models
        assert {request.endpoint, *request.needs} <= pool.capabilities
        assert PRIVACY_CLASSES.index(request.privacy) <= PRIVACY_CLASSES.index(pool.privacy)
        assert pool.healthy
        assert in_flight < pool.slots + pool.queue


@given(fleets(), requests, callers)
def test_every_place_is_a_candidate_or_has_the_rule_that_excludes_it(view, request, caller):
    fleet, busy = view
    route = cheapest_adequate(request, caller, fleet, busy=busy, weights=Weights())
    if isinstance(route, Route):
        names = [c.pool for c in route.candidates] + [e.pool for e in route.excluded]
        assert sorted(names) == sorted(p.name for p in fleet.pools)
        holds = {
            p.name: request.input_bound_tok / 4 + (request.max_output_tok or 128) <= p.context_tok
            for p in fleet.pools
        }
        order = [(not holds[c.pool], c.score) for c in route.candidates]
        assert order == sorted(order)


@given(fleets(), requests, callers)
def test_the_same_view_gives_the_same_decision(view, request, caller):
    fleet, busy = view
    again = cheapest_adequate(request, caller, fleet, busy=busy, weights=Weights())
    assert cheapest_adequate(request, caller, fleet, busy=busy, weights=Weights()) == again
