"""One replica, event by event: arrivals, the plan of a step, its end.

While no prompt is under way, the steps until the next end, or until memory runs out, are one jump; who
arrives meanwhile ends it with the step that runs. Who arrives at the instant at which a step ends is there
before it does.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.batch import booked, come_in, decoded, energy_of, plan
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append
from wattmill.twin.engine.pipeline import advance_stages
from wattmill.twin.engine.request import prompt_complete
from wattmill.twin.engine.steps import jump_ps, steps_until


@inner
def take(s: State, r: int, row: int, now: int) -> None:
    """`row` leaves for replica `r` at `now`; it is there after the replica's overhead."""
    here = now + s.law[r, c.OVERHEAD]
    s.req[row, c.REPLICA] = r
    s.req[row, c.HERE] = here
    s.req[row, c.TARGET] = s.req[row, c.INPUT] + s.req[row, c.GIVEN]
    s.req[row, c.DONE] = 0
    s.req[row, c.STATE] = c.INBOXED
    append(s, r, c.INBOX, row)
    s.rep[r, c.TAKEN] += 1
    s.load[r] += 1
    if here < s.next_ps[r]:
        s.next_ps[r] = here


@inner
def energy_uj(s: State, r: int, lasts: int) -> int:
    """Return the microjoules of what ran for `lasts`, by the number of sequences in it."""
    if s.law[r, c.POWERS] == 0:
        return 0
    sequences = 0
    if s.rep[r, c.DECODES] == 1:
        sequences += s.rep[r, c.DECODING]
    if s.rep[r, c.CHUNKED_TOK] > 0:
        row = s.rep[r, c.PROMPTS]
        while row != c.NOBODY and s.req[row, c.CHUNK] > 0:
            sequences += 1
            row = s.req[row, c.NEXT]
    return energy_of(s, r, sequences, lasts)


@inner
def _step_ended(s: State, r: int, now: int) -> None:
    lasts = now - s.rep[r, c.FROM]
    each = booked(s, r, lasts, energy_uj(s, r, lasts))
    prompt_tok = s.rep[r, c.CHUNKED_TOK]
    if s.rep[r, c.DECODES] == 1:
        decoded(s, r, now)
    if prompt_tok > 0:
        s.rep[r, c.COMPUTED] += prompt_tok
        row = s.rep[r, c.PROMPTS]
        while row != c.NOBODY and s.req[row, c.CHUNK] > 0:
            after = s.req[row, c.NEXT]
            s.req[row, c.DONE] += s.req[row, c.CHUNK]
            s.req[row, c.JOULES] += each * s.req[row, c.CHUNK]
            s.req[row, c.CHUNK] = 0
            if s.req[row, c.DONE] == s.req[row, c.TARGET]:
                prompt_complete(s, r, row, now)
            row = after
    plan(s, r, now)


@inner
def _arrived(s: State, r: int, now: int, somebody_waited: bool) -> None:
    if s.rep[r, c.BOUNDARY] == c.NEVER:
        plan(s, r, now)
    elif (
        s.rep[r, c.PLANNED] > 1
        # Where somebody waits already, or all places are taken, a newcomer changes nothing before an end.
        and not somebody_waited
        and s.rep[r, c.RUNNING] < s.law[r, c.SEQS]
    ):
        start = s.rep[r, c.FROM]
        steps = steps_until(s, r, s.rep[r, c.PLANNED], now - start)
        s.rep[r, c.PLANNED] = steps
        s.rep[r, c.BOUNDARY] = start + jump_ps(s, r, steps)


@inner
def advance(s: State, r: int, to: int) -> None:
    """Let everything happen at replica `r` that happens until `to`, that instant included."""
    if s.law[r, c.STAGES] > 1:
        advance_stages(s, r, to)
        return
    while True:
        head = s.rep[r, c.INBOX]
        here = c.NEVER if head == c.NOBODY else s.req[head, c.HERE]
        boundary = s.rep[r, c.BOUNDARY]
        if here <= boundary:
            if here > to or here == c.NEVER:
                break
            waited = s.rep[r, c.WAIT] != c.NOBODY
            come_in(s, r, head, here)
            _arrived(s, r, here, waited)
        elif boundary <= to:
            _step_ended(s, r, boundary)
        else:
            break
    s.next_ps[r] = min(here, boundary)
