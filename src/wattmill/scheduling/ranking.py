"""From what is asked to an order of places: hard rules, expectations, a score, a reason.

Every policy is this with another score.

The order is by class first (a place that has room for the whole answer and keeps the tier's promise now, one
that is late for the promise, one that would cut the answer short), then by score, then by declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

from wattmill.scheduling.filters import AS_FLOAT, Able, Sieved, listed, refused, sieved
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.units import G_PER_KG, J_PER_KWH, NUSD_PER_USD
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Candidate, Excluded, Hints, Route

FIT, LATE, SHORT = 0, 1, 2

LAST = 8
"""How late in a queue what a refusal costs begins to count: at nine tenths of its seats it counts 0.43."""


Place = tuple[int, float, int, Candidate, Able]
"""(class, score, index in the fleet, expectations, constants) of one place that may serve the request."""


class Look(NamedTuple):
    """What a policy may look at to score the places: everything is recorded, so the decision replays."""

    request: Request
    caller: Caller
    fleet: Fleet
    busy: Sequence[int]
    weights: Weights
    now_s: float
    hints: Hints
    input_tok: float
    output_tok: int  # expected, over all choices


Score = Callable[[Look, list[Place]], tuple[list[float], str | None]]
"""Return one score for each place (lower is better), and a reason or None for the usual words."""


Weighed = tuple[list[Candidate], dict[int, int], tuple[Excluded, ...]]
"""The places that may serve a request now, in the order of the fleet; by index in these the class where that
is not FIT; and all that is ruled out. Most decisions need no more, and a plain tuple costs least."""
Freed = tuple[int, float, float, float]
"""Of a full place, if a slot were free there: its index in the fleet, the score, the expected seconds, and
the slot-seconds that the request would take up, its own and what it makes others stay longer."""

_score_of = attrgetter("score")


def _places(sieve: Sieved, found: Weighed) -> list[Place]:
    """Return each place with all that is known of it."""
    candidates, classes, _ = found
    able = {one.name: one for one in sieve.able}
    return [
        (classes.get(i, FIT), candidate.score, able[candidate.pool].at, candidate, able[candidate.pool])
        for i, candidate in enumerate(candidates)
    ]


def decide(
    name: str,
    score: Score | None,
    request: Request,
    caller: Caller,
    fleet: Fleet,
    busy: Sequence[int],
    weights: Weights,
    now_s: float,
    draw: float,
    hints: Hints,
    freed: list[Freed] | None = None,
) -> Route | Refusal:
    """Return the places by `score`, best first; None scores by expected dollars and the weights. `freed`: is
    told what each full place would offer, as `weigh` says."""
    sieve = sieved(request, caller, fleet)
    found = weigh(sieve, request, busy, weights, hints, freed)
    candidates, classes, excluded = found
    count = len(candidates)
    if not count:
        looked = Route((), excluded, "", fleet.id, tuple(busy), name, now_s, draw, hints)
        return refused(request, caller, fleet, excluded, looked)
    more = values_more(weights)
    reason = None
    if score is None and not classes and not more and draw >= weights.explore:
        # Nearly every decision: all places are of one class, and what was found are the scores.
        if count > 1:
            candidates.sort(key=_score_of)  # stable: ties go to the first declared
            reason = _preference(candidates[0], candidates[1])
    else:
        places = _places(sieve, found)
        if score is not None or more:
            input_tok = request.input_bound_tok / weights.bound_tok_per_tok
            output_tok = expected_output_tok(request, weights, hints)
            look = Look(request, caller, fleet, busy, weights, now_s, hints, input_tok, output_tok)
            given, reason = (score or weighted)(look, places)
            places = [_scored(place, value) for place, value in zip(places, given, strict=True)]
        if count > 1:
            places.sort()
            if draw < weights.explore:
                reason = _explore(places, draw / weights.explore) or reason
            reason = reason or _reason(places)
        candidates = [place[3] for place in places]
    worth = weights.refusal_usd
    if worth is not None and score is None and min([c.score for c in candidates]) > worth:
        excluded += tuple([Excluded(c.pool, "worth") for c in candidates])
        looked = Route((), excluded, "", fleet.id, tuple(busy), name, now_s, draw, hints)
        return refused(request, caller, fleet, excluded, looked)
    if reason is None or count == 1:
        reason = _only(candidates[0], excluded, request)
    return Route(tuple(candidates), excluded, reason, fleet.id, tuple(busy), name, now_s, draw, hints)


def weigh(
    sieve: Sieved,
    request: Request,
    busy: Sequence[int],
    weights: Weights,
    hints: Hints,
    freed: list[Freed] | None,
) -> Weighed:
    """Return what is expected of each place that is able, and which are out of the question now.

    `freed` is told what each place whose slots are all taken, those with full queues too, would offer if one
    of its slots were free: its score without what a slot is worth to others, and the expected seconds.
    """
    output_tok, longest_tok = output_toks(request, weights, hints)
    excluded = sieve.excluded
    input_tok = request.input_bound_tok / weights.bound_tok_per_tok
    whole_tok = input_tok + longest_tok
    # Whole numbers are made floats once: the interpreter multiplies two floats in half the time of a pair.
    out_tok = float(output_tok)
    fits_all = whole_tok < sieve.shortest_tok
    shared, ahead = hints.shared_tok, hints.ahead_tok
    usd_per_s = 0.0 if request.frugal else weights.usd_per_s
    theirs_usd_per_s = weights.others * usd_per_s
    scarce = weights.others * weights.scarcity
    by_cost = weights.leg == "cost"
    left_nusd = request.left_nusd
    promise_s, least_tok_per_s = request.promise_ttft_s, request.promise_tok_per_s
    promised = promise_s is not None or least_tok_per_s is not None
    # Where every place is up and long enough, and nothing else is asked, only the load is looked at.
    plain = fits_all and sieve.all_up and not (shared or by_cost or promised or left_nusd is not None)
    as_float = AS_FLOAT
    reused_tok = 0.0
    turned_away = False  # the place at hand has no room, and is looked at for `freed` only
    candidates: list[Candidate] = []
    classes: dict[int, int] = {}
    for (
        at, pool, down, context_tok, room, slots, in_nusd, out_nusd, cached_nusd,
        overhead_s, in_s, out_s, slow, hits, seldom, waits,
        tokens, slot_usd, others,
    ) in sieve.rows:  # fmt: skip
        in_flight = busy[at]
        if not plain:
            if input_tok >= context_tok:
                excluded += (Excluded(pool, "context"),)
                continue
            if down is not None:
                excluded += (Excluded(pool, down),)
                continue
        if in_flight < slots:
            others = as_float[in_flight]  # else as it came: a full place's
        elif in_flight >= room:
            excluded += (Excluded(pool, "full"),)
            if freed is None:
                continue
            turned_away = True
        usual_nusd = input_tok * in_nusd
        prompt_s = input_tok * in_s
        if not plain:
            reused_tok = 0.0
            if shared and hits:
                reused_tok = min(shared[at], input_tok) * hits
                usual_nusd -= reused_tok * (in_nusd - cached_nusd)
                prompt_s = (input_tok - reused_tok) * in_s
            if left_nusd is not None and usual_nusd + out_nusd > left_nusd:
                if not turned_away:
                    excluded += (Excluded(pool, "budget"),)
                turned_away = False
                continue
        # Everybody at work waits for a newcomer: for its prompt where prompts wait for each other, and a
        # little in each of its steps; the fitted slowdown holds others' prompts too, so half is counted here.
        alone_s = out_tok * out_s
        slower_s = alone_s * slow
        decode_s = alone_s + others * slower_s
        ttft_s = overhead_s + prompt_s
        theirs_s = others * (1.0 + others * slow) * (tokens * slower_s + waits * prompt_s)
        nusd = round(usual_nusd + out_tok * out_nusd)
        if by_cost:
            counted = (input_tok - reused_tok) * seldom[0] + reused_tok * seldom[1] + out_tok * seldom[2]
            usd = counted / NUSD_PER_USD
        else:
            usd = nusd / NUSD_PER_USD
        if in_flight >= slots:
            # All slots are taken: with w requests ahead in the queue, (w + 1) / slots service times. As
            # many will come behind it and wait the slots' part of a service time longer because of it.
            queued_s = (in_flight - slots + 1) / slots * (ttft_s + decode_s)
            ahead_s = ahead[at] * in_s * waits if ahead else 0.0
            taken_s = prompt_s + decode_s + others * (tokens * slower_s + waits * prompt_s)
            if freed is not None:
                soon_s = ttft_s + ahead_s + decode_s
                value = usd + usd_per_s * soon_s + theirs_usd_per_s * theirs_s
                freed.append((at, value, soon_s, taken_s))
                if turned_away:
                    turned_away = False
                    continue
            ttft_s += queued_s if queued_s > ahead_s else ahead_s
            theirs_s += queued_s
        elif ahead:
            ttft_s += ahead[at] * in_s * waits
        total_s = ttft_s + decode_s
        value = usd + usd_per_s * total_s + theirs_usd_per_s * theirs_s
        if slot_usd:
            if in_flight < slots:
                share = in_flight / slots
                value += scarce * slot_usd * share * share * (prompt_s + decode_s)
            else:
                # The last seats of the queue are for those who take up little: a place that must turn some
                # away serves more of them if it turns the large ones away.
                seats = (in_flight - slots + 1) / (room - slots)
                value += scarce * (slot_usd * (prompt_s + decode_s) + seldom[3] * seats**LAST * taken_s)
        if not plain:
            if whole_tok > context_tok:
                classes[len(candidates)] = SHORT
            elif (promise_s is not None and ttft_s > promise_s) or (
                least_tok_per_s is not None and decode_s * least_tok_per_s > output_tok
            ):
                classes[len(candidates)] = LATE
        candidates.append(Candidate(pool, nusd, ttft_s, total_s, value))
    return candidates, classes, excluded


def values_more(weights: Weights) -> bool:
    """Whether the weights value more than dollars and seconds."""
    return bool(
        weights.usd_per_kg_co2 or weights.energy or weights.usd_per_quality or weights.usd_per_tok_per_s
    )


def output_toks(request: Request, weights: Weights, hints: Hints) -> tuple[int, int]:
    """Return how many tokens the answer will probably have over all choices, and how long one may become."""
    if request.endpoint == "embeddings":
        return 0, 0
    likely = hints.output_tok or weights.expected_output_tok
    asked = request.max_output_tok
    if asked is None:
        return likely * request.choices, likely
    return (likely if likely < asked else asked) * request.choices, asked


def expected_output_tok(request: Request, weights: Weights, hints: Hints) -> int:
    """Return how many tokens the answer was expected to have, over all choices."""
    return output_toks(request, weights, hints)[0]


def _scored(place: Place, value: float) -> Place:
    kind, _, at, c, able = place
    return kind, value, at, Candidate(c.pool, c.expected_nusd, c.expected_ttft_s, c.expected_s, value), able


# --- what the weights can value beside money and time ------------------------------------------------------


def weighted(look: Look, places: list[Place]) -> tuple[list[float], None]:
    """Score by expected dollars, and what the weights say that seconds, carbon, quality and speed are worth.

    What nobody knows of a place counts as the worst that is known of the others: never as nothing.
    """
    weights = look.weights
    scores = [place[1] for place in places]
    if weights.usd_per_kg_co2:
        grams = [carbon_g(look, place) for place in places]
        most = max([g for g in grams if g is not None], default=0.0)
        for i, g in enumerate(grams):
            scores[i] += (most if g is None else g) / G_PER_KG * weights.usd_per_kg_co2
    if weights.energy:
        spent = [energy_usd(look, place) for place in places]
        most = max([usd for usd in spent if usd is not None], default=0.0)
        for i, usd in enumerate(spent):
            scores[i] += (most if usd is None else usd) * weights.energy
    if weights.usd_per_quality:
        grades = [quality(look, place) for place in places]
        least = min([q for q in grades if q is not None], default=0.0)
        for i, q in enumerate(grades):
            scores[i] -= (least if q is None else q) * weights.usd_per_quality
    if weights.usd_per_tok_per_s:
        for i, place in enumerate(places):
            scores[i] -= tok_per_s(look, place) * weights.usd_per_tok_per_s
    return scores, None


def carbon_g(look: Look, place: Place) -> float | None:
    """Return the expected grams of CO2 of the request at a place, None if nobody knows."""
    return _carbon_g(look.fleet, place[2], look.hints, look.input_tok, look.output_tok)


def energy_usd(look: Look, place: Place) -> float | None:
    """Return the expected dollars of the request's electricity in this hour, None if nobody knows."""
    price = look.fleet.pools[place[2]].energy_usd_per_kwh
    joules = _joules(look.fleet, place[2], look.hints, look.input_tok, look.output_tok)
    return None if price is None or joules is None else joules / J_PER_KWH * price


