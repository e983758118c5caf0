"""The gateway's decision in the twin: the same policy function, fed with what a gateway would have seen.

What it learns from, it learns by the gateway's own rules: speeds, pace under load and how far expected times
to first token are off (`distribution.backend_state`), how long answers are (`scheduling.lengths`), which
beginnings went where and what came of it (`scheduling.prefix`). The engines give no times of their own. The
view of the fleet is made anew on every refresh; load is counted at once, since one gateway sends all
requests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from wattmill.distribution.backend_state import BackendState
from wattmill.scheduling.lengths import Lengths
from wattmill.scheduling.prefix import LENGTHS, Prefix, Prefixes, hit_share
from wattmill.scheduling.spec import Fleet, Policy, Pool, Weights
from wattmill.twin.spec import BLOCK_TOK, Place, Served, Work
from wattmill.units import PS_PER_S, US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Hints, Route

_DEAD_BAND = 0.1  # a measured figure that moved by less is the same figure
_FEWEST_SHARED_TOK = 32


class _Asked:
    """What was known of one request when it left."""

    __slots__ = ("ahead_tok", "input_tok", "others", "shared_tok", "ttft_s")

    def __init__(self, input_tok: int, ahead_tok: int, others: int, ttft_s: float, shared_tok: float) -> None:
        self.input_tok = input_tok
        self.ahead_tok = ahead_tok
        self.others = others
        self.ttft_s = ttft_s
        self.shared_tok = shared_tok


class Gateway:
    """A `Dispatcher` that asks one of the gateway's policies. Decisions are kept if `keep` is true."""

    def __init__(
        self,
        policy: Policy,
        places: Sequence[Place],
        *,
        model: str,
        caller: Caller,
        weights: Weights,
        seed: int,
        keep: bool = False,
    ) -> None:
        self._policy = policy
        self._declared = tuple(place.pool for place in places)
        self._at = {place.pool.name: at for at, place in enumerate(places)}
        self._model = model
        self._caller = caller
        self._weights = weights
        self._rng = random.Random(seed)
        self._life = [BackendState(pool.name) for pool in self._declared]
        self._hits = [0.0] * len(places)
        self._asked: dict[int, _Asked] = {}
        self._lengths = Lengths(expected_tok=weights.expected_output_tok)
        self._prefixes = Prefixes(len(places))
        self._turn = 0
        self._keep = keep
        self.decisions: list[tuple[Request, Route | Refusal]] = []
        self.fleet = Fleet(id=0, at_us=0, pools=self._declared)

    def refresh(self, now_us: int) -> None:
        pools = tuple(map(_viewed, self._declared, self._life, self.fleet.pools, self._hits))
        if pools != self.fleet.pools:
            self.fleet = Fleet(id=self.fleet.id + 1, at_us=now_us, pools=pools)

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        weights = self._weights
        prefix = _prefix(work) if work.blocks else ()
        shared = self._prefixes.shared_bytes(prefix)
        shared_tok = tuple([round(size / weights.bound_tok_per_tok) for size in shared])
        hints = Hints(
            turn=self._turn,
            output_tok=self._lengths.expected_tok(self._model, self._caller.key),
            shared_tok=shared_tok,
            ahead_tok=tuple([life.ahead_tok for life in self._life]),
        )
        self._turn += 1
        ask = Request(
            id="",
            endpoint="chat",
            model=self._model,
            pool=None,
            stream=True,
            input_bound_tok=round(work.input_tok * weights.bound_tok_per_tok),
            max_output_tok=work.max_output_tok,
            privacy=work.privacy,
        )
        route = self._policy(
            ask,
            self._caller,
            self.fleet,
            busy=in_flight,
            weights=weights,
            now_s=now_us / US_PER_S,
            draw=self._rng.random(),
            hints=hints,
        )
        if self._keep:
            self.decisions.append((ask, route))
        if isinstance(route, Refusal):
            return route.code
        best = route.candidates[0]
        at = self._at[best.pool]
        if prefix:
            self._prefixes.send(prefix, at)
        life = self._life[at]
        self._asked[index] = _Asked(
            work.input_tok,
            life.ahead_tok,
            life.serving,
            best.expected_ttft_s,
            shared_tok[at] if shared_tok else 0.0,
        )
        life.ahead_tok += work.input_tok
        life.took(now_us / US_PER_S)
        return at

    def answered(self, index: int, place: int) -> None:
        self._life[place].ahead_tok -= self._asked[index].input_tok

    def ended(self, served: Served, work: Work) -> None:
        at = served.place
        asked, life = self._asked.pop(served.work), self._life[at]
        life.gave_back()
        ttft_s = (served.first_ps - served.at_ps) / PS_PER_S
        life.observe(
            computed_tok=work.input_tok - served.cached_tok,
            output_tok=work.output_tok,
            ttft_s=ttft_s,
            decode_s=(served.end_ps - served.first_ps) / PS_PER_S,
            prefill_us=None,
            decode_us=None,
            others=min((asked.others + life.serving) / 2, self._declared[at].slots - 1),
            expected_ttft_s=asked.ttft_s,
            ahead_tok=asked.ahead_tok,
        )
        expected_tok = min(asked.shared_tok, float(work.input_tok))
        if expected_tok >= _FEWEST_SHARED_TOK:
            self._hits[at] = hit_share(
                self._hits[at], expected_tok=expected_tok, cached_tok=served.cached_tok
            )
        self._lengths.learn(self._model, self._caller.key, work.output_tok)


def _prefix(work: Work) -> Prefix:
    """Return marks of the prompt's beginnings as `scheduling.prefix` would make them of its bytes, about
    four to a token: a block stands for its bytes, so beginnings inside the first block count as the whole of
    it."""
    size = work.input_tok * 4
    marks: list[int] = []
    for length in LENGTHS:
        if length > size:
            break
        blocks = -(-length // (4 * BLOCK_TOK))
        marks.append(hash((length, work.blocks[:blocks])))
    return tuple(marks)


def _viewed(pool: Pool, life: BackendState, was: Pool, hits: float) -> Pool:
    return msgspec.structs.replace(
        pool,
        prefill_tok_per_s=_steady(life.prefill_tok_per_s, was.prefill_tok_per_s, pool.prefill_tok_per_s),
        decode_tok_per_s=_steady(life.decode_tok_per_s, was.decode_tok_per_s, pool.decode_tok_per_s),
        slowdown=_steady(life.slowdown, was.slowdown, 0.0),
        ttft_factor=_steady(life.ttft_factor, was.ttft_factor, 1.0),
        hit_share=_steady(hits, was.hit_share, 0.0),
        ahead_share=_steady(life.ahead_share, was.ahead_share, 0.0),
    )


def _steady(measured: float | None, was: float, declared: float) -> float:
    """Return a measured figure to two digits, or the one that holds while it moved by less than a tenth."""
    if measured is None or measured <= 0:
        return declared
    if abs(measured - was) <= _DEAD_BAND * was:
        return was
    return float(f"{measured:.1e}")
