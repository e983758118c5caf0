"""What must hold between the routing policy, the weights and what the pools declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from wattmill.app.declared.policy_named import UnknownPolicy, policy_named
from wattmill.app.declared.pool_settings import OwnedCost, upstream_names
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_errors import Path

_Finding = tuple[Literal["error", "warning"], Path, str, str, "str | None"]


def routing_findings(settings: Settings) -> Iterator[_Finding]:
    named: list[tuple[Path, str]] = [(("routing", "policy"), settings.routing.policy)]
    for org, declared in settings.tenants.items():
        if declared.policy is not None:
            named.append((("tenants", org, "policy"), declared.policy))
        named += [
            (("tenants", org, "teams", team, "policy"), t.policy)
            for team, t in declared.teams.items()
            if t.policy is not None
        ]
    for at, name in named:
        try:
            policy_named(name)
        except UnknownPolicy as error:
            yield "error", at, str(error), "Correct the name, or leave it out", f'"{name}"'
            continue
        yield from _blind(settings, at, name)
    for name, pool in settings.pools.items():
        if pool.electricity is not None and pool.electricity not in settings.electricity:
            known = ", ".join(settings.electricity) or "none"
            yield (
                "error",
                ("pools", name, "electricity"),
                "is not declared",
                f"Declare [electricity.{pool.electricity}], or use one of: {known}",
                f'"{pool.electricity}"',
            )
        if pool.electricity is not None and isinstance(pool.cost, OwnedCost) and pool.cost.tariff_usd_per_kwh:
            yield (
                "error",
                ("pools", name, "cost", "tariff_usd_per_kwh"),
                "the price of its power is said twice",
                "Leave it out, or `electricity`",
                f'"{pool.cost.tariff_usd_per_kwh}"',
            )
        served = set(upstream_names(pool.models))
        for model in pool.quality:
            if model not in served:
                yield (
                    "error",
                    ("pools", name, "quality", model),
                    "is no model of this pool",
                    f"Use one of {', '.join(sorted(served))}",
                    None,
                )


def _blind(settings: Settings, at: Path, name: str) -> Iterator[_Finding]:
    """Warn where a policy looks at something that no pool declares."""
    weights = settings.routing
    if (
        at[0] == "routing"
        and weights.energy > 0
        and not any(
            isinstance(pool.cost, OwnedCost) or (pool.electricity is not None and pool.carbon is not None)
            for pool in settings.pools.values()
        )
    ):
        yield (
            "warning",
            at,
            "weighs the price of power, and of no place it is known what a token takes",
            "Declare `cost` as owned, or [pools.NAME.carbon] with `j_per_tok` and `electricity`",
            None,
        )
    green = name == "greenest" or (at[0] == "routing" and weights.usd_per_kg_co2 > 0)
    if green and not any(
        pool.carbon is not None and (isinstance(pool.cost, OwnedCost) or pool.carbon.j_per_tok is not None)
        for pool in settings.pools.values()
    ):
        yield (
            "warning",
            at,
            "looks at carbon, and no pool declares what is needed to know it",
            "Declare [pools.NAME.carbon] with `g_per_kwh`, and `j_per_tok` where the place is not owned",
            f'"{name}"',
        )
    graded = name == "cascade" or (at[0] == "routing" and weights.usd_per_quality > 0)
    if graded and not any(pool.quality for pool in settings.pools.values()):
        yield (
            "warning",
            at,
            "looks at quality, and no pool declares any: the cheapest place comes first",
            "Declare [pools.NAME.quality.MODEL] with `score` and `source`",
            f'"{name}"',
        )
