"""Where to: candidates, best first, until one takes the request and the caps still allow it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution.attempt import Attempt
from wattmill.distribution.attempt_forms import Assembling, Passing
from wattmill.distribution.door_forms import form_of
from wattmill.distribution.hedge import Hedge
from wattmill.distribution.known_body import KnownBody
from wattmill.distribution.prompt_count import PromptCount
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.distribution.spending import output_room, worst_spend
from wattmill.distribution.understanding import Understanding
from wattmill.distribution.whole_answer import Whole
from wattmill.models.engines.adapter import ADAPTERS, Adapter
from wattmill.ports import Grant, JournalUnavailable
from wattmill.vocab.budget import NOTHING, Spend
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.route import Candidate
from wattmill.vocab.usage import TOKEN_CLASSES

if TYPE_CHECKING:
    pass

_LIMITED = frozenset({"budget_exceeded", "limit_reached"})
_NOT_COUNTED = frozenset({"vision", "audio"})


class Placing(Understanding):
    """The steps of an exchange from its route to an attempt that has left."""

    __slots__ = ()

    def _try_next(self) -> None:
        """Send to the next candidate that accepts the request and that the caps still allow."""
        candidates = self.route.candidates
        while self._next < len(candidates):
            candidate = candidates[self._next]
            self._next += 1
            if candidate.pool in self._tried:
                continue
            place = self._place(candidate)
            if place is None:
                continue  # a reload has just taken it away
            if isinstance(place, Refusal):
                self.failure = place
                continue
            self.failure = self._prepare(candidate, *place)
            if self.failure is None:
                return
        if self.failure is None:
            self.failure = Refusal(
                code="no_healthy_place", message=f"no place is left that serves {self.ask.model!r}"
            )
        limited = getattr(self, "limited", None)
        if limited is not None and (self.failure.code in _LIMITED or not self.attempts):
            self.failure = limited
        self.refuse(self.failure)

    def _try_on(self) -> None:
        """Try the next candidate after a wait: for an allotment, a count, or another place's answer."""
        refusal = self.let_in_still()
        if refusal is not None:
            self.refuse(refusal)
        else:
            self._try_next()

    def _place(self, candidate: Candidate) -> tuple[Backend, BackendModel, Adapter] | Refusal | None:
        """Return what is known of a candidate's place now, None if it is gone."""
        backend = self.services.backends.get(candidate.pool)
        model = backend.models.get(self.ask.model) if backend is not None else None
        if backend is None or model is None or candidate.pool not in self.upstreams:
            return None
        if self.ask.tier:
            model = model.by_tier.get(self.ask.tier)
            if model is None:
                return _no_tier_price(candidate.pool, self.ask.tier)
        return backend, model, ADAPTERS[backend.adapter]

    def _prepare(
        self,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        adapter: Adapter,
        *,
        rival: bool = False,
    ) -> Refusal | None:
        """Reserve the worst case and send, or begin to lease what is missing; or say why not here.

        A `rival` of an attempt that is under way is not worth asking the shared caps: it reserves at once or
        is refused."""
        services, ask = self.services, self.ask
        if self._counted_tok is not None and self._counted_at != candidate.pool:
            self._counted_tok = None
        part = self.continuing
        if part is not None:
            body = adapter.continues(self.endpoint, part.draft.body, part.text) if adapter.continues else None
            if body is None:
                return _cannot_go_on(candidate.pool)
            self.draft = msgspec.structs.replace(part.draft, body=body)
        like = self.like if self.draft is self.as_read else None
        refusal = None if like is not None and adapter.name in like.passed_by else self._check(adapter, like)
        if refusal is None and ask.needs and "audio" in ask.needs:
            refusal = _audio_without_price(backend.pool, model)
        if refusal is not None:
            return refusal
        clamp = 0 if self.endpoint == "embeddings" else ask.max_output_tok or services.default_output_tok
        if clamp and model.context_tok is not None:
            clamp = min(clamp, model.context_tok)
        input_tok = self.input_tok
        output_tok = clamp * ask.choices
        try:
            worst = worst_spend(services, backend, model, input_tok, output_tok)
            cost = worst.nusd if model.one_price else services.worst_case(model.cost, input_tok, output_tok)
        except LookupError as error:
            return Refusal(
                code="unpriced", message=f"pool {candidate.pool!r}: {error.args[0] if error.args else error}"
            )
        self.capped = False
        grant = services.purse.reserve(self.path, worst)
        if grant is not None:
            return self._send(candidate, backend, model, adapter, grant, clamp, cost, rival=rival)
        if rival:
            return Refusal(code="budget_exceeded", message="a hedge is not worth the last of a budget")
        floor = worst_spend(services, backend, model, input_tok, min(1, clamp) * ask.choices)

        async def lease() -> None:
            answer: Grant | Refusal | Exception
            try:
                answer = await services.purse.lease(self.path, worst, floor)
            except Exception as error:  # noqa: BLE001 - carried to the boundary, where it becomes the answer
                answer = error
            self.guarded(self._leased, candidate, backend, model, adapter, answer, worst, clamp)

        self._lease = asyncio.get_running_loop().create_task(lease())
        return None

    def _check(self, adapter: Adapter, like: KnownBody | None) -> Refusal | None:
        """Return why this engine may not be sent the body, or None; remember it for those that are `like`."""
        try:
            refusal = adapter.check(self.endpoint, self.draft.body)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"a field cannot be read: {error}")
        if like is not None and refusal is None:
            like.passed(adapter)
        return refusal

    def _leased(
        self,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        adapter: Adapter,
        answer: Grant | Refusal | Exception,
        worst: Spend,
        clamp: int,
    ) -> None:
        self._lease = None
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Refusal):
            if answer.code in _LIMITED and self._can_count(adapter):
                self._count(candidate, backend, model, adapter)
                return
            self.failure = answer
            if answer.code in _LIMITED:
                self.limited = _sooner(getattr(self, "limited", None), answer)
            if not self.over:
                self._try_on()
            return
        if self.over:  # the client left while we asked
            self.services.purse.settle(answer, NOTHING)
            return
        refusal = self.let_in_still()
        if refusal is not None:
            self.services.purse.settle(answer, NOTHING)
            self.refuse(refusal)
            return
        choices = self.ask.choices
        room = output_room(self.services, answer, backend, model, self.input_tok, clamp * choices)
        self.capped = room < clamp * choices
        if self.capped:
            if self._can_count(adapter):
                self.services.purse.settle(answer, NOTHING)
                self._count(candidate, backend, model, adapter)
                return
            clamp = room // choices
            if clamp < 1:
                self.services.purse.settle(answer, NOTHING)
                self.failure = Refusal(
                    code="budget_exceeded", message="the caps do not allow one token of this answer"
                )
                self._try_next()
                return
            least = worst_spend(self.services, backend, model, self.input_tok, clamp * choices)
            self.services.purse.shrink(answer, least)
        cost = self.services.worst_case(model.cost, self.input_tok, clamp * choices)
        self.failure = self._send(candidate, backend, model, adapter, answer, clamp, cost)
        if self.failure is not None and not self.over:
            self._try_next()

    def _send(
        self,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        adapter: Adapter,
        grant: Grant,
        clamp: int,
        cost: int,
        *,
        rival: bool = False,
    ) -> Refusal | None:
        """Journal and send one attempt. From here on the attempt settles its grant, whatever happens."""
        streamed = self.endpoint != "embeddings" and (self.draft.stream or adapter.always_stream)
        form: type[Attempt]
        if self.door is None and adapter.chat_as is None:
            form = (Passing if self.draft.stream else Assembling) if streamed else Whole
        else:
            form = form_of(streamed=streamed, stream=self.draft.stream)
        attempt = form(self, candidate, backend, model, adapter, grant, clamp, cost)  # type: ignore[arg-type]
        self.attempts += 1
        if rival:
            assert self.hedge is not None
            self.hedge.rival, self.hedge.rival_expected_nusd = attempt, candidate.expected_nusd
            return self._start_rival(attempt, self.hedge)
        self.attempt = attempt
        if self.attempts == 1:
            assert self.caller is not None
            self.gateway.retries.asked(candidate.pool, self.caller.key)
            if self.services.resilience.hedge_after != "off":
                self.hedge = Hedge(self)  # type: ignore[arg-type]
        else:
            self.gateway.metrics.count("wattmill_failovers_total", candidate.pool)
            if self.continuing is None:
                for tap in self.taps:
                    tap.again()
        self.expected_nusd = candidate.expected_nusd
        try:
            attempt.start()
        except JournalUnavailable as error:
            self.gateway.journal_failed_s = self.services.clock.now()
            self.gateway.metrics.count("wattmill_journal_failures_total")
            attempt.release()
            self.attempt = None
            self.attempts -= 1
            self.refuse(
                Refusal(
                    code="journal_unavailable",
                    message=f"nothing is served unbooked: {error}",
                    retry_after_s=2,
                )
            )
        if self.hedge is not None and self.attempt is attempt:
            self.hedge.arm(attempt)
        return None

    def _start_rival(self, attempt: Attempt, hedge: Hedge) -> Refusal | None:
        try:
            attempt.start()
        except JournalUnavailable as error:
            attempt.release()
            hedge.rival = None
            self.attempts -= 1
            return Refusal(code="journal_unavailable", message=f"nothing is served unbooked: {error}")
        return None

    # ---- the exact length of the prompt, where its bound does not fit

    def _can_count(self, adapter: Adapter) -> bool:
        return (
            self._counted_tok is None
            and adapter.count_path is not None
            and self.endpoint == "chat"
            and not self.over
            and not (self.ask.needs & _NOT_COUNTED)
        )

    def _count(self, candidate: Candidate, backend: Backend, model: BackendModel, adapter: Adapter) -> None:
        """Ask the engine how long the prompt is, then try this place again."""

        def told(count: int | None) -> None:
            self._asking = None
            bound = self.ask.input_bound_tok
            self._counted_tok = bound if count is None else min(count, bound)
            self._counted_at = candidate.pool
            self.guarded(self._again)

        self._asking = PromptCount(told)
        self._asking.ask(self.upstreams[candidate.pool], adapter, self.draft.body, model=model.upstream)

    def _again(self) -> None:
        if not self.over:
            self._next -= 1
            self._try_on()


