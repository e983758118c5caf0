"""Tiers as they are declared: a price and a promise under one name, with presets to start from.

The presets' prices are the price points of the five-tier model that NVIDIA's GTC keynote of 16 March 2026
showed for token factories ($0, 3, 6, 45 and 150 per million tokens, of any class). Their promises, ranks
and queues are wattmill's own and declared, not measured: set yours to what your places can keep. One more
preset, `batch`, is for work that may wait.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.pool_settings import Name, Rates, Usd
from wattmill.scheduling.admission.spec import AdmissionRules, TierRule
from wattmill.vocab.caller import PRIVACY_CLASSES

PRESETS = ("batch", "free", "medium", "high", "premium", "ultra")
Preset = Literal["batch", "free", "medium", "high", "premium", "ultra"]
BATCH = "batch"
"""The tier of work that may wait: below all others, and nobody's tier unless it is named."""
PRICE_SOURCE = "price points of the five-tier model of NVIDIA's GTC keynote, 2026-03-16"
PROMISE_SOURCE = "wattmill's own default, declared"


class PerToken(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="per_token"
):
    """One rate for every token of text, in and out. Audio is not sold at it."""

    usd_per_mtok: Annotated[Usd, Meta(description="Per million tokens of any class.", examples=["45"])]
    source: Annotated[str, Meta(description="Where the figure comes from, with a date.")] = "declared"


class TierRates(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="rates"):
    """Rates by token class, the same at every place."""

    source: Annotated[str, Meta(description="Where the figures come from, with a date.")] = "declared"


class Multiplier(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="multiplier"
):
    """What the pool charges without a tier, times a factor."""

    factor: Annotated[float, Meta(ge=0, le=10_000, description="2 is twice the pool's charge price.")]
    source: Annotated[str, Meta(description="Where the figure comes from, with a date.")] = "declared"


TierPrice = PerToken | TierRates | Multiplier


class TierSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price and a promise. What is left out comes from the preset: the one named here, or the one that
    has the name of the tier. A tier that is no preset and names none promises nothing, and costs what the
    pool charges."""

    preset: Annotated[Preset | None, Meta(description="Where values that are left out come from.")] = None
    price: Annotated[TierPrice | None, Meta(description="What a tenant of this tier pays.")] = None
    ttft_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Promise: seconds to the first token, waiting at the gate included."),
    ] = None
    tok_per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Promise: output tokens per second of one answer. Places that are slower even when "
            "idle are ruled out."
        ),
    ] = None
    context_tok: Annotated[
        Annotated[int, Meta(ge=64)] | None,
        Meta(description="Promise: longest request (prompt and answer), in tokens. Longer ones are refused."),
    ] = None
    privacy: Annotated[
        Literal["public", "internal", "private"] | None,
        Meta(description="Promise: its data goes only to places that may see this class."),
    ] = None
    rank: Annotated[
        Annotated[int, Meta(ge=0, le=1000)] | None,
        Meta(description="Who goes first: the highest. A key may ask for tiers of its own rank or lower."),
    ] = None
    weight: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Its share of the places where tiers share by weight (`admission.between`)."),
    ] = None
    queue: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)] | None,
        Meta(description="Requests that may wait at the gate, of all its tenants and in all workers."),
    ] = None
    queue_s: Annotated[
        Annotated[float, Meta(gt=0, le=3600)] | None,
        Meta(description="Longest wait at the gate, in seconds; then 503 with `Retry-After`."),
    ] = None
    reserved: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of each place's slots that lower tiers leave free for it."),
    ] = None
    saving: Annotated[
        Name | None,
        Meta(
            description="A lower tier: near a limit (from 80 % of it on) requests are served in it, at its "
            "price and promise. Absent: they stay in this one."
        ),
    ] = None


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests wait when all places are busy. It works where `[tiers]` are declared."""

    between: Annotated[
        Literal["strict", "weighted"],
        Meta(
            description="`strict`: the highest tier first, the lowest gives way. `weighted`: tiers share by "
            "their weights."
        ),
    ] = "strict"
    fair_over: Annotated[
        Literal["team", "organisation", "key"],
        Meta(description="Who shares a tier fairly: its teams, organisations or keys."),
    ] = "team"
    ahead: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Requests that may wait inside a place beyond its slots, at most its `queue`. They "
            "can no longer be overtaken.",
        ),
    ] = 0
    prompt_share: Annotated[
        float,
        Meta(ge=0, le=10, description="Work of a prompt token, where an output token is 1. For fairness."),
    ] = 0.1
    longest_retry_s: Annotated[
        float, Meta(ge=1, le=3600, description="No `Retry-After` is longer than this.")
    ] = 120.0
    default_tier: Annotated[
        Name | None,
        Meta(
            description="Tier of a key when neither it, its team nor its organisation has one. Absent: the "
            "lowest."
        ),
    ] = None


class TierPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One tier with every value settled."""

    name: str
    rank: int
    price: TierPrice
    ttft_s: float | None = None
    tok_per_s: float | None = None
    context_tok: int | None = None
    privacy: str | None = None
    weight: float = 1.0
    queue: int = 256
    queue_s: float = 30.0
    reserved: float = 0.0
    saving: str | None = None
    source: str = "declared"  # of the promise


def _preset(
    name: str,
    rank: int,
    usd: str,
    ttft_s: float | None,
    tok_per_s: float | None,
    queue_s: float,
    weight: float,
) -> TierPlan:
    return TierPlan(
        name=name,
        rank=rank,
        price=PerToken(usd_per_mtok=usd, source=PRICE_SOURCE),
        ttft_s=ttft_s,
        tok_per_s=tok_per_s,
        queue_s=queue_s,
        weight=weight,
        source=PROMISE_SOURCE,
    )


PRESET_PLANS = {
    plan.name: plan
    for plan in (
        TierPlan(
            name=BATCH,
            rank=0,
            price=Multiplier(factor=0.5, source="half the pool's charge, as providers list for batches"),
            weight=0.5,
            queue=1_024,
            queue_s=600.0,
            source=PROMISE_SOURCE,
        ),
        _preset("free", 5, "0", None, None, 60.0, 1.0),
        _preset("medium", 10, "3", 10.0, 10.0, 30.0, 2.0),
        _preset("high", 20, "6", 5.0, 20.0, 20.0, 4.0),
        _preset("premium", 30, "45", 2.0, 40.0, 10.0, 8.0),
        _preset("ultra", 40, "150", 1.0, 80.0, 5.0, 16.0),
    )
}


def tier_plan(name: str, declared: TierSettings) -> TierPlan:
    """Return a tier with what it leaves out taken from its preset."""
    base = PRESET_PLANS.get(declared.preset or name)
    if base is None:
        base = TierPlan(name=name, rank=0, price=Multiplier(factor=1.0, source="the pool's own charge"))
    given = {
        field: value
        for field in declared.__struct_fields__
        if field != "preset" and (value := getattr(declared, field)) is not None
    }
    promised = {"ttft_s", "tok_per_s", "context_tok", "privacy"} & given.keys()
    source = "declared" if promised else base.source
    return msgspec.structs.replace(base, name=name, source=source, **given)


def tier_plans(tiers: dict[str, TierSettings]) -> dict[str, TierPlan]:
    """Return every declared tier, the lowest rank first; equals in the order of the declaration."""
    plans = [tier_plan(name, declared) for name, declared in tiers.items()]
    return {plan.name: plan for plan in sorted(plans, key=lambda plan: plan.rank)}


def default_tier(tiers: dict[str, TierSettings], admission: AdmissionSettings) -> str:
    """Return the tier of keys that have none: as named, else the lowest; "" where there are no tiers."""
    names = list(tier_plans(tiers))
    return admission.default_tier or next((name for name in names if name != BATCH), "".join(names[:1]))


def admission_rules(
    tiers: dict[str, TierSettings], admission: AdmissionSettings, *, workers: int
) -> AdmissionRules:
    """Return the rules of one of so many workers: each queues its part, so that all keep to the tier's."""
    return AdmissionRules(
        tiers=tuple(
            TierRule(
                name=plan.name,
                rank=plan.rank,
                weight=plan.weight,
                queue=-(-plan.queue // workers),
                timeout_s=plan.queue_s,
                reserved=plan.reserved,
            )
            for plan in tier_plans(tiers).values()
        ),
        between=admission.between,
        longest_retry_s=admission.longest_retry_s,
    )


assert set(PRESETS) == set(PRESET_PLANS)
assert all(plan.privacy is None or plan.privacy in PRIVACY_CLASSES for plan in PRESET_PLANS.values())
