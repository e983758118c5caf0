"""A schedule that knows the future: how much of the distance to the bound is the policy's, and how much is
air.

From a start it moves the pieces of work that seem to gain most, plays the whole trace again, and keeps what
is better. What a move gains is estimated from the last run: a piece of work at another place would have
ended when the steps of that place had gone by that it needs, and would have delayed everyone there by what
it adds to their steps. Only the played result counts: the schedule is feasible, so nothing better than it is
claimed to exist.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wattmill.twin.bound.certificate import Ints
from wattmill.twin.bound.terms import ALONE_S, PRESENCES, PROMPT_S, Floats, PlaceTerms, Terms, terms
from wattmill.twin.factory import Fixed, Run, simulate
from wattmill.twin.model import charge_nusd
from wattmill.twin.spec import Place, Work
from wattmill.units import NUSD_PER_USD, PS_PER_S
from wattmill.vocab.caller import Caller

_SHARE = 0.05  # of all work, moved in the first round
_LEAST_MOVED = 4
_AFTER_S = 100_000.0  # how far past its last step a place is thought on: at its own pace, alone


class Found(NamedTuple):
    places: list[int]
    run: Run
    usd: float
    rounds: int
    moved: int  # pieces of work that are not where they started


def better_schedule(
    works: Sequence[Work],
    places: Sequence[Place],
    start: Sequence[int],
    *,
    model: str,
    caller: Caller,
    usd_per_s: float,
    refused_usd: float,
    seed: int,
    rounds: int,
) -> Found:
    """Return the best schedule found in `rounds` rounds, `start` if none is better."""
    used = terms(works, places, model=model, caller=caller, usd_per_s=usd_per_s, refused_usd=refused_usd)
    rng = random.Random(seed)
    best = np.array(start, dtype=np.int64)
    run, usd = _played(works, places, best, used, model)
    costs = _costs(used, best, run)
    share = _SHARE
    for _ in range(rounds):
        trial = _moved(best, costs, share, refused_usd, rng)
        played, trial_usd = _played(works, places, trial, used, model)
        if trial_usd < usd:
            best, run, usd = trial, played, trial_usd
            costs = _costs(used, best, run)
            share = min(_SHARE, 1.3 * share)
        else:
            share *= 0.6
    return Found(best.tolist(), run, usd, rounds, int(np.sum(best != np.array(start))))


def _played(
    works: Sequence[Work], places: Sequence[Place], where: Ints, used: Terms, model: str
) -> tuple[Run, float]:
    run = simulate(works, places, Fixed(where.tolist()), log=True)
    charge = sum(
        charge_nusd(places[one.place].pool, model, works[one.work], one.cached_tok) for one in run.served
    )
    picoseconds = sum(one.end_ps - one.at_ps for one in run.served)
    usd = charge / NUSD_PER_USD + used.usd_per_s * picoseconds / PS_PER_S
    for at, place in enumerate(used.places):
        if _most_in_flight(run, used, at) > place.room:
            usd = np.inf  # a gateway would have found the place full
    return run, usd + used.refused_usd * len(run.refused)


def _most_in_flight(run: Run, used: Terms, at: int) -> int:
    times, change = _events(run, at)
    return int(np.cumsum(change).max(initial=0)) if len(times) else 0


def _events(run: Run, at: int) -> tuple[Floats, Ints]:
    """Return when the number of requests in flight at a place changed, ends before arrivals of one
    instant."""
    here = [one for one in run.served if one.place == at]
    times = np.array([one.end_ps for one in here] + [one.at_ps for one in here]) / PS_PER_S
    change = np.repeat(np.array([-1, 1], dtype=np.int64), len(here))
    order = np.lexsort((change, times))
    return times[order], change[order]


def _moved(where: Ints, costs: Floats, share: float, refused_usd: float, rng: random.Random) -> Ints:
    """Return `where` with some of the work at its estimated best place, the largest gains more often."""
    now = costs[np.maximum(where, 0), np.arange(len(where))]
    target = np.argmin(costs, axis=0)
    least = costs[target, np.arange(len(where))]
    now = np.where((where < 0) | ~np.isfinite(now), refused_usd, now)
    gain = np.where(np.isfinite(least), now - least, 0.0)
    draws = np.array([rng.random() for _ in range(len(where))])
    keys = np.where((gain > 0) & (target != where), gain * draws, 0.0)
    count = max(_LEAST_MOVED, int(share * len(where)))
    chosen = np.argsort(-keys, kind="stable")[:count]
    chosen = chosen[keys[chosen] > 0]
    moved = where.copy()
    moved[chosen] = target[chosen]
    return moved


def _costs(used: Terms, where: Ints, run: Run) -> Floats:
    """Return places x work: what each would pay at each place, and make the others there pay."""
    return np.stack([_costs_at(used, at, where, run) for at in range(len(used.places))])


def _costs_at(used: Terms, at: int, where: Ints, run: Run) -> Floats:
    place = used.places[at]
    here_s = used.at_s + place.overhead_s
    mine = (where == at).astype(float)
    times, change = _events(run, at)
    count = np.concatenate([[0], np.cumsum(change)])
    if place.step_s:
        first_s = _prompts_done_s(run, at, here_s) + place.uses[PROMPT_S] * (1.0 - mine)
        begin_s, begun = _virtual_steps(run.logs[at], place)
        steps = place.uses[PRESENCES]
        end_s = np.interp(np.interp(first_s, begin_s, begun) + steps, begun, begin_s)
        end_s += (place.uses[ALONE_S] - place.uses[PROMPT_S]) * (1.0 - mine)
        others = _mean_count(times, count, here_s, end_s) - mine
        seconds = end_s - here_s + place.uses[ALONE_S] * np.maximum(others, 0.0)
    else:
        seconds = place.uses[ALONE_S] + _queue_s(place, times, count, here_s, mine)
    full = count[np.searchsorted(times, used.at_s, side="right")] - mine >= place.room
    costs: Floats = np.where(full, np.inf, place.money_usd + used.usd_per_s * (seconds + place.overhead_s))
    return costs


def _prompts_done_s(run: Run, at: int, here_s: Floats) -> Floats:
    """Return when the prompts are done of all that came before, at the earliest now."""
    here = [(one.at_ps / PS_PER_S, one.first_ps / PS_PER_S) for one in run.served if one.place == at]
    if not here:
        return here_s.copy()
    came, first = np.array(here).T
    latest = np.concatenate([[0.0], np.maximum.accumulate(first)])
    done: Floats = np.maximum(here_s, latest[np.searchsorted(came, here_s, side="left")])
    return done


def _virtual_steps(log: list[tuple[int, int, int]], place: PlaceTerms) -> tuple[Floats, Floats]:
    """Return instants and the steps gone by until then; an idle place is thought to go on stepping, empty."""
    if not log:
        return np.array([0.0, _AFTER_S]), np.array([0.0, _AFTER_S / place.step_s])
    start, end, steps = np.array(log, dtype=float).T
    start, end = start / PS_PER_S, end / PS_PER_S
    idle = np.maximum(start - np.concatenate([[0.0], end[:-1]]), 0.0) / place.step_s
    after = np.cumsum(steps + idle)
    instants = np.stack([start, end], axis=1).reshape(-1)
    gone = np.stack([after - steps, after], axis=1).reshape(-1)
    last_s, last = end[-1], after[-1]
    return (
        np.concatenate([[0.0], instants, [last_s + _AFTER_S]]),
        np.concatenate([[0.0], gone, [last + _AFTER_S / place.step_s]]),
    )


def _mean_count(times: Floats, count: npt.NDArray[np.int64], from_s: Floats, to_s: Floats) -> Floats:
    if not len(times):
        return np.zeros_like(from_s)
    area = np.concatenate([[0.0], np.cumsum(count[1:-1] * np.diff(times))])
    span = np.maximum(to_s - from_s, 1e-9)
    mean: Floats = (np.interp(to_s, times, area) - np.interp(from_s, times, area)) / span
    return mean


def _queue_s(
    place: PlaceTerms, times: Floats, count: npt.NDArray[np.int64], here_s: Floats, mine: Floats
) -> Floats:
    """Return the wait at a bought place, own and caused: by those ahead, and for those behind."""
    if not len(times):
        return np.zeros_like(here_s)
    ahead = np.maximum(count[np.searchsorted(times, here_s, side="right")] - mine - place.slots + 1, 0.0)
    mean_s = float(np.mean(place.uses[ALONE_S][np.isfinite(place.money_usd)]))
    own = ahead * mean_s / place.slots
    behind = np.maximum(_mean_count(times, count, here_s, here_s + place.uses[ALONE_S]) - place.slots, 0.0)
    waits: Floats = own + behind * place.uses[ALONE_S] / place.slots
    return waits
