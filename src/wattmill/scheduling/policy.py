"""Where a request goes: hard rules first, then the cheapest place, with a price on seconds.

Pure functions of (request, caller, fleet, busy, weights): the gateway and the twin call the same ones, and a
recorded decision replays to the identical answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.units import NUSD_PER_USD, TOK_PER_MTOK
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Candidate, Excluded, Route

_SENSITIVITY = {name: rank for rank, name in enumerate(PRIVACY_CLASSES)}


def cheapest_adequate(
    request: Request, caller: Caller, fleet: Fleet, *, busy: Sequence[int], weights: Weights
) -> Route | Refusal:
    """Return the places that may serve `request`, best first, or why none may.

    The score is expected dollars + `weights.usd_per_s` x expected seconds; ties go to the place declared
    first. A place that fails a hard rule (model, scope, capability, privacy, context, health, room) is never
    a candidate, whatever its score: the gateway's failover walks the candidates only.

    Args:
        busy: requests in flight at each of `fleet.pools`, in the same order.
    """
    candidates: list[Candidate] = []
    short: list[Candidate] = []  # places whose context holds the prompt, but not the answer as well
    excluded: list[Excluded] = []
    input_tok = request.input_bound_tok / weights.bound_tok_per_tok
    for pool, in_flight in zip(fleet.pools, busy, strict=True):
        rule = _broken_rule(request, caller, pool, in_flight, input_tok)
        if rule is not None:
            excluded.append(Excluded(pool.name, rule))
            continue
        candidate = _expect(request, pool, in_flight, input_tok, weights)
        whole_tok = input_tok + _whole_output_tok(request, weights)
        (candidates if whole_tok <= pool.context_tok else short).append(candidate)
    if not candidates and not short:
        return _refusal(request, caller, fleet, excluded)
    candidates.sort(key=_by_score)
    short.sort(key=_by_score)
    reason = _reason(candidates, short, excluded)
    return Route((*candidates, *short), tuple(excluded), reason, fleet.id, tuple(busy))


def _expected_output_tok(request: Request, weights: Weights) -> int:
    """Return how many tokens the answer will probably have, over all choices."""
    if request.endpoint == "embeddings":
        return 0
    asked_tok = request.max_output_tok
    expected_tok = weights.expected_output_tok
    return (expected_tok if asked_tok is None else min(asked_tok, expected_tok)) * request.choices


def _whole_output_tok(request: Request, weights: Weights) -> int:
    """Return how long one choice may become: as long as asked, else as expected."""
    if request.endpoint == "embeddings":
        return 0
    return weights.expected_output_tok if request.max_output_tok is None else request.max_output_tok


def _by_score(candidate: Candidate) -> float:
    return candidate.score


def _broken_rule(
    request: Request, caller: Caller, pool: Pool, in_flight: int, input_tok: float
) -> str | None:
    """Return the first hard rule that `pool` breaks, or None."""
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
    if input_tok >= pool.context_tok:
        return "context"
    if not pool.healthy:
        return "health"
    if in_flight >= pool.slots + pool.queue:
        return "full"
    return None


def _expect(request: Request, pool: Pool, in_flight: int, input_tok: float, weights: Weights) -> Candidate:
    """Expect cost and time of `request` at `pool` from its price and its present speed.

    A place with all slots taken makes a newcomer wait for its turn: with `w` requests ahead of it in the
    queue and `slots` served side by side, (w + 1) / slots service times.
    """
    output_tok = _expected_output_tok(request, weights)
    prefill_s = pool.overhead_s + input_tok / pool.prefill_tok_per_s
    decode_s = output_tok / pool.decode_tok_per_s
    ahead = in_flight - pool.slots + 1
    wait_s = ahead / pool.slots * (prefill_s + decode_s) if ahead > 0 else 0.0
    nusd = round(
        (
            input_tok * pool.charge_in_nusd_per_mtok[request.model]
            + output_tok * pool.charge_out_nusd_per_mtok[request.model]
        )
        / TOK_PER_MTOK
    )
    ttft_s = wait_s + prefill_s
    total_s = ttft_s + decode_s
    return Candidate(pool.name, nusd, ttft_s, total_s, nusd / NUSD_PER_USD + weights.usd_per_s * total_s)


def _reason(candidates: list[Candidate], short: list[Candidate], excluded: list[Excluded]) -> str:
    if short and candidates:
        cheaper = min(short, key=_by_score)
        if cheaper.score < candidates[0].score:
            return f"{candidates[0].pool} has room for the whole answer; {cheaper.pool} would cut it short"
    candidates = [*candidates, *short]
    best = candidates[0]
    if len(candidates) == 1:
        others = [e for e in excluded if e.rule != "model"]
        if not others:
            return f"{best.pool} is the only place that serves this model"
        if all(e.rule == "pinned" for e in others):
            return f"{best.pool} was asked for by name"
        return f"{best.pool} is the only place left; ruled out: {_listed(others)}"
    rest = candidates[1]
    if best.expected_nusd > rest.expected_nusd:
        return f"{best.pool} saves {rest.expected_s - best.expected_s:.2f} s against the cheaper {rest.pool}"
    price = "cheaper than" if best.expected_nusd < rest.expected_nusd else "as cheap as"
    if best.expected_s <= rest.expected_s:
        return f"{best.pool} is {price} {rest.pool} and no slower"
    late_s = best.expected_s - rest.expected_s
    gain = f"{late_s:.2f} s faster for more than that is worth"
    return f"{best.pool} is {price} {rest.pool}, which would be {gain}"


def _listed(excluded: list[Excluded]) -> str:
    return ", ".join(f"{e.pool} ({e.rule})" for e in excluded)


def _refusal(request: Request, caller: Caller, fleet: Fleet, excluded: list[Excluded]) -> Refusal:
    """Name the rule that came nearest to being met: what is cured last is what the caller must hear."""
    rules = {e.rule for e in excluded}
    what = f"model {request.model!r}" + (f" at {request.pool!r}" if request.pool is not None else "")
    if "full" in rules:
        return Refusal(
            code="overloaded",
            message=f"every place that could serve {what} is full ({_listed(excluded)}); try again shortly",
            retry_after_s=1.0,
        )
    if "health" in rules:
        return Refusal(
            code="no_healthy_place",
            message=f"every place that could serve {what} is down ({_listed(excluded)}); each is probed "
            "every second and comes back by itself",
            retry_after_s=2.0,
        )
    if "context" in rules:
        longest = max(p.context_tok for p in fleet.pools if request.model in p.models)
        return Refusal(
            code="context_too_long",
            param="messages",
            message=f"the prompt has up to {request.input_bound_tok} tokens, probably more than the longest "
            f"context for {what}, {longest}. Shorten it or declare a place with a longer context.",
        )
    if "privacy" in rules:
        return Refusal(
            code="privacy",
            message=f"data of class {request.privacy!r} may not go to any place that serves {what}: "
            f"{_listed(excluded)}. Send it as a less sensitive class only if it is one.",
        )
    if "capability" in rules:
        wants = ", ".join(sorted({request.endpoint, *request.needs}))
        return Refusal(
            code="no_capability",
            message=f"no place that serves {what} offers all of: {wants}. "
            "GET /v1/models lists what is served.",
        )
    if "scope" in rules:
        return Refusal(
            code="out_of_scope",
            param="model",
            message=f"key {caller.name!r} may not use {what}; it may use models "
            f"{_some(caller.models)} at places {_some(caller.pools)}",
        )
    return Refusal(
        code="unknown_model",
        param="model",
        message=f"no place serves {what}; "
        f"this key may use: {', '.join(visible_models(caller, fleet)) or 'none'}",
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
