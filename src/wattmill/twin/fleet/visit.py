"""One request on its way through the simulated gateway: what a gate may look at, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wattmill.ledger.frame import decoder
from wattmill.scheduling.prefix import Prefix
from wattmill.twin.fleet.spec import Client, Turn
from wattmill.twin.spec import Work
from wattmill.units import PS_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Intent
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Candidate, Hints, Route

if TYPE_CHECKING:
    from wattmill.distribution.backend_state import BackendState
    from wattmill.distribution.spec import Backend, BackendModel
    from wattmill.ports import Grant
    from wattmill.twin.fleet.gateway import FrontGate
    from wattmill.twin.fleet.pool import RunningPool

_NO_HEADERS: dict[bytes, bytes] = {}


class Head:
    """What came over the wire, as far as a gate asks: headers, when, and a body to know it again by."""

    __slots__ = ("arrived_s", "body", "headers", "label")

    def __init__(self, body: int, arrived_ps: int, headers: dict[bytes, bytes]) -> None:
        self.body = body  # a number that only this request has: gates take its hash
        self.arrived_s = arrived_ps / PS_PER_S
        self.headers = headers
        self.label: str | None = None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[Candidate, ...]).decode


class Sent:
    """One attempt that left, and what its decision expected (it is a `scheduling.fleet.Decided`)."""

    __slots__ = (
        "ahead_tok",
        "backend",
        "beside",
        "candidate",
        "clamp_tok",
        "first_ps",
        "grant",
        "hints",
        "in_line_tok",
        "model",
        "pool",
        "reserved_cost_nusd",
        "seq",
        "started_ps",
        "state",
        "streamed",
        "work",
    )

    def __init__(
        self,
        candidate: Candidate,
        hints: Hints,
        backend: Backend,
        model: BackendModel,
        pool: RunningPool,
        state: BackendState,
        grant: Grant,
        clamp_tok: int,
        reserved_cost_nusd: int,
        seq: int,
        streamed: bool,
        started_ps: int,
    ) -> None:
        self.candidate = candidate
        self.hints = hints
        self.backend = backend
        self.model = model
        self.pool = pool
        self.state = state
        self.grant = grant
        self.clamp_tok = clamp_tok
        self.reserved_cost_nusd = reserved_cost_nusd
        self.seq = seq
        self.streamed = streamed  # the engine was asked for a stream
        self.started_ps = started_ps
        self.first_ps: int | None = None
        self.beside = 0  # requests at the place when it left
        self.ahead_tok = 0  # bound on the prompts there that had no answer yet
        self.in_line_tok = 0  # bound on its own, until it has one
        self.work: Work

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What the decision expected of the place that was chosen."""
        return (self.candidate,)


class Visit:
    """Looks to a gate as an `Exchange` does."""

    __slots__ = (
        "arrived_ps",
        "ask",
        "attempts",
        "behind",
        "caller",
        "candidates",
        "client",
        "failure",
        "gate",
        "gateway",
        "hints",
        "index",
        "new_route",
        "next",
        "over",
        "prefix",
        "queued_us",
        "sent",
        "seq",
        "tried",
        "tries",
        "turn",
        "written",
    )

    def __init__(
        self,
        gateway: FrontGate,
        index: int,
        turn: Turn,
        client: Client,
        ask: Request,
        now_ps: int,
        seq: int,
        prefix: Prefix,
        tries: int,
    ) -> None:
        self.gateway = gateway
        self.index = index
        self.turn = turn
        self.client = client
        self.caller: Caller = client.caller
        self.ask = ask
        self.arrived_ps = now_ps
        self.seq = seq
        self.prefix = prefix
        self.tries = tries
        self.attempts = 0
        self.over = False
        self.queued_us = 0
        self.gate = 0  # how many gates were entered
        self.next = 0
        self.tried: tuple[str, ...] = ()
        self.failure: Refusal | None = None
        self.sent: Sent | None = None
        self.new_route: Route | None = None  # decided and not yet written down
        self.candidates: tuple[Candidate, ...] = ()  # of the last decision; `next` is the first not yet tried
        self.behind = b""  # those not yet tried, while an attempt runs
        self.written = b""  # or the intent in which they stand
        self.hints: Hints

    def decided(self, route: Route) -> None:
        """Go by this decision from now on."""
        self.new_route = route
        self.candidates = route.candidates
        hints = route.hints
        # What was ahead at each place is written down; nobody learns from it.
        self.hints = Hints(hints.asker, hints.turn, hints.output_tok, hints.shared_tok)
        self.next = 0

    def put_by(self, written: bytes) -> None:
        """Keep the places that were not tried as bytes while an attempt runs: hardly any request asks for
        them, and the objects of thousands of requests in flight would push everything else out of the
        processor's caches. `written`: the intent that has this decision, as the journal wrote it; b"": it
        is not at hand."""
        if written:
            self.written = written
        else:
            left = self.candidates[self.next :]
            self.behind = _pack(left) if left else b""
            self.next = 0
        self.candidates = ()

    def take_up(self) -> None:
        """The attempt failed: the places that were put by are asked for."""
        if self.written:
            intent = decoder.decode(self.written)
            assert isinstance(intent, Intent) and intent.route is not None
            self.candidates = intent.route.candidates
            self.written = b""
        elif self.behind:
            self.candidates = _unpack(self.behind)
            self.behind = b""

    @property
    def http(self) -> Head:
        """What came over the wire, for a gate that looks at it."""
        tier = self.client.tier
        headers = _NO_HEADERS if tier is None else {b"x-wattmill-tier": tier.encode()}
        return Head(self.index, self.arrived_ps, headers)

    def go_on(self, refusal: Refusal | None = None) -> None:
        """A gate that kept it waiting lets it go on, or says no."""
        self.gateway.go_on(self, refusal)
