"""What must hold between the cache, the kept store and the rest of a declaration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_errors import Path

CACHE_PLACE = "cache"
"""The place that a cached answer comes from, in the books and everywhere; no pool may have this name."""

_Finding = tuple[Literal["error", "warning"], Path, str, str, "str | None"]


def kept_findings(settings: Settings) -> Iterator[_Finding]:
    if CACHE_PLACE in settings.pools:
        yield (
            "error",
            ("pools", CACHE_PLACE),
            "no pool may be called 'cache': cached answers are booked under this name",
            "give the pool another name",
            CACHE_PLACE,
        )
    served = {model for pool in settings.pools.values() for model in pool.models}
    for model in settings.cache.models:
        if model != "*" and model not in served:
            yield (
                "error",
                ("cache", "models"),
                "must be a model that a pool serves, or '*'",
                f"choose among {', '.join(sorted(served))}",
                model,
            )
    teams = {f"{org}/{team}" for org, declared in settings.tenants.items() for team in declared.teams}
    for team in settings.cache.teams or ():
        if team not in teams:
            yield (
                "error",
                ("cache", "teams"),
                "must be ORG/TEAM of a declared team",
                f"choose among {', '.join(sorted(teams)) or 'none: declare it under [tenants]'}",
                team,
            )
    if settings.kept.scope_mib > settings.kept.total_mib or settings.kept.item_mib > settings.kept.scope_mib:
        yield (
            "error",
            ("kept",),
            "must have item_mib <= scope_mib <= total_mib",
            "one key or team cannot keep more than all, nor one item more than a key or team",
            f"{settings.kept.item_mib}, {settings.kept.scope_mib}, {settings.kept.total_mib}",
        )
