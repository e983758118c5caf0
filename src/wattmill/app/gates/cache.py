"""The gate of the exact cache: the same request gets the same answer again, without an engine.

An answer is given again to the same key or team only, for data of the same class, under the same rules of who
may see it. It has a row of its own in the books: the place `cache`, the usage of the original, a cost of 0,
the declared share of its price as the charge, and the rest as what was saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any

from wattmill.app.declared.kept_checks import CACHE_PLACE
from wattmill.app.declared.kept_settings import Cache
from wattmill.app.gates.answer_shelf import AnswerShelf, Cached
from wattmill.app.gates.cache_key import applies, cache_key, is_deterministic, may_be_stored, wishes
from wattmill.app.gates.recording import Recorder, told_again
from wattmill.distribution import answers
from wattmill.distribution.booking import Booking
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.distribution.spec import BackendModel
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.ports import Grant, JournalUnavailable
from wattmill.units import US_PER_S
from wattmill.vocab.budget import NOTHING, Spend
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import End, Intent
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, terms_of

_PLACE = CACHE_PLACE.encode()


class _Asked:
    """One exchange that the cache may answer, or whose answer it may keep."""

    __slots__ = ("digest", "gone", "node", "recorder")

    def __init__(self, node: int, digest: str) -> None:
        self.node = node
        self.digest = digest
        self.recorder: Recorder | None = None
        self.gone = False


class CacheGate:
    """Implements `distribution.gate.Gate`. Made only where `[cache]` lists models."""

    def __init__(self, rules: Cache, shelf: AnswerShelf, *, most_bytes: int, guarded_by: bytes = b"") -> None:
        self._rules = rules
        self._models = frozenset(rules.models)
        self._teams = None if rules.teams is None else frozenset(rules.teams)
        self._share = Fraction(rules.charge_share)
        self._shelf = shelf
        self._most_bytes = most_bytes
        self._guarded_by = guarded_by
        self._asked: dict[Exchange, _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        ask, caller, body = x.ask, x.caller, x.draft.body
        assert caller is not None
        if not applies(self._models, ask.model):
            return None
        if caller.models is not None and ask.model not in caller.models:
            return None  # whoever shares the cache may ask for it; the policy refuses this key
        if self._teams is not None and caller.name.rpartition("/")[0] not in self._teams:
            return None
        if self._rules.when == "deterministic" and not is_deterministic(ask, body):
            return None
        wish = wishes(x.http.headers.get(b"cache-control"))
        store = "no-store" not in wish and may_be_stored(ask, body)
        node = caller.path[-2] if self._rules.scope == "team" and len(caller.path) > 1 else caller.key
        asked = _Asked(node, self._key(x, caller))
        if "no-cache" not in wish:
            found = self._shelf.in_memory(node, ask.privacy, asked.digest)
            if found is not None:
                self._asked[x] = asked
                if self._serve(x, found):
                    return WAIT
            elif self._shelf.may_be_in_store(node, asked.digest):
                self._asked[x] = asked
                self._start(x, self._look(x, asked, store))
                return WAIT
        self._missed(x, asked, store)
        return None

    def _key(self, x: Exchange, caller: Caller) -> str:
        draft = x.draft
        return cache_key(
            x.ask,
            caller,
            draft.body,
            show_usage=draft.show_usage,
            guarded_by=self._guarded_by,
            door=x.entry,
            native=_native(x),
        )

    async def _look(self, x: Exchange, asked: _Asked, store: bool) -> None:
        found = await self._shelf.from_store(asked.node, x.ask.privacy, asked.digest)
        if asked.gone:
            return
        if (refusal := x.let_in_still()) is not None:
            x.go_on(refusal)  # an answer from here would be charged before it is refused
            return
        if found is not None and self._serve(x, found):
            return
        self._missed(x, asked, store)
        x.go_on()

    def _missed(self, x: Exchange, asked: _Asked, store: bool) -> None:
        x.gateway.metrics.count("wattmill_cache_misses_total")
        if store:
            asked.recorder = Recorder(self._most_bytes)
            x.tap(asked.recorder)
            self._asked[x] = asked

    def left(self, x: Exchange) -> None:
        asked = self._asked.pop(x, None)
        if asked is None:
            return
        asked.gone = True
        if asked.recorder is not None:
            # The last events of a stream pass the taps after this, in the same step of the loop.
            asyncio.get_running_loop().call_soon(self._keep, x, x.served, asked, asked.recorder)

    def _keep(self, x: Exchange, served: Booking | None, asked: _Asked, recorder: Recorder) -> None:
        answer = recorder.answer
        if served is None or answer is None or served.usage is None or x.continuing is not None:
            return
        if served.usage_source != "measured" or x.capped:
            return  # cut short by a budget, or not counted by who made it
        now_us = x.services.clock.wall_us()
        self._shelf.keep(
            asked.node,
            x.ask.privacy,
            asked.digest,
            Cached(
                request=x.id,
                pool=served.pool,
                usage=served.usage,
                source=served.usage_source,
                created_us=now_us,
                expires_us=now_us + self._rules.ttl_s * US_PER_S,
                answer=answer,
            ),
        )

    # ---- an answer from the cache

    def _serve(self, x: Exchange, cached: Cached) -> bool:
        """Answer `x` with `cached`, or say that it cannot be: its place is gone, or not for this caller."""
        caller = x.caller
        assert caller is not None
        model = _model_of(x, cached.pool)
        if model is None or (caller.pools is not None and cached.pool not in caller.pools):
            return False
        try:
            price = x.services.rate(model.charge, cached.usage)
        except LookupError:
            return False
        charge = price * self._share.numerator // self._share.denominator
        grant = x.services.purse.reserve(x.path, Spend(charge, requests=0))
        if grant is not None:
            self._answer(x, cached, model, price, charge, grant)
            return True
        self._start(x, self._lease(x, cached, model, price, charge))
        return True

    async def _lease(self, x: Exchange, cached: Cached, model: BackendModel, price: int, charge: int) -> None:
        spend = Spend(charge, requests=0)
        grant = await x.services.purse.lease(x.path, spend, spend)
        if isinstance(grant, Refusal):
            x.go_on(grant)
        elif x.over:
            x.services.purse.settle(grant, NOTHING)
        elif (refusal := x.let_in_still()) is not None:
            x.services.purse.settle(grant, NOTHING)
            x.go_on(refusal)
        else:
            self._answer(x, cached, model, price, charge, grant)

    def _answer(
        self, x: Exchange, cached: Cached, model: BackendModel, price: int, charge: int, grant: Grant
    ) -> None:
        """Book the answer and tell it."""
        services, ask, caller = x.services, x.ask, x.caller
        assert caller is not None
        journal, clock = services.journal, services.clock
        at_us = clock.wall_us()
        saved, spend = price - charge, Spend(charge, requests=0)
        try:
            journal.append_intent(
                Intent(
                    x.seq,
                    x.seq,
                    0,
                    at_us,
                    x.path,
                    CACHE_PLACE,
                    x.draft.model,
                    x.entry,
                    ask.stream,
                    ask.input_bound_tok,
                    cached.usage.output_tok,
                    charge,
                    model.cost.id,
                    model.charge.id,
                    asked_output_tok=ask.max_output_tok,
                    label=x.http.label,
                    privacy=ask.privacy,
                    choices=ask.choices,
                    needs=tuple(sorted(ask.needs)),
                    pinned=ask.pool is not None,
                    terms=terms_of(ask),
                    below=x.below,
                    held=grant.held,
                    evidence=ask.evidence,
                )
            )
        except JournalUnavailable as error:
            services.purse.settle(grant, NOTHING)
            x.go_on(
                Refusal(
                    code="journal_unavailable",
                    message=f"nothing is served unbooked: {error}",
                    retry_after_s=2,
                )
            )
            return
        took_us = int((clock.now() - x.http.arrived_s) * US_PER_S)
        try:
            journal.append_end(
                End(
                    x.seq,
                    clock.wall_us(),
                    "finished",
                    cached.usage,
                    cached.source,
                    0,
                    charge,
                    http_status=200,
                    ttft_us=took_us,
                    duration_us=took_us,
                    started_us=at_us,
                    finish_reason="cached",
                    engine_id=cached.request,
                    took=grant.took(spend),
                    saved_nusd=saved,
                )
            )
        finally:
            services.purse.settle(grant, spend)
        x.attempts += 1
        metrics = x.gateway.metrics
        metrics.count("wattmill_cache_hits_total")
        metrics.count("wattmill_cache_saved_nusd_total", by=saved)
        x.gateway.metrics.pool(CACHE_PLACE).used(cached.usage, 0, charge)
        age_s = max(0, at_us - cached.created_us) // US_PER_S
        more = (
            b"x-wattmill-pool: %b\r\nx-wattmill-cache: hit; age=%d; from=%b\r\nx-wattmill-saved-usd: %b\r\n"
            % (_PLACE, age_s, cached.request.encode(), answers.usd(saved))
        )
        more += answers.charge_lines(charge, cached.usage, None) + x.head_lines
        body = cached.answer
        if x.draft.stream:
            body += answers.charge_comment(x.id, charge, None) + answers.DONE
        x.answer_with(told_again(x.id, more, stream=x.draft.stream), body)

    # ---- tasks

    def _start(self, x: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(x, coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, x: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - the boundary: a defect is told and answered
            x.gateway.defect(x.id, error)
            x.go_on(Refusal(code="internal", message=f"a defect in wattmill, logged under {x.id}"))


def _native(x: Exchange) -> Body | None:
    """Return what a place that speaks the protocol of the request's door would be sent of it; None: there is
    no such place, or a gate has changed the chat, which then leaves translated."""
    entrance = x.door
    if entrance is None or x.draft.body is not entrance.visit.chat:
        return None
    if any(
        entrance.name in ADAPTERS[backend.adapter].natives
        for backend in x.services.backends.values()
        if x.ask.model in backend.models
    ):
        return entrance.visit.native
    return None


def _model_of(x: Exchange, pool: str) -> BackendModel | None:
    """Return what `pool` asks for the model, as the request's tier pays it."""
    backend = x.services.backends.get(pool)
    model = backend.models.get(x.ask.model) if backend is not None else None
    return None if model is None else model.by_tier.get(x.ask.tier, model)
