"""How an attempt is booked: one end in the journal, the purse settled, the slot free, once.

What is charged (`book`): the tenant pays for what was produced once something reached it, whether the answer
finished, was aborted by the client, cut at its clamp, or broke off in the middle. An attempt that failed
before it gave anything is charged 0; its cost leg is what it used. Where an answer's tokens could not be
counted at all (`unmetered`) the cost stays at the reservation, as for an attempt in doubt, until reconciled:
a cap that has been spent is never given back on a guess. So does the charge, unless the attempt failed. An
error status is such an end too, if its engine may have worked before it gave it (`Adapter.made_nothing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wattmill.distribution.spec import Backend, BackendModel
from wattmill.distribution.spending import reserved, spend_at_end
from wattmill.distribution.upstream_conn import Handle
from wattmill.models.engines.adapter import Adapter
from wattmill.ports import Grant, JournalUnavailable
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.budget import NOTHING
from wattmill.vocab.fact import End, Status, UsageSource
from wattmill.vocab.route import Candidate
from wattmill.vocab.usage import Usage

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

HEDGE_LOST = "hedge_lost"  # how the slower side of a hedge is booked


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


class Booking:
    """What is known of one attempt, and how it is booked. How it leaves and ends: `attempt.Attempt`."""

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

    # ---- what a form of answer says

    streamed = False  # whether the engine is asked for a stream

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

    # ---- the books

    def release(self) -> None:
        """Give the reservation back: nothing has left."""
        if not self.booked:
            self.booked = True
            self.exchange.services.purse.settle(self.grant, NOTHING)

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
        written = False
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
            written = True
        except (JournalUnavailable, OSError):
            metrics.count("wattmill_journal_failures_total")
            gateway.journal_failed_s = now
        finally:
            # Unwritten, by a disk or a defect, it is in doubt: charged at its reservation until reconciled.
            services.purse.settle(self.grant, spend if written else reserved(self.grant))
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
