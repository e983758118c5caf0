"""The gateway's steps of a request, without sockets: gates, route, reservation, attempt, end, and again.

Everything that decides or counts is the live object: the gates, `scheduling.fleet.FleetView`, the purse
(`ledger.budgets.Allotments`), the breaker and what is learned of a place (`distribution.backend_state`), the
budget for trying again, the rating. The order of the steps is that of `distribution.exchange`; what is left
out is what only bytes have: parsing, streams and their taps, hedges, continuation and cascades.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from wattmill.distribution.backend_state import LESSONS
from wattmill.distribution.engine_refusal import judge_status
from wattmill.distribution.retry_budget import RetryBudget
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.distribution.spending import output_room, worst_spend
from wattmill.ledger.rating import worst_case_nusd
from wattmill.ports import Grant
from wattmill.twin.fleet.ends import Ends
from wattmill.twin.fleet.pool import RunningPool
from wattmill.twin.fleet.services import RATES, Heard, Metrics, Setup
from wattmill.twin.fleet.spec import Client, Turn
from wattmill.twin.fleet.visit import Sent, Visit
from wattmill.twin.gateway import prefix_of_blocks
from wattmill.twin.spec import Broken, Served, Work
from wattmill.vocab.budget import NOTHING
from wattmill.vocab.fact import Intent, Refused, UsageSource
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.request import Request, terms_of
from wattmill.vocab.route import Candidate
from wattmill.vocab.usage import Usage

_LIMITED = frozenset({"budget_exceeded", "limit_reached"})
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class FrontGate:
    """One gateway worker. Tell it its pools by `use`."""

    def __init__(self, setup: Setup, heard: Heard) -> None:
        self._setup = setup
        self._clock = setup.clock
        self._gates = setup.gates
        self._pools: dict[str, RunningPool] = {}
        self._heard = heard
        self._ends = Ends(setup)
        self._visits: dict[int, Visit] = {}
        self._seq = 0
        self.metrics = Metrics()
        self.retries = RetryBudget(setup.resilience.retries)

    def use(self, pools: Sequence[RunningPool]) -> None:
        """Send to these pools: they tell this gate what became of it."""
        self._pools = {pool.name: pool for pool in pools}

    @property
    def in_flight(self) -> int:
        """Attempts that have left and not ended."""
        return len(self._visits)

    # ---- arriving

    def arrive(self, index: int, turn: Turn, client: Client, tries: int) -> Visit:
        """A client asks. What becomes of it is told to `heard`, perhaps at once."""
        setup, caller = self._setup, client.caller
        ask = Request(
            id="",
            endpoint="chat",
            model=client.model,
            pool=client.pool,
            stream=client.stream,
            input_bound_tok=round(turn.input_tok * setup.bound_tok_per_tok),
            max_output_tok=turn.max_output_tok,
            privacy=client.privacy or caller.privacy,
            operators=caller.operators,
        )
        prefix = prefix_of_blocks(turn) if turn.blocks and setup.affinity else ()
        self._seq += 1
        visit = Visit(self, index, turn, client, ask, self._clock.now_ps, self._seq, prefix, tries)
        if self._gates:
            self._through_gates(visit)
        else:
            self._route(visit)
        return visit

    def go_on(self, visit: Visit, refusal: Refusal | None) -> None:
        if visit.over:
            return
        if refusal is not None:
            self._refuse(visit, refusal)
        else:
            self._through_gates(visit)

    def _through_gates(self, visit: Visit) -> None:
        gates = self._gates
        while visit.gate < len(gates):
            gate = gates[visit.gate]
            visit.gate += 1
            told = gate.enter(visit)
            if isinstance(told, Refusal):
                self._refuse(visit, told)
                return
            if told is not None:
                return  # it calls `go_on` later
        self._route(visit)

    def _route(self, visit: Visit) -> None:
        route = self._decide(visit)
        if isinstance(route, Refusal):
            self._refuse(visit, route)
            return
        visit.decided(route)
        self._try_next(visit)

    def _decide(self, visit: Visit, *, paid: bool = False) -> Any:
        """Ask the policy; where only open breakers stand against every place, try one that can be reached."""
        view, caller = self._setup.view, visit.caller
        route = view.place(visit.ask, caller, visit.prefix)
        if isinstance(route, Refusal):
            if route.code != "no_healthy_place":
                return route
        elif not visit.tried or any(c.pool not in visit.tried for c in route.candidates):
            return route
        states = [
            state
            for pool, state in self._setup.life.items()
            if state.last_resort and visit.ask.model in self._setup.backends[pool].models
            if pool not in visit.tried
        ]
        if not states:
            return route
        if not paid and self.retries.take(states[0].pool, caller.key, self._clock.now()) is not None:
            return route
        for state in states:
            state.healthy = True
        try:
            return view.place(visit.ask, caller, visit.prefix)
        finally:
            for state in states:
                state.healthy = False

    # ---- from a route to an attempt

    def _try_next(self, visit: Visit) -> None:
        candidates = visit.candidates
        while visit.next < len(candidates):
            candidate = candidates[visit.next]
            visit.next += 1
            if candidate.pool in visit.tried:
                continue
            backend = self._setup.backends[candidate.pool]
            model = backend.models[visit.ask.model]
            if visit.ask.tier:
                tiered = model.by_tier.get(visit.ask.tier)
                if tiered is None:
                    text = f"pool {candidate.pool!r}: tier {visit.ask.tier!r} has no price there"
                    visit.failure = Refusal(code="unpriced", message=text)
                    continue
                model = tiered
            visit.failure = self._prepare(visit, candidate, backend, model)
            if visit.failure is None:
                return
        if visit.failure is None:
            visit.failure = Refusal(
                code="no_healthy_place", message=f"no place is left that serves {visit.ask.model!r}"
            )
        self._refuse(visit, visit.failure)

    def _prepare(
        self, visit: Visit, candidate: Candidate, backend: Backend, model: BackendModel
    ) -> Refusal | None:
        """Reserve the worst case and send, with less output where the caps allow only that; or say why
        not."""
        setup, ask = self._setup, visit.ask
        purse, path = setup.purse, visit.caller.path
        counted = False
        input_tok = ask.input_bound_tok  # or the prompt's length, once it was counted
        clamp = ask.max_output_tok or setup.default_output_tok
        if model.context_tok is not None:
            clamp = min(clamp, model.context_tok)
        while True:
            try:
                worst = worst_spend(RATES, backend, model, input_tok, clamp)
                cost = worst_case_nusd(model.cost, input_tok, clamp)
            except LookupError as error:
                return Refusal(code="unpriced", message=f"pool {candidate.pool!r}: {error}")
            grant = purse.reserve(path, worst)
            if grant is not None:
                self._send(visit, candidate, backend, model, grant, clamp, cost)
                return None
            floor = worst_spend(RATES, backend, model, input_tok, min(1, clamp))
            answer = purse.lease_now(path, worst, floor)
            may_count = not counted and candidate.pool in setup.counts
            if isinstance(answer, Refusal):
                if answer.code in _LIMITED and may_count:
                    input_tok, counted = visit.turn.input_tok, True
                    continue
                return answer
            room = output_room(RATES, answer, backend, model, input_tok, clamp)
            if room < clamp and may_count:
                purse.settle(answer, NOTHING)
                input_tok, counted = visit.turn.input_tok, True
                continue
            if room < 1:
                purse.settle(answer, NOTHING)
                return Refusal(
                    code="budget_exceeded", message="the caps do not allow one token of this answer"
                )
            if room < clamp:
                clamp = room
                purse.shrink(answer, worst_spend(RATES, backend, model, input_tok, clamp))
                cost = worst_case_nusd(model.cost, input_tok, clamp)
            self._send(visit, candidate, backend, model, answer, clamp, cost)
            return None

    def _send(
        self,
        visit: Visit,
        candidate: Candidate,
        backend: Backend,
        model: BackendModel,
        grant: Grant,
        clamp: int,
        cost: int,
    ) -> None:
        setup, ask, caller = self._setup, visit.ask, visit.caller
        clock = self._clock
        now_ps, bound_tok = clock.now_ps, ask.input_bound_tok
        name = candidate.pool
        pool, state = self._pools[name], setup.life[name]
        seq, attempt = visit.seq, visit.attempts
        if attempt:
            self._seq += 1
            seq = self._seq
        else:
            self.retries.asked(name, caller.key)
        streamed = ask.stream or name in setup.streams
        sent = visit.sent = Sent(
            candidate, visit.hints, backend, model, pool, state, grant, clamp, cost, seq, streamed, now_ps
        )
        visit.attempts = attempt + 1
        route, visit.new_route = visit.new_route, None
        setup.journal.append_intent(
            Intent(
                seq,
                visit.seq,
                attempt,
                clock.at_us(now_ps),
                caller.path,
                name,
                ask.model,
                "chat",
                ask.stream,
                bound_tok,
                clamp,
                grant.nusd,
                model.cost.id,
                model.charge.id,
                ask.max_output_tok,
                route,
                None,
                ask.privacy,
                cost,
                1,
                (),
                ask.pool is not None,
                terms_of(ask),
                visit.queued_us,
                held=grant.held,
            )
        )
        visit.put_by(b"" if route is None or setup.written is None else setup.written())
        del route  # whatever was decided beyond this attempt may go now
        sent.beside = state.busy
        sent.in_line_tok = bound_tok
        sent.ahead_tok = state.asked(bound_tok)
        state.took(clock.now())
        turn = visit.turn
        most = clamp  # an engine ends an answer where its context is full
        if model.context_tok is not None:
            most = max(1, min(clamp, model.context_tok - turn.input_tok))
        work = sent.work = Work(
            at_us=turn.at_us,
            input_tok=turn.input_tok,
            output_tok=min(turn.output_tok, most),
            max_output_tok=most,
            privacy=ask.privacy,
            blocks=turn.blocks,
        )
        if not pool.connects:
            text = f"pool {pool.name!r}: no connection"
            self._failed(visit, "connect", text, None, "none", surely_down=True)
            return
        wait_s = pool.refuses(work)
        if wait_s is not None:
            said = judge_status(pool.name, 429, "the rate limit of the provider", wait_s)
            state.rest(clock.now(), wait_s)
            self._ends.book(visit, "failed", None, "none", error=said.refusal.code, http_status=429)
            self._attempt_failed(visit, pool.name, said.refusal)
            return
        self._visits[visit.index] = visit
        pool.take(visit.index, work)

    # ---- what engines tell

    def on_first(self, index: int, at: int) -> None:
        """The first token of a request; the gateway sees it only if it comes in a stream."""
        visit = self._visits[index]
        sent = visit.sent
        assert sent is not None
        if sent.streamed:
            state = sent.state
            state.gave_content()
            state.ahead_tok -= sent.in_line_tok
            sent.in_line_tok = 0
            sent.first_ps = self._clock.now_ps

    def on_end(self, served: Served) -> None:
        """An answer is whole."""
        visit = self._visits.pop(served.work)
        sent = visit.sent
        assert sent is not None
        work = sent.work
        usage = Usage(work.input_tok, work.output_tok, served.cached_tok)
        sent.pool.made(work.input_tok - served.cached_tok, work.output_tok)
        if sent.first_ps is None:
            sent.state.ahead_tok -= sent.in_line_tok
            sent.in_line_tok = 0
            sent.first_ps = self._clock.now_ps
        ttft_us = self._ends.book(visit, "finished", usage, "measured")
        self._ends.learn(visit, sent, usage)
        self._over(visit)
        self._heard.ended(visit, "finished", ttft_us, usage)

    def on_broken(self, broken: Broken) -> None:
        """The machine under a request died."""
        visit = self._visits.pop(broken.work)
        sent = visit.sent
        assert sent is not None
        pool = sent.pool
        pool.made(broken.prompt_tok - broken.cached_tok, broken.output_tok)
        usage, source = self._ends.so_far(sent, broken)
        text = f"pool {pool.name!r}: the connection broke"
        self._failed(visit, "reset", text, usage, source, seen=visit.ask.stream and broken.output_tok > 0)

    # ---- ends that are no answers

    def _failed(
        self,
        visit: Visit,
        error: str,
        text: str,
        usage: Usage | None,
        source: UsageSource,
        *,
        seen: bool = False,
        surely_down: bool = False,
    ) -> None:
        """It failed; `seen`: its client has had a part."""
        sent = visit.sent
        assert sent is not None
        name = sent.pool.name
        sent.state.failed(text, now_s=self._clock.now(), surely_down=surely_down)
        http_status = 0 if sent.first_ps is None else 200
        ttft_us = self._ends.book(
            visit, "failed", usage, source, error=error, seen=seen, http_status=http_status
        )
        refusal = Refusal(code="upstream_failed", message=text)
        if seen:  # nobody else can go on with it
            assert usage is not None
            self._over(visit)
            self._heard.ended(visit, "failed", ttft_us, usage)
        else:
            self._attempt_failed(visit, name, refusal)

    def _attempt_failed(self, visit: Visit, pool: str, refusal: Refusal) -> None:
        visit.failure = refusal
        visit.tried += (pool,)
        visit.sent = None
        visit.take_up()
        if self._may_try_again(visit, pool):
            self._try_next(visit)
        else:
            self._refuse(visit, visit.failure or refusal)

    def _may_try_again(self, visit: Visit, failed: str) -> bool:
        if visit.attempts >= self._setup.resilience.attempts:
            return False
        if all(c.pool in visit.tried for c in visit.candidates[visit.next :]):
            route = self._decide(visit, paid=True)
            if isinstance(route, Refusal) or all(c.pool in visit.tried for c in route.candidates):
                return False
            visit.decided(route)
        return self.retries.take(failed, visit.caller.key, self._clock.now()) is None

    def _refuse(self, visit: Visit, refusal: Refusal) -> None:
        if visit.over:
            return
        if not visit.attempts:
            route = refusal.route or visit.new_route
            self._setup.journal.append_note(
                Refused(
                    visit.seq,
                    self._clock.wall_us(),
                    visit.caller.path,
                    "chat",
                    "" if refusal.code == "unknown_model" else visit.ask.model,
                    refusal.code,
                    refusal.message[:512],
                    tier=visit.ask.tier,
                    queued_us=visit.queued_us,
                    ask=_encode(visit.ask) if route is not None else b"",
                    route=route,
                )
            )
        self._over(visit)
        self._heard.refused(visit, refusal)

    def _over(self, visit: Visit) -> None:
        visit.over = True
        entered, visit.gate = visit.gate, 0
        if entered:
            for gate in reversed(self._gates[:entered]):
                gate.left(visit)

    # ---- now and then

    def sweep(self) -> None:
        """What a worker does ten times a second: new lessons, time for breakers, probes of open ones."""
        now_s = self._clock.now()
        for name, state in self._setup.life.items():
            state.lessons = LESSONS
            if state.state == "closed":
                continue
            state.tick(now_s)
            if state.probe_due(now_s):
                if self._pools[name].connects:
                    state.probe_good()
                else:
                    state.probe_failed("no connection", now_s=now_s, surely_down=True)


def comes_back_s(refusal: Refusal) -> float | None:
    """Return after how many seconds a polite client asks again; None: waiting does not cure it."""
    return (refusal.retry_after_s or 1.0) if CODES[refusal.code].retry else None
