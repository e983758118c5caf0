"""The table of policies: one score each, over the same hard rules and the same expectations."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.scheduling.ranking import Freed, Look, Place, Score, carbon_g, decide, quality, weighted
from wattmill.scheduling.spec import Fleet, Policy, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Hints, Route


def _first(places: list[Place], scores: list[float]) -> int:
    """Return which of `places` these scores put first: by class, score, declaration."""
    return min(range(len(places)), key=lambda i: (places[i][0], scores[i], places[i][2]))


def _fastest(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    scores = [place[3].expected_s for place in places]
    best = places[_first(places, scores)][3]
    return scores, f"{best.pool} is expected to be done first, in {best.expected_s:.2f} s"


def _greenest(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    """Grams of CO2; a place of which nobody knows them comes after all others, by the usual score."""
    grams = [carbon_g(look, place) for place in places]
    usual = weighted(look, places)[0]
    known = [g for g in grams if g is not None]
    if not known:
        return usual, "of no place the carbon is known: by dollars and seconds"
    worst = max(known)
    scores = [worst + 1.0 + value if g is None else g for g, value in zip(grams, usual, strict=True)]
    best = _first(places, scores)
    g, name = grams[best], places[best][3].pool
    return scores, f"{name} is expected to emit the least, {'unknown' if g is None else f'{g:.4f} g of CO2'}"


def _cascade(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    """Small first: by declared quality, the cheapest first where two are alike or nothing is declared. Models
    whose answers the client found wanting (`Request.steps`) come last."""
    usual = weighted(look, places)[0]
    spread = max(usual) - min(usual) + 1.0
    grades = sorted({quality(look, place) or 0.0 for place in places})
    passed, most = min(look.request.steps, len(grades) - 1), len(grades)
    steps = [grades.index(quality(look, place) or 0.0) for place in places]
    steps = [step if step >= passed else step + most for step in steps]
    scores = [step * spread + value for step, value in zip(steps, usual, strict=True)]
    if most == 1:
        return scores, None  # nothing to go on to: the usual words
    first = _first(places, scores)
    larger = grades[steps[first] % most + 1 :]
    then = f"; {len(larger)} better ones stand behind it" if larger else ", the best there is"
    return scores, f"{places[first][3].pool} has the model to begin with{then}"


def _round_robin(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    turn = look.hints.turn % len(places)
    scores = [float((i - turn) % len(places)) for i in range(len(places))]
    return scores, f"it is the turn of {places[_first(places, scores)][3].pool}"


def _least_loaded(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    shares = [look.busy[place[2]] / place[4].slots for place in places]
    return shares, f"{places[_first(places, shares)][3].pool} has the smallest share of its slots taken"


DEFAULT = "cheapest-adequate"
SCORES: dict[str, Score | None] = {
    DEFAULT: None,
    "fastest": _fastest,
    "greenest": _greenest,
    "cascade": _cascade,
    "round-robin": _round_robin,
    "least-loaded": _least_loaded,
}


def policy(name: str, score: Score | None) -> Policy:
    """Return the policy that orders places by `score`; None: dollars and what the weights value."""

    def decides(
        request: Request,
        caller: Caller,
        fleet: Fleet,
        *,
        busy: Sequence[int],
        weights: Weights,
        now_s: float = 0.0,
        draw: float = 0.0,
        hints: Hints = NO_HINTS,
    ) -> Route | Refusal:
        return decide(name, score, request, caller, fleet, busy, weights, now_s, draw, hints)

    decides.__name__ = decides.__qualname__ = name.replace("-", "_")
    return decides


def default_telling(
    request: Request,
    caller: Caller,
    fleet: Fleet,
    *,
    busy: Sequence[int],
    weights: Weights,
    now_s: float,
    draw: float,
    hints: Hints,
    freed: list[Freed],
) -> Route | Refusal:
    """Decide as `cheapest-adequate` does, and tell `freed` what full places would offer (`ranking.weigh`): it
    is known on the way. Only where the weights value no more than dollars and seconds."""
    return decide(DEFAULT, None, request, caller, fleet, busy, weights, now_s, draw, hints, freed)


POLICIES: dict[str, Policy] = {name: policy(name, score) for name, score in SCORES.items()}
"""Every built-in policy by the name that `[routing] policy` takes."""
