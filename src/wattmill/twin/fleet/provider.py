"""A bought place seen from outside: a speed of its own for each request, and limits told by 429."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from wattmill.twin.fleet.spec import ProviderLaw
from wattmill.twin.fleet.timers import NEVER_PS
from wattmill.twin.spec import Broken, Served, Work
from wattmill.units import PS_PER_S

_S_PER_MIN = 60


class Bucket:
    """A limit per minute: what was not used is saved up, a minute's worth at most."""

    __slots__ = ("_at_ps", "_most", "_room")

    def __init__(self, per_min: int) -> None:
        self._most = float(per_min)
        self._room = float(per_min)
        self._at_ps = 0

    def wait_s(self, amount: float, now_ps: int) -> float:
        """Return how long it takes until there is room for `amount`; 0 if there is now. What can never have
        room has it when the bucket is full."""
        grown = (now_ps - self._at_ps) / PS_PER_S * self._most / _S_PER_MIN
        self._room = min(self._most, self._room + grown)
        self._at_ps = now_ps
        return max(0.0, (min(amount, self._most) - self._room) / self._most * _S_PER_MIN)

    def take(self, amount: float) -> None:
        self._room -= amount


class Provider:
    """Implements `pool.Engine`. `refuses` is asked before `take`."""

    def __init__(
        self,
        at: int,
        law: ProviderLaw,
        on_first: Callable[[int, int], None],
        on_end: Callable[[Served], None],
        *,
        seed: int,
    ) -> None:
        self.in_flight = 0
        self.next_ps = NEVER_PS
        self.prompt_tok = 0
        self.output_tok = 0
        self.steps_uj = 0  # nobody here knows
        self._at = at
        self._law = law
        self._on_first = on_first
        self._on_end = on_end
        self._rng = random.Random(seed)
        self._requests = None if law.requests_per_min is None else Bucket(law.requests_per_min)
        self._tokens = None if law.tokens_per_min is None else Bucket(law.tokens_per_min)
        self._firsts: list[tuple[int, int]] = []
        self._ends: list[tuple[int, int, Served, int, Work]] = []

    def refuses(self, work: Work, now_ps: int) -> float | None:
        """Return after how many seconds to come back, or None: it takes the request now."""
        law = self._law
        if law.concurrent is not None and self.in_flight >= law.concurrent:
            return 1.0
        tok = work.input_tok + work.max_output_tok
        waits_s = [
            bucket.wait_s(amount, now_ps)
            for bucket, amount in ((self._requests, 1.0), (self._tokens, float(tok)))
            if bucket is not None
        ]
        wait_s = max(waits_s, default=0.0)
        if wait_s > 0:
            return float(math.ceil(wait_s))
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(min(float(tok), float(law.tokens_per_min or 0)))
        return None

    def take(self, index: int, work: Work, now_ps: int) -> None:
        law = self._law
        slow_first, slow_rest = self._factor(), self._factor()
        wait_s = (law.overhead_s + work.input_tok / law.prefill_tok_per_s) * slow_first
        first_ps = now_ps + max(1, round(wait_s * PS_PER_S))
        per_tok_ps = max(1, round(slow_rest * PS_PER_S / law.decode_tok_per_s))
        end_ps = first_ps + per_tok_ps * (work.output_tok - 1)
        self.in_flight += 1
        heappush(self._firsts, (first_ps, index))
        served = Served(index, self._at, now_ps, now_ps, first_ps, end_ps, 0)
        heappush(self._ends, (end_ps, index, served, per_tok_ps, work))
        if first_ps < self.next_ps:
            self.next_ps = first_ps

    def advance(self, to_ps: int) -> None:
        firsts, ends = self._firsts, self._ends
        while True:
            first_ps = firsts[0][0] if firsts else NEVER_PS
            end_ps = ends[0][0] if ends else NEVER_PS
            if min(first_ps, end_ps) > to_ps:
                break
            if first_ps <= end_ps:
                self._on_first(heappop(firsts)[1], self._at)
            else:
                self.in_flight -= 1
                _, _, served, _, work = heappop(ends)
                self._count(work.input_tok, work.output_tok)
                self._on_end(served)
        self.next_ps = min(first_ps, end_ps)

    def busy_until(self, now_ps: int) -> int:
        """Nobody here knows how busy somebody else's machines are."""
        return 0

    def break_off(self, now_ps: int) -> list[Broken]:
        broken = []
        for _, index, served, per_tok_ps, work in self._ends:
            if served.first_ps > now_ps:
                broken.append(Broken(index, 0, 0, 0))
            else:
                output_tok = min(work.output_tok, 1 + (now_ps - served.first_ps) // per_tok_ps)
                broken.append(Broken(index, work.input_tok, 0, output_tok))
                self._count(work.input_tok, output_tok)
        self._firsts.clear()
        self._ends.clear()
        heapify(self._firsts)
        self.in_flight = 0
        self.next_ps = NEVER_PS
        return sorted(broken)

    def _count(self, prompt_tok: int, output_tok: int) -> None:
        self.prompt_tok += prompt_tok
        self.output_tok += output_tok

    def _factor(self) -> float:
        spread = self._law.spread
        return self._rng.lognormvariate(0.0, spread) if spread else 1.0
