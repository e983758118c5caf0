"""Whole traces, compiled: requests in order of arrival, a dispatcher, the replicas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.chance import mixed
from wattmill.twin.engine.compiled import SOURCE, Array, inner, outer
from wattmill.twin.engine.core import advance, take
from wattmill.twin.engine.failing import CHANGES, IS_DOWN, TRIES, die, first_fates, next_fate, try_again
from wattmill.twin.engine.handover import deliver, forget_broken, least_of_those_up, prefilled
from wattmill.twin.engine.instants import put, taken
from wattmill.twin.engine.layout import State

AS_GIVEN = 0
ROUND_ROBIN = 1
LEAST_LOADED = 2
TWO_CHOICES = 3

# Entries of the clients.
CONCURRENCY = 0
WARM_UPS = 1
GAP_PS = 2
ISSUED = 3
ENDED = 4
CLIENTS = 5


@inner
def least_loaded(load: Array) -> int:
    """Return the replica with the fewest requests between decision and last token, the first of equals."""
    best = 0
    for r in range(1, load.shape[0]):
        if load[r] < load[best]:
            best = r
    return best


@inner
def choose(load: Array, rule: int, seed: int, index: int, given: int) -> int:
    count = load.shape[0]
    if rule == AS_GIVEN:
        return given
    if rule == ROUND_ROBIN:
        return index % count
    if rule == LEAST_LOADED or count == 1:
        return least_loaded(load)
    bits = mixed(seed, index)
    first = (bits & 0x3FFFFFFF) % count
    other = (first + 1 + (bits >> 30) % (count - 1)) % count
    if load[other] < load[first]:
        return other
    return first


def _least_of_views(source: int) -> Callable[[Array, Array], None]:
    def least_of(views: Array, chosen: Array) -> None:
        for view in range(views.shape[0]):
            chosen[view] = least_loaded(views[view]) if source == SOURCE else -1

    return outer(least_of)


def least_of_views(views: Array) -> Array:
    """Return for each row of loads the replica that `least_loaded` takes."""
    chosen = np.zeros(len(views), np.int64)
    _least_of_views(SOURCE)(views, chosen)
    return chosen


def _open_loop(source: int) -> Callable[[State, Array, int, int], None]:
    def open_loop(s: State, given: Array, rule: int, seed: int) -> None:
        """Let every row arrive at its time (`AT`, not falling), and all come to its end."""
        if source != SOURCE:
            return
        count = s.load.shape[0]
        for row in range(s.req.shape[0]):
            now = s.req[row, c.AT]
            # Up to this instant, not with it: who comes at the same instant may share a step with this one.
            for r in range(count):
                if s.next_ps[r] < now:
                    advance(s, r, now - 1)
            take(s, choose(s.load, rule, seed, row, given[row % given.shape[0]]), row, now)
        for r in range(count):
            advance(s, r, c.NEVER - 1)

    return outer(open_loop)


@inner
def _goes_on(s: State, pending: Array, waiting: int, clients: Array, row: int, now: int) -> int:
    """`row` came to its end, or was given up: who waited for that comes next. Return the heap's new size."""
    after = s.req[row, c.AFTER]
    if after != c.NOBODY:
        waiting = put(pending, waiting, now + s.req[row, c.THINK], after)
    concurrency, warm_ups, rows = clients[CONCURRENCY], clients[WARM_UPS], s.req.shape[0]
    if concurrency == 0:
        return waiting
    clients[ENDED] += 1
    if clients[ENDED] == warm_ups:
        last = min(rows, clients[ISSUED] + concurrency)
        while clients[ISSUED] < last:
            waiting = put(pending, waiting, now + clients[GAP_PS], clients[ISSUED])
            clients[ISSUED] += 1
    elif clients[ISSUED] < (rows if clients[ENDED] > warm_ups else warm_ups):
        waiting = put(pending, waiting, now + clients[GAP_PS], clients[ISSUED])
        clients[ISSUED] += 1
    return waiting


@inner
def _up(s: State, chosen: int) -> int:
    """Return `chosen`, or the least loaded of those that are up where it is down, or NOBODY."""
    if s.rep[chosen, c.DOWN] == 0:
        return chosen
    return least_of_those_up(s, 0, s.common[c.TAKERS])


@inner
def _soonest(fate: Array) -> int:
    """Return the replica that fails or is repaired next; of one instant, repairs come first."""
    best = 0
    for r in range(1, fate.shape[0]):
        if fate[r, CHANGES] < fate[best, CHANGES] or (
            fate[r, CHANGES] == fate[best, CHANGES] and fate[r, IS_DOWN] > fate[best, IS_DOWN]
        ):
            best = r
    return best


@inner
def _next_repair(fate: Array) -> int:
    at = c.NEVER
    for r in range(fate.shape[0]):
        if fate[r, IS_DOWN] == 1:
            at = min(at, fate[r, CHANGES])
    return at


