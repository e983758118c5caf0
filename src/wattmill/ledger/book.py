"""Double entry: what happened, as postings that sum to zero for each commodity.

Commodities: `nusd` (nano-dollars), `uj` (microjoules), `ug` (micrograms of CO2e) and one per token class
(`tok:input` ...). A positive amount went to the account, a negative one came from it. A correction is a new
transaction, never an edit.

Accounts (a name stands once per commodity):
    key:<node>          what a tenant's key was charged, what tokens and joules it used
    revenue             what tenants owe for
    overrun:<pool>      charge beyond a reservation: the operator's, never the caller's
    cost:<pool>         what attempts cost the factory (failed ones too); payable:<pool> is its other side
    in_doubt            charged at the reservation, outcome unknown; in_doubt_cost:<pool> is the cost leg
    engine:<pool>       where tokens come from; unmetered:<pool> those that no attempt can be charged with.
                        engine:cache gave tokens a second time that a place had produced before
    saved:cache         what answers from the cache would have been charged beyond their charge; nobody owes
                        it, so its other side is list:cache and no tenant
    meter:<meter>       where joules come from, grid:<meter> where their grams do. Those of no request:
                        idle:<meter>; service:<meter>, the factory's own processes while nobody was served;
                        foreign:<meter>, other programs; overhead:<meter>, conversion and cooling;
                        unattributed:<meter>, nobody can be named
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from wattmill.ledger.attribution import Split
from wattmill.units import J_PER_KWH, UJ_PER_J
from wattmill.vocab.fact import End, Intent, MeterWindow
from wattmill.vocab.request import Terms
from wattmill.vocab.shares import largest_remainder
from wattmill.vocab.usage import TOKEN_CLASSES, Usage

MONEY = "nusd"
ENERGY = "uj"
GRAMS = "ug"
BEYOND = "over:"  # and a limit's unit: what was taken of it beyond a reservation
TOKENS = tuple(f"tok:{name}" for name in TOKEN_CLASSES)
COMMODITIES = (MONEY, ENERGY, GRAMS, *TOKENS)

_NO_TERMS = Terms()

MAX_LINES = 60
"""Postings of one transaction; longer ones are split into several that each balance."""


class Posting(NamedTuple):
    commodity: str
    account: str
    amount: int


class Opened(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the books keep of an intent until its end: stored, so a field may only be appended."""

    seq: int
    request: int
    attempt: int
    at_us: int
    path: tuple[int, ...]
    pool: str
    model: str
    endpoint: str
    stream: bool
    input_bound_tok: int
    output_clamp_tok: int
    reserved_nusd: int
    reserved_cost_nusd: int
    cost_price: int
    charge_price: int
    privacy: str
    progress_tok: int = 0  # output that was seen delivered: lower knowledge, if it ends in doubt
    below: int = 0  # nodes of `path` below the key: agent, run, step
    tier: str = ""
    queued_us: int = 0
    promise_ttft_s: float | None = None
    promise_tok_per_s: float | None = None
    held: tuple[int, ...] = ()  # gauges of limits and what is reserved of each, flat

    @property
    def key(self) -> int:
        return self.path[-1 - self.below]


decode_opened: Callable[[bytes], Opened] = msgspec.msgpack.Decoder(Opened).decode


def opened(intent: Intent) -> Opened:
    """Return what the books keep of `intent`; the decision's facts stay in the journal."""
    terms = intent.terms or _NO_TERMS
    return Opened(
        intent.seq,
        intent.request,
        intent.attempt,
        intent.at_us,
        intent.path,
        intent.pool,
        intent.model,
        intent.endpoint,
        intent.stream,
        intent.input_bound_tok,
        intent.output_clamp_tok,
        intent.reserved_nusd,
        intent.reserved_cost_nusd,
        intent.cost_price,
        intent.charge_price,
        intent.privacy,
        below=intent.below,
        tier=terms.tier,
        queued_us=intent.queued_us,
        promise_ttft_s=terms.promise_ttft_s,
        promise_tok_per_s=terms.promise_tok_per_s,
        held=intent.held,
    )


def end_postings(start: Opened, end: End) -> list[Posting]:
    """Return both legs of one attempt: charge to the tenant, cost to the factory, and its tokens."""
    key = f"key:{start.key}"
    pool = start.pool
    lines: list[Posting] = []
    if end.usage is not None:
        lines += token_postings(pool, key, end.usage)
    lines += money_postings(pool, key, end.charge_nusd, end.cost_nusd, end.overrun_nusd)
    if end.saved_nusd:
        lines.append(Posting(MONEY, f"saved:{pool}", end.saved_nusd))
        lines.append(Posting(MONEY, f"list:{pool}", -end.saved_nusd))
    return lines


def token_postings(pool: str, to: str, usage: Usage) -> list[Posting]:
    source = f"engine:{pool}"
    lines = []
    for commodity, tokens in zip(TOKENS, usage.by_class(), strict=True):
        if tokens:
            lines.append(Posting(commodity, source, -tokens))
            lines.append(Posting(commodity, to, tokens))
    return lines


