"""Hard rules: what a place must meet before anything is scored. Every policy goes through this one file.

Rules that depend on who asks and what kind of request it is (not on its size or the load) are looked at once
for each kind of request and view, and remembered: the result is a function of its arguments, so the memory
changes nothing but the time it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from wattmill.scheduling.spec import Fleet, Pool, Rates
from wattmill.units import TOK_PER_MTOK
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Excluded, Route

RULES = {
    "model": "the place does not serve the model",
    "pinned": "the request names another place",
    "scope": "the key may not use the place or the model",
    "capability": "the place cannot do what the request needs",
    "privacy": "the data is too sensitive for the place",
    "residency": "the data may not go to the place's region",
    "operator": "the data may not go to who runs the place",
    "promise": "the place is too slow for the tier, even when it is idle",
    "health": "the place is down",
    "breaker": "the place failed too often just now",
    "context": "the prompt is longer than the place's context",
    "full": "all slots and the queue of the place are taken",
    "worth": "serving it there now would cost, and cost others, more than a refusal does",
    "budget": "the caps do not leave what the prompt and one token cost there",
}
"""Every rule that can exclude a place, in words."""

_SENSITIVITY = {name: rank for rank, name in enumerate(PRIVACY_CLASSES)}
_MOST_KINDS = 4_096
_NO_RATES: dict[str, Rates] = {}


class Able(NamedTuple):
    """A place that meets every standing rule, with what a decision needs of it for one model."""

    at: int  # index in the fleet
    name: str
    down: str | None  # "health" or "breaker": looked at after the context, since waiting cures it
    context_tok: int
    room: int  # requests that it takes, working and waiting
    slots: int
    in_nusd: float  # per token
    out_nusd: float
    cached_nusd: float
    overhead_s: float
    in_s: float  # per computed prompt token
    out_s: float  # per output token of one choice, alone
    slowdown: float  # each further request at work makes a token take this share longer
    hit_share: float  # of what was sent there before, so much is still cached
    # To the factory per token: computed, cached, output; and `turned_usd_per_s`.
    seldom: tuple[float, float, float, float]
    ahead_share: float  # of the time of prompts sent before it a prompt waits so much
    decode_share: float  # of the slowdown, what comes of others' tokens
    slot_usd_per_s: float  # what a second of a slot is worth to others


Row = tuple[
    int, str, str | None, int, int, int, float, float, float, float, float, float, float, float,
    tuple[float, float, float, float], float, float, float, float,
]  # fmt: skip
"""The figures of an `Able` in its order, and how many others are at work there when it is full: a plain tuple
is unpacked in less than half the time of a named one."""


class Sieved(NamedTuple):
    able: tuple[Able, ...]
    excluded: tuple[Excluded, ...]
    rows: tuple[Row, ...]  # of each that is able
    shortest_tok: int  # the shortest of their contexts
    all_up: bool  # none of them is down


AS_FLOAT: list[float] = []
"""Whole numbers as floats, as many as any place has slots: making one anew takes three times as long."""

_Known = tuple[Pool, str | None, Able | None, Row | None]
"""A place, the rule that it breaks, or what a decision needs of it."""

_memory: dict[tuple[object, ...], tuple[Sieved, Fleet, Caller, list[_Known]]] = {}


def sieved(request: Request, caller: Caller, fleet: Fleet) -> Sieved:
    """Return the places that meet every standing rule, and the others with the first rule they break."""
    # A caller is known by where it stands in memory; holding it here keeps that place its own.
    kind = (
        id(caller),
        request.model,
        request.endpoint,
        request.pool,
        request.needs,
        request.privacy,
        request.residency,
        request.operators,
        request.promise_tok_per_s,
        request.tier,
    )
    known = _memory.get(kind)
    if known is None:
        if len(_memory) >= _MOST_KINDS:
            _memory.clear()
        found, places = _sieve(request, caller, fleet, [])
    elif known[1] is fleet:
        return known[0]
    else:  # from one view to the next most places are the very same
        found, places = _sieve(request, caller, fleet, known[3])
    _memory[kind] = (found, fleet, caller, places)
    return found


def _sieve(
    request: Request, caller: Caller, fleet: Fleet, before: list[_Known]
) -> tuple[Sieved, list[_Known]]:
    """Look at each place that was not looked at `before`, for the same kind of request."""
    places: list[_Known] = []
    most = 0
    for at, pool in enumerate(fleet.pools):
        if at < len(before) and before[at][0] is pool:
            places.append(before[at])
            continue
        rule = standing_rule(request, caller, pool)
        able = row = None
        if rule is None:
            able = _able(at, pool, request.model, request.tier)
            row = (*able, float(pool.slots - 1))
            most = max(most, pool.slots)
        places.append((pool, rule, able, row))
    if len(AS_FLOAT) < most:
        AS_FLOAT.extend([float(n) for n in range(len(AS_FLOAT), most)])
    able_now = [able for _, _, able, _ in places if able is not None]
    excluded = [Excluded(pool.name, rule) for pool, rule, _, _ in places if rule is not None]
    rows = [row for _, _, _, row in places if row is not None]
    shortest_tok = min([able.context_tok for able in able_now], default=0)
    all_up = not any(able.down is not None for able in able_now)
    return Sieved(tuple(able_now), tuple(excluded), tuple(rows), shortest_tok, all_up), places


def standing_rule(request: Request, caller: Caller, pool: Pool) -> str | None:
    """Return the first rule that `pool` breaks whatever the size of the request and the load, or None."""
    if request.model not in pool.models:
        return "model"
    if request.pool is not None and request.pool != pool.name:
        return "pinned"
    if caller.pools is not None and pool.name not in caller.pools:
        return "scope"
    if caller.models is not None and request.model not in caller.models:
        return "scope"
    if request.endpoint not in pool.capabilities or not request.needs <= pool.capabilities:
        return "capability"
    if _SENSITIVITY[request.privacy] > _SENSITIVITY[pool.privacy]:
        return "privacy"
    for regions in (caller.residency, request.residency):
        if regions is not None and pool.region not in regions:
            return "residency"
    for operators in (caller.operators, request.operators):
        if operators is not None and pool.operator not in operators:
            return "operator"
    if request.promise_tok_per_s is not None and pool.decode_tok_per_s < request.promise_tok_per_s:
        return "promise"
    return None


def _able(at: int, pool: Pool, model: str, tier: str) -> Able:
    charge = pool.tier_rates.get(tier, _NO_RATES).get(model)
    if charge is None:
        in_nusd = pool.charge_in_nusd_per_mtok[model]
        cached_nusd = pool.charge_cached_nusd_per_mtok.get(model, in_nusd)
        charge = Rates(in_nusd, pool.charge_out_nusd_per_mtok[model], cached_nusd)
    cost = pool.cost_rates.get(model, charge)
    return Able(
        at=at,
        name=pool.name,
        down=None if pool.healthy and not pool.breaker_open else "breaker" if pool.healthy else "health",
        context_tok=pool.context_tok,
        room=pool.slots + pool.queue,
        slots=pool.slots,
        in_nusd=charge.input / TOK_PER_MTOK,
        out_nusd=charge.output / TOK_PER_MTOK,
        cached_nusd=charge.cached / TOK_PER_MTOK,
        overhead_s=pool.overhead_s * pool.ttft_factor,
        in_s=pool.ttft_factor / pool.prefill_tok_per_s,
        out_s=1.0 / pool.decode_tok_per_s,
        slowdown=pool.slowdown,
        hit_share=pool.hit_share,
        seldom=(
            cost.input / TOK_PER_MTOK,
            cost.cached / TOK_PER_MTOK,
            cost.output / TOK_PER_MTOK,
            pool.turned_usd_per_s,
        ),
        ahead_share=pool.ahead_share,
        decode_share=pool.decode_share,
        slot_usd_per_s=pool.slot_usd_per_s,
    )


def listed(excluded: Sequence[Excluded]) -> str:
    return ", ".join(f"{e.pool} ({e.rule})" for e in excluded)


def refused(
    request: Request, caller: Caller, fleet: Fleet, excluded: Sequence[Excluded], route: Route
) -> Refusal:
    """Name the rule that came nearest to being met: what is cured last is what the caller must hear."""
    rules = {e.rule for e in excluded}
    what = f"model {request.model!r}" + (f" at {request.pool!r}" if request.pool is not None else "")
    if "budget" in rules:
        return Refusal(
            code="budget_exceeded",
            message=f"the caps leave {request.left_nusd} nano-dollars, less than the prompt and one token "
            f"cost at any place that could serve {what} ({listed(excluded)})",
            route=route,
        )
    if "worth" in rules:
        return Refusal(
            code="overloaded",
            message=f"so many wait for {what} that serving this request now would cost, and cost others, "
            f"more than `[routing] refusal_usd` says that a refusal does ({listed(excluded)}); try again "
            "later, or with a shorter prompt or answer",
            retry_after_s=5.0,
            route=route,
        )
    if "full" in rules:
        return Refusal(
            code="overloaded",
            message=f"every place that could serve {what} is full ({listed(excluded)}); try again shortly",
            retry_after_s=1.0,
            route=route,
        )
    if "health" in rules or "breaker" in rules:
        return Refusal(
            code="no_healthy_place",
            message=f"every place that could serve {what} is down ({listed(excluded)}); each is probed "
            "every second and comes back by itself",
            retry_after_s=2.0,
            route=route,
        )
    if "context" in rules:
        longest = max(p.context_tok for p in fleet.pools if request.model in p.models)
        return Refusal(
            code="context_too_long",
            param="messages",
            message=f"the prompt has up to {request.input_bound_tok} tokens, probably more than the longest "
            f"context for {what}, {longest}. Shorten it or declare a place with a longer context.",
            route=route,
        )
    if "promise" in rules:
        return Refusal(
            code="promise",
            message=f"no place that could serve {what} makes the {request.promise_tok_per_s:g} tokens per "
            f"second that tier {request.tier!r} promises ({listed(excluded)})",
            route=route,
        )
    if "operator" in rules or "residency" in rules:
        return _not_there(request, caller, excluded, what, route)
    if "privacy" in rules:
        return Refusal(
            code="privacy",
            message=f"data of class {request.privacy!r} may not go to any place that serves {what}: "
            f"{listed(excluded)}. Send it as a less sensitive class only if it is one.",
            route=route,
        )
    if "capability" in rules:
        wants = ", ".join(sorted({request.endpoint, *request.needs}))
        return Refusal(
            code="no_capability",
            message=f"no place that serves {what} offers all of: {wants}. "
            + _elsewhere(request, caller, fleet),
            route=route,
        )
    if "scope" in rules:
        return Refusal(
            code="out_of_scope",
            param="model",
            message=f"key {caller.name!r} may not use {what}; it may use models "
            f"{_some(caller.models)} at places {_some(caller.pools)}",
            route=route,
        )
    return Refusal(
        code="unknown_model",
        param="model",
        message=f"no place serves {what}; "
        f"this key may use: {', '.join(visible_models(caller, fleet)) or 'none'}",
        route=route,
    )


def _elsewhere(request: Request, caller: Caller, fleet: Fleet) -> str:
    """Return the way out where the place that was named cannot do it: those that can, if there are any."""
    anywhere = msgspec.structs.replace(request, pool=None)
    able = [p.name for p in fleet.pools if standing_rule(anywhere, caller, p) is None]
    if not able:
        return "GET /v1/models lists what is served."
    return f"{', '.join(able)} can: name no place (model {request.model!r}), or one of these."


def _not_there(
    request: Request, caller: Caller, excluded: Sequence[Excluded], what: str, route: Route
) -> Refusal:
    by_operator = any(e.rule == "operator" for e in excluded)
    sets = (caller.operators, request.operators) if by_operator else (caller.residency, request.residency)
    given = [names for names in sets if names is not None]
    allowed = given[0].intersection(*given[1:]) if given else frozenset()
    noun = "run by" if by_operator else "in"
    return Refusal(
        code="operator" if by_operator else "residency",
        message=f"no place that serves {what} is {noun} {_some(frozenset(allowed))}, where this data must "
        f"stay ({listed(excluded)})",
        route=route,
    )


def _some(names: frozenset[str] | None) -> str:
    return "all" if names is None else ", ".join(sorted(names)) or "none"


def visible_models(caller: Caller, fleet: Fleet) -> list[str]:
    """Return what `caller` may ask for: each model by its plain name, and pinned to each place."""
    plain: dict[str, None] = {}
    pinned: list[str] = []
    for pool in fleet.pools:
        if caller.pools is not None and pool.name not in caller.pools:
            continue
        for model in sorted(pool.models):
            if caller.models is None or model in caller.models:
                plain[model] = None
                pinned.append(f"{pool.name}/{model}")
    return [*plain, *pinned]
