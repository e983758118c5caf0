"""One request on its way through the simulated gateway: what a gate may look at, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.scheduling.prefix import Prefix
from wattmill.twin.fleet.spec import Client, Turn
from wattmill.twin.spec import Work
from wattmill.units import PS_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route

if TYPE_CHECKING:
    from wattmill.distribution.spec import Backend, BackendModel
    from wattmill.ports import Grant
    from wattmill.twin.fleet.gateway import FrontGate
    from wattmill.twin.fleet.pool import RunningPool
    from wattmill.vocab.route import Candidate

_NO_HEADERS: dict[bytes, bytes] = {}


class Head:
    """What came over the wire, as far as a gate asks: headers, when, and a body to know it again by."""

    __slots__ = ("arrived_s", "body", "headers", "label")

    def __init__(self, body: int, arrived_ps: int, headers: dict[bytes, bytes]) -> None:
        self.body = body  # a number that only this request has: gates take its hash
        self.arrived_s = arrived_ps / PS_PER_S
        self.headers = headers
        self.label: str | None = None


class Sent:
    """One attempt that left."""

    __slots__ = (
        "ahead_tok",
        "backend",
        "beside",
        "candidate",
        "clamp_tok",
        "first_ps",
        "grant",
        "in_line_tok",
        "model",
        "pool",
        "reserved_cost_nusd",
        "seq",
        "started_ps",
        "work",
    )

    def __init__(
        self,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        pool: RunningPool,
        grant: Grant,
        clamp_tok: int,
        reserved_cost_nusd: int,
        seq: int,
    ) -> None:
        self.candidate = candidate
        self.backend = backend
        self.model = model
        self.pool = pool
        self.grant = grant
        self.clamp_tok = clamp_tok
        self.reserved_cost_nusd = reserved_cost_nusd
        self.seq = seq
        self.started_ps = 0
        self.first_ps: int | None = None
        self.beside = 0  # requests at the place when it left
        self.ahead_tok = 0  # bound on the prompts there that had no answer yet
        self.in_line_tok = 0  # bound on its own, until it has one
        self.work: Work


class Visit:
    """Looks to a gate as an `Exchange` does."""

    __slots__ = (
        "arrived_ps",
        "ask",
        "attempts",
        "caller",
        "client",
        "counted_tok",
        "failure",
        "gate",
        "gateway",
        "index",
        "new_route",
        "next",
        "over",
        "prefix",
        "queued_us",
        "route",
        "sent",
        "seq",
        "tried",
        "tries",
        "turn",
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
        self.counted_tok: int | None = None
        self.sent: Sent | None = None
        self.new_route: Route | None = None  # decided and not yet written down
        self.route: Route

    @property
    def http(self) -> Head:
        """What came over the wire, for a gate that looks at it."""
        tier = self.client.tier
        headers = _NO_HEADERS if tier is None else {b"x-wattmill-tier": tier.encode()}
        return Head(self.index, self.arrived_ps, headers)

    def go_on(self, refusal: Refusal | None = None) -> None:
        """A gate that kept it waiting lets it go on, or says no."""
        self.gateway.go_on(self, refusal)

    @property
    def input_tok(self) -> int:
        """What is reserved for the prompt: its bound, or its length once that was counted."""
        return self.ask.input_bound_tok if self.counted_tok is None else self.counted_tok
