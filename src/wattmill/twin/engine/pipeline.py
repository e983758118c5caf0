"""A pipeline, event by event: batches go from stage to stage, and none overtakes.

As many batches are in flight as there are stages. One is put together, by the engine's own rules, from who is
in none, as soon as there is room for one more: the batch that came out of the last stage goes on with those
who decode in it, and who waits comes into it, or into a batch of his own where a place is free. It begins at
a stage when it has left the stage before, and the batch before it has left this one; a batch takes the same
time at each stage. Bubbles are what comes of it: no factor says them.

A request decodes in one batch. The chunks of a long prompt go in consecutive batches, the next before the one
before it has come out (vLLM counts a chunk as computed when it is sent off; SGLang's chunked pipelines do the
same). Who is in flight cannot lose his memory: who has none for its next step loses his own.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.batch import booked, come_in, decoded, energy_of, plan
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.lanes import idle_lane, lane_in, lane_out, oldest
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append, remove
from wattmill.twin.engine.request import prompt_complete


@inner
def sequences(s: State, r: int) -> int:
    """Return how many sequences the batch in the row computes."""
    decoding: int = s.rep[r, c.DECODING] if s.rep[r, c.DECODES] == 1 else 0
    return decoding + s.rep[r, c.CHUNKS]


@inner
def _send_off(s: State, r: int, lane: int, now: int) -> None:
    """What is planned goes from stage to stage; BOUNDARY is the end of the last. DONE counts what is in
    flight."""
    lasts = s.rep[r, c.BOUNDARY] - now
    mine = s.law[r, c.LANES] + lane
    before = s.law[r, c.LANES] + s.rep[r, c.LAST_LANE]
    leaves = now
    for stage in range(s.law[r, c.STAGES]):
        leaves = max(leaves, s.slot[before, stage, c.LEAVES]) + lasts
        s.slot[mine, stage, c.LEAVES] = leaves
    s.rep[r, c.LAST_LANE] = lane
    s.rep[r, c.LASTS] = lasts
    s.rep[r, c.BOUNDARY] = leaves
    count = 0
    row = s.rep[r, c.PROMPTS]
    while row != c.NOBODY and s.req[row, c.CHUNK] > 0:
        after = s.req[row, c.NEXT]
        s.slot[mine, count, c.PART_ROW] = row
        s.slot[mine, count, c.PART_TOK] = s.req[row, c.CHUNK]
        s.req[row, c.DONE] += s.req[row, c.CHUNK]
        s.req[row, c.CHUNK] = 0
        last = s.req[row, c.DONE] == s.req[row, c.TARGET]
        s.slot[mine, count, c.PART_LAST] = 1 if last else 0
        if last:
            remove(s, r, c.PROMPTS, row)
        count += 1
        row = after
    s.rep[r, c.CHUNKS] = count


@inner
def _came_out(s: State, r: int, lane: int, now: int) -> None:
    """The batch in the row left the last stage."""
    lasts = s.rep[r, c.LASTS]
    each = booked(s, r, lasts, energy_of(s, r, sequences(s, r), lasts))
    if s.rep[r, c.DECODES] == 1:
        decoded(s, r, now)
    s.rep[r, c.COMPUTED] += s.rep[r, c.CHUNKED_TOK]
    mine = s.law[r, c.LANES] + lane
    for at in range(s.rep[r, c.CHUNKS]):
        row, tokens = s.slot[mine, at, c.PART_ROW], s.slot[mine, at, c.PART_TOK]
        s.req[row, c.JOULES] += each * tokens
        if s.slot[mine, at, c.PART_LAST] == 1:
            append(s, r, c.PROMPTS, row)  # it left them when it was sent off
            prompt_complete(s, r, row, now)


@inner
def _go_on(s: State, r: int, lane: int, now: int) -> bool:
    """Put together what goes off in the lane that lies in the row; return whether anything does."""
    here = s.rep[r, c.DECODING]
    row = s.rep[r, c.PROMPTS]
    while row != c.NOBODY:
        here += 1
        row = s.req[row, c.NEXT]
    more = max(0, s.law[r, c.LANE_SEQS] - here)
    s.rep[r, c.MOST] = min(s.law[r, c.SEQS], s.rep[r, c.RUNNING] + more)
    plan(s, r, now)
    flies = s.rep[r, c.BOUNDARY] != c.NEVER
    if flies:
        _send_off(s, r, lane, now)
    lane_out(s, r, lane)
    return flies


@inner
def _fill(s: State, r: int, now: int) -> None:
    """Let batches go off as long as there is a place for one, and somebody to put into it."""
    while s.rep[r, c.WAIT] != c.NOBODY or s.rep[r, c.PROMPTS] != c.NOBODY:
        lane = idle_lane(s, r)
        if lane == c.NOBODY:
            return
        lane_in(s, r, lane)
        if not _go_on(s, r, lane, now):
            return


@inner
def advance_stages(s: State, r: int, to: int) -> None:
    """Let everything happen at replica `r`, a pipeline, that happens until `to`, that instant included."""
    while True:
        head = s.rep[r, c.INBOX]
        here = c.NEVER if head == c.NOBODY else s.req[head, c.HERE]
        lane = oldest(s, r)
        ends = c.NEVER if lane == c.NOBODY else s.rep[s.law[r, c.LANES] + lane, c.BOUNDARY]
        look = s.rep[r, c.LOOK]
        now = min(here, min(look, ends))
        if now > to or now == c.NEVER:
            break
        if here == now:
            come_in(s, r, head, here)
            _fill(s, r, now)
        elif look == now:
            s.rep[r, c.LOOK] = c.NEVER
            _fill(s, r, now)
        else:
            lane_in(s, r, lane)
            _came_out(s, r, lane, now)
            _go_on(s, r, lane, now)
            _fill(s, r, now)
    s.next_ps[r] = now
