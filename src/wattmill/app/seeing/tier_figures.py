"""Tiers on the board and in `wattmill status`: what was promised, what was kept, what it earned."""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from wattmill.app.declared.tier_settings import Multiplier, PerToken, TierPlan, TierRates
from wattmill.app.seeing.figure import Figure, figure
from wattmill.ledger.stores.sqlite_tiers import TierSums


class TierView(msgspec.Struct, frozen=True, kw_only=True):
    """One tier in the last hour. Shares are of what was asked and could be judged, refusals included."""

    name: str
    price: str  # in words
    promise: str  # in words
    source: str  # of the promise
    kept: Figure
    ttft_kept: Figure
    speed_kept: Figure
    offered: Figure
    refused: Figure
    waiting: Figure  # at the gate now, in all workers
    mean_wait: Figure  # of those that waited
    charge: Figure
    cost: Figure
    margin: Figure


def tier_views(
    plans: dict[str, TierPlan], sums: list[TierSums], waiting: dict[str, int] | None
) -> tuple[TierView, ...]:
    """Return every tier that is declared, the highest first, and after them those that only the books know.

    Args:
        waiting: at the gates now, by tier; None if no worker said.
    """
    by_name = {one.tier: one for one in sums}
    names = [*reversed(plans), *sorted(by_name.keys() - plans.keys())]
    return tuple(
        _view(name, plans.get(name), by_name.get(name), None if waiting is None else waiting.get(name, 0))
        for name in names
    )


def _view(name: str, plan: TierPlan | None, sums: TierSums | None, waiting: int | None) -> TierView:
    rows = "/api/requests"
    note = "of requests in the last hour that could be judged; refused for want of room counts as not kept"
    margin = None if sums is None else sums.charge_nusd - sums.cost_nusd
    queued = sums.queued_us / sums.queued_n if sums is not None and sums.queued_n else None
    return TierView(
        name=name,
        price="not declared any more" if plan is None else price_words(plan),
        promise="" if plan is None else promise_words(plan),
        source="" if plan is None else plan.source,
        kept=figure(None if sums is None else sums.kept_share, "ratio", rows=rows, note=note),
        ttft_kept=figure(_share(sums, "ttft"), "ratio", rows=rows),
        speed_kept=figure(_share(sums, "speed"), "ratio", rows=rows),
        offered=figure(None if sums is None else sums.offered, "count", rows=rows),
        refused=figure(None if sums is None else sums.refused, "count", rows=f"{rows}?status=refused"),
        waiting=figure(waiting, "count"),
        mean_wait=figure(queued, "us", note="of those that had to wait"),
        charge=figure(None if sums is None else sums.charge_nusd, "nusd", rows=rows),
        cost=figure(None if sums is None else sums.cost_nusd, "nusd", rows=rows),
        margin=figure(margin, "nusd", rows=rows, note="charge less cost"),
    )


def _share(sums: TierSums | None, what: Literal["ttft", "speed"]) -> float | None:
    if sums is None:
        return None
    kept, of = (sums.ttft_kept, sums.ttft_n) if what == "ttft" else (sums.speed_kept, sums.speed_n)
    return kept / of if of else None


def price_words(plan: TierPlan) -> str:
    match plan.price:
        case PerToken(usd_per_mtok=usd):
            return f"${usd} /Mtok"
        case TierRates(input_usd_per_mtok=into, output_usd_per_mtok=out):
            return f"${into} in, ${out} out /Mtok"
        case Multiplier(factor=factor):
            return f"{factor:g} x the pool's charge"
        case _:
            assert_never(plan.price)


def promise_words(plan: TierPlan) -> str:
    parts = []
    if plan.ttft_s is not None:
        parts.append(f"first token {plan.ttft_s:g} s")
    if plan.tok_per_s is not None:
        parts.append(f"{plan.tok_per_s:g} tok/s")
    if plan.context_tok is not None:
        parts.append(f"{plan.context_tok:,} tok of context")
    if plan.privacy is not None:
        parts.append(f"only places for {plan.privacy} data")
    return ", ".join(parts) or "nothing"
