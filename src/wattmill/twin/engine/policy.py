"""Who runs in the next step: the schedulers, as rules of admission and eviction.

| engine | step | admits a request when | out of memory |
|---|---|---|---|
| vLLM V1 | decoding and prompts together | its prompt's blocks are free | the last admitted starts again |
| SGLang | prompts alone, before decoding | its prompt and what running ones are expected to need are free | the shortest answers so far start again |
| TensorRT-LLM | decoding and prompts together | all that it asked for is free | never happens |
| llama.cpp | decoding and prompts together | a slot is free | never happens |

All are first come, first served. What is simpler here than there: a prompt's blocks are taken when it is
admitted, not chunk by chunk; the cache is asked when a request is admitted, and filled when its prompt is
complete and when it ends.
"""  # noqa: E501

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.lanes import in_flight
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import append, insert_before, remove
from wattmill.twin.engine.request import begin_to_decode, given, take_back
from wattmill.twin.engine.spec import ONE
from wattmill.twin.engine.steps import blocks, growth, held, make_room, room, tokens_in
from wattmill.twin.engine.tree import leading, pin, unit

# SGLang's estimate (python/sglang/srt/managers): of what running requests may still ask for, 0.7 is expected
# at first; each decode step takes a 600th of the way down to 0.14 x 0.7; a retraction sets it anew, looking
# 20 steps ahead; nobody counts for more than 4,096 tokens.
SGLANG_RATIO = round(0.7 * ONE)
SGLANG_LEAST = round(0.7 * 0.14 * ONE)
SGLANG_DECAY = round(0.7 * (1 - 0.14) * ONE / 600)
SGLANG_AHEAD = 20
SGLANG_CLIP = 4_096

# llama.cpp's --slot-prompt-similarity: a slot is taken for its cache where more than a tenth of the prompt is
# there.
_SIMILAR = 10


