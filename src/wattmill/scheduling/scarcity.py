"""What a second of a place's slot is worth to those who come: a price that full places teach.

A place whose slots are all taken turns away, or lets wait, requests that would have gained there. What such a
request would have gained with a slot free against what it got, for each second that it would have held the
slot, is looked at for all requests that may go there (nothing for those that find a free slot). The price is
the root of the mean square, since what counts is not the mean request but those that gain most. A newcomer's
score has the price of the seconds that it will probably hold a slot, as far as slots are taken (`ranking`),
so that work which gains little leaves the scarce place to work which gains much. It is what the dual of a
clairvoyant's linear programme says of a place, learned from the past instead of the future.

Where some are refused, each refusal costs the same whatever its size, so those should be refused that take up
most slot-seconds: their own, and those that they make others stay longer. What a refusal costs over the
slot-seconds of a mean request is the second price. It counts in the last seats of a queue only (`ranking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt

import msgspec

from wattmill.scheduling.filters import sieved
from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.ranking import Freed, weigh
from wattmill.scheduling.spec import Fleet, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Hints, Route

LESSONS = 16
"""So many decisions of a refresh (about 0.25 s) are looked at: each costs up to another decision."""

TAU_S = 5.0
"""What was seen so long ago counts 1/e of what is seen now."""

SURELY = 20.0
"""Where one in so many of those that find a place full is refused, what a refusal costs counts in full."""

DENIED_S = 500.0
"""Without a declared `refusal_usd` a refusal is thought to be as bad as waiting so long."""

_NOTHING = 0.01  # a price below this part of what a second is worth is none
_NOT_NOW = frozenset({"full", "worth"})
_free = POLICIES["cheapest-adequate"]


class Scarcity:
    """The prices of one worker's places. Bounded: five figures for each place."""

    def __init__(self) -> None:
        self.lessons = LESSONS  # how many more decisions are looked at before the next refresh
        self._gains: list[float] = []
        self._asked: list[float] = []
        # Of those that found it full: how many, the slot-seconds that they take up, how many were refused.
        self._met: list[float] = []
        self._taken: list[float] = []
        self._denied: list[float] = []
        self._at_s: float | None = None

    def begin(self, places: int) -> None:
        """Forget everything: the places are others."""
        self._gains, self._asked = [0.0] * places, [0.0] * places
        self._met, self._taken, self._denied = [0.0] * places, [0.0] * places, [0.0] * places

    def learn(
        self,
        request: Request,
        caller: Caller,
        fleet: Fleet,
        answer: Route | Refusal,
        *,
        busy: Sequence[int],
        weights: Weights,
        hints: Hints,
        at: dict[str, int],
        freed: list[Freed] | None = None,
    ) -> None:
        """Look at one decision of the default policy; `at` has the index of each place. `freed`: what full
        places would have offered, where the decision told it."""
        self.lessons -= 1
        asked, pools = self._asked, fleet.pools
        route = answer.route if isinstance(answer, Refusal) else answer
        if route is None:
            return
        chosen = [at[candidate.pool] for candidate in route.candidates]
        for i in chosen:
            asked[i] += 1
        if freed is None:
            full = any(busy[i] >= pools[i].slots for i in chosen)
        else:
            full = bool(freed)
        for excluded in route.excluded:
            if excluded.rule in _NOT_NOW:
                asked[at[excluded.pool]] += 1
                full = True
        if not full:
            return
        got = refusal_usd(weights)
        if route.candidates and route.candidates[0].score < got:
            got = route.candidates[0].score
        if freed is None:
            freed = self._freed(request, caller, fleet, busy, weights, hints, at)
        gains, met, taken, denied = self._gains, self._met, self._taken, self._denied
        served = bool(chosen)
        for i, score, expected_s, taken_s in freed:
            met[i] += 1.0
            taken[i] += taken_s
            if not served:
                denied[i] += 1.0
            if score < got:
                gains[i] += ((got - score) / expected_s) ** 2

    def _freed(
        self,
        request: Request,
        caller: Caller,
        fleet: Fleet,
        busy: Sequence[int],
        weights: Weights,
        hints: Hints,
        at: dict[str, int],
    ) -> list[Freed]:
        """Return what the request would find at each full place if one of its slots were free, by another
        decision."""
        pools = fleet.pools
        room = [min(n, pool.slots - 1) for n, pool in zip(busy, pools, strict=True)]
        free = _free(request, caller, fleet, busy=room, weights=unpriced(weights), hints=hints, draw=1.0)
        if isinstance(free, Refusal):
            return []
        told: list[Freed] = []
        weigh(sieved(request, caller, fleet), request, busy, unpriced(weights), hints, told)
        taken_s = {one[0]: one[3] for one in told}
        found = [(at[c.pool], c.score, c.expected_s) for c in free.candidates]
        return [(*one, taken_s[one[0]]) for one in found if one[0] in taken_s]

    def refresh(self, now_s: float, weights: Weights) -> list[tuple[float, float]]:
        """Return, by place, the price of a second of a slot and what a refusal costs for each slot-second of
        a mean request there, both in dollars; 0 where slots are free and nobody is refused."""
        kept = 0.0 if self._at_s is None else exp(-max(0.0, now_s - self._at_s) / TAU_S)
        self._at_s = now_s
        self.lessons = LESSONS
        least = _NOTHING * weights.usd_per_s
        denied_usd = refusal_usd(weights)
        prices = []
        for gain, asked, met, taken_s, denied in zip(
            self._gains, self._asked, self._met, self._taken, self._denied, strict=True
        ):
            slot_usd = sqrt(gain / asked) if asked else 0.0
            turned_usd = min(1.0, SURELY * denied / met) * denied_usd * met / taken_s if taken_s else 0.0
            prices.append((slot_usd if slot_usd > least else 0.0, turned_usd if turned_usd > least else 0.0))
        self._gains = [kept * gain for gain in self._gains]
        self._asked = [kept * asked for asked in self._asked]
        self._met = [kept * met for met in self._met]
        self._taken = [kept * taken_s for taken_s in self._taken]
        self._denied = [kept * denied for denied in self._denied]
        return prices


def refusal_usd(weights: Weights) -> float:
    """Return what a refusal is thought to cost."""
    return DENIED_S * weights.usd_per_s if weights.refusal_usd is None else weights.refusal_usd


def unpriced(weights: Weights) -> Weights:
    """Return the same weights without what is learned of scarcity."""
    return msgspec.structs.replace(weights, scarcity=0.0, refusal_usd=None, explore=0.0)
