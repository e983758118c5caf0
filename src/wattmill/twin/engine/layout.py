"""The compiled core's memory: whole numbers in a few arrays, a row for each replica and each request."""

from __future__ import annotations

from typing import Final, NamedTuple

from wattmill.twin.engine.compiled import Array

NEVER: Final = 1 << 62
NOBODY: Final = -1

# Columns of `State.law`: one replica's costs, limits and rules. Set once.
BEYOND: Final = 0
DECODE: Final = 1
CONTEXT: Final = 2
PREFILL: Final = 3
ATTENTION: Final = 4
STAGES: Final = 5
VERIFY: Final = 6
PER_STEP: Final = 7
OVERHEAD: Final = 8
SEQS: Final = 9
BUDGET: Final = 10
KV: Final = 11
BLOCK: Final = 12
CHUNKED: Final = 13
CACHING: Final = 14
PREFIX: Final = 15
MIXED: Final = 16  # decoding requests share a step with prompts
ADMIT: Final = 17  # one of the ADMIT_ rules
EVICT: Final = 18  # one of the EVICT_ rules
TABLE: Final = 19  # entries of this replica's step table
HANDOVER: Final = 20
HANDOVER_TOK: Final = 21
POWERS: Final = 22  # entries of this replica's power table
PREFILL_ONLY: Final = 23  # 1: it hands over what it has prefilled
PIECE: Final = 24  # tokens of a piece of a step, 0: a step is one piece
ACCEPT: Final = 25  # 0: expected tokens; else PER_STEP is 0, so that the clock stands still
DRAW_SEED: Final = 26
TO_FROM: Final = 27  # whom it hands over to: replicas from here on, before the next
TO_UNTIL: Final = 28
LINK: Final = 29  # by which link
WALKS: Final = 30  # 1: a jump is one step
LANE_SEQS: Final = 31  # running at once in one of the batches that fill a pipeline
LANES: Final = 32  # of a pipeline: the row of its first lane
LAW_COLUMNS: Final = 33

ADMIT_PROMPT: Final = 0  # when its prompt's blocks are free
ADMIT_WHOLE: Final = 1  # when the prompt and all that it asked for are free
ADMIT_ESTIMATE: Final = 2  # when the prompt and what running ones are expected to need are free
ADMIT_SLOT: Final = 3  # when a slot is free

EVICT_NOBODY: Final = 0
EVICT_LAST: Final = 1  # the last admitted loses its memory and starts again
EVICT_SHORTEST: Final = 2  # those with the shortest answers so far are taken back