@inner
def _come_again(s: State, tries: int, pending: Array, waiting: int, clients: Array, now: int) -> int:
    """Who was at a machine that died at `now` comes again, or is given up. Return the heap's new size."""
    for row in range(s.req.shape[0]):
        if s.req[row, c.STATE] != c.BROKEN:
            continue
        s.req[row, c.BROKE] += 1
        try_again(s, row)
        if s.req[row, c.BROKE] < tries:
            waiting = put(pending, waiting, now, row)
        else:
            s.req[row, c.STATE] = c.GIVEN_UP
            s.req[row, c.END] = now
            waiting = _goes_on(s, pending, waiting, clients, row, now)
    return waiting


def _coupled(source: int) -> Callable[[State, Array, Array, Array, Array, Array, Array, Array], None]:
    def coupled(
        s: State,
        given: Array,
        order: Array,
        pending: Array,
        clients: Array,
        rule: Array,
        fate: Array,
        fails: Array,
    ) -> None:
        """Play what waits for each other: clients of fixed concurrency, turns of a session, machines that
        fail, prefill machines that hand over.

        `order` are the rows that arrive at their own time (`AT`, not falling); `pending` is room for a heap
        of (instant, row); `clients` has CONCURRENCY, 0 for none, WARM_UPS and GAP_PS, and room for two
        counts; `rule` is (dispatcher, seed); `fate` has a row for each replica, or none where nothing fails
        as `fails` says. `s.common[TELL]` must be 1.
        """
        if source != SOURCE:
            return
        count, rows = s.load.shape[0], s.req.shape[0]
        sorted_at, waiting, turn = 0, 0, 0
        concurrency, warm_ups = clients[CONCURRENCY], clients[WARM_UPS]
        if concurrency > 0:
            first = min(concurrency, warm_ups if warm_ups > 0 else rows)
            for row in range(first):
                waiting = put(pending, waiting, 0, row)
            clients[ISSUED] = first
        if fate.shape[0] > 0:
            first_fates(fate, fails)
        while True:
            at = s.req[order[sorted_at], c.AT] if sorted_at < order.shape[0] else c.NEVER
            later = pending[0, 0] if waiting > 0 else c.NEVER
            soonest = 0
            for r in range(1, count):
                if s.next_ps[r] < s.next_ps[soonest]:
                    soonest = r
            now = s.next_ps[soonest]
            arrives = s.due[0, 0] if s.common[c.DUE] > 0 else c.NEVER
            coming = min(arrives, min(at, later))
            if coming == c.NEVER and now == c.NEVER:
                break
            if fate.shape[0] > 0:
                r = _soonest(fate)
                ahead = min(coming, now)
                # A step that ends, or who comes, at the instant of a failure was there before it.
                if fate[r, CHANGES] < ahead or (fate[r, CHANGES] == ahead and fate[r, IS_DOWN] == 1):
                    now = fate[r, CHANGES]
                    next_fate(fate, fails, r)
                    s.rep[r, c.DOWN] = fate[r, IS_DOWN]
                    if fate[r, IS_DOWN] == 1:
                        die(s, r, now)
                        forget_broken(s)
                        waiting = _come_again(s, fails[TRIES], pending, waiting, clients, now)
                    continue
            if arrives <= now and arrives == coming:
                row = s.due[0, 1]
                s.common[c.DUE] = taken(s.due, s.common[c.DUE])
                if not deliver(s, row, arrives):  # all that could take it are down
                    s.req[row, c.DUE_AT] = _next_repair(fate)
                    s.common[c.DUE] = put(s.due, s.common[c.DUE], s.req[row, c.DUE_AT], row)
                continue
            if coming <= now:
                if at <= later:
                    row = order[sorted_at]
                    sorted_at += 1
                    now = at
                else:
                    row, now = pending[0, 1], later
                    waiting = taken(pending, waiting)
                    if s.req[row, c.SENT] == 0:
                        s.req[row, c.AT] = now
                s.req[row, c.SENT] = 1
                takers = s.load[: s.common[c.TAKERS]]
                chosen = _up(s, choose(takers, rule[0], rule[1], turn, given[row % given.shape[0]]))
                if chosen == c.NOBODY:  # all are down: it comes with the first that is repaired
                    waiting = put(pending, waiting, _next_repair(fate), row)
                    continue
                take(s, chosen, row, now)
                turn += 1
                continue
            advance(s, soonest, now)
            for at_event in range(s.common[c.EVENTS]):
                row = s.event[at_event, c.EVENT_ROW]
                if s.event[at_event, c.EVENT_KIND] == c.EVENT_END:
                    waiting = _goes_on(s, pending, waiting, clients, row, now)
                elif s.event[at_event, c.EVENT_KIND] == c.EVENT_PREFILLED:
                    prefilled(s, row, now)
            s.common[c.EVENTS] = 0

    return outer(coupled)


open_loop = _open_loop(SOURCE)
coupled = _coupled(SOURCE)
