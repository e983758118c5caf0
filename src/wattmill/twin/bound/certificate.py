"""From any prices to a bound that no schedule beats.

**Claim.** Let every piece of work be sent on at its arrival or refused, by whatever assignment, chosen with
all knowledge of the future, under the laws of `twin.place`. Then dollars + usd_per_s x (end - arrival),
summed over what is served, + refused_usd for each refusal, is at least `certified(terms, edges_s, prices)`,
for any prices.

**Why.** Cut time into windows of L seconds, the last one without end. A step that crosses an edge counts in
each window by the share of its time there. For one place and window, with sums over its steps s:

    S = steps, D = presences, W = time added, P = prompts' part of W, R = tokens held by those present, Q' see
    `terms`, T = seconds that all who are at the place (there after the overhead, not ended) spend in the
    window, n = slots, N = slots + queue, M = tokens that fit, b = step_s.

1. Steps follow each other: b S + W <= L. At most n are present, and they hold at most M tokens: D <= n S,
   R <= M S. Never more than N are at the place: T <= N L.
2. Who is present in a step waits until it ends, and at least one is: T >= sum_s B_s (b + V_s) >= b D + W.
3. Summed over all windows of the place, T >= b D + P/2 + X, where X >= 2 u Q' - bend u^2 S in each window for
   whatever u >= 0 one likes there. For T >= b D + sum_s B_s V_s, and V_s is of decoders and of prompts:
   a. Decoders wait for decoders: sum_s (sum_i 1)(sum_i v_i) >= sum_s (sum_i sqrt(v_i))^2 >= Q^2 / S, by
      Cauchy and Schwarz, twice; and Q^2/S >= 2 u Q - u^2 S.
   b. Each waits for its own prompt: P.
   c. Prompts are computed in order of admission, so of two whose decode steps overlap the earlier was there
      during all of the later one's prompt and waited for it: for at least min(P, P') >= sum_k d_k [P >= y_k]
      [P' >= y_k]. They overlap in o <= min(m, m') <= sqrt(m m') steps. So the wait of both for each other is
      >= sum_k d_k [P >= y_k][P' >= y_k] o / sqrt(m m'). Over all pairs that is half of sum_k d_k sum_s (sum
      over decoders with P >= y_k of 1/sqrt(m))^2, less half of its diagonal, which is at most P. And
      sum_s (..)^2 >= G_k^2 / S >= 2 g G_k - g^2 S, taken at g = u g_k.
   The wait of c. may fall into an earlier window than the overlap: therefore one row for all windows.
4. Who comes to the place in window j and ends in window f > k > j is there all through window k: T_k >= L Z_k
   with Z_k their number.
5. Over its windows j..f a piece of work uses at least its D, W, P, Q' and R (`terms`).

A bought place has W <= n L, T >= W, T <= N L and 4. All of this is linear in (S, D, W, P, Q', R, T, Z) and
in the assignment; multiply the rows by prices >= 0 and subtract them (Lagrange). What is left separates: S
and T vanish because `mended` makes their factors >= 0, and each piece of work pays, at each place and for
each last window f, its charge, its overhead, the waiting of the windows between, and each use at the
cheapest window between j and
f. Its least over places, windows and refusal is below what any schedule pays for it. Subtract the constants
(a window's time x L, its room x N L). This is weak duality: that prices come from a solver with tolerances
changes how good the bound is, never that it holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wattmill.twin.bound.terms import (
    ALONE_S,
    HELD,
    PRESENCES,
    PROMPT_S,
    ROOT,
    USES,
    Floats,
    PlaceTerms,
    Terms,
)

Ints = npt.NDArray[np.int64]


class Prices(NamedTuple):
    """What a place charges for itself in each window. All >= 0, USD, arrays over windows but for `load`.

    Of the worth of a second at the place (usd_per_s + room), `load` goes to row 3, `alone` to row 2, the
    rest to row 4.
    """

    time: Floats  # a second of the place's time
    slots: Floats  # one presence, beyond its time
    held: Floats  # one token held for one step
    room: Floats  # a second that somebody is at the place, beyond usd_per_s
    alone: Floats
    tangent: Floats  # u
    load: float


class Bound(NamedTuple):
    usd: float
    of_work_usd: Floats  # what each piece of work pays, windows' constants not taken off
    place: Ints  # cheapest place for each; -1: refusal
    last: Ints  # the window in which it ends there; -1: refusal


def mended(place: PlaceTerms, prices: Prices, *, usd_per_s: float) -> Prices:
    """Return the nearest prices that meet every condition of the proof: what is missing is added to `time`,
    what is too much is taken from `load` and `alone`, the last window is free of all but the work itself."""
    time, slots, held, room, alone, tangent = [
        np.maximum(np.nan_to_num(row, copy=True), 0.0) for row in prices[:-1]
    ]
    load = min(max(prices.load, 0.0), usd_per_s) if place.step_s else 0.0
    room[-1] = 0.0
    alone = np.minimum(alone, usd_per_s + room - load)
    alone[-1] = usd_per_s - load
    if place.step_s == 0.0:
        slots, held, tangent = np.zeros_like(slots), np.zeros_like(held), np.zeros_like(tangent)
    else:
        slots[-1] = held[-1] = tangent[-1] = 0.0
        owed = owed_usd_per_s(place, Prices(time, slots, held, room, alone, tangent, load))
        time = np.maximum(time, owed)
    time[-1] = 0.0
    return Prices(time, slots, held, room, alone, tangent, load)


def owed_usd_per_s(place: PlaceTerms, p: Prices) -> Floats:
    """Return what a second of the place's time must cost at the least, so that steps are worth their time."""
    usd: Floats = (
        p.slots * place.slots + p.held * place.held_tok + p.load * place.bend * p.tangent**2
    ) / place.step_s
    return usd