# Columns of `State.rep`: what one replica is doing.
FROM: Final = 0  # start of what runs now
BOUNDARY: Final = 1  # its end, or NEVER
PLANNED: Final = 2  # steps that run now
DECODES: Final = 3  # 1: decoding requests take part in them
DSTEP: Final = 4  # steps in which decoding requests took part, until now
DECODING: Final = 5
CTX: Final = 6  # context that decoding requests read in the next step, less DECODING x clock
RUNNING: Final = 7
USED: Final = 8  # blocks of running requests, without those in the prefix tree
NODES: Final = 9  # nodes in the prefix tree
IDLE_NODES: Final = 10  # of these, used by nobody
INBOX: Final = 11  # lists: head, tail
INBOX_END: Final = 12
WAIT: Final = 13
WAIT_END: Final = 14
PROMPTS: Final = 15
PROMPTS_END: Final = 16
DECODERS: Final = 17
DECODERS_END: Final = 18
LRU: Final = 19
LRU_END: Final = 20
FREE_NODE: Final = 21
STEPS: Final = 22
BUSY: Final = 23  # picoseconds in which steps ran
RATIO: Final = 24  # SGLang's expected share of what was asked for, in parts of ONE
FULL: Final = 25  # SGLang: do not try to admit before somebody leaves
COMPUTED: Final = 26  # prompt tokens computed, recomputed ones too
REUSED: Final = 27  # prompt tokens found in the cache
GIVEN_OUT: Final = 28  # tokens given
LOST: Final = 29  # computed tokens whose memory was taken away
PREEMPTED: Final = 30
TAKEN: Final = 31
ENDED: Final = 32
HEAPED: Final = 33
ENERGY: Final = 34  # microjoules of steps
SPARE: Final = 35  # of these, what whole shares left over
DOWN: Final = 36  # 1: out of order
SHARE: Final = 37  # microjoules that a request which decoded since the first step would have been given
PASSED: Final = 38  # requests handed over to another replica
PAST_END: Final = 39  # tokens that speculation made after an answer's end
GROWN: Final = 40  # blocks taken for the first of the steps that run
CHUNKED_TOK: Final = 41  # prompt tokens in the step that runs
COMPLETED: Final = 42  # prompts, and those computed again
DROPPED: Final = 43  # requests that a failure took away
UNDONE: Final = 44  # tokens given that a failure made void
AGAIN: Final = 45  # 1: somebody was taken back at this step, and may come in again at the next
ENDED_OUT: Final = 46  # sums over what ended here: tokens of answers
ENDED_TOK: Final = 47  # tokens that had to be computed, or found
ENDED_UJ: Final = 48
VOID_UJ: Final = 49  # joules of requests that a failure took away
PIECES: Final = 50  # picoseconds that the pieces of one decoding step cost
DRAWS: Final = 51  # drawn steps of one request each
DRAWN: Final = 52  # tokens that came of them
ADMITS: Final = 53  # admissions until now
MOST: Final = 54  # RUNNING up to which the step that is planned may admit
# Of a pipeline only, as `lanes` has it.
LANE: Final = 55  # whose turn it is
LASTS: Final = 56  # of a batch in flight: its time at one stage
CHUNKS: Final = 57  # and in how many prompts it computes
LAST_LANE: Final = 58  # who entered the first stage last
LOOK: Final = 59  # when to look for room once more, NEVER
REP_COLUMNS: Final = 60

OF_A_LANE: Final = (
    FROM, BOUNDARY, PLANNED, DECODES, DSTEP, DECODING, CTX, DECODERS, DECODERS_END, GROWN, CHUNKED_TOK, SHARE,
    HEAPED, LASTS, CHUNKS,
)  # fmt: skip
"""What each of the batches that fill a pipeline has for itself; the rest is the replica's."""

# Columns of `State.req`: one request.
INPUT: Final = 0
OUTPUT: Final = 1
ASKED: Final = 2  # the most output that it asked for
AT: Final = 3
HERE: Final = 4
BEGUN: Final = 5
FIRST: Final = 6
END: Final = 7
CACHED: Final = 8  # prompt tokens found in the cache when it was first admitted
PREEMPTIONS: Final = 9
REPLICA: Final = 10
STATE: Final = 11
TARGET: Final = 12  # tokens whose memory must be there before it decodes
DONE: Final = 13  # of these, there
CHUNK: Final = 14  # of these, computed in the step that runs
GIVEN: Final = 15  # tokens given when it last began to decode
JOINED: Final = 16  # the clock then
HELD_NODES: Final = 17
NEXT: Final = 18
PREV: Final = 19
IDS_FROM: Final = 20
IDS: Final = 21
SLOT: Final = 22  # llama.cpp's; of a pipeline: the lane in which it decodes
TAG: Final = 23
JOULES: Final = 24  # microjoules
SHARE_THEN: Final = 25
AFTER: Final = 26  # the request that this one's end lets arrive, or NOBODY
THINK: Final = 27  # how long after
BROKE: Final = 28  # how many machines died with it
SENT: Final = 29  # 1: it was sent before, and arrived when `AT` says
DUE_AT: Final = 30  # when the link has carried it over, NOBODY: it is not under way
ADMITTED: Final = 31  # which admission of its replica brought it in
REQ_COLUMNS: Final = 32