def money_postings(pool: str, key: str, charge: int, cost: int, overrun: int) -> list[Posting]:
    lines = []
    if charge:
        lines.append(Posting(MONEY, key, charge))
    if overrun:
        lines.append(Posting(MONEY, f"overrun:{pool}", overrun))
    if charge + overrun:
        lines.append(Posting(MONEY, "revenue", -charge - overrun))
    if cost:
        lines.append(Posting(MONEY, f"cost:{pool}", cost))
        lines.append(Posting(MONEY, f"payable:{pool}", -cost))
    return lines


def beyond_postings(pool: str, unit: str, limit: int, amount: int) -> list[Posting]:
    """Return the lines of what an engine made of a limit's unit beyond the reservation: they balance, and the
    operator's account names the place."""
    commodity = BEYOND + unit
    return [
        Posting(commodity, f"overrun:{pool}", amount),
        Posting(commodity, f"limit:{limit}", -amount),
    ]


def doubt_postings(start: Opened) -> list[Posting]:
    """Return the charge of an attempt whose end nobody saw: its reservation, until something is known."""
    lines = []
    if start.reserved_nusd:
        lines.append(Posting(MONEY, f"key:{start.key}", start.reserved_nusd))
        lines.append(Posting(MONEY, "in_doubt", -start.reserved_nusd))
    if start.reserved_cost_nusd:
        lines.append(Posting(MONEY, f"cost:{start.pool}", start.reserved_cost_nusd))
        lines.append(Posting(MONEY, f"in_doubt_cost:{start.pool}", -start.reserved_cost_nusd))
    return lines


def unmetered_postings(pool: str, prompt_tok: int, output_tok: int) -> list[Posting]:
    """Return tokens that an engine counted and no attempt showed (it finished a prefill after its client
    left). A negative figure takes back what attempts estimated beyond the engine's count."""
    lines = []
    for commodity, tokens in ((TOKENS[0], prompt_tok), (TOKENS[4], output_tok)):
        if tokens:
            lines.append(Posting(commodity, f"engine:{pool}", -tokens))
            lines.append(Posting(commodity, f"unmetered:{pool}", tokens))
    return lines


def window_postings(window: MeterWindow, by_key: Mapping[int, int], parts: Split) -> list[list[Posting]]:
    """Return the transactions of one meter window: each microjoule has one account, and each of its
    micrograms, where the carbon of its power is known, goes the same way."""
    meter = window.meter
    amounts = [
        (f"idle:{meter}", window.idle_uj),
        (f"unattributed:{meter}", parts.unattributed_uj),
        (f"service:{meter}", parts.service_uj),
        (f"foreign:{meter}", window.foreign_uj),
        (f"overhead:{meter}", window.overhead_uj),
        *((f"key:{key}", uj) for key, uj in sorted(by_key.items())),
    ]
    amounts = [(account, uj) for account, uj in amounts if uj]
    if not amounts:
        return []
    grams = [0] * len(amounts)
    if window.carbon_ug_per_kwh is not None and window.total_uj > 0:
        whole = round(Fraction(window.total_uj * window.carbon_ug_per_kwh, UJ_PER_J * J_PER_KWH))
        grams = largest_remainder(whole, [uj for _, uj in amounts])
    transactions = []
    step = (MAX_LINES - 2) // 2 if any(grams) else MAX_LINES - 1
    for start in range(0, len(amounts), step):
        energy = [Posting(ENERGY, account, uj) for account, uj in amounts[start : start + step]]
        carbon = [
            Posting(GRAMS, account, ug)
            for (account, _), ug in zip(
                amounts[start : start + step], grams[start : start + step], strict=True
            )
            if ug
        ]
        lines = [Posting(ENERGY, f"meter:{meter}", -sum(line.amount for line in energy)), *energy]
        if carbon:
            lines += [Posting(GRAMS, f"grid:{meter}", -sum(line.amount for line in carbon)), *carbon]
        transactions.append(lines)
    return transactions


def difference(standing: Iterable[Posting], wanted: Iterable[Posting]) -> list[Posting]:
    """Return the correction that makes books which say `standing` say `wanted`; empty if they do already."""
    net: dict[tuple[str, str], int] = {}
    for commodity, account, amount in wanted:
        net[commodity, account] = net.get((commodity, account), 0) + amount
    for commodity, account, amount in standing:
        net[commodity, account] = net.get((commodity, account), 0) - amount
    return [Posting(commodity, account, amount) for (commodity, account), amount in net.items() if amount]


def imbalance(lines: Sequence[Posting]) -> dict[str, int]:
    """Return the sum per commodity where it is not zero; empty for every transaction in the books."""
    sums: dict[str, int] = {}
    for commodity, _, amount in lines:
        sums[commodity] = sums.get(commodity, 0) + amount
    return {commodity: total for commodity, total in sums.items() if total}
