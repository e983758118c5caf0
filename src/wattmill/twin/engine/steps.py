"""How long steps last, and what memory they take: closed forms over one replica's running sums."""

from __future__ import annotations

from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import (
    ACCEPT,
    ADMIT,
    ADMIT_SLOT,
    ADMIT_WHOLE,
    ASKED,
    ATTENTION,
    BEYOND,
    BLOCK,
    CHUNK,
    CONTEXT,
    CTX,
    DECODE,
    DECODING,
    DECODING_NOW,
    DSTEP,
    HELD_NODES,
    IDLE_NODES,
    INPUT,
    JOINED,
    KV,
    NOBODY,
    NODES,
    PER_STEP,
    PIECE,
    PIECES,
    PREFILL,
    PROMPTING,
    SEQS,
    SLOT_LEFT,
    SLOT_ROW,
    STATE,
    TABLE,
    TARGET,
    USED,
    VERIFY,
    State,
)
from wattmill.twin.engine.spec import ONE
from wattmill.twin.engine.tree import evict, unit

_ATTENTION_SHIFT = 11  # 2 x 1024, see StepCost
_ONE_BITS = 16


@inner
def clock_at(s: State, r: int, dstep: int) -> int:
    """Return how many tokens a request that decoded since the first step would have by step `dstep`."""
    return (dstep * s.law[r, PER_STEP]) >> _ONE_BITS


@inner
def clock(s: State, r: int) -> int:
    return clock_at(s, r, s.rep[r, DSTEP])


