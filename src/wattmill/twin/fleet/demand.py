"""Who asks what, when: traces, an open loop at a rate, and sessions whose next turn follows an answer.

Everything random comes from one seed for each stream, so that one stream more changes nothing of the others.
"""

from __future__ import annotations

import heapq
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from wattmill.twin.fleet.spec import Turn
from wattmill.twin.spec import BLOCK_TOK, Work
from wattmill.units import US_PER_S

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_FIXED = re.compile(r"\s*([0-9]+)\s*")
_BETWEEN = re.compile(r"\s*([0-9]+)\s*-\s*([0-9]+)\s*")
_SKEW = re.compile(rf"\s*p50\s+{_NUMBER}\s+p95\s+{_NUMBER}\s*")
_Z95 = 1.6448536269514722  # 95th percentile of the standard normal distribution


class Lengths(Protocol):
    """A distribution of token counts."""

    def draw(self, rng: random.Random) -> int: ...


class Fixed(msgspec.Struct, frozen=True):
    tok: int

    def draw(self, rng: random.Random) -> int:
        return self.tok


class Between(msgspec.Struct, frozen=True):
    """Uniform, both ends included."""

    least: int
    most: int

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.least, self.most)


class Skewed(msgspec.Struct, frozen=True):
    """Log-normal, told by its median and its 95th percentile; at least 1 token."""

    p50: float
    p95: float

    def draw(self, rng: random.Random) -> int:
        spread = math.log(self.p95 / self.p50) / _Z95
        return max(1, round(self.p50 * math.exp(spread * rng.gauss(0.0, 1.0))))


def lengths(text: str) -> Lengths:
    """Return what `512`, `100-200` or `p50 500 p95 2000` means. Raises `ValueError` with what could be
    said."""
    if (found := _FIXED.fullmatch(text)) and int(found[1]) >= 1:
        return Fixed(int(found[1]))
    if (found := _BETWEEN.fullmatch(text)) and 1 <= int(found[1]) <= int(found[2]):
        return Between(int(found[1]), int(found[2]))
    if (found := _SKEW.fullmatch(text)) and 1 <= float(found[1]) < float(found[2]):
        return Skewed(float(found[1]), float(found[2]))
    raise ValueError(
        f"a length is {text!r}, must be tokens such as '512', a range such as '100-200', or a log-normal "
        "distribution such as 'p50 500 p95 2000'"
    )


class Stream(Protocol):
    """One part of the demand. Turns come in order of time; `follow` may add one after an end."""

    def first(self) -> Iterator[Turn]: ...

    def follow(self, turn: Turn, now_us: int) -> Turn | None:
        """Return the turn that follows one which has ended, if there is one."""


class Trace:
    """Recorded work, at its own pace or pressed, for clients drawn by their shares."""

    def __init__(self, works: Sequence[Work], shares: Sequence[tuple[int, float]], *, seed: int) -> None:
        self._works = works
        self._shares = shares
        self._seed = seed

    def first(self) -> Iterator[Turn]:
        clients = Clients(self._shares, random.Random(self._seed))
        for work in self._works:
            yield Turn(
                work.at_us, clients.draw(), work.input_tok, work.output_tok, work.max_output_tok, work.blocks
            )

    def follow(self, turn: Turn, now_us: int) -> Turn | None:
        return None


