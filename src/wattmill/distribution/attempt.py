"""One attempt at one pool: it leaves with an intent in the journal, and ends with exactly one end.

What is charged (`book`): the tenant pays for what was produced once something reached it, whether the answer
finished, was aborted by the client, cut at its clamp, or broke off in the middle. An attempt that failed
before it gave anything is charged 0; its cost leg is what it used. Where an answer's tokens could not be
counted at all (`unmetered`) the cost stays at the reservation, as for an attempt in doubt, until reconciled:
a cap that has been spent is never given back on a guess. So does the charge, unless the attempt failed. An
error status is such an end too, if its engine may have worked before it gave it (`Adapter.made_nothing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wattmill.distribution.engine_refusal import judge_status, words_of
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.distribution.spending import reserved, spend_at_end
from wattmill.distribution.upstream_conn import Handle
from wattmill.models.engines.adapter import Adapter
from wattmill.models.engines.speech import Speech
from wattmill.ports import Grant, JournalUnavailable
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.budget import NOTHING
from wattmill.vocab.fact import End, Intent, Status, UsageSource
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, terms_of
from wattmill.vocab.route import Candidate
from wattmill.vocab.usage import Usage

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

PATHS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
HEDGE_LOST = "hedge_lost"  # how the slower side of a hedge is booked
_ERROR_BYTES = 65_536  # of an engine's refusal that are read


class EngineSays(Protocol):
    """An engine's own words on one answer, None where it gave none; times in microseconds."""

    @property
    def prefill_us(self) -> int | None: ...
    @property
    def decode_us(self) -> int | None: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def engine_id(self) -> str | None: ...


