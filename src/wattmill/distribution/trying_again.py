"""What follows an attempt that was late, failed, broke off or was not good enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution.attempt import Attempt
from wattmill.distribution.continuation import Continuation
from wattmill.distribution.placing import Placing
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.route import Route

if TYPE_CHECKING:
    pass

_PLAIN = TokenizerBound()


class TryingAgain(Placing):
    """The steps of an exchange after its first attempt; each is paid from a budget for trying again."""

    __slots__ = ()

    def _decide(self, *, paid: bool = False) -> Route | Refusal:
        """Ask the policy. Where nothing but open breakers stands against every place that is left, one that
        can be reached is tried all the same, as far as the budget for trying again goes: a breaker spares a
        place and must not refuse what it could serve. `paid`: the token is taken by the caller."""
        assert self.caller is not None
        body = self.draft.body
        prompt = body.get("messages") or body.get("prompt")
        route = self.services.route(self.ask, self.caller, prompt)
        if isinstance(route, Refusal):
            if route.code != "no_healthy_place":
                return route
        elif not self._tried or any(c.pool not in self._tried for c in route.candidates):
            return route
        states = [
            upstream.state
            for pool, upstream in self.upstreams.items()
            if upstream.state.last_resort and self.ask.model in upstream.backend.models
            if pool not in self._tried
        ]
        if not states:
            return route
        now_s = self.services.clock.now()
        if not paid and self.gateway.retries.take(states[0].pool, self.caller.key, now_s) is not None:
            return route
        for state in states:
            state.healthy = True
        try:
            return self.services.route(self.ask, self.caller, prompt)
        finally:
            for state in states:
                state.healthy = False

    def try_rival(self, first: Attempt) -> None:
        """`first` is late: ask a second place as well, if one has room, the budget for further attempts has a
        token, and its worst case can be reserved at once."""
        if self.attempts >= self.services.resilience.attempts or self.continuing is not None:
            return
        if self.let_in_still() is not None:
            return
        rivals = [
            c
            for c in self.route.candidates
            if c.pool != first.pool and c.pool not in self._tried and c.pool in self.upstreams
        ]
        for candidate in rivals:
            place, state = self._place(candidate), self.upstreams[candidate.pool].state
            if place is None or isinstance(place, Refusal):
                continue
            if not state.healthy or state.busy >= place[0].slots:
                continue
            if not self._take_token(first.pool):
                return
            capped = self.capped
            refusal = self._prepare(candidate, *place, rival=True)
            self.capped = capped
            self.gateway.metrics.count(
                "wattmill_hedges_total", candidate.pool, "started" if refusal is None else "refused"
            )
            return

    def attempt_failed(self, attempt: Attempt, refusal: Refusal, *, final: bool, again: bool = False) -> None:
        """`attempt` is booked as failed and the client has seen nothing of it. `again`: that says nothing
        against its place, which is asked once more, as a further attempt."""
        pool = attempt.pool
        self.failure = refusal
        again = again and not self._asked_again and attempt is self.attempt and self._last_was(pool)
        if self.hedge is not None and self.hedge.failed(attempt):
            self._tried += (pool,)
            if not final:
                return  # the other one may still answer
            assert self.attempt is not None
            self.attempt.lose()
        elif again:
            self._asked_again = True
            self._next -= 1
        else:
            self._tried += (pool,)
        self.attempt = None
        if final or not self._may_try_again(pool):
            assert self.failure is not None
            self.refuse(self.failure)
        else:
            self._try_on()

    def continues_elsewhere(self, attempt: Attempt, refusal: Refusal) -> bool:
        """`attempt` is booked as failed and the client has seen a part: go on elsewhere, if that is declared
        and can be."""
        text = attempt.text_shown()
        left_tok = attempt.per_choice_tok - attempt.output_tok_so_far()
        if text is None or left_tok < 1 or self.draft.choices != 1:
            return False
        part = self.continuing or Continuation(self.draft)
        part.add(text, attempt.usage, attempt.charge_nusd, attempt.energy_j, attempt.said().engine_id)
        ask = part.ask(self.ask, left_tok, self.services.bound.get(self.ask.model, _PLAIN))
        if ask is None:
            return False
        self.ask, self.continuing, self._counted_tok = ask, part, None
        self.attempt = None
        self.failure = refusal
        self._tried += (attempt.pool,)
        if not self._may_try_again(attempt.pool):
            return False
        self.gateway.metrics.count("wattmill_continuations_total", attempt.pool)
        self._try_on()
        return True

    # ---- a larger model

    def goes_on(self, attempt: Attempt, answer: bytes) -> str | None:
        """Return why a larger model should answer instead, and make it the next; None if this one will do."""
        services = self.services
        if self.draft.stream or services.cascade is None or self.attempts >= services.resilience.attempts:
            return None
        body = self.draft.body
        found = services.cascade(
            self.ask, self.route, attempt.pool, answer, attempt.per_choice_tok, body.get("response_format")
        )
        if found is None:
            return None
        why, self._next = found
        return f"escalated: {why}"

    def escalate(self, attempt: Attempt, tell: Callable[[], None]) -> None:
        """Ask the next candidate: a further attempt with its own reservation. `tell` tells the answer that is
        there, should no other come; it is booked and charged in any case."""
        self.attempt = None
        self._kept = tell
        self.spent_nusd += attempt.charge_nusd
        self.gateway.metrics.count("wattmill_escalations_total", attempt.pool)
        self._try_on()

    # ---- whether there is another try

    def _last_was(self, pool: str) -> bool:
        """Whether the candidate that was tried last is `pool`."""
        return self._next > 0 and self.route.candidates[self._next - 1].pool == pool

    def _may_try_again(self, failed: str) -> bool:
        """Say whether there is a further place, and a token for trying it; else `failure` says why not."""
        if self.attempts >= self.services.resilience.attempts:
            return False
        left = any(c.pool not in self._tried for c in self.route.candidates[self._next :])
        if not left and (self._kept is not None or not self._look_again()):
            return False
        return self._take_token(failed)

    def _look_again(self) -> bool:
        """All that were candidates have failed: decide anew, by what is known now."""
        assert self.caller is not None
        route = self._decide(paid=True)
        if isinstance(route, Refusal) or all(c.pool in self._tried for c in route.candidates):
            return False
        self.route = self._new_route = route
        self._next = 0
        return True

    def _take_token(self, pool: str) -> bool:
        """Take a token for a further attempt after one at `pool`; else `failure` says that there is none."""
        assert self.caller is not None
        spent = self.gateway.retries.take(pool, self.caller.key, self.services.clock.now())
        if spent is None:
            return True
        self.gateway.metrics.count("wattmill_retries_refused_total", pool)
        whose = f"place {pool!r}" if spent == "pool" else "this key"
        if self.failure is not None:
            self.failure = msgspec.structs.replace(
                self.failure,
                message=f"{self.failure.message}; not tried elsewhere: the budget of {whose} for trying "
                "again is used up (resilience.retries)",
            )
        return False
