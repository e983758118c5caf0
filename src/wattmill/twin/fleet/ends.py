"""How an attempt of the simulated gateway ends: what is booked of it, and what is learned.

The rules are those of `distribution.attempt` (`book`, `so_far`, `_learn`);
`tests/twin/test_twin_books_as_live.py` plays the same fates through both and compares the facts.
"""

from __future__ import annotations

from wattmill.distribution.spending import spend_at_end
from wattmill.ledger.rating import rate
from wattmill.twin.fleet.services import Setup
from wattmill.twin.fleet.visit import Sent, Visit
from wattmill.twin.spec import Broken
from wattmill.units import PS_PER_S, PS_PER_US
from wattmill.vocab.fact import End, Status, UsageSource
from wattmill.vocab.usage import Usage


class Ends:
    """Writes ends down, settles the purse, frees slots and learns."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._clock = setup.clock

    def so_far(self, sent: Sent, broken: Broken) -> tuple[Usage | None, UsageSource]:
        """Return what a gateway can say of an answer that broke off.

        Of a stream it has seen each token; of an answer that was to come at once it has seen nothing,
        whatever was made. A machine that died inside a prompt had computed a part of it: that part is booked,
        so that the engine's count and the books agree. Life cannot know it, and estimates the whole prompt.
        """
        if not sent.streamed:
            return None, "unmetered"
        return Usage(broken.prompt_tok, broken.output_tok, broken.cached_tok), "estimated"

    def book(
        self,
        visit: Visit,
        status: Status,
        usage: Usage | None,
        source: UsageSource,
        *,
        error: str | None = None,
        seen: bool = False,
        http_status: int = 200,
    ) -> int | None:
        """Write the end, settle the purse, free the slot; return the time to the first content."""
        setup, clock, sent = self._setup, self._clock, visit.sent
        assert sent is not None
        grant, model, state = sent.grant, sent.model, sent.state
        cost = rated = 0
        counted = usage
        if usage is not None:
            try:
                cost, rated = rate(model.cost, usage), rate(model.charge, usage)
            except LookupError:  # a class without a price: the reservation stands, and the row says why
                cost, rated, counted = sent.reserved_cost_nusd, grant.nusd, None
                error = error or "unpriced"
        elif source == "unmetered":
            # What it cost is unknown, and may be all that was at stake: it is never zero.
            cost, rated = sent.reserved_cost_nusd, grant.nusd
        left = error != "connect"
        spend = spend_at_end(grant, sent.backend, counted, source, rated, sent=left, unseen=setup.unseen)
        if status == "failed" and (usage is None or not (seen or setup.resilience.failovers_pay == "tenant")):
            rated = 0
        charge = min(rated, grant.nusd)
        now_ps, arrived_ps, first_ps = clock.now_ps, visit.arrived_ps, sent.first_ps
        ttft_us = None if first_ps is None else (first_ps - arrived_ps) // PS_PER_US
        setup.journal.append_end(
            End(
                sent.seq,
                clock.at_us(now_ps),
                status,
                usage,
                source,
                cost,
                charge,
                rated - charge,
                http_status,
                ttft_us,
                (now_ps - arrived_ps) // PS_PER_US,
                clock.at_us(sent.started_ps),
                finish_reason=None if status != "finished" else "stop",
                error=error,
                kept_nusd=max(0, spend.nusd - charge),
                took=grant.took(spend),
            )
        )
        setup.purse.settle(grant, spend)
        state.gave_back()
        if sent.in_line_tok:
            state.ahead_tok -= sent.in_line_tok
            sent.in_line_tok = 0
        return ttft_us

    def learn(self, visit: Visit, sent: Sent, usage: Usage) -> None:
        """Learn from an answer, as much as a worker would: so many a sweep."""
        state = sent.state
        state.good()
        first_ps = sent.first_ps
        if first_ps is None or not state.lessons:
            return
        state.lessons -= 1
        now_ps, slots, beside = self._clock.now_ps, sent.backend.slots, sent.beside
        bound_tok = visit.ask.input_bound_tok
        if sent.streamed:
            state.observe(
                computed_tok=usage.prompt_tok - usage.cached_tok,
                output_tok=usage.output_tok,
                ttft_s=(first_ps - sent.started_ps) / PS_PER_S,
                decode_s=(now_ps - first_ps) / PS_PER_S,
                prefill_us=None,
                decode_us=None,
                others=min((beside + state.busy) / 2, slots - 1),
                expected_ttft_s=sent.candidate.expected_ttft_s,
                ahead_tok=sent.ahead_tok * usage.prompt_tok / (bound_tok or 1),
                waited=beside >= slots,
            )
        whole_s = None if sent.streamed else (now_ps - sent.started_ps) / PS_PER_S
        self._setup.view.learn(visit.ask, visit.caller, sent, sent.pool.name, usage, whole_s)
