"""The batches that fill a pipeline, one lane each.

The rules of one batch (who is admitted, what is computed, who ends) work on a replica's row. In a pipeline as
many batches are in flight as there are stages; each has a lane of its own, with what is only its own
(`layout.OF_A_LANE`), and lies in the replica's row while something happens to it. Memory, cache, queue and
the prompts that are not all sent off belong to the replica, and to all lanes.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import State


@inner
def lane_in(s: State, r: int, lane: int) -> None:
    """Lay what `lane` has into the replica's row."""
    mine = s.law[r, c.LANES] + lane
    for column in c.OF_A_LANE:
        s.rep[r, column] = s.rep[mine, column]
    for at in range(s.rep[r, c.HEAPED]):
        s.heap[r, at] = s.heap[mine, at]
    for key in range(s.law[r, c.BLOCK]):
        s.residue[r, key] = s.residue[mine, key]
    s.rep[r, c.LANE] = lane


@inner
def lane_out(s: State, r: int, lane: int) -> None:
    """Put it aside again; the row is then of nobody."""
    mine = s.law[r, c.LANES] + lane
    for column in c.OF_A_LANE:
        s.rep[mine, column] = s.rep[r, column]
        s.rep[r, column] = 0
    for at in range(s.rep[mine, c.HEAPED]):
        s.heap[mine, at] = s.heap[r, at]
    for key in range(s.law[r, c.BLOCK]):
        s.residue[mine, key] = s.residue[r, key]
        s.residue[r, key] = 0
    s.rep[r, c.DECODERS] = s.rep[r, c.DECODERS_END] = c.NOBODY
    s.rep[r, c.BOUNDARY] = c.NEVER


@inner
def idle_lane(s: State, r: int) -> int:
    """Return the first lane that has no batch in flight, or NOBODY."""
    for lane in range(s.law[r, c.STAGES]):
        if s.rep[s.law[r, c.LANES] + lane, c.BOUNDARY] == c.NEVER:
            return lane
    return c.NOBODY


@inner
def oldest(s: State, r: int) -> int:
    """Return the lane whose batch ends next, or NOBODY where none is in flight."""
    best, soonest = c.NOBODY, c.NEVER
    for lane in range(s.law[r, c.STAGES]):
        ends = s.rep[s.law[r, c.LANES] + lane, c.BOUNDARY]
        if ends < soonest:
            best, soonest = lane, ends
    return best


@inner
def in_flight(s: State, r: int, row: int) -> bool:
    """Return whether some of the prompt of `row` is in flight. Slow: only where memory runs out."""
    first = s.law[r, c.LANES]
    for lane in range(first, first + s.law[r, c.STAGES]):
        if s.rep[lane, c.BOUNDARY] != c.NEVER:
            for at in range(s.rep[lane, c.CHUNKS]):
                if s.slot[lane, at, c.PART_ROW] == row:
                    return True
    return False


@inner
def empty_lanes(s: State, r: int) -> None:
    """No lane has anything."""
    s.rep[r, c.LAST_LANE] = 0
    s.rep[r, c.LOOK] = c.NEVER
    first = s.law[r, c.LANES]
    for lane in range(first, first + s.law[r, c.STAGES]):
        for column in c.OF_A_LANE:
            s.rep[lane, column] = 0
        s.rep[lane, c.DECODERS] = s.rep[lane, c.DECODERS_END] = c.NOBODY
        s.rep[lane, c.BOUNDARY] = c.NEVER
        for key in range(s.law[r, c.BLOCK]):
            s.residue[lane, key] = 0
        for stage in range(s.law[r, c.STAGES]):
            s.slot[lane, stage, c.LEAVES] = 0