class OpenLoop:
    """Arrivals by chance (Poisson) at a rate that does not wait for answers."""

    def __init__(
        self,
        *,
        per_s: float,
        duration_s: float,
        input_tok: Lengths,
        output_tok: Lengths,
        max_output_tok: int | None,
        shares: Sequence[tuple[int, float]],
        seed: int,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`max_output_tok` None: each client asks for exactly what it will get. `pairs`: lengths of input and
        output drawn together from these, in place of the two distributions."""
        self._per_s = per_s
        self._duration_us = round(duration_s * US_PER_S)
        self._input, self._output = input_tok, output_tok
        self._most = max_output_tok
        self._shares = shares
        self._seed = seed
        self._pairs = pairs

    def first(self) -> Iterator[Turn]:
        rng = random.Random(self._seed)
        clients = Clients(self._shares, rng)
        log, uniform, getrandbits = math.log, rng.random, rng.getrandbits
        pairs, per_s, most = self._pairs, self._per_s, self._most
        count, bits = len(pairs), len(pairs).bit_length()
        at_s = 0.0
        while True:
            at_s += -log(1.0 - uniform()) / per_s
            at_us = int(at_s * US_PER_S)
            if at_us >= self._duration_us:
                return
            if pairs:
                # As `rng.randrange(count)`, without its questions: the same draws, whatever Python asks next.
                drawn = getrandbits(bits)
                while drawn >= count:
                    drawn = getrandbits(bits)
                input_tok, output_tok = pairs[drawn]
            else:
                input_tok, output_tok = self._input.draw(rng), self._output.draw(rng)
            asked = output_tok if most is None else most
            yield Turn(at_us, clients.draw(), input_tok, min(output_tok, asked), asked)

    def follow(self, turn: Turn, now_us: int) -> Turn | None:
        return None


class Sessions:
    """Conversations: each turn carries all that was said before, so that its beginning is in the cache of the
    place that served the last one. The next turn comes a thinking time after the answer."""

    def __init__(
        self,
        *,
        per_s: float,
        duration_s: float,
        turns: Lengths,
        think_s: float,
        input_tok: Lengths,
        output_tok: Lengths,
        max_output_tok: int | None,
        longest_tok: int,
        shares: Sequence[tuple[int, float]],
        seed: int,
        first_id: int = 0,
    ) -> None:
        self._per_s = per_s
        self._duration_us = round(duration_s * US_PER_S)
        self._turns, self._think_s = turns, think_s
        self._input, self._output = input_tok, output_tok
        self._most = max_output_tok
        self._longest_tok = longest_tok
        self._shares = shares
        self._seed = seed
        self._first_id = first_id
        self._left: dict[int, tuple[int, random.Random]] = {}

    def first(self) -> Iterator[Turn]:
        rng = random.Random(self._seed)
        clients = Clients(self._shares, rng)
        at_s, session = 0.0, self._first_id
        while True:
            at_s += rng.expovariate(self._per_s)
            at_us = int(at_s * US_PER_S)
            if at_us >= self._duration_us:
                return
            own = random.Random(rng.getrandbits(64))
            self._left[session] = self._turns.draw(own) - 1, own
            yield self._turn(at_us, clients.draw(), self._input.draw(own), session, own)
            session += 1

    def follow(self, turn: Turn, now_us: int) -> Turn | None:
        if turn.session not in self._left:
            return None
        left, rng = self._left.pop(turn.session)
        said = turn.input_tok + turn.output_tok + self._input.draw(rng)
        if left < 1 or said + (self._most or 0) > self._longest_tok:
            return None
        self._left[turn.session] = left - 1, rng
        wait_us = round(rng.expovariate(1.0 / self._think_s) * US_PER_S) if self._think_s else 0
        return self._turn(now_us + wait_us, turn.client, said, turn.session, rng)

    def _turn(self, at_us: int, client: int, input_tok: int, session: int, rng: random.Random) -> Turn:
        output_tok = self._output.draw(rng)
        most = output_tok if self._most is None else self._most
        # What a session says is its own: its whole blocks are named by session and place in it.
        blocks = tuple([(session + 1) * 1_000_003 + n for n in range(input_tok // BLOCK_TOK)])
        return Turn(at_us, client, input_tok, min(output_tok, most), most, blocks, session)


class Clients:
    """Draws clients by their shares."""

    def __init__(self, shares: Sequence[tuple[int, float]], rng: random.Random) -> None:
        self._clients = [client for client, _ in shares]
        self._weights = [weight for _, weight in shares]
        self._rng = rng

    def draw(self) -> int:
        if len(self._clients) == 1:
            return self._clients[0]
        return self._rng.choices(self._clients, self._weights)[0]


class Traffic:
    """All streams together, in the order of time; what follows and what comes back is put in between."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams
        numbered = [_numbered(at, stream) for at, stream in enumerate(streams)]
        self._first: Iterator[tuple[int, int, Turn]] = (
            numbered[0]
            if len(numbered) == 1
            else iter(heapq.merge(*numbered, key=lambda item: (item[0], item[1])))
        )
        self._next = next(self._first, None)
        self._more: list[tuple[int, int, Turn, int, int]] = []
        self._number = 0
        self.changed = False  # something was put in between since this was last set back

    @property
    def next_us(self) -> int | None:
        """When the next request comes, None if none does."""
        first = self._next[0] if self._next is not None else None
        if not self._more:
            return first
        more = self._more[0][0]
        return more if first is None else min(first, more)

    def pop(self) -> tuple[Turn, int, int]:
        """Return (turn, stream, how often it was asked before) of what comes next."""
        item = self._next
        if item is None or (self._more and self._more[0][0] < item[0]):
            _, _, turn, stream, tries = heapq.heappop(self._more)
            return turn, stream, tries
        self._next = next(self._first, None)
        return item[2], item[1], 0

    def ended(self, turn: Turn, stream: int, now_us: int) -> None:
        """A request has been answered: its session may go on."""
        if turn.session >= 0:
            following = self._streams[stream].follow(turn, now_us)
            if following is not None:
                self._put(following.at_us, following, stream, 0)

    def again(self, turn: Turn, stream: int, tries: int, at_us: int) -> None:
        """A client that was told no comes back."""
        self._put(at_us, turn, stream, tries)

    def _put(self, at_us: int, turn: Turn, stream: int, tries: int) -> None:
        self._number += 1
        self.changed = True
        heapq.heappush(self._more, (at_us, self._number, turn, stream, tries))


def _numbered(at: int, stream: Stream) -> Iterator[tuple[int, int, Turn]]:
    return ((turn.at_us, at, turn) for turn in stream.first())
