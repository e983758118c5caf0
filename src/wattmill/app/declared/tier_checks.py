"""What must hold between tiers, tenants and places."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Literal

from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import TierPlan, tier_plans
from wattmill.vocab.caller import PRIVACY_CLASSES

Path = tuple[str, ...]
_Finding = tuple[Literal["error", "warning"], Path, str, str, "str | None"]


def tier_findings(settings: Settings) -> Iterator[_Finding]:
    """Yield references to tiers that are not there, and promises that no place could ever keep."""
    tiers = settings.tiers
    named: list[tuple[Path, str | None]] = [(("admission", "default_tier"), settings.admission.default_tier)]
    for org_name, org in settings.tenants.items():
        named.append((("tenants", org_name, "tier"), org.tier))
        for team_name, team in org.teams.items():
            named.append((("tenants", org_name, "teams", team_name, "tier"), team.tier))
    named += [(("flex", "protect"), tier) for tier in settings.flex.protect]
    named += [(("tiers", name, "saving"), tier.saving) for name, tier in tiers.items()]
    for at, tier in named:
        if tier is not None and tier not in tiers:
            near = difflib.get_close_matches(tier, list(tiers), n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            known = ", ".join(tiers) or "none"
            yield "error", at, f"no tier {tier!r} (known: {known})", f"{hint}Declare [tiers.{tier}]", None
    plans = tier_plans(tiers)
    for name, plan in plans.items():
        yield from _promise(settings, ("tiers", name), plan)
        lower = plans.get(plan.saving) if plan.saving is not None else None
        if lower is not None and lower.rank >= plan.rank:
            yield (
                "error",
                ("tiers", name, "saving"),
                f"must be a lower tier; {lower.name!r} has rank {lower.rank}, {name!r} has {plan.rank}",
                "Name a tier of lower rank, or leave it out",
                plan.saving,
            )
    reserved = sum(plan.reserved for plan in plans.values())
    if reserved >= 1:
        yield (
            "error",
            ("tiers",),
            f"`reserved` of all tiers adds up to {reserved:g}, which leaves the lowest no slot",
            "Keep the sum below 1",
            None,
        )


def _promise(settings: Settings, at: Path, plan: TierPlan) -> Iterator[_Finding]:
    pools = settings.pools.values()
    fastest = max(pool.speed.decode_tok_per_s for pool in pools)
    if plan.tok_per_s is not None and plan.tok_per_s > fastest:
        yield (
            "warning",
            (*at, "tok_per_s"),
            f"no place is declared to make so many tokens per second (the fastest: {fastest:g})",
            "Promise less, or declare a faster place: until one is measured to be, such requests are refused",
            f"{plan.tok_per_s:g}",
        )
    longest = max(pool.context_tok for pool in pools)
    if plan.context_tok is not None and plan.context_tok > longest:
        yield (
            "warning",
            (*at, "context_tok"),
            f"no place has so long a context (the longest: {longest})",
            "Promise less, or declare a place with a longer context",
            str(plan.context_tok),
        )
    if plan.privacy is not None:
        rank = PRIVACY_CLASSES.index
        if all(rank(pool.privacy) < rank(plan.privacy) for pool in pools):
            yield (
                "warning",
                (*at, "privacy"),
                "no place may see data of this class",
                "Declare one that may, or promise less: until then such requests are refused",
                f'"{plan.privacy}"',
            )
