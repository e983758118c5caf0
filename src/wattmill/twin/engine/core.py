"""One replica, event by event: arrivals, the plan of a step, its end.

While no prompt is under way, the steps until the next end, or until memory runs out, are one jump; who
arrives meanwhile ends it with the step that runs. Who arrives at the instant at which a step ends is there
before it does.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.draws import draw_step
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append, pop
from wattmill.twin.engine.policy import (
    SGLANG_DECAY,
    SGLANG_LEAST,
    decoding_alone,
    prompts_alone,
    together,
)
from wattmill.twin.engine.request import last_token, prompt_complete
from wattmill.twin.engine.steps import (
    chunk_ps,
    clock,
    decode_ps,
    fixed_ps,
    growth,
    jump_ps,
    make_room,
    pieces_ps,
    steps_that_fit,
    steps_to_clock,
    steps_until,
)
from wattmill.units import NS_PER_MS, PS_PER_MS, PS_PER_NS


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
def plan(s: State, r: int, now: int) -> None:
    """Decide what runs from `now` on, until when."""
    s.rep[r, c.FROM] = now
    s.rep[r, c.GROWN] = 0
    s.rep[r, c.AGAIN] = 0
    decodes = 1
    if s.law[r, c.MIXED] == 1:
        prompt_tok = together(s, r, now)
    else:
        prompt_tok = prompts_alone(s, r, now)
        if prompt_tok > 0:
            decodes = 0
        else:
            decoding_alone(s, r, now)
    s.rep[r, c.CHUNKED_TOK] = prompt_tok
    s.rep[r, c.DECODES] = decodes
    if prompt_tok > 0:
        tokens = prompt_tok
        lasts = 0
        if decodes == 1:
            tokens += s.rep[r, c.DECODING] * s.law[r, c.VERIFY]
            lasts += decode_ps(s, r, 1)
        lasts += pieces_ps(s, r) if s.law[r, c.PIECE] > 0 else fixed_ps(s, r, tokens)
        row = s.rep[r, c.PROMPTS]
        while row != c.NOBODY and s.req[row, c.CHUNK] > 0:
            done = s.req[row, c.DONE]
            lasts += chunk_ps(s, r, done, done + s.req[row, c.CHUNK])
            row = s.req[row, c.NEXT]
        s.rep[r, c.PLANNED] = 1
        s.rep[r, c.BOUNDARY] = now + lasts
    elif s.rep[r, c.DECODING] > 0:
        if s.law[r, c.PIECE] > 0:
            s.rep[r, c.PIECES] = pieces_ps(s, r)
        steps = 1
        if s.rep[r, c.AGAIN] == 0 and s.law[r, c.ACCEPT] == 0:
            steps = steps_to_clock(s, r, s.heap[r, 0] >> c.ROW_BITS)
            steps = steps_that_fit(s, r, steps, s.rep[r, c.GROWN])
        s.rep[r, c.PLANNED] = steps
        s.rep[r, c.BOUNDARY] = now + jump_ps(s, r, steps)
    else:
        s.rep[r, c.PLANNED] = 0
        s.rep[r, c.BOUNDARY] = c.NEVER


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
    power_mw = s.power[r, min(sequences, s.law[r, c.POWERS] - 1)]
    # mW x ms are µJ. In nanoseconds a rack's minutes would not fit into 64 bits.
    rest_ns = lasts % PS_PER_MS // PS_PER_NS
    return power_mw * (lasts // PS_PER_MS) + power_mw * rest_ns // NS_PER_MS


@inner
def _step_ended(s: State, r: int, now: int) -> None:
    steps = s.rep[r, c.PLANNED]
    decodes = s.rep[r, c.DECODES] == 1
    prompt_tok = s.rep[r, c.CHUNKED_TOK]
    lasts = now - s.rep[r, c.FROM]
    s.rep[r, c.STEPS] += steps
    s.rep[r, c.BUSY] += lasts
    energy = energy_uj(s, r, lasts)
    # A step's energy goes to its requests by the tokens computed for them; what does not divide is left over.
    each = 0
    if energy > 0:
        decoding_tok = s.rep[r, c.DECODING] * s.law[r, c.VERIFY] * steps if decodes else 0
        each = energy // (decoding_tok + prompt_tok)
        s.rep[r, c.ENERGY] += energy
        s.rep[r, c.SPARE] += energy - each * (decoding_tok + prompt_tok)
        if decodes:
            s.rep[r, c.SHARE] += each * s.law[r, c.VERIFY] * steps
    if decodes:
        if steps > 1:
            more = growth(s, r, steps) - s.rep[r, c.GROWN]
            make_room(s, r, more)
            s.rep[r, c.USED] += more
        s.rep[r, c.DSTEP] += steps
        if s.law[r, c.MIXED] == 0:
            s.rep[r, c.RATIO] = max(s.rep[r, c.RATIO] - SGLANG_DECAY * steps, SGLANG_LEAST)
        if s.law[r, c.ACCEPT] > 0:
            draw_step(s, r)
        reached = clock(s, r)
        while s.rep[r, c.HEAPED] > 0 and s.heap[r, 0] >> c.ROW_BITS <= reached:
            row = s.heap[r, 0] & c.ROW_MASK
            pop(s, r)
            last_token(s, r, row, now)
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
    while True:
        head = s.rep[r, c.INBOX]
        here = c.NEVER if head == c.NOBODY else s.req[head, c.HERE]
        boundary = s.rep[r, c.BOUNDARY]
        if here <= boundary:
            if here > to or here == c.NEVER:
                break
            waited = s.rep[r, c.WAIT] != c.NOBODY
            while head != c.NOBODY and s.req[head, c.HERE] == here:
                after = s.req[head, c.NEXT]
                s.rep[r, c.INBOX] = after
                if after == c.NOBODY:
                    s.rep[r, c.INBOX_END] = c.NOBODY
                else:
                    s.req[after, c.PREV] = c.NOBODY
                if s.req[head, c.STATE] == c.INBOXED:
                    s.req[head, c.STATE] = c.WAITING
                append(s, r, c.WAIT, head)
                head = after
            _arrived(s, r, here, waited)
        elif boundary <= to:
            _step_ended(s, r, boundary)
        else:
            break
    s.next_ps[r] = min(here, boundary)