class Attempt:
    """Implements `upstream_conn.Sink`. The forms of answers are its subclasses (`attempt_forms`)."""

    __slots__ = (
        "_error",
        "_error_bytes",
        "_started_s",
        "_started_us",
        "adapter",
        "ahead_tok",
        "backend",
        "beside",
        "booked",
        "candidate",
        "charge_nusd",
        "clamp_tok",
        "energy_j",
        "exchange",
        "first_s",
        "grant",
        "handle",
        "holds_slot",
        "in_line_tok",
        "model",
        "per_choice_tok",
        "pool",
        "reserved_cost_nusd",
        "retry_after",
        "sent",
        "seq",
        "status",
        "upstream",
        "usage",
        "usage_source",
        "was_slow",
        "written",
    )

    def __init__(
        self,
        exchange: Exchange,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        adapter: Adapter,
        grant: Grant,
        per_choice_tok: int,
        reserved_cost_nusd: int,
    ) -> None:
        self.exchange = exchange
        self.backend = backend
        self.candidate = candidate
        self.pool = candidate.pool
        self.upstream = exchange.upstreams[candidate.pool]
        self.model = model
        self.adapter = adapter
        self.grant = grant
        self.per_choice_tok = per_choice_tok
        self.reserved_cost_nusd = reserved_cost_nusd
        self.clamp_tok = per_choice_tok * exchange.ask.choices
        self.handle: Handle | None = None
        self.seq = exchange.seq if not exchange.attempts else exchange.gateway.next_seq()
        self.written = False  # its intent
        self.sent = False  # it may have reached the engine
        self.holds_slot = False
        self.booked = False
        self.beside = 0  # requests that were at the place when it left
        self.ahead_tok = 0  # bound on the prompts there that had no answer yet
        self.in_line_tok = 0  # bound on its own, until it has one
        self.status = 0  # of the engine's HTTP answer
        self.first_s: float | None = None  # first content
        self.charge_nusd = 0
        self.energy_j: float | None = None
        self.retry_after: float | None = None
        self.was_slow = False
        self.usage: Usage | None = None  # once it is booked
        self.usage_source: UsageSource = "none"
        self._error: list[bytes] = []
        self._error_bytes = 0
        self._started_s = 0.0
        self._started_us = 0

    # ---- leaving

    def start(self) -> None:
        """Write the intent and send. Raises `JournalUnavailable`; then nothing has left."""
        exchange = self.exchange
        services, ask, draft, http = exchange.services, exchange.ask, exchange.draft, exchange.http
        streamed = self.streamed
        speech = self.speech
        if speech is None:
            path = PATHS[ask.endpoint]
            like = exchange.like
            if like is not None and draft is exchange.as_read:
                body = like.render(self.adapter, draft, self.model.upstream, streamed, self.per_choice_tok)
            else:
                body = self.adapter.render(
                    ask.endpoint,
                    draft.body,
                    model=self.model.upstream,
                    stream=streamed,
                    max_output_tok=self.per_choice_tok,
                    choices=draft.n,
                )
        else:
            path = speech.path
            body = speech.render(self.spoken(), self.model.upstream, streamed, self.per_choice_tok)
        at_us = self._started_us = services.clock.wall_us()
        model = self.model
        services.journal.append_intent(
            Intent(
                self.seq,
                exchange.seq,
                exchange.attempts - 1,
                at_us,
                exchange.path,
                self.pool,
                draft.model,
                exchange.entry,
                ask.stream,
                ask.input_bound_tok,
                self.clamp_tok,
                self.grant.nusd,
                model.cost.id,
                model.charge.id,
                ask.max_output_tok,
                exchange.take_route(),
                http.label if b"x-request-id" in http.headers else None,
                ask.privacy,
                self.reserved_cost_nusd,
                ask.choices,
                tuple(sorted(ask.needs)) if ask.needs else (),
                ask.pool is not None,
                below=exchange.below,
                held=self.grant.held,
                evidence=ask.evidence,
                terms=terms_of(ask),
                queued_us=exchange.queued_us,
            )
        )
        self.written = True
        upstream = self.upstream
        now = self._started_s = services.clock.now()
        self.beside = upstream.state.busy
        self.in_line_tok = ask.input_bound_tok
        self.ahead_tok = upstream.state.asked(ask.input_bound_tok)
        upstream.state.took(now)
        self.sent = self.holds_slot = True
        upstream.post(path, body, self, now)
        # What follows costs no time: the engine has the request.
        if self.booked:
            return
        exchange.gateway.attempts.add(self)
        self.listen()
        if exchange.slow and self.handle is not None:
            self.handle.pause()

    def release(self) -> None:
        """Give the reservation back: nothing has left."""
        if not self.booked:
            self.booked = True
            self.exchange.services.purse.settle(self.grant, NOTHING)

    def listen(self) -> None:
        """Make ready for the answer: the request has left, and nothing can have come yet."""

    streamed = False  # whether the engine is asked for a stream
    speech: Speech | None = None  # the protocol in which it is asked; None: that of the endpoint

    def spoken(self) -> Body:
        """Return the body that is put to the engine in `speech`."""
        return self.exchange.draft.body

    def output_tok_so_far(self) -> int:
        return 0

    # ---- upstream_conn.Sink

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        if status == 200:
            if self.streamed:
                self.exchange.guarded(self.began, headers.get(b"content-type", b""))
            return
        wait = headers.get(b"retry-after", b"").strip()
        if wait.isdigit() and len(wait) < 8:
            self.retry_after = float(wait)

    def on_body(self, data: bytes) -> None:
        if self.booked:
            return
        if self.status == 200:
            self.exchange.guarded(self.took, data)
        elif self._error_bytes < _ERROR_BYTES:
            self._error.append(data)
            self._error_bytes += len(data)

    def on_end(self) -> None:
        if not self.booked:
            self.exchange.guarded(self.ended if self.status == 200 else self._engine_said_no)

    def on_lost(self, kind: str, text: str) -> None:
        if not self.booked:
            self.exchange.guarded(self._lost, kind, text)

    # ---- what a form adds

    def began(self, content_type: bytes) -> None:
        """The head of a good answer to a streamed request is here."""

    def took(self, data: bytes) -> None:
        """Body bytes of a good answer."""
        raise NotImplementedError

    def ended(self) -> None:
        """The good answer's body has ended."""
        raise NotImplementedError

    @property
    def committed(self) -> bool:
        """Whether the client has seen anything of this attempt."""
        return False

    def so_far(self, *, worked: bool) -> tuple[Usage | None, UsageSource]:
        """What was used until now, as far as it can be said. `worked`: the engine has had the prompt, and
        nothing says that it did not read it."""
        return (None, "unmetered") if worked and self.sent else (None, "none")

    def said(self) -> EngineSays:
        """Return what the engine says of its own work."""
        raise NotImplementedError

    def break_off(self, refusal: Refusal) -> None:
        """Tell a client that has already seen a part why there will be no more."""
        raise NotImplementedError

    @property
    def stopped_by_budget(self) -> bool:
        """Whether the answer ended where a budget, and not its client, had set its limit."""
        return self.exchange.capped and self.said().finish_reason in ("length", None)

    # ---- ends that are no answers

    def _engine_said_no(self) -> None:
        """The engine answered with another status than 200."""
        body = b"".join(self._error)
        words = self.upstream.redacted(words_of(body))
        said = judge_status(self.pool, self.status, words, self.retry_after)
        if said.unwell:
            self._unwell(f"status {self.status}")
        if self.retry_after is not None and self.status in (429, 503):
            self.upstream.state.rest(self.exchange.services.clock.now(), self.retry_after)
        nothing = self.adapter.made_nothing(self.status, body)
        self.book("failed", None, "none" if nothing else "unmetered", error=said.refusal.code)
        self.exchange.attempt_failed(self, said.refusal, final=said.final)

    def _lost(self, kind: str, text: str) -> None:
        """The connection broke, could not be made, or the engine was silent for too long."""
        code = (
            "upstream_timeout" if kind == "timeout" else "overloaded" if kind == "busy" else "upstream_failed"
        )
        if kind not in ("busy", "stale"):
            self._unwell(text, surely_down=kind == "connect")
        if kind in ("connect", "busy"):
            self.sent = False
        self.fail(Refusal(code=code, message=f"pool {self.pool!r}: {text}"), error=kind, worked=self.sent)

    def malformed(self, text: str) -> None:
        """The engine's answer is not what it should be."""
        self._unwell(text)
        text = f"pool {self.pool!r}: {self.upstream.redacted(text)}"
        self.fail(Refusal(code="upstream_failed", message=text), error="malformed", worked=True)

    def fail(self, refusal: Refusal, *, error: str, worked: bool) -> None:
        """End this attempt as failed: on to the next place, or a word after what the client has seen."""
        if worked:
            self._abort()
        else:
            self._let_go()
        usage, source = self.so_far(worked=worked)
        self.book("failed", usage, source, error=error)
        if not self.committed:
            self.exchange.attempt_failed(self, refusal, final=False, again=error == "stale")
        elif not self.exchange.continues_elsewhere(self, refusal):
            self._broken_off(refusal)

    def lose(self) -> None:
        """Another attempt at the same request had content first."""
        if not self.written:  # a defect kept it from leaving: there is no intent that could end
            self.release()
            return
        self._abort()
        usage, source = self.so_far(worked=True)
        self.book("failed", usage, source, error=HEDGE_LOST)

    def came_first(self) -> None:
        """The first content is here (`first_s`): where hedges are declared, that decides, and is learned."""
        self.upstream.state.ahead_tok -= self.in_line_tok
        self.in_line_tok = 0
        hedge = self.exchange.hedge
        if hedge is not None and self.first_s is not None:
            state = self.upstream.state
            times = state.ttft_s if self.streamed else state.whole_s
            times.took(self.first_s - self._started_s)
            hedge.won(self)

    def text_shown(self) -> str | None:
        """Return what the client has seen of a text that may go on elsewhere; None: it may not."""
        return None

    def stop(self, refusal: Refusal) -> None:
        """End this attempt for a reason of the gateway's own (time, shutdown); no other place is tried."""
        self._abort()
        usage, source = self.so_far(worked=True)
        self.book("failed", usage, source, error=refusal.code)
        if self.committed:
            self._broken_off(refusal)
        else:
            self.exchange.refuse(refusal)

    def client_gone(self) -> None:
        """Close the way to the engine now and book what was produced."""
        self._abort()
        usage, source = self.so_far(worked=True)
        self.book("aborted", usage, source)

    def crashed(self, refusal: Refusal) -> None:
        """A defect: settle without asking anything that may have caused it."""
        self._let_go()
        if not self.written:
            self.release()
        elif not self.booked:
            self.book("failed", None, "unmetered" if self.sent else "none", error="internal")
        if self.exchange.over:
            return
        if self.committed:
            self._broken_off(refusal)
        else:
            self.exchange.refuse(refusal)

    def _broken_off(self, refusal: Refusal) -> None:
        self.exchange.gateway.metrics.count("wattmill_refusals_total", refusal.code)
        self.exchange.finished(self.pool, "5xx")
        self.break_off(refusal)

    def _unwell(self, text: str, *, surely_down: bool = False) -> None:
        self.upstream.state.failed(text, now_s=self.exchange.services.clock.now(), surely_down=surely_down)

    def _let_go(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.abort()

    def _abort(self) -> None:
        """Close the way to an engine that may be working. Where it keeps counters, its slot stays taken."""
        if self.handle is not None and not self.handle.written:
            self.sent = False
        at_work = self.handle is not None and self.sent
        self._let_go()
        if at_work and not self.booked and self.adapter.counters_path is not None:
            self.exchange.gateway.lingers(self.upstream)
            self.holds_slot = False  # it is the watch's now

    # ---- the books

    def book(
        self, status: Status, usage: Usage | None, source: UsageSource, *, error: str | None = None
    ) -> None:
        """Write the end, settle the purse, free the slot: once, whatever comes later."""
        if self.booked:
            return
        exchange = self.exchange
        services = exchange.services
        rated = cost = 0
        usage_counts = usage
        told_uj: int | None = None
        if usage is not None:
            energy_j = self.energy_j = services.energy(self.pool, usage)
            if energy_j is not None:
                told_uj = round(energy_j * UJ_PER_J)
            try:
                model = self.model
                cost = services.rate(model.cost, usage)
                rated = cost if model.one_price else services.rate(model.charge, usage)
            except LookupError:  # a class without a price: the reservation stands, and the row says why
                cost = self.reserved_cost_nusd
                rated, error = self.grant.nusd, error or "unpriced"
                usage_counts = None
        elif source == "unmetered":
            # What it cost is unknown, and may be all that was at stake: it is never zero.
            cost = self.reserved_cost_nusd
            rated = self.grant.nusd
        spend = spend_at_end(
            self.grant, self.backend, usage_counts, source, rated, sent=self.sent, unseen=services.unseen
        )
        if status == "failed" and (usage is None or (not self.committed and self._operator_pays(error))):
            rated = 0  # its client saw nothing, or nobody can say how much
        charge = min(rated, self.grant.nusd)
        self.booked = True
        self.charge_nusd = charge
        self.usage, self.usage_source = usage, source
        now = services.clock.now()
        arrived = exchange.http.arrived_s
        gateway = exchange.gateway
        metrics = gateway.metrics
        said = self.said()
        try:
            services.journal.append_end(
                End(
                    self.seq,
                    services.clock.wall_us(),
                    status,
                    usage,
                    source,
                    cost,
                    charge,
                    rated - charge,
                    self.status,
                    None if self.first_s is None else int((self.first_s - arrived) * US_PER_S),
                    int((now - arrived) * US_PER_S),
                    self._started_us,
                    None,  # no engine tells its queueing time in an answer
                    said.prefill_us,
                    said.decode_us,
                    said.finish_reason,
                    error,
                    said.engine_id,
                    max(0, spend.nusd - charge),
                    self.grant.took(spend),
                    told_uj=told_uj,
                )
            )
        except (JournalUnavailable, OSError):
            # The attempt is in doubt now, and stays charged at its reservation until it is reconciled.
            metrics.count("wattmill_journal_failures_total")
            gateway.journal_failed_s = now
            spend = reserved(self.grant)
        finally:
            services.purse.settle(self.grant, spend)
            gateway.attempts.discard(self)
            if self.holds_slot:
                self.holds_slot = False
                self.upstream.state.gave_back()
            if self.in_line_tok:
                self.upstream.state.ahead_tok -= self.in_line_tok
                self.in_line_tok = 0
        counts = self.upstream.counts
        counts.used(usage, cost, charge)
        if rated > charge:
            metrics.count("wattmill_overrun_nusd_total", self.pool, by=rated - charge)
        if source == "unmetered":
            metrics.count("wattmill_unmetered_total", self.pool)
        if status == "finished":
            exchange.served = self
            first_s = self.first_s
            counts.took(None if first_s is None else first_s - arrived, now - arrived)
            self._learn(usage, now, said.prefill_us, said.decode_us)
        else:
            metrics.count("wattmill_attempts_total", self.pool, status)

    def _operator_pays(self, error: str | None) -> bool:
        """Say who pays for work of which the client saw nothing."""
        rules = self.exchange.services.resilience
        return (rules.losers_pay if error == HEDGE_LOST else rules.failovers_pay) == "operator"

    def _ahead_of(self, prompt_tok: int) -> float:
        """Return the tokens that were ahead, as if their bounds were as far off as its own."""
        return self.ahead_tok * prompt_tok / max(1, self.exchange.ask.input_bound_tok)

    def _learn(self, usage: Usage | None, now: float, prefill_us: int | None, decode_us: int | None) -> None:
        state = self.upstream.state
        state.good()
        if usage is None or self.first_s is None or not state.lessons:
            return
        state.lessons -= 1
        streamed = self.streamed  # else the first content that was seen is the last
        others = (self.beside + state.busy) / 2
        state.observe(
            computed_tok=usage.prompt_tok - usage.cached_tok if streamed or prefill_us else 0,
            output_tok=usage.output_tok,
            ttft_s=self.first_s - self._started_s,
            decode_s=now - self.first_s if streamed and not self.was_slow else 0.0,
            prefill_us=prefill_us,
            decode_us=decode_us,
            others=min(others, self.backend.slots - 1),
            expected_ttft_s=self.candidate.expected_ttft_s if streamed else None,
            ahead_tok=self._ahead_of(usage.prompt_tok) if streamed else None,
            waited=self.beside >= self.backend.slots,
        )
        exchange = self.exchange
        assert exchange.caller is not None
        at_once = not streamed and decode_us is None
        whole_s = now - self._started_s if at_once else None
        exchange.services.learn(exchange.ask, exchange.caller, exchange.route, self.pool, usage, whole_s)
