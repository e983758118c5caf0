"""Whole traces, compiled: requests in order of arrival, a dispatcher, the replicas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.chance import mixed
from wattmill.twin.engine.compiled import SOURCE, Array, inner, outer
from wattmill.twin.engine.core import advance, take
from wattmill.twin.engine.layout import State

AS_GIVEN = 0
ROUND_ROBIN = 1
LEAST_LOADED = 2
TWO_CHOICES = 3


@inner
def least_loaded(load: Array) -> int:
    """Return the replica with the fewest requests between decision and last token, the first of equals."""
    best = 0
    for r in range(1, load.shape[0]):
        if load[r] < load[best]:
            best = r
    return best


@inner
def choose(s: State, rule: int, seed: int, index: int, given: int) -> int:
    count = s.load.shape[0]
    if rule == AS_GIVEN:
        return given
    if rule == ROUND_ROBIN:
        return index % count
    if rule == LEAST_LOADED or count == 1:
        return least_loaded(s.load)
    bits = mixed(seed, index)
    first = (bits & 0x3FFFFFFF) % count
    other = (first + 1 + (bits >> 30) % (count - 1)) % count
    if s.load[other] < s.load[first]:
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
            take(s, choose(s, rule, seed, row, given[row % given.shape[0]]), row, now)
        for r in range(count):
            advance(s, r, c.NEVER - 1)

    return outer(open_loop)


def _coupled(source: int) -> Callable[[State, Array, Array, Array, Array, Array], None]:
    def coupled(s: State, given: Array, order: Array, pending: Array, clients: Array, rule: Array) -> None:
        """Play clients that wait for answers: fixed concurrency, and turns of a session.

        `order` are the rows that arrive at their own time (`AT`, not falling); `pending` is room for a heap
        of (instant, row); `clients` is (concurrency, warm-ups, gap in ps), concurrency 0 for none; `rule` is
        (dispatcher, seed). `s.common[TELL]` must be 1.
        """
        if source != SOURCE:
            return
        count, rows = s.load.shape[0], s.req.shape[0]
        concurrency, warm_ups, gap = clients[0], clients[1], clients[2]
        issued, ended, sorted_at, waiting, turn = 0, 0, 0, 0, 0
        if concurrency > 0:
            first = min(concurrency, warm_ups if warm_ups > 0 else rows)
            for row in range(first):
                waiting = _later(pending, waiting, 0, row)
            issued = first
        while True:
            at = s.req[order[sorted_at], c.AT] if sorted_at < order.shape[0] else c.NEVER
            later = pending[0, 0] if waiting > 0 else c.NEVER
            soonest = 0
            for r in range(1, count):
                if s.next_ps[r] < s.next_ps[soonest]:
                    soonest = r
            now = s.next_ps[soonest]
            if min(at, later) <= now:
                if at == c.NEVER and later == c.NEVER:
                    break
                if at <= later:
                    row = order[sorted_at]
                    sorted_at += 1
                    now = at
                else:
                    row, now = pending[0, 1], later
                    waiting = _sooner(pending, waiting)
                    s.req[row, c.AT] = now
                take(s, choose(s, rule[0], rule[1], turn, given[row % given.shape[0]]), row, now)
                turn += 1
                continue
            advance(s, soonest, now)
            for at_event in range(s.common[c.EVENTS]):
                if s.event[at_event, c.EVENT_KIND] != c.EVENT_END:
                    continue
                row = s.event[at_event, c.EVENT_ROW]
                after = s.req[row, c.AFTER]
                if after != c.NOBODY:
                    waiting = _later(pending, waiting, now + s.req[row, c.THINK], after)
                if concurrency > 0:
                    ended += 1
                    if ended == warm_ups:
                        last = min(rows, issued + concurrency)
                        while issued < last:
                            waiting = _later(pending, waiting, now + gap, issued)
                            issued += 1
                    elif issued < (rows if ended > warm_ups else warm_ups):
                        waiting = _later(pending, waiting, now + gap, issued)
                        issued += 1
            s.common[c.EVENTS] = 0

    return outer(coupled)


@inner
def _before(heap: Array, a: int, b: int) -> bool:
    return heap[a, 0] < heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] < heap[b, 1])


@inner
def _swap(heap: Array, a: int, b: int) -> None:
    at, row = heap[a, 0], heap[a, 1]
    heap[a, 0], heap[a, 1] = heap[b, 0], heap[b, 1]
    heap[b, 0], heap[b, 1] = at, row


@inner
def _later(heap: Array, size: int, at: int, row: int) -> int:
    """Put (at, row) into the heap of `size` and return its new size."""
    heap[size, 0], heap[size, 1] = at, row
    child = size
    while child > 0 and _before(heap, child, (child - 1) >> 1):
        _swap(heap, child, (child - 1) >> 1)
        child = (child - 1) >> 1
    return size + 1


@inner
def _sooner(heap: Array, size: int) -> int:
    """Take the first out of the heap of `size` and return its new size."""
    size -= 1
    _swap(heap, 0, size)
    above = 0
    while True:
        child = 2 * above + 1
        if child >= size:
            return size
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, above):
            return size
        _swap(heap, above, child)
        above = child


open_loop = _open_loop(SOURCE)
coupled = _coupled(SOURCE)
