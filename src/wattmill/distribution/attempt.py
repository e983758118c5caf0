"""One attempt at one pool: it leaves with an intent in the journal, and ends with exactly one end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.distribution import answers
from wattmill.distribution.booking import HEDGE_LOST, Booking
from wattmill.distribution.engine_refusal import judge_status, words_of
from wattmill.models.engines.speech import Speech
from wattmill.vocab.fact import Intent
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, terms_of

if TYPE_CHECKING:
    pass

PATHS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_ERROR_BYTES = 65_536  # of an engine's refusal that are read


class Attempt(Booking):
    """Implements `upstream_conn.Sink`. The forms of answers are its subclasses: `attempt_forms`,
    `whole_answer`, `door_forms`."""

    __slots__ = ()

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

    def listen(self) -> None:
        """Make ready for the answer: the request has left, and nothing can have come yet."""

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

    def break_off(self, refusal: Refusal) -> None:
        """Tell a client that has already seen a part why there will be no more."""
        raise NotImplementedError

    @property
    def stopped_by_budget(self) -> bool:
        """Whether the answer ended where a budget, and not its client, had set its limit."""
        return self.exchange.capped and self.said().finish_reason in ("length", None)

    def whole_head(self) -> bytes:
        """Return the head of an answer that is told whole."""
        exchange = self.exchange
        return answers.routed_head(
            exchange.id,
            stream=False,
            pool=self.pool,
            expected_nusd=exchange.expected_nusd,
            more=exchange.head_lines,
        )

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
            self.exchange.gateway.lingers(self.upstream, self.in_line_tok)
            self.holds_slot = False  # it is the watch's now, and so is its place in the line
            self.in_line_tok = 0
