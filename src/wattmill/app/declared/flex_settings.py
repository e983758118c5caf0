"""What a power limit may change, as it is declared."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.pool_settings import Name
from wattmill.app.declared.tier_settings import TierPlan
from wattmill.power.signal.spec import FlexRules


class FlexSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What gives way when a power limit or a grid event comes in (`wattmill power`, `POST /api/power/events`,
    or a file in the data folder's `power/inbox`). Nothing here acts before one does."""

    protect: Annotated[
        list[Name],
        Meta(
            description="Tiers that are never held back. Empty: the highest of several; of one tier none. "
            "What ranks below the lowest of them gives way, the lowest first.",
            examples=[["premium"]],
        ),
    ] = []
    boundary: Annotated[
        Literal["host", "pools"],
        Meta(
            description="Whose power is held to the limit: the whole machine's, or idle power and that of "
            "the engines (where other work shares the machine, and only ours can give way)."
        ),
    ] = "host"
    baseline_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="A reduction is against the mean of so long before its notice."),
    ] = 600.0
    margin_share: Annotated[
        float, Meta(ge=0, le=0.5, description="Aimed below the limit, as a share of it.")
    ] = 0.03
    lead_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="The way down begins so long before the start, where notice allows."),
    ] = 30.0
    ramp_up_s: Annotated[
        float, Meta(ge=0, le=86_400, description="The way back up takes so long after the end.")
    ] = 60.0
    rebound_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="So long after the end power stays at or below the baseline, whatever was put off.",
        ),
    ] = 900.0
    settle_s: Annotated[
        float,
        Meta(gt=0, le=600, description="How long a typical answer goes on drawing power once it was let in."),
    ] = 8.0
    least_engine_share: Annotated[
        float,
        Meta(
            ge=0.05,
            le=1,
            description="Embedded engines are slowed no further than to this share of their time; 1: never.",
        ),
    ] = 0.4

    def rules(self) -> FlexRules:
        return FlexRules(
            baseline_s=self.baseline_s,
            margin=self.margin_share,
            lead_s=self.lead_s,
            ramp_up_s=self.ramp_up_s,
            rebound_s=self.rebound_s,
            settle_s=self.settle_s,
            least_engine_share=self.least_engine_share,
        )


def protected_rank(flex: FlexSettings, tiers: dict[str, TierPlan]) -> int | None:
    """Return the lowest rank that is never held back, None if everybody may be."""
    if flex.protect:
        return min((tiers[name].rank for name in flex.protect if name in tiers), default=None)
    ranks = {plan.rank for plan in tiers.values()}
    return max(ranks) if len(ranks) > 1 else None
