"""What one worker learned while it served: it survives a reload, and goes with the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from wattmill.ports import Clock, Journal
from wattmill.scheduling.lengths import Lengths
from wattmill.scheduling.prefix import Prefixes, hit_share
from wattmill.scheduling.scarcity import Scarcity
from wattmill.scheduling.spec import Policy
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Asker

MOST_ASKERS = 16_384
_FEWEST_SHARED_TOK = 32  # of a beginning that is so short, what is cached says little


def _never() -> float:
    """Return a draw that explores nothing."""
    return 1.0


class Known(NamedTuple):
    """A caller that the journal was told of, and the policy that decides for it."""

    caller: Caller
    id: int  # of its record; decisions name it
    policy: Policy
    takes_turns: bool  # whether the policy is told how many decisions were taken


class Memory:
    """Bounded, of one worker, never shared: each worker learns from what it sees itself."""

    def __init__(
        self, *, expected_output_tok: int, seed: int = 0, draw: Callable[[], float] = _never
    ) -> None:
        """`draw` returns numbers uniform in [0, 1); `seed`, what they began with, is told to the journal."""
        self.lengths = Lengths(expected_tok=expected_output_tok)
        self.prefixes = Prefixes(0)
        self.hits: dict[str, float] = {}  # by pool: share of a repeated beginning that is still cached
        self.scarcity = Scarcity()
        self.turn = 0
        self.seed = seed
        self.draw = draw
        self._pools: tuple[str, ...] = ()
        self.askers: dict[int, Known] = {}  # whom the journal was told of, by where each stands in memory
        self._last_asker = 0

    def begin(self, pools: Sequence[str]) -> None:
        """Use a new list of places from now on: who asks is told anew, and beginnings are forgotten if the
        places are others."""
        self.askers.clear()
        if tuple(pools) != self._pools:
            self._pools = tuple(pools)
            self.prefixes = Prefixes(len(self._pools))
            self.scarcity.begin(len(self._pools))

    def known(
        self,
        caller: Caller,
        policy_of: Callable[[Caller], tuple[Policy, bool]],
        journal: Journal,
        clock: Clock,
    ) -> Known:
        """Return what stands for `caller`; the journal is told when it is new."""
        found = self.askers.get(id(caller))
        if found is not None:
            return found
        policy, takes_turns = policy_of(caller)
        self._last_asker += 1
        found = Known(caller, self._last_asker, policy, takes_turns)
        told = journal.append_note(
            Asker(found.id, clock.wall_us(), msgspec.msgpack.encode(caller, order="deterministic"))
        )
        if told:  # else there was no room: its next request tries again
            if len(self.askers) >= MOST_ASKERS:
                self.askers.clear()
            self.askers[id(caller)] = found
        return found

    def forget_askers(self) -> None:
        """Let the journal be told of every caller again, so that it need not be kept from the beginning."""
        self.askers.clear()

    def reused(self, pool: str, *, shared_tok: float, prompt_tok: int, cached_tok: int) -> None:
        """Learn how much of a beginning that was sent to `pool` before its engine had kept."""
        expected_tok = min(shared_tok, float(prompt_tok))
        if expected_tok >= _FEWEST_SHARED_TOK:
            known = self.hits.get(pool, 0.0)
            self.hits[pool] = hit_share(known, expected_tok=expected_tok, cached_tok=cached_tok)
