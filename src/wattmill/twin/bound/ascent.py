"""Better prices for `certificate` than a programme over groups finds: by how much each asks for too much.

The bound is a concave function of the prices (`mended` moves them to where the proof holds). At given prices
every single piece of work says where and in which windows it would go; where more is asked for than there
is, the price goes up, and down where less is: each by a factor, as large as the excess is against what there
is, by steps that become smaller. Any prices are valid, so the best that were met are kept. A programme moves
alike work together by its mean, and where some work must be refused its prices would refuse far more of it;
this looks at every single piece, and its windows may be shorter than a programme could take.
"""

from __future__ import annotations

import numpy as np

from wattmill.twin.bound.certificate import (
    Bound,
    Ints,
    Prices,
    certified,
    mended,
    owed_usd_per_s,
    use_prices,
    windows_of,
)
from wattmill.twin.bound.lp import Solved
from wattmill.twin.bound.terms import ALONE_S, HELD, PRESENCES, ROOT, USES, Floats, PlaceTerms, Terms

FIRST, LAST = 0.03, 0.005
"""The largest step of a price in its logarithm at the beginning and at the end: what a programme found is
near already, and larger steps lose in one round what many must win back."""


def refined(solved: Solved, *, halvings: int, rounds: int = 30) -> Solved:
    """Return better prices of the same work: `rounds` rounds of ascent, then again in windows half as long,
    `halvings` times over. The bound is never lower."""
    edges_s, prices, bound = solved.edges_s, solved.prices, solved.bound
    for halving in range(halvings + 1):
        if halving:
            edges_s, prices = split(edges_s, prices)
        prices, found = ascended(solved.terms, edges_s, prices, rounds=rounds)
        if found.usd > bound.usd:
            solved = solved._replace(edges_s=edges_s, prices=prices, bound=found)
            bound = found
    return solved


def ascended(
    terms: Terms, edges_s: Floats, prices: list[Prices], *, rounds: int
) -> tuple[list[Prices], Bound]:
    """Return the best prices met in `rounds` rounds, at worst those it began with, and what they prove."""
    p = [mended(place, at, usd_per_s=terms.usd_per_s) for place, at in zip(terms.places, prices, strict=True)]
    best, best_bound = p, certified(terms, edges_s, p)
    bound = best_bound
    for turn in range(rounds):
        step = FIRST * (LAST / FIRST) ** (turn / max(1, rounds - 1))
        p = [
            mended(place, _stepped(terms, edges_s, place, at, bound, i, step), usd_per_s=terms.usd_per_s)
            for i, (place, at) in enumerate(zip(terms.places, p, strict=True))
        ]
        bound = certified(terms, edges_s, p)
        if bound.usd > best_bound.usd:
            best, best_bound = p, bound
    return best, best_bound


def split(edges_s: Floats, prices: list[Prices]) -> tuple[Floats, list[Prices]]:
    """Return windows half as long, with the prices of those that they were cut from."""
    halves = np.stack([edges_s[:-1], (edges_s[:-1] + edges_s[1:]) / 2], axis=1).reshape(-1)

    def twice(row: Floats) -> Floats:
        return np.append(np.repeat(row[:-1], 2), row[-1])

    finer = [
        p._replace(
            time=twice(p.time),
            slots=twice(p.slots),
            held=twice(p.held),
            room=twice(p.room),
            alone=twice(p.alone),
            tangent=twice(p.tangent),
        )
        for p in prices
    ]
    return np.append(halves, edges_s[-1]), finer


def _stepped(
    terms: Terms, edges_s: Floats, place: PlaceTerms, p: Prices, bound: Bound, at: int, step: float
) -> Prices:
    windows = len(edges_s)
    length_s = np.append(np.diff(edges_s), 0.0)
    who = np.flatnonzero(bound.place == at)
    start = windows_of(terms.at_s[who] + place.overhead_s, edges_s)
    used, waited = asked(place, p, place.uses[:, who], start, bound.last[who], windows)
    # Of each condition of the proof: what is asked for less what there is, and a measure of what there is.
    time_s = place.width * length_s
    over = used[ALONE_S] - time_s  # seconds of the place
    room = waited * length_s - place.room * length_s
    spare = waited * length_s

    def moved(price: Floats, excess: Floats, there_is: Floats, floor: float) -> Floats:
        share = np.divide(excess, there_is, out=np.zeros(windows), where=there_is > 0)
        new: Floats = np.maximum(price, floor) * np.exp(step * np.clip(share, -1.0, 1.0))
        return np.where(new <= floor, 0.0, new)

    least = 1e-6 * terms.usd_per_s
    if not place.step_s:
        return p._replace(
            time=moved(p.time, over, time_s, least),
            room=moved(p.room, room, place.room * length_s, least),
            alone=p.alone + step * 0.1 * terms.usd_per_s * np.sign(used[ALONE_S] - spare),
        )
    steps = length_s / place.step_s
    # `mended` pays for slots, memory and the tangent out of the time: what is left of it for itself.
    own = np.maximum(p.time - owed_usd_per_s(place, p), 0.0)
    slots = used[PRESENCES] + place.slots / place.step_s * over
    held = used[HELD] + place.held_tok / place.step_s * over
    crowd = used[ROOT] + place.bend * p.tangent / place.step_s * over
    moved_slots = moved(p.slots, slots, place.slots * steps, least * place.step_s / place.slots)
    moved_held = moved(p.held, held, place.held_tok * steps, least * place.step_s / place.held_tok)
    tangent = p.tangent * np.exp(
        step * np.clip(crowd / np.maximum(place.bend * p.tangent * steps, 1e-12), -1.0, 1.0)
    )
    own = moved(own, over, time_s, least)
    room_usd = moved(p.room, room, place.room * length_s, least)
    p = p._replace(slots=moved_slots, held=moved_held, room=room_usd, tangent=tangent)
    return p._replace(time=own + owed_usd_per_s(place, p))


def asked(
    place: PlaceTerms, p: Prices, uses: Floats, start: Ints, last: Ints, windows: int
) -> tuple[Floats, Floats]:
    """Return what work asks for in each window (USES x windows), each use where it is cheapest between its
    first and its last window, and how much of it is there all through a window."""
    rates = use_prices(place, p)
    used = np.zeros((USES, windows))
    waited = np.zeros(windows + 1)
    where = np.repeat(start[None, :], USES, axis=0)
    cheapest = rates[:, start] if len(start) else np.zeros((USES, 0))
    for offset in range(1, int((last - start).max(initial=0)) + 1):
        go = np.flatnonzero(start + offset <= last)
        there = rates[:, start[go] + offset]
        better = there < cheapest[:, go]
        where[:, go] = np.where(better, start[go] + offset, where[:, go])
        cheapest[:, go] = np.minimum(there, cheapest[:, go])
    for use in range(USES):
        used[use] = np.bincount(where[use], weights=uses[use], minlength=windows)[:windows]
    long = last > start + 1
    np.add.at(waited, start[long] + 1, 1.0)
    np.add.at(waited, last[long], -1.0)
    return used, np.cumsum(waited)[:windows]
