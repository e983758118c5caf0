"""One request from its bytes to its last byte: who asks, what, where to, and on to the next place if need be.

No task per request: an exchange is a small state machine that the client's and the engine's connections call.
`guarded` is the one boundary where an unexpected exception becomes an answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.attempt_forms import Assembling, Passing, Whole, break_off_stream
from wattmill.distribution.continuation import Continuation
from wattmill.distribution.door_forms import form_of
from wattmill.distribution.doors.door import Door, Visit
from wattmill.distribution.doors.entrance import Entrance
from wattmill.distribution.doors.retelling import retold
from wattmill.distribution.gate import Tap
from wattmill.distribution.hedge import Hedge
from wattmill.distribution.http import HttpRequest
from wattmill.distribution.prompt_count import PromptCount
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.distribution.spending import output_room, worst_spend
from wattmill.distribution.wire import Draft, draft_of, parse, read_body
from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.adapter import ADAPTERS, Adapter
from wattmill.models.spec import TokenizerBound
from wattmill.ports import Grant, JournalUnavailable
from wattmill.units import US_PER_S
from wattmill.vocab.budget import NOTHING, Spend
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller, out_of_scope
from wattmill.vocab.fact import Refused
from wattmill.vocab.ids import Epoch, request_id
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.request import Endpoint, Entry, Request
from wattmill.vocab.route import Candidate, Route
from wattmill.vocab.usage import TOKEN_CLASSES

if TYPE_CHECKING:
    from wattmill.distribution.gateway import Gateway

_PLAIN = TokenizerBound()
_encode = msgspec.msgpack.Encoder().encode
_LIMITED = frozenset({"budget_exceeded", "limit_reached"})
_NOT_COUNTED = frozenset({"vision", "audio"})


class Exchange:
    """Implements `server.Client`. `over` is final: what comes later changes nothing."""

    __slots__ = (
        "_asking",
        "_counted_tok",
        "_gate",
        "_kept",
        "_lease",
        "_new_route",
        "_next",
        "_tried",
        "ask",
        "attempt",
        "attempts",
        "below",
        "caller",
        "capped",
        "conn",
        "continuing",
        "door",
        "draft",
        "endpoint",
        "entry",
        "expected_nusd",
        "failure",
        "gateway",
        "head_lines",
        "hedge",
        "http",
        "id",
        "over",
        "path",
        "queued_us",
        "route",
        "seq",
        "served",
        "services",
        "slow",
        "spent_nusd",
        "status",
        "taps",
        "upstreams",
    )

    def __init__(
        self, gateway: Gateway, http: HttpRequest, endpoint: Endpoint, door: Door | None = None
    ) -> None:
        self.gateway = gateway
        self.services = gateway.services
        self.upstreams = gateway.upstreams
        self.http = http
        self.conn = http.conn
        self.endpoint = endpoint  # what places are asked
        self.door = None if door is None else Entrance(door)  # where it came in, if not by `endpoint`'s own
        self.entry: Entry = endpoint if door is None else door.name  # what rows, metrics and scopes call it
        self.seq = gateway.next_seq()
        self.id = request_id(Epoch(self.services.epoch), self.seq)
        self.caller: Caller | None = None
        self.path: tuple[int, ...] = ()  # who pays: the nodes down to the key, or to a run or step below it
        self.below = 0  # how many of them are below the key
        self.draft: Draft
        self.ask: Request
        self.route: Route
        self.attempt: Attempt | None = None
        self.served: Attempt | None = None  # the one that gave the answer
        self.hedge: Hedge | None = None  # made where hedges are declared
        self.continuing: Continuation | None = None  # of an answer that broke off
        self.attempts = 0
        self.expected_nusd = 0
        self.spent_nusd = 0  # charged for answers that went on to a larger model
        self.failure: Refusal | None = None  # of the last candidate
        self.over = False
        self.status = ""  # how it ended: "2xx" ..., or "gone"
        self.capped = False  # a budget, and nothing else, made the answer's limit lower than asked
        self.head_lines = b""  # further headers of the answer, with line ends
        self.queued_us = 0  # how long a gate kept it waiting for room
        self.slow = False
        self.taps: list[Tap] | tuple[()] = ()  # what the answer passes on its way out, in this order
        self._gate = 0  # how many gates were entered
        self._next = 0
        self._tried: tuple[str, ...] = ()  # places that failed
        self._new_route: Route | None = None  # decided and not yet written down
        self._kept: Callable[[], None] | None = None  # tells the answer that went on, if none better comes
        self._lease: asyncio.Task[None] | None = None
        self._counted_tok: int | None = None  # the prompt's length, by the engine's own word
        self._asking: PromptCount | None = None
        gateway.in_flight += 1
        http.conn.client = self

    @property
    def estimated_prompt_tok(self) -> int:
        """The prompt's probable length, for an engine that worked on it and never counted it. Its bound would
        charge for bytes; the row says "estimated", and an engine's counter sets it right later."""
        return max(1, round(self.ask.input_bound_tok / self.services.bound_tok_per_tok))

    # ---- before anything leaves

    def begin(self) -> None:
        self.guarded(self._begin)

    def _begin(self) -> None:
        refusal = self._understand()
        if refusal is not None:
            self.refuse(refusal)
        elif self.door is None or not self._kept_waiting():
            self._pass_gates()

    def _pass_gates(self) -> None:
        gates = self.services.gates
        while self._gate < len(gates):
            gate = gates[self._gate]
            self._gate += 1
            told = gate.enter(self)
            if told is None:
                continue
            if isinstance(told, Refusal):
                self.refuse(told)
            return
        if self.door is not None and self.door.pending:
            self.refuse(_nothing_stored())
            return
        route = self._decide()
        if isinstance(route, Refusal):
            self.refuse(route)
        else:
            self.route = self._new_route = route
            self._try_next()

    def take_route(self) -> Route | None:
        """Return the decision if the journal has not got it yet."""
        route, self._new_route = self._new_route, None
        return route

    def go_on(self, refusal: Refusal | None = None) -> None:
        """A gate that kept this request waiting lets it pass, or refuses it."""
        if not self.over:
            self.guarded(self._pass_gates) if refusal is None else self.guarded(self.refuse, refusal)

    def answer_with(self, head: bytes, body: bytes, *, outer: bool = False) -> None:
        """A gate answers by itself: no engine is asked. `head`: status line and headers with line ends.

        `body` is a chat's (or that of the endpoint); the door tells it in its own words, unless it was
        recorded by an `outer` tap."""
        if not self.over:
            if self.door is not None and not outer:
                now_s = self.services.clock.wall_us() // US_PER_S
                body = retold(self.door, body, stream=self.draft.stream, now_s=now_s)
            self.finished("", "2xx")
            self.conn.answer(head, body)

    def tap(self, tap: Tap, *, outer: bool = False) -> None:
        """Let the answer pass through `tap`, after those that are there. `outer`: after the door, so that it
        sees what the client sees; for a request without a door there is no difference."""
        if outer and self.door is not None:
            self.door.outer.append(tap)
        else:
            self.taps = [*self.taps, tap]

    def _understand(self) -> Refusal | None:
        """Fill caller, draft and ask; or say why not."""
        services, http = self.services, self.http
        key = http.headers.get(b"authorization") if self.door is None else self.door.door.key_of(http.headers)
        if isinstance(key, Refusal):
            return key
        caller = services.identify(key, services.clock.wall_us())
        if isinstance(caller, Refusal):
            return caller
        self.caller = caller
        self.path = caller.path
        if caller.endpoints is not None:
            refusal = out_of_scope(caller, endpoint=self.entry)
            if refusal is not None:
                return refusal
        refusal = services.admit()
        if refusal is not None:
            return refusal
        if self.gateway.in_flight > services.limits.in_flight:
            most = services.limits.in_flight
            return Refusal(
                code="overloaded",
                message=f"{most} requests are in flight already (limits.in_flight)",
                retry_after_s=1,
            )
        draft = parse(self.endpoint, http.body) if self.door is None else self._visit(self.door)
        if isinstance(draft, Refusal):
            return draft
        self.draft = draft
        privacy = caller.privacy
        said = http.headers.get(b"x-wattmill-privacy")
        if said is not None:
            asked = said.decode("latin-1").strip().lower()
            if asked not in PRIVACY_CLASSES:
                return Refusal(
                    code="bad_header",
                    message="header 'x-wattmill-privacy' must be one of "
                    f"{', '.join(PRIVACY_CLASSES)}, got {asked[:64]!r}",
                    param="x-wattmill-privacy",
                )
            privacy = max(privacy, asked, key=PRIVACY_CLASSES.index)  # a request may say more, never less
        residency = caller.residency
        regions = http.headers.get(b"x-wattmill-residency")
        if regions is not None:
            named = frozenset(region.strip() for region in regions.decode("latin-1").lower().split(","))
            if "" in named:
                return Refusal(
                    code="bad_header",
                    message="header 'x-wattmill-residency' must be names of regions, such as 'eu,ch'",
                    param="x-wattmill-residency",
                )
            residency = named if residency is None else residency & named
        steps = http.headers.get(b"x-wattmill-escalate", b"0").strip()
        if len(steps) != 1 or not steps.isdigit():
            return Refusal(
                code="bad_header",
                message="header 'x-wattmill-escalate' must be a digit: how many of the smaller models' "
                f"answers were not good enough, got {steps[:64].decode('latin-1')!r}",
                param="x-wattmill-escalate",
            )
        model, pool = draft.model, None
        if "/" in model:
            place, _, rest = model.partition("/")
            if place in services.backends:
                model, pool = rest, place
        try:
            bound = input_bound_tok(self.endpoint, draft.body, services.bound.get(model, _PLAIN))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"the prompt cannot be read: {error}")
        if isinstance(bound, Refusal):
            return bound
        if self.door is not None:
            bound += self._beside_tok(self.door.visit, model)
        self.ask = Request(
            id=self.id,
            endpoint=self.endpoint,
            model=model,
            pool=pool,
            stream=draft.stream,
            input_bound_tok=bound,
            max_output_tok=draft.max_output_tok,
            choices=draft.choices,
            needs=draft.needs,
            privacy=privacy,
            residency=residency,
            operators=caller.operators,
            steps=int(steps),
        )
        return None

    # ---- through a door

    def _kept_waiting(self) -> bool:
        """Let whoever keeps answers look at a request that came through a door; True: it goes on later."""
        stored = self.services.stored
        told = stored.enter(self) if stored is not None else None
        if isinstance(told, Refusal):
            self.refuse(told)
        return told is not None

    def _visit(self, entrance: Entrance) -> Draft | Refusal:
        body = read_body(self.http.body)
        if isinstance(body, Refusal):
            return body
        now_s = self.services.clock.wall_us() // US_PER_S
        visit = entrance.door.read(body, suffix=secrets.token_hex(20), now_s=now_s)
        if isinstance(visit, Refusal):
            return visit
        entrance.visit = visit
        entrance.pending = visit.pending
        return draft_of(visit.chat)

    def revisit(self, visit: Visit) -> Refusal | None:
        """Take `visit` in place of what the door had read; or say why not. Rules that gates have set stay."""
        entrance, ask = self.door, self.ask
        assert entrance is not None
        draft = draft_of(visit.chat)
        if isinstance(draft, Refusal):
            return draft
        try:
            bound = input_bound_tok("chat", draft.body, self.services.bound.get(ask.model, _PLAIN))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"the prompt cannot be read: {error}")
        if isinstance(bound, Refusal):
            return bound
        bound += self._beside_tok(visit, ask.model)
        entrance.visit, entrance.pending = visit, False
        self.draft = draft
        self.ask = msgspec.structs.replace(ask, input_bound_tok=bound, needs=draft.needs)
        return None

    def _beside_tok(self, visit: Visit, model: str) -> int:
        """What only an engine of the door's own protocol is sent."""
        if not visit.beside_bytes:
            return 0
        return int(visit.beside_bytes * self.services.bound.get(model, _PLAIN).expansion) + 1

    # ---- candidates, best first

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
        self.refuse(self.failure)

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

    def try_rival(self, first: Attempt) -> None:
        """`first` is late: ask a second place as well, if one has room, the budget for further attempts has a
        token, and its worst case can be reserved at once."""
        if self.attempts >= self.services.resilience.attempts or self.continuing is not None:
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
        part = self.continuing
        if part is not None:
            body = adapter.continues(self.endpoint, part.draft.body, part.text) if adapter.continues else None
            if body is None:
                return _cannot_go_on(candidate.pool)
            self.draft = msgspec.structs.replace(part.draft, body=body)
        try:
            refusal = adapter.check(self.endpoint, self.draft.body)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"a field cannot be read: {error}")
        if refusal is None and "audio" in ask.needs:
            refusal = _audio_without_price(backend.pool, model)
        if refusal is not None:
            return refusal
        clamp = 0 if self.endpoint == "embeddings" else ask.max_output_tok or services.default_output_tok
        if clamp and model.context_tok is not None:
            clamp = min(clamp, model.context_tok)
        try:
            worst = worst_spend(services, backend, model, self.input_tok, clamp * ask.choices)
            cost = services.worst_case(model.cost, self.input_tok, clamp * ask.choices)
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
        floor = worst_spend(services, backend, model, self.input_tok, min(1, clamp) * ask.choices)

        async def lease() -> None:
            answer: Grant | Refusal | Exception
            try:
                answer = await services.purse.lease(self.path, worst, floor)
            except Exception as error:  # noqa: BLE001 - carried to the boundary, where it becomes the answer
                answer = error
            self.guarded(self._leased, candidate, backend, model, adapter, answer, worst, clamp)

        self._lease = asyncio.get_running_loop().create_task(lease())
        return None

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
            if not self.over:
                self._try_next()
            return
        if self.over:  # the client left while we asked
            self.services.purse.settle(answer, NOTHING)
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

    # ---- the exact length of the prompt, where its bound does not fit

    @property
    def input_tok(self) -> int:
        """What is reserved for the prompt: its bound, or its length once that was counted."""
        return self.ask.input_bound_tok if self._counted_tok is None else self._counted_tok

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
            self.guarded(self._again)

        self._asking = PromptCount(told)
        self._asking.ask(self.upstreams[candidate.pool], adapter, self.draft.body, model=model.upstream)

    def _again(self) -> None:
        if not self.over:
            self._next -= 1
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
        attempt = form(self, candidate, backend, model, adapter, grant, clamp, cost)
        self.attempts += 1
        if rival:
            assert self.hedge is not None
            self.hedge.rival, self.hedge.rival_expected_nusd = attempt, candidate.expected_nusd
            return self._start_rival(attempt, self.hedge)
        self.attempt = attempt
        if self.attempts == 1:
            assert self.caller is not None
            self.gateway.retries.asked(candidate.pool, self.caller.key, self.services.clock.now())
            if self.services.resilience.hedge_after != "off":
                self.hedge = Hedge(self)
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
        self._try_next()
        return True

    def attempt_failed(self, attempt: Attempt, refusal: Refusal, *, final: bool) -> None:
        """`attempt` is booked as failed and the client has seen nothing of it."""
        pool = attempt.pool
        self.failure = refusal
        self._tried += (pool,)
        if self.hedge is not None and self.hedge.failed(attempt):
            if not final:
                return  # the other one may still answer
            assert self.attempt is not None
            self.attempt.lose()
        self.attempt = None
        if final or not self._may_try_again(pool):
            assert self.failure is not None
            self.refuse(self.failure)
        else:
            self._try_next()

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
        self._try_next()

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

    # ---- the end

    def refuse(self, refusal: Refusal) -> None:
        """Answer no. An identified caller's refusal is written down if no attempt tells the story."""
        if self.over:
            return
        if self._kept is not None:
            tell, self._kept = self._kept, None
            self.spent_nusd = 0
            tell()
            return
        gateway = self.gateway
        gateway.metrics.count("wattmill_refusals_total", refusal.code)
        caller = self.caller
        if caller is not None and not self.attempts:
            draft = getattr(self, "draft", None)
            # What the policy looked at when it said no; or what it chose, where the caps then said no.
            route = refusal.route or self._new_route
            model, message = draft.model if draft is not None else "", refusal.message[:512]
            if self.services.discreet and not self._gate:  # no gate has looked at what it repeats
                model, message = "", CODES[refusal.code].meaning
            self.services.journal.append_note(
                Refused(
                    self.seq,
                    self.services.clock.wall_us(),
                    self.path,
                    self.entry,
                    model,
                    refusal.code,
                    message,
                    self.http.label,
                    below=self.below,
                    tier=self.ask.tier if hasattr(self, "ask") else "",
                    queued_us=self.queued_us,
                    ask=_encode(self.ask) if route is not None else b"",
                    route=route,
                )
            )
        self.finished("", f"{refusal.status // 100}xx")
        if self.continuing is not None:
            break_off_stream(self, refusal)
            return
        shape = None if self.door is None else self.door.door.error_body(refusal, self.id)
        head, body = answers.error_answer(refusal, self.id, body=shape)
        self.conn.answer(head + self.head_lines, body)

    def finished(self, pool: str, status: str) -> None:
        """Count the exchange as over. Call it before the last byte is written: a pipelined request may begin
        inside that call."""
        self.over = True
        self.status = status
        self.attempt = None
        gateway = self.gateway
        gateway.in_flight -= 1
        if self.hedge is not None:
            self.hedge.over()
        if self._gate:
            self._leave_gates()
        gateway.metrics.answered(self.entry, pool, status)

    def _leave_gates(self) -> None:
        entered, self._gate = self._gate, 0
        for gate in reversed(self.services.gates[:entered]):
            gate.left(self)

    # ---- server.Client

    def client_gone(self) -> None:
        self.guarded(self._client_gone)

    def _client_gone(self) -> None:
        if self.over:
            return
        attempt = self.attempt
        pool = ""
        if attempt is not None:
            pool = attempt.backend.pool
            self.gateway.metrics.count("wattmill_aborts_total", pool)
            attempt.client_gone()
        self.finished(pool, "gone")

    def client_slow(self) -> None:
        self.slow = True
        if self.attempt is not None and self.attempt.handle is not None:
            self.attempt.was_slow = True
            self.attempt.handle.pause()

    def client_ready(self) -> None:
        self.slow = False
        if self.attempt is not None and self.attempt.handle is not None:
            self.attempt.handle.resume()

    def timed_out(self) -> None:
        self.guarded(self._timed_out)

    def _timed_out(self) -> None:
        if self.over:
            return
        if self.gateway.draining:
            refusal = Refusal(code="draining", message="this gateway shut down before the answer ended")
        else:
            limit_s = self.services.limits.total_s
            refusal = Refusal(
                code="upstream_timeout", message=f"no end within {limit_s:g} s (limits.total_s)"
            )
        if self.attempt is not None:
            self.attempt.stop(refusal)
        else:
            self.refuse(refusal)

    # ---- the boundary

    def guarded(self, step: Callable[..., None], *args: object) -> None:
        """Run one step of this exchange; an exception nobody planned becomes a 500, booked and logged."""
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - the one boundary that turns defects into answers
            self._crashed(error)

    def _crashed(self, error: Exception) -> None:
        self.gateway.defect(self.id, error)
        refusal = Refusal(code="internal", message=f"a defect in wattmill, logged under {self.id}")
        if self.attempt is not None:
            self.attempt.crashed(refusal)
        elif not self.over:
            self.refuse(refusal)


def _nothing_stored() -> Refusal:
    return Refusal(
        code="field_refused",
        message="'previous_response_id' needs stored responses, and none are kept here; send the items",
        param="previous_response_id",
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