def expected_carbon_g(
    request: Request, fleet: Fleet, weights: Weights, hints: Hints, pool: str
) -> float | None:
    """Return the same of a decision that was taken: `pool` is the name of the place."""
    at = [p.name for p in fleet.pools].index(pool)
    input_tok = request.input_bound_tok / weights.bound_tok_per_tok
    return _carbon_g(fleet, at, hints, input_tok, output_toks(request, weights, hints)[0])


def _carbon_g(fleet: Fleet, at: int, hints: Hints, input_tok: float, output_tok: int) -> float | None:
    intensity = fleet.pools[at].carbon_g_per_kwh
    joules = _joules(fleet, at, hints, input_tok, output_tok)
    return None if intensity is None or joules is None else joules / J_PER_KWH * intensity


def _joules(fleet: Fleet, at: int, hints: Hints, input_tok: float, output_tok: int) -> float | None:
    pool = fleet.pools[at]
    if pool.energy_j_per_tok is None or pool.energy_j_per_in_tok is None:
        return None
    computed_tok = input_tok - cached_tok(hints, at, pool, input_tok)
    return computed_tok * pool.energy_j_per_in_tok + output_tok * pool.energy_j_per_tok


def cached_tok(hints: Hints, at: int, pool: Pool, input_tok: float) -> float:
    """Return how much of the prompt is probably in the prefix cache of place `at`."""
    return min(hints.shared_tok[at], input_tok) * pool.hit_share if hints.shared_tok else 0.0


