"""The gateway of one worker: what every exchange shares, and the paths that it serves."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Raw

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.backend_state import BackendState
from wattmill.distribution.doors.door import DOORS, error_shape, key_of, models_shape
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import Gate
from wattmill.distribution.http import RUN_IN_URL, HttpRequest
from wattmill.distribution.linger import LingerWatch
from wattmill.distribution.metrics import Metrics
from wattmill.distribution.outbox import Outbox
from wattmill.distribution.resilience import Resilience
from wattmill.distribution.retry_budget import RetryBudget
from wattmill.distribution.server import SWEEP_S
from wattmill.distribution.side_door import SideDoor, SideExchange
from wattmill.distribution.spec import Backend, Limits
from wattmill.distribution.spending import Unseen
from wattmill.distribution.upstream import Upstream
from wattmill.models.spec import TokenizerBound
from wattmill.ports import Clock, Journal, Purse, Rate
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Progress
from wattmill.vocab.ids import Epoch, request_id
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Endpoint, Request
from wattmill.vocab.route import Route
from wattmill.vocab.usage import Usage

_log = logging.getLogger("wattmill.gateway")
_RESILIENCE = Resilience()
_PROGRESS_S = 1.0
_JOURNAL_DOUBT_S = 5.0  # how long a refused record keeps the worker from being ready

POSTS: dict[bytes, Endpoint] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
}
_MODELS = b"/v1/models"
_POST_ONLY = b"POST, OPTIONS"
_GET_ONLY = b"GET, HEAD, OPTIONS"


Cascade = Callable[[Request, Route, str, bytes, int, Raw | None], tuple[str, int] | None]
"""(request, route, pool, answer, clamp of a choice, `response_format`) -> why the answer should go on, and to
which candidate; None if it will do."""


Learn = Callable[[Request, Caller, Route, str, Usage, float | None], None]
"""(request, caller, route, pool, usage, seconds) of a finished attempt; None: its parts were seen."""


def _learn_nothing(
    request: Request, caller: Caller, route: Route, pool: str, usage: Usage, whole_s: float | None
) -> None:
    pass


@dataclasses.dataclass(slots=True, kw_only=True)
class Services:
    """What a worker serves with. Swapped whole at a reload; an exchange keeps the one it began with.

    `worst_case(price, input_tok, output_tok)` -> nano-dollars, LookupError where a class has no price;
    `affordable(price, nusd, input_tok)` -> output tokens, below 0 where not even the input fits.
    """

    epoch: str
    identify: Callable[[bytes | None, int], Caller | Refusal]  # value of the authorization header, wall_us
    route: Callable[[Request, Caller, Raw | None], Route | Refusal]  # with the prompt as it came
    models: Callable[[Caller], Sequence[tuple[str, str]]]  # (id, owner) of what the key may ask for
    purse: Purse
    journal: Journal
    rate: Rate
    worst_case: Callable[[Price, int, int], int]
    affordable: Callable[[Price, int, int], int]
    backends: Mapping[str, Backend]
    bound: Mapping[str, TokenizerBound]  # by model
    energy: Callable[[str, Usage], float | None]  # pool, usage -> joules, modelled and provisional
    admit: Callable[[], Refusal | None]
    clock: Clock
    limits: Limits
    resilience: Resilience = _RESILIENCE
    default_output_tok: int = 1024  # reserved where a client does not limit its answer
    bound_tok_per_tok: float = 4.0  # how far the bound of a prompt, in bytes, lies above its tokens
    unseen: Unseen = "reserved"  # how much of a limit is used by what nobody counted
    learn: Learn = _learn_nothing
    cascade: Cascade | None = None  # None: no answer goes on to a larger model
    gates: tuple[Gate, ...] = ()  # what a request passes before it is routed, in this order
    stored: Gate | None = None  # what requests through a door pass first: it finds and keeps their answers
    discreet: bool = False  # what no gate has looked at is not repeated in the journal
    side_doors: Mapping[bytes, SideDoor] = dataclasses.field(default_factory=dict)  # by b"/v1/name"


class Gateway:
    """Implements `server.Handler`. Make one per event loop, `use` services, hand it to a `Server`."""

    def __init__(self, clock: Clock, *, first_seq: int = 1) -> None:
        self.metrics = Metrics()
        self.in_flight = 0
        self.attempts: set[Attempt] = set()
        self.upstreams: dict[str, Upstream] = {}
        self.draining = False
        self.services: Services
        self.journal_failed_s: float | None = None
        self.retries = RetryBudget()
        self._states: dict[str, BackendState] = {}
        self._watches: dict[Upstream, LingerWatch] = {}  # of a place that was reloaded, its old way too
        self._retired: list[tuple[float, Upstream]] = []  # until when a running exchange may still use it
        self._clock = clock
        self._seq = first_seq - 1
        self._progress_at_s = clock.now() + _PROGRESS_S
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._loop.call_soon)  # of requests to engines
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def state(self, pool: str) -> BackendState:
        """Return what is known of `pool`. The object stays the same as long as the worker lives."""
        state = self._states.get(pool)
        if state is None:
            state = self._states[pool] = BackendState(pool)
        return state

    def use(self, services: Services) -> None:
        """Serve new requests with `services`. Connections to unchanged backends are kept; the others close
        when their answers end. Raises `upstream.BadBackendError`, and changes nothing, if an address is none.
        """
        fresh: dict[str, Upstream] = {}
        for pool, backend in services.backends.items():
            old = self.upstreams.get(pool)
            if old is None or old.backend != backend:
                state, counts = self.state(pool), self.metrics.pool(pool)
                old = Upstream(backend, clock=self._clock, state=state, counts=counts, outbox=self._outbox)
            fresh[pool] = old
        for pool, upstream in self.upstreams.items():
            if fresh.get(pool) is not upstream:
                upstream.close()
                self._retired.append((self._clock.now() + services.limits.total_s, upstream))
        self.services = services
        self.upstreams = fresh
        self.retries.use(services.resilience.retries)
        for state in self._states.values():
            state.rules = services.resilience.breaker

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # ---- server.Handler

    def request(self, request: HttpRequest) -> None:
        endpoint = POSTS.get(request.path)
        if endpoint is None and request.path.startswith(b"/run/"):
            run, slash, rest = request.path[5:].partition(b"/")
            request.headers[RUN_IN_URL] = run
            request.path = slash + rest
            endpoint = POSTS.get(request.path)
        if endpoint is not None and request.method == b"POST":
            Exchange(self, request, endpoint).begin()
        else:
            self._other(request, endpoint)

    def refused(self, refusal: Refusal) -> tuple[bytes, bytes]:
        self.metrics.count("wattmill_refusals_total", refusal.code)
        self.metrics.answered("none", "", f"{refusal.status // 100}xx")
        return answers.error_answer(refusal, self.new_id())

    def sender_of(self, request: HttpRequest) -> int | Refusal:
        key = key_of(request.headers)
        if isinstance(key, Refusal):  # two keys: most doors read one of them only, and say so or not
            key = request.headers.get(b"authorization")
        caller = self.services.identify(key, self._clock.wall_us())
        return caller if isinstance(caller, Refusal) else caller.key

    def new_id(self) -> str:
        return request_id(Epoch(self.services.epoch), self.next_seq())

    def _other(self, request: HttpRequest, endpoint: Endpoint | None) -> None:
        path, method = request.path, request.method
        entrance = DOORS.get(path)
        if entrance is not None:
            if method == b"POST":
                Exchange(self, request, "chat", entrance).begin()
                return
            endpoint = "chat"
        if endpoint is None and self.services.side_doors and method != b"OPTIONS":
            door = self.services.side_doors.get(b"/".join(path.split(b"/", 3)[:3]))
            if door is not None:
                SideExchange(self, request, door)
                return
        allow = _POST_ONLY if endpoint is not None else _GET_ONLY if _is_get(path) else None
        if method == b"OPTIONS" and (allow is not None or path == b"*"):
            head = b"HTTP/1.1 200 OK\r\nallow: %b\r\nx-request-id: %b\r\n"
            request.conn.answer(head % (allow or _GET_ONLY, self.new_id().encode()), b"")
        elif allow is None:
            shown = path[:200].decode("utf-8", "replace")
            known = ", ".join(p.decode() for p in (*POSTS, *DOORS, _MODELS))
            self._refuse(
                request, Refusal(code="not_found", message=f"no path {shown!r} here; there are {known}")
            )
        elif method not in (b"GET", b"HEAD") or endpoint is not None:
            verbs = allow.decode()
            self._refuse(
                request,
                Refusal(
                    code="method_not_allowed",
                    message=f"{method.decode()} is not allowed on this path; use {verbs}",
                ),
                allow=allow,
            )
        elif path == b"/healthz":
            request.conn.answer(answers.json_head(self.new_id()), b'{"status":"alive"}')
        elif path == b"/readyz":
            self._ready(request)
        else:
            self._models(request)

    def _refuse(self, request: HttpRequest, refusal: Refusal, *, allow: bytes | None = None) -> None:
        self.metrics.count("wattmill_refusals_total", refusal.code)
        self.metrics.answered("none", "", f"{refusal.status // 100}xx")
        request_id = self.new_id()
        shape = error_shape(request.path, request.headers, refusal, request_id)
        request.conn.answer(*answers.error_answer(refusal, request_id, allow=allow, body=shape))

    def now_s(self) -> float:
        return self._clock.now()

    def _ready(self, request: HttpRequest) -> None:
        refusal = self.not_ready()
        if refusal is None:
            request.conn.answer(answers.json_head(self.new_id()), b'{"status":"ready"}')
        else:
            request.conn.answer(*answers.error_answer(refusal, self.new_id()))

    def not_ready(self) -> Refusal | None:
        """Return why this worker should get no requests now, or None."""
        if self.draining:
            return Refusal(code="draining", message="this gateway is shutting down")
        if self.journal_failed_s is not None and self._clock.now() - self.journal_failed_s < _JOURNAL_DOUBT_S:
            return Refusal(code="journal_unavailable", message="the journal refused a record just now")
        if not any(self.state(pool).healthy for pool in self.upstreams):
            return Refusal(code="no_healthy_place", message=f"none of {len(self.upstreams)} pools is healthy")
        return self.services.admit()

    def _models(self, request: HttpRequest) -> None:
        services = self.services
        key = key_of(request.headers)
        caller = key if isinstance(key, Refusal) else services.identify(key, self._clock.wall_us())
        if isinstance(caller, Refusal):
            self._refuse(request, caller)
            return
        models = list(services.models(caller))
        if request.path == _MODELS:
            body = answers.models_body(models)
            if b"anthropic-version" in request.headers:
                body = models_shape(models)
        else:
            name = request.path[len(_MODELS) + 1 :].decode("utf-8", "replace")
            owner = dict(models).get(name)
            if owner is None:
                known = ", ".join(n for n, _ in models) or "none"
                text = f"no model {name[:200]!r} for this key; it may use: {known}"
                self._refuse(request, Refusal(code="unknown_model", message=text, param="model"))
                return
            body = answers.model_body(name, owner)
        self.metrics.answered("models", "", "2xx")
        request.conn.answer(answers.json_head(self.new_id()), body)

    # ---- time

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = self._clock.now()
        for upstream in self.upstreams.values():
            upstream.sweep(now)
        for _, upstream in self._retired:
            upstream.sweep(now)
        if self._retired:
            self._retired = [(until, u) for until, u in self._retired if u.in_use or now < until]
        for upstream, watch in list(self._watches.items()):
            watch.sweep(now)
            if upstream.closed and not watch.waits:
                del self._watches[upstream]
        if now >= self._progress_at_s:
            self._progress_at_s = now + _PROGRESS_S
            self._mark_progress()

    def _mark_progress(self) -> None:
        at_us = self._clock.wall_us()
        for attempt in self.attempts:
            produced = attempt.output_tok_so_far()
            if produced:
                attempt.exchange.services.journal.append_note(Progress(attempt.seq, at_us, produced))

    def lingers(self, upstream: Upstream, in_line_tok: int) -> None:
        """An attempt was aborted: its slot is taken, and what is left of its prompt (at most `in_line_tok`)
        stands before others, until the engine's counters say that it is free."""
        watch = self._watches.get(upstream)
        if watch is None:
            watch = self._watches[upstream] = LingerWatch(upstream, self.metrics)
        watch.began(self._clock.now(), in_line_tok)

    # ---- seeing it

    def snapshot(self, *, connections: int = 0) -> dict[str, Any]:
        """Return all metrics, JSON-able; see `metrics.merge`."""
        pools = [(pool, self.state(pool)) for pool in self.upstreams]
        return self.metrics.snapshot(
            {
                "wattmill_in_flight": [((), self.in_flight)],
                "wattmill_connections": [((), connections)],
                "wattmill_pool_busy": [((pool,), state.busy) for pool, state in pools],
                "wattmill_pool_lingering": [((pool,), state.lingering) for pool, state in pools],
                "wattmill_pool_up": [((pool,), int(state.healthy)) for pool, state in pools],
                "wattmill_breaker_opened_total": [((pool,), state.opened) for pool, state in pools],
            }
        )

    def defect(self, request_id: str, error: BaseException) -> None:
        self.metrics.count("wattmill_defects_total")
        _log.error("defect while serving %s", request_id, exc_info=error)

    def close(self) -> None:
        """Stop the clockwork and close idle upstream connections; call it after the server has drained."""
        self._timer.cancel()
        for upstream in (*self.upstreams.values(), *(u for _, u in self._retired)):
            upstream.close()


def _is_get(path: bytes) -> bool:
    return path in (_MODELS, b"/healthz", b"/readyz") or path.startswith(_MODELS + b"/")