UNBORN: Final = 0
INBOXED: Final = 1
WAITING: Final = 2
PROMPTING: Final = 3
DECODING_NOW: Final = 4
GONE: Final = 5
HANDED: Final = 6
BROKEN: Final = 7  # its machine died
GIVEN_UP: Final = 8  # ... for the last time

# Columns of `State.node`: one prefix id in one replica's tree.
NODE_ID: Final = 0
NODE_REFS: Final = 1
NODE_NEXT: Final = 2
NODE_PREV: Final = 3
NODE_COLUMNS: Final = 4

# Columns of `State.slot`: llama.cpp's slots.
SLOT_ROW: Final = 0
SLOT_USED: Final = 1  # when it was last given back
SLOT_IDS_FROM: Final = 2
SLOT_IDS: Final = 3
SLOT_LEFT: Final = 4  # tokens of the step that is planned, not yet in a piece
SLOT_COLUMNS: Final = 5

# The same in a row of a pipeline's lane: by place, a prompt's tokens in the batch in flight; by stage, when.
PART_ROW: Final = 0
PART_TOK: Final = 1
PART_LAST: Final = 2  # 1: its prompt is complete with them
LEAVES: Final = 3  # when the batch leaves, or left, the stage

# Columns of `State.event`.
EVENT_AT: Final = 0
EVENT_KIND: Final = 1
EVENT_TAG: Final = 2  # written for outer policies only: of one instant, events are told in this order
EVENT_ROW: Final = 3
EVENT_REPLICA: Final = 4  # this and what follows likewise
EVENT_CAME: Final = 5
EVENT_BEGUN: Final = 6
EVENT_FIRST_AT: Final = 7
EVENT_CACHED: Final = 8
EVENT_UJ: Final = 9
EVENT_COLUMNS: Final = 10
EVENT_FIRST: Final = 0
EVENT_END: Final = 1
EVENT_PREFILLED: Final = 2

# Entries of `State.common`.
EVENTS: Final = 0
TELL: Final = 1  # 1: ends and first tokens are written into `event`
SOONEST: Final = 2  # when something happens next at any replica; written for outer policies only
DUE: Final = 3  # entries of the heap `due`
TAKERS: Final = 4  # of the first so many replicas one is chosen for who comes
COMMONS: Final = 5

# Columns of `State.link`.
LINK_FREE: Final = 0  # from when on
LINK_BUSY: Final = 1  # picoseconds
LINK_WAIT: Final = 2  # picoseconds that hand-overs waited for their turn
LINK_SENT: Final = 3  # hand-overs
LINK_TOK: Final = 4  # tokens whose memory went over
LINK_COLUMNS: Final = 5


class State(NamedTuple):
    """All of the core's memory. The first index is a replica's, of `req` and `event` the row's.

    A call hands over all of it, and each array more makes a million requests slower. So the lanes of
    pipelines have rows of their own behind the replicas' in `rep`, `heap`, `residue` and `slot`.
    """

    law: Array  # (replicas, LAW_COLUMNS)
    table: Array  # (replicas, entries)
    power: Array  # (replicas, entries), milliwatts
    next_ps: Array  # (replicas,): when something happens there next
    load: Array  # (replicas,): requests between decision and last token
    rep: Array  # (replicas, REP_COLUMNS)
    heap: Array  # (replicas, most running): ends to come, clock << 27 | row
    residue: Array  # (replicas, block): decoding requests by how full their last block is
    tree: Array  # (replicas, slots of the hash): node + 1, 0 is empty
    node: Array  # (replicas, nodes, NODE_COLUMNS)
    slot: Array  # (replicas, slots, SLOT_COLUMNS)
    req: Array  # (requests, REQ_COLUMNS)
    ids: Array  # (all prefix ids,)
    event: Array  # (events, EVENT_COLUMNS)
    common: Array  # (COMMONS,)
    link: Array  # (links, LINK_COLUMNS)
    due: Array  # (hand-overs, 2): heap of (instant, row)


ROW_BITS: Final = 27
ROW_MASK: Final = (1 << ROW_BITS) - 1
