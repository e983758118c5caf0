"""Machines that fail and are repaired: when, and what becomes of what they were at.

Times between repair and failure, and of repair, are exponential with the declared means, each replica by
itself, in whole microseconds; they follow from the seed alone. No engine keeps a request over its own death:
what it computed, what it cached and who waited in its queue are gone, and of the step that ran nothing came.
Then the request is sent anew, to another machine where one is up, as a client or a gateway would; after its
`tries`-th failure it is lost. Joules of what was broken off, tokens given and memory computed are booked as
wasted at the machine that died.
"""

from __future__ import annotations

import math

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.batch import energy_of
from wattmill.twin.engine.chance import mixed
from wattmill.twin.engine.compiled import Array, inner
from wattmill.twin.engine.core import energy_uj
from wattmill.twin.engine.lanes import empty_lanes, lane_in
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.pipeline import sequences
from wattmill.twin.engine.policy import SGLANG_RATIO
from wattmill.twin.engine.request import given
from wattmill.twin.engine.steps import clock, jump_ps, steps_until
from wattmill.units import PS_PER_US

# Columns of a replica's fate.
CHANGES: int = 0  # when it fails or is repaired next
IS_DOWN: int = 1
DRAWN: int = 2
FAILED: int = 3  # how often
DOWN_PS: int = 4  # how long it was down, the repair under way with all that it will take
FATES: int = 5
# Entries of the law that they follow.
MTBF_US: int = 0
MTTR_US: int = 1
TRIES: int = 2
SEED: int = 3


@inner
def span_ps(mean_us: int, seed: int, r: int, drawn: int) -> int:
    """Return an exponential time of at least a microsecond."""
    uniform = ((mixed(mixed(seed, r), drawn) >> 9) + 1) * 2.0**-53  # in (0, 1]
    return max(1, int(-math.log(uniform) * mean_us)) * PS_PER_US


@inner
def first_fates(fate: Array, law: Array) -> None:
    for r in range(fate.shape[0]):
        fate[r, CHANGES] = span_ps(law[MTBF_US], law[SEED], r, 0)
        fate[r, DRAWN] = 1


@inner
def next_fate(fate: Array, law: Array, r: int) -> None:
    """Replica `r` fails or is repaired; when the other comes is drawn."""
    now = fate[r, CHANGES]
    fails = fate[r, IS_DOWN] == 0
    lasts = span_ps(law[MTTR_US] if fails else law[MTBF_US], law[SEED], r, fate[r, DRAWN])
    fate[r, DRAWN] += 1
    fate[r, CHANGES] = now + lasts
    fate[r, IS_DOWN] = 1 if fails else 0
    if fails:
        fate[r, FAILED] += 1
        fate[r, DOWN_PS] += lasts


@inner
def die(s: State, r: int, now: int) -> None:
    """Replica `r`, to which all has happened that happens before `now`, loses all that it has.

    Its requests are BROKEN: in DONE stands how much of the prompt it had, in GIVEN what it had given.
    """
    stages = s.law[r, c.STAGES]
    if stages > 1:
        _batches_broken_off(s, r, now)
    elif s.rep[r, c.BOUNDARY] != c.NEVER:
        _broken_off(s, r, now)
    for lane in range(stages):
        if stages > 1:
            lane_in(s, r, lane)
        reached = clock(s, r)
        for row in range(s.req.shape[0]):
            state = s.req[row, c.STATE]
            if s.req[row, c.REPLICA] != r or state in (c.UNBORN, c.GONE, c.BROKEN, c.GIVEN_UP):
                continue
            if stages > 1 and (s.req[row, c.SLOT] if state == c.DECODING_NOW else 0) != lane:
                continue
            had, done = 0, 0
            if state == c.DECODING_NOW:
                had = s.req[row, c.TARGET] + reached - s.req[row, c.JOINED]
                s.req[row, c.JOULES] += s.rep[r, c.SHARE] - s.req[row, c.SHARE_THEN]
                tokens = given(s, r, row)
                s.rep[r, c.GIVEN_OUT] += tokens - s.req[row, c.GIVEN]
                s.req[row, c.GIVEN] = tokens
            elif state == c.PROMPTING:
                had = done = s.req[row, c.DONE]
            elif state == c.HANDED:
                had = s.req[row, c.TARGET]
            s.rep[r, c.LOST] += had
            s.rep[r, c.UNDONE] += s.req[row, c.GIVEN]
            s.rep[r, c.VOID_UJ] += s.req[row, c.JOULES]
            s.rep[r, c.DROPPED] += 1
            s.req[row, c.JOULES] = 0
            s.req[row, c.CHUNK] = 0
            s.req[row, c.HELD_NODES] = 0
            s.req[row, c.DONE] = s.req[row, c.INPUT] if s.req[row, c.GIVEN] > 0 else done
            s.req[row, c.CACHED] = min(s.req[row, c.CACHED], s.req[row, c.DONE])
            s.req[row, c.DUE_AT] = c.NOBODY
            s.req[row, c.STATE] = c.BROKEN
    _empty(s, r)


