"""The table of policies: one score each, over the same hard rules and the same expectations."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.scheduling.ranking import Look, Place, Score, carbon_g, decide, quality, weighted
from wattmill.scheduling.spec import Fleet, Policy, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Hints, Route


def _fastest(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    return [place[3].expected_s for place in places], None


def _greenest(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    """Grams of CO2; a place of which nobody knows them comes after all others, by the usual score."""
    grams = [carbon_g(look, place) for place in places]
    known = [g for g in grams if g is not None]
    if not known:
        return weighted(look, places)[0], "of no place the carbon is known: by dollars and seconds"
    usual, worst = weighted(look, places)[0], max(known)
    scores = [worst + 1.0 + value if g is None else g for g, value in zip(grams, usual, strict=True)]
    return scores, None


def _cascade(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    """Small first: by declared quality, the cheapest first where two are alike or nothing is declared. Models
    whose answers the client found wanting (`Request.steps`) come last."""
    usual = weighted(look, places)[0]
    spread = max(usual) - min(usual) + 1.0
    grades = sorted({quality(look, place) or 0.0 for place in places})
    passed, most = min(look.request.steps, len(grades) - 1), len(grades)
    steps = [grades.index(quality(look, place) or 0.0) for place in places]
    steps = [step if step >= passed else step + most for step in steps]
    return [step * spread + value for step, value in zip(steps, usual, strict=True)], None


def _round_robin(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    turn = look.hints.turn % len(places)
    scores = [float((i - turn) % len(places)) for i in range(len(places))]
    return scores, f"it is the turn of {places[turn][3].pool}"


def _least_loaded(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    shares = [look.busy[place[2]] / place[4].slots for place in places]
    least = shares.index(min(shares))
    return shares, f"{places[least][3].pool} has the smallest share of its slots taken"


SCORES: dict[str, Score | None] = {
    "cheapest-adequate": None,
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


POLICIES: dict[str, Policy] = {name: policy(name, score) for name, score in SCORES.items()}
"""Every built-in policy by the name that `[routing] policy` takes."""