def _sooner(before: Refusal | None, now: Refusal) -> Refusal:
    """Return what a client is told of places that the limits do not allow: of the one that waiting opens, the
    soonest first; else of the first. A dear place that never fits says nothing of a cheap one that will."""
    if before is None:
        return now
    if "limit_reached" not in (before.code, now.code):
        return before
    return min(
        (told for told in (before, now) if told.code == "limit_reached"),
        key=lambda told: told.retry_after_s or 0.0,
    )


def _no_tier_price(pool: str, tier: str) -> Refusal:
    return Refusal(code="unpriced", message=f"pool {pool!r}: tier {tier!r} has no price there")


def _cannot_go_on(pool: str) -> Refusal:
    return Refusal(
        code="no_capability", message=f"place {pool!r} cannot go on with an answer that broke off elsewhere"
    )


def _audio_without_price(pool: str, model: BackendModel) -> Refusal | None:
    """Audio tokens cost far more than text, so a worst case made of text rates would not cover them."""
    for price in (model.charge, model.cost):
        for name in ("audio_input", "audio_output"):
            if price.rates_nusd_per_mtok[TOKEN_CLASSES.index(name)] is None:
                return Refusal(
                    code="unpriced",
                    message=f"pool {pool!r}: {price.book!r} has no {name} rate for {price.model!r}; "
                    "declare one to let audio through",
                    param="modalities",
                )
    return None