@inner
def _most_cached(s: State, r: int, row: int) -> int:
    """Return how many ids may be reused: at least one token is computed, to give the next."""
    if s.law[r, c.CACHING] == 0:
        return 0
    return min(s.req[row, c.IDS], (s.req[row, c.TARGET] - 1) // s.law[r, c.PREFIX])


@inner
def _start(s: State, r: int, row: int, cached_tok: int, now: int) -> None:
    """`row` is admitted; its memory is accounted for by the caller."""
    remove(s, r, c.WAIT, row)
    s.rep[r, c.RUNNING] += 1
    s.rep[r, c.ADMITS] += 1
    s.req[row, c.ADMITTED] = s.rep[r, c.ADMITS]
    if s.req[row, c.STATE] == c.HANDED:
        begin_to_decode(s, r, row)
        return
    s.req[row, c.DONE] = cached_tok
    s.rep[r, c.REUSED] += cached_tok
    if s.req[row, c.BEGUN] < 0:
        s.req[row, c.BEGUN] = now
        s.req[row, c.CACHED] = cached_tok
    s.req[row, c.STATE] = c.PROMPTING


@inner
def _admit(s: State, r: int, row: int, left: int, now: int) -> bool:
    """Admit the first in line where its memory is free, or at least could be."""
    found, idle = leading(s, r, row, _most_cached(s, r, row))
    cached_tok = found * s.law[r, c.PREFIX]
    computes = s.req[row, c.STATE] != c.HANDED
    if computes and s.law[r, c.CHUNKED] == 0 and s.req[row, c.TARGET] - cached_tok > left:
        return False
    if s.law[r, c.ADMIT] == c.ADMIT_WHOLE:
        tokens = s.req[row, c.INPUT] + s.req[row, c.ASKED]
    else:
        tokens = s.req[row, c.TARGET]
    need = blocks(s, r, tokens) - found * unit(s, r)
    grown = 0
    if not computes and s.law[r, c.MIXED] == 1 and s.law[r, c.ADMIT] != c.ADMIT_WHOLE:
        # It decodes in the step that is being filled, whose growth was taken before.
        grown = blocks(s, r, tokens + tokens_in(s, r, 1)) - blocks(s, r, tokens)
        need += grown
    if need > room(s, r) - idle * unit(s, r):
        return False
    pin(s, r, row, found)
    make_room(s, r, need)
    s.rep[r, c.USED] += need
    s.rep[r, c.GROWN] += grown
    _start(s, r, row, cached_tok, now)
    return True


@inner
def _take_slot(s: State, r: int, row: int, now: int) -> None:
    """Give `row` the free slot that holds the most of its prompt, or the one that was idle longest."""
    most = _most_cached(s, r, row)
    best, best_same, oldest = -1, 0, -1
    for slot in range(s.law[r, c.SEQS]):
        if s.slot[r, slot, c.SLOT_ROW] != c.NOBODY:
            continue
        same = 0
        limit = min(most, s.slot[r, slot, c.SLOT_IDS])
        while (
            same < limit
            and s.ids[s.slot[r, slot, c.SLOT_IDS_FROM] + same] == s.ids[s.req[row, c.IDS_FROM] + same]
        ):
            same += 1
        if same > best_same:
            best, best_same = slot, same
        if oldest < 0 or s.slot[r, slot, c.SLOT_USED] < s.slot[r, oldest, c.SLOT_USED]:
            oldest = slot
    if best < 0 or best_same * s.law[r, c.PREFIX] * _SIMILAR <= s.req[row, c.TARGET]:
        # The slot that was idle longest; what it happens to hold of this prompt is reused too.
        best, best_same = oldest, 0
        limit = min(most, s.slot[r, best, c.SLOT_IDS])
        while (
            best_same < limit
            and s.ids[s.slot[r, best, c.SLOT_IDS_FROM] + best_same]
            == s.ids[s.req[row, c.IDS_FROM] + best_same]
        ):
            best_same += 1
    s.slot[r, best, c.SLOT_ROW] = row
    s.slot[r, best, c.SLOT_IDS] = 0
    s.req[row, c.SLOT] = best
    _start(s, r, row, best_same * s.law[r, c.PREFIX], now)
    after = s.rep[r, c.PROMPTS]
    while after != c.NOBODY and s.req[after, c.SLOT] < best:
        after = s.req[after, c.NEXT]
    insert_before(s, r, c.PROMPTS, row, after)


@inner
def _grow(s: State, r: int) -> None:
    """Take the blocks that decoding requests need in the next step."""
    need = growth(s, r, 1)
    make_room(s, r, need)
    s.rep[r, c.USED] += need
    s.rep[r, c.GROWN] = need


@inner
def _chunk(s: State, r: int, row: int, left: int) -> int:
    """Give `row` its part of the step's `left` tokens, and return it; 0 where it needs all of it at once."""
    tokens = min(s.req[row, c.TARGET] - s.req[row, c.DONE], left)
    if s.law[r, c.CHUNKED] == 0 and tokens < s.req[row, c.TARGET] - s.req[row, c.DONE]:
        return 0
    s.req[row, c.CHUNK] = tokens
    return tokens


@inner
def together(s: State, r: int, now: int) -> int:
    """Fill a step with decoding requests, prompts under way and new ones; return its prompt tokens."""
    evicted = False
    if s.law[r, c.EVICT] == c.EVICT_LAST:
        while s.rep[r, c.DECODING] > 0 and growth(s, r, 1) > room(s, r):
            last, decodes = s.rep[r, c.PROMPTS_END], s.rep[r, c.DECODERS_END]
            while s.law[r, c.STAGES] > 1 and last != c.NOBODY and in_flight(s, r, last):
                last = s.req[last, c.PREV]
            # Who was handed over decodes at once, and may have come in after a prompt that is under way.
            if last == c.NOBODY or s.req[decodes, c.ADMITTED] > s.req[last, c.ADMITTED]:
                last = decodes
            take_back(s, r, last, now)
            evicted = True
    _grow(s, r)
    by_slot = s.law[r, c.ADMIT] == c.ADMIT_SLOT
    if by_slot:
        while s.rep[r, c.WAIT] != c.NOBODY and s.rep[r, c.RUNNING] < s.law[r, c.SEQS]:
            _take_slot(s, r, s.rep[r, c.WAIT], now)
    left = s.law[r, c.BUDGET] - s.rep[r, c.DECODING] * s.law[r, c.VERIFY]
    prompt_tok = 0
    row = s.rep[r, c.PROMPTS]
    while row != c.NOBODY and left > 0:
        tokens = _chunk(s, r, row, left)
        if tokens == 0:
            break
        left -= tokens
        prompt_tok += tokens
        row = s.req[row, c.NEXT]
    if by_slot or evicted or row != c.NOBODY:
        return prompt_tok
    while left > 0 and s.rep[r, c.WAIT] != c.NOBODY and s.rep[r, c.RUNNING] < s.rep[r, c.MOST]:
        row = s.rep[r, c.WAIT]
        if not _admit(s, r, row, left, now):
            break
        if s.req[row, c.STATE] == c.PROMPTING:
            append(s, r, c.PROMPTS, row)
            tokens = _chunk(s, r, row, left)
            left -= tokens
            prompt_tok += tokens
        else:
            left -= s.law[r, c.VERIFY]
    return prompt_tok


@inner
def _expected_tok(s: State, r: int) -> int:
    """Return the tokens that decoding requests are expected to ask for, by SGLang's estimate."""
    tokens = 0
    row = s.rep[r, c.DECODERS]
    while row != c.NOBODY:
        tokens += min(s.req[row, c.ASKED] - given(s, r, row), SGLANG_CLIP)
        row = s.req[row, c.NEXT]
    return (tokens * s.rep[r, c.RATIO]) // ONE


@inner
def prompts_alone(s: State, r: int, now: int) -> int:
    """Fill a step with prompts only, where there are any to go on with or to admit; return its tokens."""
    left = s.law[r, c.BUDGET]
    prompt_tok = 0
    row = s.rep[r, c.PROMPTS]
    while row != c.NOBODY and left > 0:
        tokens = _chunk(s, r, row, left)
        left -= tokens
        prompt_tok += tokens
        row = s.req[row, c.NEXT]
    if s.rep[r, c.WAIT] == c.NOBODY or s.rep[r, c.FULL] == 1:
        return prompt_tok
    expected = _expected_tok(s, r)
    while left > 0 and s.rep[r, c.WAIT] != c.NOBODY and s.rep[r, c.RUNNING] < s.rep[r, c.MOST]:
        row = s.rep[r, c.WAIT]
        found, idle = leading(s, r, row, _most_cached(s, r, row))
        fresh = s.req[row, c.TARGET] - found * s.law[r, c.PREFIX]
        future = min(s.req[row, c.ASKED] - s.req[row, c.GIVEN], SGLANG_CLIP)
        free_tok = (room(s, r) - idle * unit(s, r)) * s.law[r, c.BLOCK] - expected
        if fresh + future >= free_tok and s.rep[r, c.RUNNING] > 0:
            s.rep[r, c.FULL] = 1
            break
        if s.law[r, c.CHUNKED] == 0 and fresh > left and s.req[row, c.STATE] != c.HANDED:
            break
        if not _admit(s, r, row, left, now):
            s.rep[r, c.FULL] = 1
            break
        if s.req[row, c.STATE] == c.PROMPTING:
            append(s, r, c.PROMPTS, row)
            tokens = _chunk(s, r, row, left)
            left -= tokens
            prompt_tok += tokens
            if tokens < fresh:
                break
        expected += future
    return prompt_tok


@inner
def _shortest(s: State, r: int) -> int:
    """Return the decoding request with the fewest tokens given; of equals the one with the longest prompt,
    and of these the one that decodes for the shortest time."""
    row = s.rep[r, c.DECODERS]
    best, fewest = c.NOBODY, 0
    while row != c.NOBODY:
        tokens = given(s, r, row)
        if (
            best == c.NOBODY
            or tokens < fewest
            or (tokens == fewest and s.req[row, c.INPUT] >= s.req[best, c.INPUT])
        ):
            best, fewest = row, tokens
        row = s.req[row, c.NEXT]
    return best


@inner
def decoding_alone(s: State, r: int, now: int) -> None:
    """Take the memory of a step for decoding requests; where there is none, take requests back until the rest
    can go on for some steps."""
    if s.rep[r, c.DECODING] > 0 and growth(s, r, 1) > room(s, r):
        first = True
        while s.rep[r, c.DECODING] > 1 and (
            first or room(s, r) * s.law[r, c.BLOCK] < s.rep[r, c.DECODING] * SGLANG_AHEAD
        ):
            take_back(s, r, _shortest(s, r), now)
            first = False
        # One alone has room, but for what other batches of a pipeline hold.
        while s.law[r, c.STAGES] > 1 and s.rep[r, c.DECODING] > 0 and growth(s, r, 1) > room(s, r):
            take_back(s, r, _shortest(s, r), now)
        s.rep[r, c.FULL] = 0
        if s.rep[r, c.DECODING] == 0:
            return
        had, asked = 0, 0
        row = s.rep[r, c.DECODERS]
        while row != c.NOBODY:
            had += given(s, r, row)
            asked += s.req[row, c.ASKED]
            row = s.req[row, c.NEXT]
        s.rep[r, c.RATIO] = min(ONE, (had + SGLANG_AHEAD * s.rep[r, c.DECODING]) * ONE // asked)
    _grow(s, r)


@inner
def uses(s: State, r: int, row: int) -> int:
    """Return all blocks that a running request uses, the tree's included."""
    return held(s, r, row) + s.req[row, c.HELD_NODES] * unit(s, r)