def certified(terms: Terms, edges_s: Floats, prices: list[Prices]) -> Bound:
    """Return the bound that `prices` (one for each place) prove. `edges_s`: starts of the windows, first
    0."""
    windows = len(edges_s)
    lengths_s = np.append(np.diff(edges_s), 0.0)  # the last has no end, and its prices are 0
    best = np.full(len(terms.at_s), terms.refused_usd)
    chosen = np.full(len(terms.at_s), -1, dtype=np.int64)
    ends = np.full(len(terms.at_s), -1, dtype=np.int64)
    constant = 0.0
    for at, (place, raw) in enumerate(zip(terms.places, prices, strict=True)):
        p = mended(place, raw, usd_per_s=terms.usd_per_s)
        constant += float(np.sum((p.time * place.width + p.room * place.room) * lengths_s))
        arrived = windows_of(terms.at_s + place.overhead_s, edges_s)
        value, last = _cheapest(place, p, arrived, lengths_s, windows, terms.usd_per_s, best)
        better = value < best
        best = np.where(better, value, best)
        chosen[better] = at
        ends[better] = last[better]
    return Bound(float(best.sum()) - constant, best, chosen, ends)


def windows_of(at_s: Floats, edges_s: Floats) -> Ints:
    """Return the window in which each instant lies."""
    return np.asarray(np.searchsorted(edges_s, at_s, side="right") - 1, dtype=np.int64)


def use_prices(place: PlaceTerms, p: Prices) -> Floats:
    """Return the price of each use in each window (USES x windows)."""
    out = np.zeros((USES, len(p.time)))
    out[PRESENCES] = p.slots + (p.load + p.alone) * place.step_s
    out[ALONE_S] = p.time + p.alone
    out[PROMPT_S] = 0.5 * p.load
    out[HELD] = p.held
    out[ROOT] = 2.0 * p.load * p.tangent
    return out


def _cheapest(
    place: PlaceTerms,
    p: Prices,
    arrived: Ints,
    lengths_s: Floats,
    windows: int,
    usd_per_s: float,
    enough: Floats,
) -> tuple[Floats, Ints]:
    """Return the least that each piece of work pays at `place` over all last windows, and that window; above
    `enough` it may be any number that is too small by nothing that matters: whoever waits for more than that
    has a better way."""
    rates = use_prices(place, p)
    wait = np.maximum(usd_per_s + p.room - p.load - p.alone, 0.0) * lengths_s
    fixed = place.money_usd + usd_per_s * place.overhead_s
    who = np.flatnonzero(fixed < enough)
    result = np.full(len(fixed), np.inf)
    ends = arrived.copy()
    start = arrived[who]
    uses, base = place.uses[:, who], fixed[who]
    cheapest = rates[:, start]
    waited = np.zeros(len(who))
    least = base + np.sum(cheapest * uses, axis=0)
    offset = 0
    while len(who):
        offset += 1
        last = start + offset
        go = (last < windows) & (base + waited < enough[who])
        done = ~go
        result[who[done]] = least[done]
        who, start, base, least = who[go], start[go], base[go], least[go]
        uses, cheapest, waited, last = uses[:, go], cheapest[:, go], waited[go], last[go]
        if not len(who):
            break
        if offset > 1:
            waited = waited + wait[last - 1]
        cheapest = np.minimum(cheapest, rates[:, last])
        value = base + waited + np.sum(cheapest * uses, axis=0)
        sooner = value < least
        least = np.where(sooner, value, least)
        ends[who[sooner]] = last[sooner]
    return result, ends
