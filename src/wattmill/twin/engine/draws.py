"""What speculation gave, drawn: each decoding request by itself, in each step.

A draw depends on the seed, the request and how many tokens it has been given, on nothing else: the same
request is accepted the same way at the same place of its answer on any replica, in any company, under any
policy, and again after a preemption. Its mean is the closed law's (Leviathan, Kalman, Matias 2023, eq. 1),
1 + a + ... + a^k; its tokens in one step lie between 1 and k + 1.

Where tokens are drawn, the replica's clock stands still and each request carries its own count; a jump is one
step, because nobody knows who ends when.
"""

from __future__ import annotations

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.chance import mixed
from wattmill.twin.engine.compiled import inner
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.lists import push
from wattmill.twin.engine.steps import blocks, whole

_BITS = 31  # of `CERTAIN`


@inner
def accepted(accept: int, drafted: int, seed: int, tag: int, given: int) -> int:
    """Return how many of `drafted` tokens are accepted after the first `given` of request `tag`."""
    # One uniform number against the falling chances a, a^2, ...: as many as lie above it.
    uniform = mixed(mixed(seed, tag), given) & ((1 << _BITS) - 1)
    chance = accept
    count = 0
    while count < drafted and uniform < chance:
        count += 1
        chance = (chance * accept) >> _BITS
    return count


@inner
def draw_step(s: State, r: int) -> None:
    """The step that has ended gave each decoding request what is drawn; who ends with it is in the heap."""
    accept, drafted, size = s.law[r, c.ACCEPT], s.law[r, c.VERIFY] - 1, s.law[r, c.BLOCK]
    pays = not whole(s, r)
    taken = s.rep[r, c.GROWN]  # set aside for all that might have been accepted
    row = s.rep[r, c.DECODERS]
    while row != c.NOBODY:
        tokens = 1 + accepted(accept, drafted, s.law[r, c.DRAW_SEED], s.req[row, c.TAG], s.req[row, c.GIVEN])
        s.rep[r, c.DRAWS] += 1
        s.rep[r, c.DRAWN] += tokens
        had = s.req[row, c.TARGET]
        base = had - s.req[row, c.JOINED]
        s.residue[r, base % size] -= 1
        s.residue[r, (base + tokens) % size] += 1
        s.req[row, c.TARGET] = had + tokens
        s.req[row, c.GIVEN] += tokens
        s.rep[r, c.GIVEN_OUT] += tokens
        s.rep[r, c.CTX] += tokens
        if pays:
            taken -= blocks(s, r, had + tokens) - blocks(s, r, had)
        if s.req[row, c.GIVEN] >= s.req[row, c.OUTPUT]:
            push(s, r, row)  # due at clock 0, which is now
        row = s.req[row, c.NEXT]
    s.rep[r, c.USED] -= taken