@inner
def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return the sum of (a i + b) // m over i = 0 … n - 1 (by the Euclidean algorithm)."""
    total = 0
    while True:
        total += (n * (n - 1) // 2) * (a // m) + n * (b // m)
        a %= m
        b %= m
        last = a * n + b
        if last < m:
            return total
        n, b = last // m, last % m
        m, a = a, m


@inner
def _clock_sum(s: State, r: int, steps: int) -> int:
    """Return the clock's sum over the next `steps` steps, each at its beginning."""
    dstep, per = s.rep[r, DSTEP], s.law[r, PER_STEP]
    if per == ONE:
        return steps * dstep + steps * (steps - 1) // 2
    return _floor_sum(steps, ONE, per, dstep * per)


@inner
def fixed_ps(s: State, r: int, tokens: int) -> int:
    """Return what a step of `tokens` tokens costs before anything is read: the table."""
    last = s.law[r, TABLE] - 1
    if tokens <= last:
        return s.table[r, tokens]
    return s.table[r, last] + (tokens - last) * s.law[r, BEYOND]


@inner
def pieces_ps(s: State, r: int) -> int:
    """Return what the planned step costs where it is computed in pieces, as llama.cpp cuts it.

    In the order of the batch (answers, then prompts, each by slot) a piece takes the first slot that has
    tokens left and those that follow it without a gap, equally many tokens of each.
    """
    slots, most = s.law[r, SEQS], s.law[r, PIECE]
    for slot in range(slots):
        row = s.slot[r, slot, SLOT_ROW]
        left = 0
        if row != NOBODY:
            if s.req[row, STATE] == DECODING_NOW:
                left = s.law[r, VERIFY]
            elif s.req[row, STATE] == PROMPTING:
                left = s.req[row, CHUNK]
        s.slot[r, slot, SLOT_LEFT] = left
    total = 0
    while True:
        last, count, least = -1, 0, 0
        for prompts in range(2):
            for slot in range(slots):
                left = s.slot[r, slot, SLOT_LEFT]
                if left == 0 or (s.req[s.slot[r, slot, SLOT_ROW], STATE] == PROMPTING) != (prompts == 1):
                    continue
                if count == 0 or slot == last + 1:
                    least = left if count == 0 else min(least, left)
                    last = slot
                    count += 1
        if count == 0:
            return total
        each = min(least, max(1, most // count))
        total += fixed_ps(s, r, each * count)
        # The same walk again takes them: the slots of a piece are neighbours that end with `last`.
        for slot in range(last - count + 1, last + 1):
            s.slot[r, slot, SLOT_LEFT] -= each


@inner
def chunk_ps(s: State, r: int, from_tok: int, to_tok: int) -> int:
    """Return what prompt tokens `from_tok` to `to_tok` add to their step besides their number."""
    a = s.law[r, ATTENTION]
    return (
        s.law[r, PREFILL] * (to_tok - from_tok)
        + ((a * to_tok * to_tok) >> _ATTENTION_SHIFT)
        - ((a * from_tok * from_tok) >> _ATTENTION_SHIFT)
    )


@inner
def decode_ps(s: State, r: int, steps: int) -> int:
    """Return what decoding requests add to `steps` steps: their own cost and the context that they read."""
    decoding = s.rep[r, DECODING]
    return steps * decoding * s.law[r, DECODE] + s.law[r, CONTEXT] * (
        steps * s.rep[r, CTX] + decoding * _clock_sum(s, r, steps)
    )


@inner
def jump_ps(s: State, r: int, steps: int) -> int:
    """Return how long the next `steps` steps last, if nobody comes and nobody leaves."""
    if s.law[r, PIECE] > 0:
        return steps * s.rep[r, PIECES] + decode_ps(s, r, steps)
    return steps * fixed_ps(s, r, s.rep[r, DECODING] * s.law[r, VERIFY]) + decode_ps(s, r, steps)


@inner
def blocks(s: State, r: int, tokens: int) -> int:
    return (tokens + s.law[r, BLOCK] - 1) // s.law[r, BLOCK]


@inner
def room(s: State, r: int) -> int:
    """Return the blocks that are free, or would be if the prefix tree kept only what is in use."""
    return s.law[r, KV] - s.rep[r, USED] - (s.rep[r, NODES] - s.rep[r, IDLE_NODES]) * unit(s, r)


@inner
def make_room(s: State, r: int, need: int) -> None:
    """Evict until `need` blocks are free; `room` must have promised them."""
    size = unit(s, r)
    while s.law[r, KV] - s.rep[r, USED] - s.rep[r, NODES] * size < need:
        evict(s, r)


@inner
def whole(s: State, r: int) -> bool:
    """Return whether memory is set aside at admission for all that a request asked for."""
    rule = s.law[r, ADMIT]
    return rule in (ADMIT_WHOLE, ADMIT_SLOT)


@inner
def held(s: State, r: int, row: int) -> int:
    """Return the blocks of a running request that are its own."""
    if s.law[r, ADMIT] == ADMIT_SLOT:
        return 0
    if whole(s, r):
        tokens = s.req[row, INPUT] + s.req[row, ASKED]
    else:
        tokens = s.req[row, TARGET]
        if s.req[row, STATE] == DECODING_NOW:
            tokens += clock(s, r) - s.req[row, JOINED]
    return blocks(s, r, tokens) - s.req[row, HELD_NODES] * unit(s, r)


@inner
def tokens_in(s: State, r: int, steps: int) -> int:
    """Return the tokens whose memory each decoding request needs for the next `steps` steps."""
    if s.law[r, ACCEPT] > 0:
        return s.law[r, VERIFY]  # who draws sets memory aside for all that may be accepted, for one step
    dstep = s.rep[r, DSTEP]
    return clock_at(s, r, dstep + steps) - clock_at(s, r, dstep)


@inner
def growth(s: State, r: int, steps: int) -> int:
    """Return the blocks that decoding requests will need in the next `steps` steps."""
    if whole(s, r):
        return 0
    now = clock(s, r)
    more = tokens_in(s, r, steps)
    size = s.law[r, BLOCK]
    if size == 1:
        return s.rep[r, DECODING] * more
    need = 0
    for key in range(size):
        count = s.residue[r, key]
        if count > 0:
            need += count * (((key + now - 1) % size + more) // size)
    return need


@inner
def steps_that_fit(s: State, r: int, most: int, grown: int) -> int:
    """Return how many of the next `most` steps have the memory that they need; `grown` blocks of the first
    one are taken already."""
    if whole(s, r):
        return most
    free = room(s, r) + grown
    more = clock_at(s, r, s.rep[r, DSTEP] + most) - clock(s, r)
    if s.rep[r, DECODING] * ((more + s.law[r, BLOCK] - 1) // s.law[r, BLOCK]) <= free:
        return most
    if growth(s, r, most) <= free:
        return most
    fits, fails = 1, most
    while fails - fits > 1:
        middle = (fits + fails) >> 1
        if growth(s, r, middle) <= free:
            fits = middle
        else:
            fails = middle
    return fits


@inner
def steps_until(s: State, r: int, most: int, ps: int) -> int:
    """Return the fewest of the next `most` steps that last at least `ps`."""
    low, high = 1, most
    while low < high:
        middle = (low + high) >> 1
        if jump_ps(s, r, middle) >= ps:
            high = middle
        else:
            low = middle + 1
    return low


@inner
def steps_to_clock(s: State, r: int, target: int) -> int:
    """Return the steps until the clock stands at `target` or later."""
    per = s.law[r, PER_STEP]
    return ((target << _ONE_BITS) + per - 1) // per - s.rep[r, DSTEP]
