"""Queues through the requests' own rows, and the heap of ends to come."""

from __future__ import annotations

from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import HEAPED, NEXT, NOBODY, PREV, State


@inner
def append(s: State, r: int, head: int, row: int) -> None:
    """Put `row` at the end of the list whose head is column `head` of replica `r`, its tail the next one."""
    tail = s.rep[r, head + 1]
    s.req[row, NEXT] = NOBODY
    s.req[row, PREV] = tail
    if tail == NOBODY:
        s.rep[r, head] = row
    else:
        s.req[tail, NEXT] = row
    s.rep[r, head + 1] = row


@inner
def insert_before(s: State, r: int, head: int, row: int, other: int) -> None:
    """Put `row` before `other`; before nobody is at the end."""
    if other == NOBODY:
        append(s, r, head, row)
        return
    before = s.req[other, PREV]
    s.req[row, NEXT] = other
    s.req[row, PREV] = before
    s.req[other, PREV] = row
    if before == NOBODY:
        s.rep[r, head] = row
    else:
        s.req[before, NEXT] = row


@inner
def remove(s: State, r: int, head: int, row: int) -> None:
    before, after = s.req[row, PREV], s.req[row, NEXT]
    if before == NOBODY:
        s.rep[r, head] = after
    else:
        s.req[before, NEXT] = after
    if after == NOBODY:
        s.rep[r, head + 1] = before
    else:
        s.req[after, PREV] = before


@inner
def push(s: State, r: int, key: int) -> None:
    at = s.rep[r, HEAPED]
    s.rep[r, HEAPED] = at + 1
    _up(s, r, at, key)


@inner
def pop(s: State, r: int) -> None:
    _take_out(s, r, 0)


@inner
def drop(s: State, r: int, key: int) -> None:
    """Take `key` out, wherever it is. Linear: only for those who lose their place."""
    for at in range(s.rep[r, HEAPED]):
        if s.heap[r, at] == key:
            _take_out(s, r, at)
            return


@inner
def _take_out(s: State, r: int, at: int) -> None:
    last = s.rep[r, HEAPED] - 1
    s.rep[r, HEAPED] = last
    if at == last:
        return
    key = s.heap[r, last]
    if at > 0 and key < s.heap[r, (at - 1) >> 1]:
        _up(s, r, at, key)
        return
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and s.heap[r, child + 1] < s.heap[r, child]:
            child += 1
        if key <= s.heap[r, child]:
            break
        s.heap[r, at] = s.heap[r, child]
        at = child
    s.heap[r, at] = key


@inner
def _up(s: State, r: int, at: int, key: int) -> None:
    while at > 0:
        above = (at - 1) >> 1
        if s.heap[r, above] <= key:
            break
        s.heap[r, at] = s.heap[r, above]
        at = above
    s.heap[r, at] = key
