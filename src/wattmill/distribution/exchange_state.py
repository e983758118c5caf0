"""What is known of one request on its way, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.attempt_forms import break_off_stream
from wattmill.distribution.booking import Booking
from wattmill.distribution.continuation import Continuation
from wattmill.distribution.doors.door import Door
from wattmill.distribution.doors.entrance import Entrance
from wattmill.distribution.gate import Gate, Tap
from wattmill.distribution.hedge import Hedge
from wattmill.distribution.http import HttpRequest
from wattmill.distribution.known_body import KnownBody
from wattmill.distribution.prompt_count import PromptCount
from wattmill.distribution.wire import Draft
from wattmill.models.engines.odd_answer import OddAnswer
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Refused
from wattmill.vocab.ids import request_id
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.request import Endpoint, Entry, Request
from wattmill.vocab.route import Route

if TYPE_CHECKING:
    from wattmill.distribution.gateway import Gateway

_encode = msgspec.msgpack.Encoder().encode


class ExchangeState:
    """What the steps of an exchange share. `over` is final: what comes later changes nothing."""

    __slots__ = (
        "_asked_again",
        "_asking",
        "_counted_at",
        "_counted_tok",
        "_gate",
        "_kept",
        "_lease",
        "_new_route",
        "_next",
        "_tried",
        "as_read",
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
        "gates",
        "gateway",
        "head_lines",
        "hedge",
        "holds",
        "http",
        "id",
        "like",
        "limited",
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
        self.id = request_id(gateway.services.epoch, self.seq)
        self.caller: Caller | None = None
        self.path: tuple[int, ...] = ()  # who pays: the nodes down to the key, or to a run or step below it
        self.below = 0  # how many of them are below the key
        self.holds: Callable[[], Refusal | None] | None = None  # says whether its run still serves
        self.draft: Draft
        self.like: KnownBody | None = None  # bodies around whose messages more is known ...
        self.as_read: Draft | None = None  # ... of this draft, and of none that a gate has made of it
        self.ask: Request
        self.route: Route
        self.limited: Refusal  # once a limit has said no: what the client is told if no place is left
        self.attempt: Attempt | None = None
        self.served: Booking | None = None  # the one that gave the answer, until gates are left
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
        self.gates: tuple[Gate, ...] = ()  # that it passes, once it comes to the first
        self._gate = 0  # how many of them were entered
        self._next = 0
        self._tried: tuple[str, ...] = ()  # places that failed
        self._asked_again = False  # a place whose kept connection had been given up
        self._new_route: Route | None = None  # decided and not yet written down
        self._kept: Callable[[], None] | None = None  # tells the answer that went on, if none better comes
        self._lease: asyncio.Task[None] | None = None
        self._counted_tok: int | None = None  # the prompt's length, by the engine's own word
        self._counted_at = ""  # where: another place may have another tokenizer
        self._asking: PromptCount | None = None
        gateway.in_flight += 1
        http.conn.client = self  # type: ignore[assignment]  # an `Exchange`: the class is written in parts

    @property
    def estimated_prompt_tok(self) -> int:
        """The prompt's probable length, for an engine that worked on it and never counted it. Its bound would
        charge for bytes; the row says "estimated", and an engine's counter sets it right later."""
        return max(1, round(self.ask.input_bound_tok / self.services.bound_tok_per_tok))

    @property
    def input_tok(self) -> int:
        """What is reserved for the prompt: its bound, or its length once that was counted."""
        return self.ask.input_bound_tok if self._counted_tok is None else self._counted_tok

    def take_route(self) -> Route | None:
        """Return the decision if the journal has not got it yet."""
        route, self._new_route = self._new_route, None
        return route

    def tap(self, tap: Tap, *, outer: bool = False) -> None:
        """Let the answer pass through `tap`, after those that are there. `outer`: after the door, so that it
        sees what the client sees; for a request without a door there is no difference."""
        if outer and self.door is not None:
            self.door.outer.append(tap)
        else:
            self.taps = [*self.taps, tap]

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
            elif not self._is_served(model):
                model = ""  # the message has it; the books keep each name that they hear for ever
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
            break_off_stream(self, refusal)  # type: ignore[arg-type]
            return
        head, body = self._told(refusal)
        self.conn.answer(head + self.head_lines, body)

    def _told(self, refusal: Refusal) -> tuple[bytes, bytes]:
        shape = None if self.door is None else self.door.door.error_body(refusal, self.id)
        return answers.error_answer(refusal, self.id, body=shape)

    def _is_served(self, model: str) -> bool:
        """Whether a name, as asked, is one that some place knows; callers can make up any number."""
        place, slash, rest = model.partition("/")
        backends = self.services.backends
        if slash and place in backends:
            model = rest
        return any(model in backend.models for backend in backends.values())

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
        self.served = None  # a ring of references would be left to the collector, ten objects a request
        gateway.metrics.answered(self.entry, pool, status)

    def _leave_gates(self) -> None:
        entered, self._gate = self._gate, 0
        for gate in reversed(self.gates[:entered]):
            gate.left(self)  # type: ignore[arg-type]

    # ---- the boundary

    def guarded(self, step: Callable[..., None], *args: object) -> None:
        """Run one step of this exchange; an exception nobody planned becomes a 500, booked and logged."""
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - the one boundary that turns defects into answers
            self.crashed(error)

    def crashed(self, error: Exception) -> None:
        """A step has raised what nobody planned, or met an answer that cannot be read."""
        attempt = self.attempt
        if isinstance(error, RecursionError) and attempt is not None and attempt.sent:
            error = OddAnswer(
                "the engine's answer is nested too deeply"
            )  # what clients send is looked at before
        if isinstance(error, OddAnswer):
            if attempt is not None and not attempt.booked:
                self.guarded(attempt.malformed, str(error))
                return
            refusal = Refusal(code="upstream_failed", message=str(error))
        else:
            self.gateway.defect(self.id, error)
            refusal = Refusal(code="internal", message=f"a defect in wattmill, logged under {self.id}")
        if attempt is not None:
            attempt.crashed(refusal)
        elif not self.over:
            self.refuse(refusal)
        else:
            client: object = self.conn.client
            if client is self:  # booked and counted as over, but its client has not heard the end
                self.conn.fail(*self._told(refusal))