def quality(look: Look, place: Place) -> float | None:
    """Return the declared quality of the model at a place, 0 to 1."""
    return look.fleet.pools[place[2]].quality.get(look.request.model)


def tok_per_s(look: Look, place: Place) -> float:
    """Return how fast a reader will probably see tokens come at a place."""
    able = place[4]
    others = min(look.busy[place[2]], able.slots - 1)
    return 1.0 / (able.out_s * (1.0 + able.slowdown * others))


# --- words -------------------------------------------------------------------------------------------------


def _explore(places: list[Place], share: float) -> str | None:
    """Put another place of the best class first; `share` in [0, 1) picks it. None if there is no other."""
    rivals = [i for i, place in enumerate(places) if place[0] == places[0][0]][1:]
    if not rivals:
        return None
    best = places[0][3].pool
    places.insert(0, places.pop(rivals[int(share * len(rivals))]))
    return f"{places[0][3].pool} is tried instead of {best}, to know how it does (explore)"


def _only(best: Candidate, excluded: Sequence[Excluded], request: Request) -> str:
    others = [e for e in excluded if e.rule != "model"] if excluded else None
    if not others:
        return f"{best.pool} is the only place that serves this model"
    if request.pool is not None:
        return f"{best.pool} was asked for by name"
    return f"{best.pool} is the only place left; ruled out: {listed(others)}"


def _reason(places: list[Place]) -> str:
    best = places[0][3]
    if places[-1][0] != places[0][0]:
        for kind, _, _, cheaper, _ in places:
            if kind != places[0][0] and cheaper.score < best.score:
                if kind == SHORT:
                    return f"{best.pool} has room for the whole answer; {cheaper.pool} would cut it short"
                return f"{best.pool} keeps the promise of the tier; {cheaper.pool} would not just now"
    return _preference(best, places[1][3])


def _preference(best: Candidate, rest: Candidate) -> str:
    if best.expected_nusd > rest.expected_nusd:
        if best.expected_s >= rest.expected_s:
            return f"{best.pool} keeps others from waiting more than the cheaper {rest.pool} saves"
        return f"{best.pool} saves {rest.expected_s - best.expected_s:.2f} s against the cheaper {rest.pool}"
    price = "cheaper than" if best.expected_nusd < rest.expected_nusd else "as cheap as"
    if best.expected_s <= rest.expected_s:
        return f"{best.pool} is {price} {rest.pool} and no slower"
    gain = f"{best.expected_s - rest.expected_s:.2f} s faster for more than that is worth"
    return f"{best.pool} is {price} {rest.pool}, which would be {gain}"
