"""Prefill on machines of its own: the memory of a prompt goes over a link to a machine that decodes.

A prefill machine computes a prompt and gives the first token. What it computed (KV bytes per token x prompt
tokens) then waits for the machine's link, first come, first served, and takes a fixed time and its bytes over
the link's bytes per second; until it is over there, its blocks and its place at the prefill machine are
taken. It goes to the decode machine that has the fewest requests when it arrives there, and waits for blocks
and a place by that engine's own rule of admission; what waits lies outside those blocks. All prompt tokens
are sent, also those that the decode machine has in its cache. A request that loses its memory while it
decodes is computed again where it is, as an engine does that has nobody to ask.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.instants import put
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append
from wattmill.twin.engine.request import handed_over


@inner
def least_of_those_up(s: State, start: int, stop: int) -> int:
    """Return the least loaded replica from `start` on, before `stop`, that is up; NOBODY if none is."""
    best = c.NOBODY
    for r in range(start, stop):
        if s.rep[r, c.DOWN] == 0 and (best == c.NOBODY or s.load[r] < s.load[best]):
            best = r
    return best


@inner
def prefilled(s: State, row: int, now: int) -> None:
    """`row`, whose prompt was complete at `now`, takes its turn on the link."""
    r = s.req[row, c.REPLICA]
    link = s.law[r, c.LINK]
    starts = max(now, s.link[link, c.LINK_FREE])
    lasts = s.law[r, c.HANDOVER] + s.law[r, c.HANDOVER_TOK] * s.req[row, c.TARGET]
    s.link[link, c.LINK_FREE] = starts + lasts
    s.link[link, c.LINK_BUSY] += lasts
    s.link[link, c.LINK_WAIT] += starts - now
    s.link[link, c.LINK_SENT] += 1
    s.link[link, c.LINK_TOK] += s.req[row, c.TARGET]
    s.req[row, c.DUE_AT] = starts + lasts
    s.common[c.DUE] = put(s.due, s.common[c.DUE], starts + lasts, row)


@inner
def forget_broken(s: State) -> None:
    """Machines died: what they had on a link is no more under way."""
    kept = 0
    for at in range(s.common[c.DUE]):
        instant, row = s.due[at, 0], s.due[at, 1]
        if s.req[row, c.DUE_AT] == instant:
            kept = put(s.due, kept, instant, row)
    s.common[c.DUE] = kept


@inner
def strand(s: State, row: int) -> None:
    """Nobody is up to take `row`: it stays on the link until somebody is."""
    s.req[row, c.DUE_AT] = c.NEVER


@inner
def float_again(s: State, now: int) -> None:
    """A machine is up again: who waited for that on a link arrives now."""
    for row in range(s.req.shape[0]):
        if s.req[row, c.STATE] == c.HANDED and s.req[row, c.DUE_AT] == c.NEVER:
            s.req[row, c.DUE_AT] = now
            s.common[c.DUE] = put(s.due, s.common[c.DUE], now, row)


@inner
def deliver(s: State, row: int, now: int) -> bool:
    """The link has carried `row` over at `now`; return whether a decode machine was up to take it."""
    if s.req[row, c.STATE] != c.HANDED or s.req[row, c.DUE_AT] != now:
        return True  # the machine that sent it died meanwhile
    r = s.req[row, c.REPLICA]
    best = least_of_those_up(s, s.law[r, c.TO_FROM], s.law[r, c.TO_UNTIL])
    if best == c.NOBODY:
        return False
    s.req[row, c.DUE_AT] = c.NOBODY
    handed_over(s, r, row, now)
    s.rep[r, c.FULL] = 0
    if s.law[r, c.STAGES] > 1:
        s.rep[r, c.LOOK] = now
        s.next_ps[r] = min(s.next_ps[r], now)
    elif s.rep[r, c.BOUNDARY] == c.NEVER:
        # It was idle, and may have waited for this room: a step of nothing ends now, after who comes now.
        for column in (c.PLANNED, c.DECODES, c.CHUNKED_TOK, c.GROWN):
            s.rep[r, column] = 0
        s.rep[r, c.FROM] = now
        s.rep[r, c.BOUNDARY] = now
        s.next_ps[r] = min(s.next_ps[r], now)
    s.req[row, c.REPLICA] = best
    s.req[row, c.HERE] = now
    append(s, best, c.INBOX, row)
    s.rep[best, c.TAKEN] += 1
    s.load[best] += 1
    s.next_ps[best] = min(s.next_ps[best], now)
    return True
