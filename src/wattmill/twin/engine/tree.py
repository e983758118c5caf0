"""The prefix tree: which beginnings are in a replica's memory, who uses them, which goes first.

A prefix id stands for a block of tokens and all that comes before it, so the tree needs no edges: a request's
ids are looked up one after the other until one is missing. A node in use is never evicted. The least recently
used goes first, and of one request's nodes the deepest, so that no node outlives its parent.
"""

from __future__ import annotations

from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import (
    BLOCK,
    FREE_NODE,
    HELD_NODES,
    IDLE_NODES,
    IDS,
    IDS_FROM,
    LRU,
    LRU_END,
    NOBODY,
    NODE_ID,
    NODE_NEXT,
    NODE_PREV,
    NODE_REFS,
    NODES,
    PREFIX,
    USED,
    State,
)


@inner
def unit(s: State, r: int) -> int:
    """Return the blocks of one node."""
    return s.law[r, PREFIX] // s.law[r, BLOCK]


@inner
def _spot(s: State, r: int, key: int) -> int:
    """Return where `key` is, or the empty spot where it would be."""
    mask = s.tree.shape[1] - 1
    mixed = key * 0x1E3779B97F4A7C15
    at = (mixed ^ (mixed >> 29)) & mask
    while True:
        node = s.tree[r, at]
        if node == 0 or s.node[r, node - 1, NODE_ID] == key:
            return at
        at = (at + 1) & mask


@inner
def find(s: State, r: int, key: int) -> int:
    return s.tree[r, _spot(s, r, key)] - 1


@inner
def leading(s: State, r: int, row: int, most: int) -> tuple[int, int]:
    """Return how many leading ids of `row` are here (at most `most`), and how many of these nobody uses."""
    first = s.req[row, IDS_FROM]
    found = 0
    idle = 0
    while found < most:
        node = find(s, r, s.ids[first + found])
        if node == NOBODY:
            break
        if s.node[r, node, NODE_REFS] == 0:
            idle += 1
        found += 1
    return found, idle


@inner
def _pin(s: State, r: int, node: int) -> None:
    if s.node[r, node, NODE_REFS] == 0:
        before, after = s.node[r, node, NODE_PREV], s.node[r, node, NODE_NEXT]
        if before == NOBODY:
            s.rep[r, LRU] = after
        else:
            s.node[r, before, NODE_NEXT] = after
        if after == NOBODY:
            s.rep[r, LRU_END] = before
        else:
            s.node[r, after, NODE_PREV] = before
        s.rep[r, IDLE_NODES] -= 1
    s.node[r, node, NODE_REFS] += 1


@inner
def pin(s: State, r: int, row: int, count: int) -> None:
    """Let `row` use its first `count` ids, which are here."""
    first = s.req[row, IDS_FROM]
    for at in range(count):
        _pin(s, r, find(s, r, s.ids[first + at]))
    s.req[row, HELD_NODES] = count


@inner
def keep(s: State, r: int, row: int, computed_tok: int) -> None:
    """Put what `row` has computed into the tree: whole ids only. Its own blocks become the tree's; where the
    tree has an id already, they are free."""
    first = s.req[row, IDS_FROM]
    whole = min(s.req[row, IDS], computed_tok // s.law[r, PREFIX])
    for at in range(s.req[row, HELD_NODES], whole):
        key = s.ids[first + at]
        spot = _spot(s, r, key)
        node = s.tree[r, spot] - 1
        if node == NOBODY:
            node = s.rep[r, FREE_NODE]
            s.rep[r, FREE_NODE] = s.node[r, node, NODE_NEXT]
            s.tree[r, spot] = node + 1
            s.node[r, node, NODE_ID] = key
            s.node[r, node, NODE_REFS] = 1
            s.rep[r, NODES] += 1
        else:
            _pin(s, r, node)
        s.rep[r, USED] -= unit(s, r)
        s.req[row, HELD_NODES] = at + 1


@inner
def let_go(s: State, r: int, row: int) -> None:
    """`row` uses nothing in the tree any more; its deepest node is the first to be evicted."""
    first = s.req[row, IDS_FROM]
    for at in range(s.req[row, HELD_NODES] - 1, -1, -1):
        node = find(s, r, s.ids[first + at])
        s.node[r, node, NODE_REFS] -= 1
        if s.node[r, node, NODE_REFS] == 0:
            tail = s.rep[r, LRU_END]
            s.node[r, node, NODE_NEXT] = NOBODY
            s.node[r, node, NODE_PREV] = tail
            if tail == NOBODY:
                s.rep[r, LRU] = node
            else:
                s.node[r, tail, NODE_NEXT] = node
            s.rep[r, LRU_END] = node
            s.rep[r, IDLE_NODES] += 1
    s.req[row, HELD_NODES] = 0


@inner
def evict(s: State, r: int) -> None:
    """Forget the least recently used node; there must be one."""
    node = s.rep[r, LRU]
    after = s.node[r, node, NODE_NEXT]
    s.rep[r, LRU] = after
    if after == NOBODY:
        s.rep[r, LRU_END] = NOBODY
    else:
        s.node[r, after, NODE_PREV] = NOBODY
    s.rep[r, IDLE_NODES] -= 1
    s.rep[r, NODES] -= 1
    _unhash(s, r, s.node[r, node, NODE_ID])
    s.node[r, node, NODE_NEXT] = s.rep[r, FREE_NODE]
    s.rep[r, FREE_NODE] = node


@inner
def _unhash(s: State, r: int, key: int) -> None:
    """Empty the spot of `key`, and move up those that were pushed on by it."""
    mask = s.tree.shape[1] - 1
    hole = _spot(s, r, key)
    at = hole
    while True:
        at = (at + 1) & mask
        node = s.tree[r, at]
        if node == 0:
            break
        mixed = s.node[r, node - 1, NODE_ID] * 0x1E3779B97F4A7C15
        home = (mixed ^ (mixed >> 29)) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            s.tree[r, hole] = node
            hole = at
    s.tree[r, hole] = 0
