"""One batch: what runs in its next step or jump, what that costs, and what it gave."""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inlined, inner
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
from wattmill.twin.engine.request import last_token
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
)
from wattmill.units import NS_PER_MS, PS_PER_MS, PS_PER_NS


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
        if s.rep[r, c.AGAIN] == 0 and s.law[r, c.WALKS] == 0:
            steps = steps_to_clock(s, r, s.heap[r, 0] >> c.ROW_BITS)
            steps = steps_that_fit(s, r, steps, s.rep[r, c.GROWN])
        s.rep[r, c.PLANNED] = steps
        s.rep[r, c.BOUNDARY] = now + jump_ps(s, r, steps)
    else:
        s.rep[r, c.PLANNED] = 0
        s.rep[r, c.BOUNDARY] = c.NEVER


@inlined
def energy_of(s: State, r: int, sequences: int, lasts: int) -> int:
    """Return the microjoules of what ran for `lasts` with so many sequences in it."""
    if s.law[r, c.POWERS] == 0:
        return 0
    power_mw = s.power[r, min(sequences, s.law[r, c.POWERS] - 1)]
    # mW x ms are µJ. In nanoseconds a rack's minutes would not fit into 64 bits.
    rest_ns = lasts % PS_PER_MS // PS_PER_NS
    return power_mw * (lasts // PS_PER_MS) + power_mw * rest_ns // NS_PER_MS


@inlined
def booked(s: State, r: int, lasts: int, energy: int) -> int:
    """Count the steps that have ended, and return what each of their tokens has of their energy; what does
    not divide is left over."""
    steps, prompt_tok = s.rep[r, c.PLANNED], s.rep[r, c.CHUNKED_TOK]
    decodes = s.rep[r, c.DECODES] == 1
    s.rep[r, c.STEPS] += steps
    s.rep[r, c.BUSY] += lasts
    each = 0
    if energy > 0:
        decoding_tok = s.rep[r, c.DECODING] * s.law[r, c.VERIFY] * steps if decodes else 0
        each = energy // (decoding_tok + prompt_tok)
        s.rep[r, c.ENERGY] += energy
        s.rep[r, c.SPARE] += energy - each * (decoding_tok + prompt_tok)
        if decodes:
            s.rep[r, c.SHARE] += each * s.law[r, c.VERIFY] * steps
    return each


@inlined
def decoded(s: State, r: int, now: int) -> None:
    """Those who decoded have their tokens, and some have come to their end."""
    steps = s.rep[r, c.PLANNED]
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


@inlined
def come_in(s: State, r: int, head: int, here: int) -> None:
    """Who arrives at `here`, `head` first, stands in line."""
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