@inner
def _batches_broken_off(s: State, r: int, now: int) -> None:
    """Of a batch in flight nothing came; what it took is its time at the stages that it had reached."""
    stages = s.law[r, c.STAGES]
    for lane in range(stages):
        mine = s.law[r, c.LANES] + lane
        if s.rep[mine, c.BOUNDARY] == c.NEVER:
            continue
        lane_in(s, r, lane)
        lasts, took = s.rep[r, c.LASTS], 0
        for stage in range(stages):
            took += min(lasts, max(0, now - (s.slot[mine, stage, c.LEAVES] - lasts)))
        took //= stages
        wasted = energy_of(s, r, sequences(s, r), took)
        s.rep[r, c.BUSY] += took
        s.rep[r, c.ENERGY] += wasted
        s.rep[r, c.VOID_UJ] += wasted
        for at in range(s.rep[r, c.CHUNKS]):
            s.req[s.slot[mine, at, c.PART_ROW], c.DONE] -= s.slot[mine, at, c.PART_TOK]


@inner
def _broken_off(s: State, r: int, now: int) -> None:
    """What ran at `now` is broken off: steps of a jump that had ended count, the one under way is wasted."""
    start = s.rep[r, c.FROM]
    if s.rep[r, c.PLANNED] > 1:
        steps = steps_until(s, r, s.rep[r, c.PLANNED], now - start + 1) - 1
        if steps > 0:
            lasted = jump_ps(s, r, steps)
            energy = energy_uj(s, r, lasted)
            tokens = s.rep[r, c.DECODING] * s.law[r, c.VERIFY] * steps
            each = energy // tokens
            s.rep[r, c.ENERGY] += energy
            s.rep[r, c.SPARE] += energy - each * tokens
            s.rep[r, c.SHARE] += each * s.law[r, c.VERIFY] * steps
            s.rep[r, c.STEPS] += steps
            s.rep[r, c.BUSY] += lasted
            s.rep[r, c.DSTEP] += steps
            start += lasted
    lasts = now - start
    wasted = energy_uj(s, r, lasts)
    s.rep[r, c.BUSY] += lasts
    s.rep[r, c.ENERGY] += wasted
    s.rep[r, c.VOID_UJ] += wasted


@inner
def _empty(s: State, r: int) -> None:
    """The machine is as a new one; its counts go on."""
    for column in (c.INBOX, c.WAIT, c.PROMPTS, c.DECODERS, c.LRU):
        s.rep[r, column] = c.NOBODY
        s.rep[r, column + 1] = c.NOBODY
    for column in (c.PLANNED, c.DECODES, c.DSTEP, c.DECODING, c.CTX, c.RUNNING, c.USED, c.NODES):
        s.rep[r, column] = 0
    for column in (c.IDLE_NODES, c.FREE_NODE, c.FULL, c.HEAPED, c.GROWN, c.CHUNKED_TOK, c.AGAIN):
        s.rep[r, column] = 0
    s.rep[r, c.RATIO] = SGLANG_RATIO
    s.rep[r, c.BOUNDARY] = c.NEVER
    s.next_ps[r] = c.NEVER
    s.load[r] = 0
    for key in range(s.residue.shape[1]):
        s.residue[r, key] = 0
    for at in range(s.tree.shape[1]):
        s.tree[r, at] = 0
    for node in range(s.node.shape[1]):
        s.node[r, node, c.NODE_NEXT] = node + 1
    for slot in range(s.slot.shape[1]):
        s.slot[r, slot, c.SLOT_ROW] = c.NOBODY
        s.slot[r, slot, c.SLOT_USED] = 0
        s.slot[r, slot, c.SLOT_IDS] = 0
    if s.law[r, c.STAGES] > 1:
        empty_lanes(s, r)


@inner
def try_again(s: State, row: int) -> None:
    """`row` is as new, but for how often it was tried."""
    s.req[row, c.STATE] = c.UNBORN
    s.req[row, c.BEGUN] = -1
    s.req[row, c.FIRST] = -1
    s.req[row, c.GIVEN] = 0
    s.req[row, c.CACHED] = 0
