"""The fleet as the policy sees it: what was declared, corrected by what was measured, in numbered views.

A worker of the gateway and the twin hold the very same object. What differs is what is handed in: the clock,
the journal, the life of the places, and the draws of the memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from wattmill.ports import Clock, Journal
from wattmill.scheduling.cascade import Signals, escalates
from wattmill.scheduling.filters import visible_models
from wattmill.scheduling.memory import Memory
from wattmill.scheduling.policies import DEFAULT, POLICIES, default_telling
from wattmill.scheduling.prefix import LONGEST_BYTES, Prefix, prefix_of
from wattmill.scheduling.ranking import Freed, expected_output_tok, values_more
from wattmill.scheduling.spec import Fleet, Policy, Pool, Weights
from wattmill.units import US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Snapshot
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Candidate, Hints, Route
from wattmill.vocab.usage import Usage

TELL_AGAIN_US = 600 * US_PER_S
"""A view and its callers are told to the journal again after so long, so that old segments can go."""

_DEAD_BAND = 0.1  # a measured figure that moved by less is the same figure
_FEWEST_PREFIX_BYTES = 256
_TAKES_TURNS = frozenset({"round-robin"})
_DEFAULT = POLICIES[DEFAULT]
_NO_SIGNALS = Signals(length=False, refusal=False, schema=False)
_log = logging.getLogger("wattmill.fleet")


class PoolLife(Protocol):
    """What the data plane knows of a pool at this moment; None where nothing was measured yet."""

    busy: int
    ahead_tok: int
    healthy: bool
    reachable: bool
    ttft_factor: float
    prefill_tok_per_s: float | None

    @property
    def decode_share(self) -> float: ...

    @property
    def decode_tok_per_s(self) -> float | None: ...
    @property
    def slowdown(self) -> float: ...
    @property
    def ahead_share(self) -> float: ...
    def expect(self, *, prefill_tok_per_s: float, decode_tok_per_s: float, overhead_s: float) -> None: ...
    def observe_whole(self, ratio: float, *, s_per_tok: float, output_tok: int, others: float) -> None: ...


class Decided(Protocol):
    """What is learned from: a decision, or as much of it as its attempt needs, with the place that was tried
    among the candidates."""

    @property
    def candidates(self) -> tuple[Candidate, ...]: ...
    @property
    def hints(self) -> Hints: ...


class FleetView:
    """The view of one worker. A view is replaced, never edited; each has an id that decisions name.

    Args:
        life: of each pool by its name, read anew at every decision and refresh.
        journal: is told of every view and every caller, so that decisions replay.
        named: returns the policy of a name that is not built in.
        version: of the program that decides; the journal is told.
    """

    def __init__(
        self,
        *,
        pools: tuple[Pool, ...],
        life: Mapping[str, PoolLife],
        weights: Weights,
        journal: Journal,
        clock: Clock,
        first_id: int = 1,
        policy: str = "cheapest-adequate",
        named: Callable[[str], Policy] = POLICIES.__getitem__,
        memory: Memory | None = None,
        affinity: bool = True,
        signals: Signals = _NO_SIGNALS,
        version: str = "",
    ) -> None:
        self._declared = pools
        self._life = [life[pool.name] for pool in pools]
        for pool in pools:
            life[pool.name].expect(
                prefill_tok_per_s=pool.prefill_tok_per_s,
                decode_tok_per_s=pool.decode_tok_per_s,
                overhead_s=pool.overhead_s,
            )
        self._weights = weights
        self._journal = journal
        self._clock = clock
        self._policy = policy
        self._named = named
        self._version = version
        self._memory = memory or Memory(expected_output_tok=weights.expected_output_tok)
        self._memory.begin([pool.name for pool in pools])
        self._at = {pool.name: at for at, pool in enumerate(pools)}
        # One place has nothing to choose, but its charge and its time are expected better for it.
        self._affinity = affinity
        self._signals = signals
        self._values_more = values_more(weights)
        self._scarce = weights.others > 0.0 and weights.scarcity > 0.0
        whole = int(weights.bound_tok_per_tok)
        self._whole_bounds = whole if whole == weights.bound_tok_per_tok else 0
        self._weights_told = msgspec.msgpack.encode(weights, order="deterministic")
        self._told = False
        self._seen_of: tuple[Pool, ...] | None = None  # the declared places that the view was made of
        self._healthy: list[bool] = []
        self.fleet = Fleet(id=first_id - 1, at_us=0, pools=())
        self.refresh()

    def refresh(self) -> None:
        """Make a new view if health or a measured figure has changed since the last."""
        last = self.fleet.pools or self._declared
        hits = self._memory.hits
        now_us = self._clock.wall_us()
        worth = self._memory.scarcity.refresh(self._clock.now(), self._weights)
        same = self._declared is self._seen_of
        self._seen_of = self._declared
        pools = tuple(
            [
                _seen(pool, life, was, hits.get(pool.name, 0.0), usd_per_s, same)
                for pool, life, was, usd_per_s in zip(self._declared, self._life, last, worth, strict=True)
            ]
        )
        if pools == self.fleet.pools and self._told and now_us < self.fleet.at_us + TELL_AGAIN_US:
            return
        if self._told and pools == self.fleet.pools:
            self._memory.forget_askers()
        self.fleet = Fleet(id=self.fleet.id + 1, at_us=now_us, pools=pools)
        self._healthy = [life.healthy for life in self._life]
        self._told = self._journal.append_note(
            Snapshot(
                self.fleet.id,
                now_us,
                msgspec.msgpack.encode(self.fleet, order="deterministic"),
                self._policy,
                self._weights_told,
                self._memory.seed,
                self._version,
            )
        )

    def declare(self, pools: tuple[Pool, ...]) -> None:
        """Go by other declared figures of the same places from now on: a place has grown, or its price has
        changed."""
        if [pool.name for pool in pools] != [pool.name for pool in self._declared]:
            raise ValueError("other places need another view: what was learned of these is not theirs")
        self._declared = pools
        self.refresh()

    def route(
        self, request: Request, caller: Caller, prompt: bytes | msgspec.Raw | None = None
    ) -> Route | Refusal:
        """Decide where `request` goes; `prompt` is its text as it came, for what it shares with others."""
        prefix: Prefix = ()
        if self._affinity and prompt is not None and len(prompt) >= _FEWEST_PREFIX_BYTES:
            prefix = prefix_of(bytes(memoryview(prompt)[:LONGEST_BYTES]), request.model)
        return self.place(request, caller, prefix)

    def place(self, request: Request, caller: Caller, prefix: Prefix) -> Route | Refusal:
        """Decide the same by the marks of the prompt's beginnings; () where nothing is to be made of them."""
        lives, memory, weights = self._life, self._memory, self._weights
        if len(lives) == 1:
            life = lives[0]
            busy, healthy, ahead = [life.busy], [life.healthy], [life.ahead_tok]
        else:
            busy = [life.busy for life in lives]
            healthy = [life.healthy for life in lives]
            ahead = [life.ahead_tok for life in lives]
        if healthy != self._healthy:
            self.refresh()
        known = memory.askers.get(id(caller))
        if known is None:
            known = memory.known(caller, self._policy_of, self._journal, self._clock)
        memory.turn += 1
        shared: tuple[int, ...] = ()
        if prefix:
            found = memory.prefixes.shared_bytes(prefix)
            if found:
                shared = tuple([int(size / weights.bound_tok_per_tok) for size in found])
        hints = Hints(
            known.id,
            memory.turn if known.takes_turns else 0,
            memory.lengths.expected_tok(request.model, caller.key, request.input_bound_tok),
            shared,
            self._in_tokens(ahead) if any(ahead) else (),
        )
        fleet, now_s = self.fleet, self._clock.wall_us() / US_PER_S
        draw = memory.draw() if weights.explore else 0.0
        lesson = memory.scarcity.lessons and self._scarce and known.policy is _DEFAULT
        freed: list[Freed] | None = None
        if lesson and not self._values_more:
            freed = []
            answer = default_telling(
                request,
                caller,
                fleet,
                busy=busy,
                weights=weights,
                now_s=now_s,
                draw=draw,
                hints=hints,
                freed=freed,
            )
        else:
            answer = known.policy(
                request, caller, fleet, busy=busy, weights=weights, now_s=now_s, draw=draw, hints=hints
            )
        if prefix and type(answer) is Route:
            memory.prefixes.send(prefix, self._at[answer.candidates[0].pool])
        if lesson:
            memory.scarcity.learn(
                request,
                caller,
                fleet,
                answer,
                busy=busy,
                weights=weights,
                hints=hints,
                at=self._at,
                freed=freed,
            )
        return answer

    def again(
        self, request: Request, caller: Caller, route: Route, *, fleet: Fleet, weights: Weights
    ) -> Route | Refusal:
        """Take a recorded decision again, with what `route` says it was given, in the view it was given."""
        policy, _ = self._policy_called(route.policy)
        return decided_again(policy, request, caller, route, fleet=fleet, weights=weights)

    def _in_tokens(self, bounds: list[int]) -> tuple[int, ...]:
        """Return bounds as tokens, rounded down; in half the time where a token has a whole number."""
        if self._whole_bounds:
            whole = self._whole_bounds
            return tuple([bound // whole for bound in bounds])
        per_tok = self._weights.bound_tok_per_tok
        return tuple([int(bound / per_tok) for bound in bounds])

    def learn(
        self,
        request: Request,
        caller: Caller,
        route: Decided,
        pool: str,
        usage: Usage,
        whole_s: float | None = None,
    ) -> None:
        """Take in one finished attempt of a request that was routed here; `whole_s` is what an answer took
        that came at once."""
        memory = self._memory
        if whole_s is not None and pool in self._at:
            self._learn_whole(request, route, pool, usage, whole_s)
        if request.endpoint != "embeddings":
            memory.lengths.learn(
                request.model, caller.key, request.input_bound_tok, usage.output_tok / request.choices
            )
        shared, at = route.hints.shared_tok, self._at.get(pool)
        if at is not None and len(shared) > at and shared[at]:
            memory.reused(
                pool, shared_tok=shared[at], prompt_tok=usage.prompt_tok, cached_tok=usage.cached_tok
            )

    def _learn_whole(self, request: Request, route: Decided, pool: str, usage: Usage, whole_s: float) -> None:
        chosen = next((c for c in route.candidates if c.pool == pool), None)
        expected_tok = expected_output_tok(request, self._weights, route.hints)
        if chosen is None:
            return
        s_per_tok = (chosen.expected_s - chosen.expected_ttft_s) / expected_tok if expected_tok else 0.0
        expected_s = chosen.expected_ttft_s + s_per_tok * usage.output_tok
        at = self._at[pool]
        if expected_s > 0:
            self._life[at].observe_whole(
                whole_s / expected_s,
                s_per_tok=s_per_tok,
                output_tok=usage.output_tok,
                others=min(self._life[at].busy, self._declared[at].slots - 1),
            )

    def escalate(
        self,
        request: Request,
        route: Route,
        pool: str,
        answer: bytes,
        clamp_tok: int,
        response_format: msgspec.Raw | None,
    ) -> tuple[str, int] | None:
        """Return why the answer of `pool` should go on, and to which candidate: the next of a better quality.
        None where the answer will do, or there is none better."""
        if route.policy != "cascade":
            return None
        better = next(
            (
                at
                for at, candidate in enumerate(route.candidates)
                if self._quality(candidate.pool, request.model) > self._quality(pool, request.model)
            ),
            None,
        )
        if better is None:
            return None
        schema = None if response_format is None else msgspec.json.decode(response_format)
        why = escalates(
            self._signals, answer, clamp_tok=clamp_tok, asked_tok=request.max_output_tok, schema=schema
        )
        return None if why is None else (why, better)

    def _quality(self, pool: str, model: str) -> float:
        at = self._at.get(pool)
        return -1.0 if at is None else self._declared[at].quality.get(model, 0.0)

    def _policy_of(self, caller: Caller) -> tuple[Policy, bool]:
        return self._policy_called(caller.policy or self._policy)

    def _policy_called(self, name: str) -> tuple[Policy, bool]:
        if name in POLICIES:
            return POLICIES[name], name in _TAKES_TURNS
        return _guarded(name, self._named(name)), True

    def models(self, caller: Caller) -> list[tuple[str, str]]:
        """Return (id, owner) of what the caller may ask for."""
        owners = {pool.name for pool in self.fleet.pools}
        names = visible_models(caller, self.fleet)
        return [
            (name, name.split("/", 1)[0] if name.split("/", 1)[0] in owners else "wattmill") for name in names
        ]


Router = Callable[[Request, Caller, bytes | msgspec.Raw | None], Route | Refusal]


def decided_again(
    policy: Policy, request: Request, caller: Caller, route: Route, *, fleet: Fleet, weights: Weights
) -> Route | Refusal:
    """Ask `policy` what it says to everything that a recorded `route` was given."""
    return policy(
        request,
        caller,
        fleet,
        busy=route.busy,
        weights=weights,
        now_s=route.now_s,
        draw=route.draw,
        hints=route.hints,
    )


def _guarded(name: str, policy: Policy) -> Policy:
    """Return a stranger's policy that gives way to the usual one where it fails, and says so in the log. The
    decision names the policy that took it."""

    def decides(
        request: Request,
        caller: Caller,
        fleet: Fleet,
        *,
        busy: Sequence[int],
        weights: Weights,
        now_s: float = 0.0,
        draw: float = 0.0,
        hints: Hints = NO_HINTS,
    ) -> Route | Refusal:
        try:
            return policy(
                request, caller, fleet, busy=busy, weights=weights, now_s=now_s, draw=draw, hints=hints
            )
        except Exception:  # noqa: BLE001  a stranger's code: whatever it raises, the request is served
            _log.exception("policy %s failed; the request is routed by cheapest-adequate", name)
            return POLICIES["cheapest-adequate"](
                request, caller, fleet, busy=busy, weights=weights, now_s=now_s, draw=draw, hints=hints
            )

    return decides


def _seen(
    pool: Pool, life: PoolLife, was: Pool, hits: float, usd_per_s: tuple[float, float], same: bool
) -> Pool:
    """Return the place as it is seen now. `same`: `was` was made of this very `pool`; then it is returned
    itself where nothing has changed, and whoever knows it need not look at it again."""
    up, reachable = life.healthy, life.reachable
    healthy, breaker_open = up or reachable, not up and reachable
    prefill = _steady(life.prefill_tok_per_s, was.prefill_tok_per_s, pool.prefill_tok_per_s)
    decode = _steady(life.decode_tok_per_s, was.decode_tok_per_s, pool.decode_tok_per_s)
    slowdown = _steady(life.slowdown, was.slowdown, 0.0)
    ttft_factor = _steady(life.ttft_factor, was.ttft_factor, 1.0)
    hit_share = _steady(hits, was.hit_share, 0.0)
    ahead_share = _steady(life.ahead_share, was.ahead_share, 0.0)
    decode_share = _steady(life.decode_share, was.decode_share, 0.0)
    slot_usd_per_s = _steady(usd_per_s[0], was.slot_usd_per_s, 0.0)
    turned_usd_per_s = _steady(usd_per_s[1], was.turned_usd_per_s, 0.0)
    if (
        same
        and healthy == was.healthy
        and breaker_open == was.breaker_open
        and prefill == was.prefill_tok_per_s
        and decode == was.decode_tok_per_s
        and slowdown == was.slowdown
        and ttft_factor == was.ttft_factor
        and hit_share == was.hit_share
        and ahead_share == was.ahead_share
        and decode_share == was.decode_share
        and slot_usd_per_s == was.slot_usd_per_s
        and turned_usd_per_s == was.turned_usd_per_s
    ):
        return was
    return msgspec.structs.replace(
        pool,
        healthy=healthy,
        breaker_open=breaker_open,
        prefill_tok_per_s=prefill,
        decode_tok_per_s=decode,
        slowdown=slowdown,
        ttft_factor=ttft_factor,
        hit_share=hit_share,
        ahead_share=ahead_share,
        decode_share=decode_share,
        slot_usd_per_s=slot_usd_per_s,
        turned_usd_per_s=turned_usd_per_s,
    )


def _steady(measured: float | None, was: float, declared: float) -> float:
    """Return a measured figure to two digits, or the one that holds while it moved by less than a tenth."""
    if measured is None or measured <= 0:
        return declared
    if abs(measured - was) <= _DEAD_BAND * was:
        return was
    return float(f"{measured:.1e}")
