"""What happens to one request at a replica: its prompt is complete, it ends, it loses its memory."""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append, drop, insert_before, push, remove
from wattmill.twin.engine.steps import clock, held
from wattmill.twin.engine.tree import keep, let_go


@inner
def tell(s: State, kind: int, row: int, now: int) -> None:
    if s.common[c.TELL] == 1:
        at = s.common[c.EVENTS]
        s.event[at, c.EVENT_AT] = now
        s.event[at, c.EVENT_KIND] = kind
        s.event[at, c.EVENT_ROW] = row
        s.common[c.EVENTS] = at + 1


@inner
def given(s: State, r: int, row: int) -> int:
    """Return the tokens that a running request has been given until now."""
    tokens = s.req[row, c.GIVEN]
    if s.req[row, c.STATE] == c.DECODING_NOW:
        tokens += clock(s, r) - s.req[row, c.JOINED]
    return tokens


@inner
def _out_of_the_batch(s: State, r: int, row: int) -> None:
    """A decoding request stops decoding: the running sums forget it."""
    now = clock(s, r)
    s.rep[r, c.DECODING] -= 1
    base = s.req[row, c.TARGET] - s.req[row, c.JOINED]
    s.rep[r, c.CTX] -= base + 1
    s.residue[r, base % s.law[r, c.BLOCK]] -= 1
    remove(s, r, c.DECODERS, row)
    s.req[row, c.JOULES] += s.rep[r, c.SHARE] - s.req[row, c.SHARE_THEN]
    s.req[row, c.GIVEN] += now - s.req[row, c.JOINED]


@inner
def _give_back(s: State, r: int, row: int, own: int, now: int) -> None:
    s.rep[r, c.USED] -= own
    s.rep[r, c.RUNNING] -= 1
    if s.law[r, c.ADMIT] == c.ADMIT_SLOT:
        slot = s.req[row, c.SLOT]
        s.slot[r, slot, c.SLOT_ROW] = c.NOBODY
        s.slot[r, slot, c.SLOT_USED] = now
    else:
        let_go(s, r, row)


@inner
def _admitted_after(s: State, r: int, row: int) -> int:
    """Return who stands behind `row` among those who decode: where the last admitted loses its memory first,
    they stand by admission, else by when they began."""
    after: int = c.NOBODY
    if s.law[r, c.EVICT] == c.EVICT_LAST:
        before = s.rep[r, c.DECODERS_END]
        while before != c.NOBODY and s.req[before, c.ADMITTED] > s.req[row, c.ADMITTED]:
            after, before = before, s.req[before, c.PREV]
    return after


@inner
def begin_to_decode(s: State, r: int, row: int) -> None:
    """`row`, whose memory is there, takes part in the steps from the next one on."""
    now = clock(s, r)
    s.req[row, c.STATE] = c.DECODING_NOW
    s.req[row, c.JOINED] = now
    if s.law[r, c.STAGES] > 1:
        s.req[row, c.SLOT] = s.rep[r, c.LANE]
    s.req[row, c.SHARE_THEN] = s.rep[r, c.SHARE]
    insert_before(s, r, c.DECODERS, row, _admitted_after(s, r, row))
    s.rep[r, c.DECODING] += 1
    base = s.req[row, c.TARGET] - now
    s.rep[r, c.CTX] += base + 1
    s.residue[r, base % s.law[r, c.BLOCK]] += 1
    if s.law[r, c.ACCEPT] > 0:
        return  # nobody knows when it will end
    push(s, r, ((now + s.req[row, c.OUTPUT] - s.req[row, c.GIVEN]) << c.ROW_BITS) | row)


@inner
def prompt_complete(s: State, r: int, row: int, now: int) -> None:
    """The step that ended at `now` computed the last of the prompt and gave a token."""
    remove(s, r, c.PROMPTS, row)
    if s.law[r, c.CACHING] == 1 and s.law[r, c.ADMIT] != c.ADMIT_SLOT:
        keep(s, r, row, s.req[row, c.TARGET])
    s.req[row, c.GIVEN] += 1
    s.rep[r, c.GIVEN_OUT] += 1
    s.rep[r, c.COMPLETED] += 1
    if s.req[row, c.FIRST] < 0:
        s.req[row, c.FIRST] = now
        tell(s, c.EVENT_FIRST, row, now)
    if s.req[row, c.GIVEN] == s.req[row, c.OUTPUT]:
        _end(s, r, row, now)
    elif s.law[r, c.PREFILL_ONLY] == 1:
        # Its memory stays here until the hand-over is done.
        s.req[row, c.STATE] = c.HANDED
        tell(s, c.EVENT_PREFILLED, row, now)
    else:
        begin_to_decode(s, r, row)


