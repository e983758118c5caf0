"""Tiers as the planner needs them: shares, lengths and what a request brings."""

from __future__ import annotations

from wattmill.twin.planning.demand import Demand, Tier
from wattmill.twin.planning.load import Asked, Recorded, asked
from wattmill.twin.planning.options import TierAsk
from wattmill.units import S_PER_DAY, TOK_PER_MTOK


def asked_of(demand: Demand, trace: Recorded | None) -> Asked:
    """Return how much is asked; `trace` where the load is one."""
    per_s = [users_per_s(tier) for tier in demand.tiers.values()]
    return asked(demand.load, trace, sum(p for p in per_s if p is not None))


def users_per_s(tier: Tier) -> float | None:
    """Return the mean requests per second of a tier's users; None where it has no users."""
    if tier.users is None or tier.requests_per_user_day is None:
        return None
    return tier.users * tier.requests_per_user_day / S_PER_DAY


def tier_asks(demand: Demand, load: Asked) -> tuple[TierAsk, ...]:
    """Return every tier with its share of requests, its lengths and its price, in the order of the file."""
    per_s = {name: users_per_s(tier) for name, tier in demand.tiers.items()}
    whole = sum(p for p in per_s.values() if p is not None)
    out = []
    for name, tier in demand.tiers.items():
        users = per_s[name]
        share = tier.share if tier.share is not None else (users or 0.0) / whole
        thinking = tier.thinking_x.value if tier.thinking_x is not None else 1.0
        input_tok = tier.input_tok or load.input_tok
        output_tok = (tier.output_tok or load.output_tok) * thinking
        usd = input_tok * tier.usd_per_mtok_input + output_tok * tier.usd_per_mtok_output
        out.append(
            TierAsk(
                name=name,
                model=tier.model or next(iter(demand.models)),
                share=share,
                input_tok=input_tok,
                output_tok=output_tok,
                tok_per_s=tier.tok_per_s_per_user,
                ttft_s=tier.ttft_s,
                usd_per_request=usd / TOK_PER_MTOK,
            )
        )
    return tuple(out)