@inner
def handed_over(s: State, r: int, row: int, now: int) -> None:
    """Another replica has the memory of `row` now: what it held here is free."""
    _give_back(s, r, row, held(s, r, row), now)
    s.load[r] -= 1
    s.rep[r, c.PASSED] += 1


@inner
def last_token(s: State, r: int, row: int, now: int) -> None:
    """A decoding request got its last token in the step that ended at `now`; it has left the heap."""
    own = held(s, r, row)
    before = s.req[row, c.GIVEN]
    _out_of_the_batch(s, r, row)
    over = s.req[row, c.GIVEN] - s.req[row, c.OUTPUT]  # speculation computed past the end
    s.req[row, c.GIVEN] = s.req[row, c.OUTPUT]
    s.rep[r, c.GIVEN_OUT] += s.req[row, c.OUTPUT] - before
    s.rep[r, c.PAST_END] += over
    if s.law[r, c.CACHING] == 1 and s.law[r, c.ADMIT] != c.ADMIT_SLOT:
        was = s.req[row, c.HELD_NODES]
        keep(s, r, row, s.req[row, c.INPUT] + s.req[row, c.OUTPUT] - 1)
        own -= (s.req[row, c.HELD_NODES] - was) * (s.law[r, c.PREFIX] // s.law[r, c.BLOCK])
    s.req[row, c.STATE] = c.PROMPTING  # for `held` it decodes no more
    _finish(s, r, row, own, now)


@inner
def _end(s: State, r: int, row: int, now: int) -> None:
    _finish(s, r, row, held(s, r, row), now)


@inner
def _finish(s: State, r: int, row: int, own: int, now: int) -> None:
    _give_back(s, r, row, own, now)
    if s.law[r, c.ADMIT] == c.ADMIT_SLOT:
        slot = s.req[row, c.SLOT]
        whole = (s.req[row, c.INPUT] + s.req[row, c.OUTPUT] - 1) // s.law[r, c.PREFIX]
        s.slot[r, slot, c.SLOT_IDS_FROM] = s.req[row, c.IDS_FROM]
        s.slot[r, slot, c.SLOT_IDS] = min(s.req[row, c.IDS], whole)
    s.req[row, c.STATE] = c.GONE
    s.req[row, c.END] = now
    s.rep[r, c.FULL] = 0
    s.rep[r, c.ENDED] += 1
    s.rep[r, c.ENDED_OUT] += s.req[row, c.OUTPUT]
    s.rep[r, c.ENDED_TOK] += s.req[row, c.INPUT] + s.req[row, c.OUTPUT] - 1
    s.rep[r, c.ENDED_UJ] += s.req[row, c.JOULES]
    s.load[r] -= 1
    tell(s, c.EVENT_END, row, now)


@inner
def take_back(s: State, r: int, row: int, now: int) -> None:
    """`row` loses its memory and waits again: first in line, or last where the engine puts it last."""
    own = held(s, r, row)
    if s.req[row, c.STATE] == c.DECODING_NOW:
        had = s.req[row, c.TARGET] + clock(s, r) - s.req[row, c.JOINED]
        if s.law[r, c.ACCEPT] == 0:
            key = s.req[row, c.JOINED] + s.req[row, c.OUTPUT] - s.req[row, c.GIVEN]
            drop(s, r, (key << c.ROW_BITS) | row)
        before = s.req[row, c.GIVEN]
        _out_of_the_batch(s, r, row)
        s.rep[r, c.GIVEN_OUT] += s.req[row, c.GIVEN] - before
    else:
        had = s.req[row, c.DONE]
        remove(s, r, c.PROMPTS, row)
    _give_back(s, r, row, own, now)
    s.rep[r, c.LOST] += had
    s.rep[r, c.AGAIN] = 1
    s.rep[r, c.PREEMPTED] += 1
    s.req[row, c.PREEMPTIONS] += 1
    s.req[row, c.TARGET] = s.req[row, c.INPUT] + s.req[row, c.GIVEN]
    s.req[row, c.DONE] = 0
    s.req[row, c.STATE] = c.WAITING
    if s.law[r, c.EVICT] == c.EVICT_SHORTEST:
        append(s, r, c.WAIT, row)
    else:
        insert_before(s, r, c.WAIT, row, s.rep[r, c.WAIT])
