"""From the declaration into the control database: tenants with their caps, and price versions."""

from __future__ import annotations

from collections.abc import Iterable

from wattmill.app.declared.budget_settings import limit_words
from wattmill.app.declared.declaration import restored
from wattmill.app.declared.pool_settings import HttpPool
from wattmill.app.declared.settings import Settings
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import ControlError, NoSuch
from wattmill.units import nusd_from_usd


def apply_tenants(control: Control, settings: Settings, before: Settings | None) -> None:
    """Make the declared organisations and teams. What is not declared stays.

    A cap is set where the declaration changed it since `before`: one set by hand holds until then.
    """
    for org_name, org in settings.tenants.items():
        old = before.tenants.get(org_name) if before is not None else None
        keep = old is not None and old.cap_usd == org.cap_usd
        org_node = control.put_org(org_name, _cap(org.cap_usd), keep_cap=keep)
        _apply_limits(control, org_node, org.limits, old.limits if old is not None else None)
        for team_name, team in org.teams.items():
            old_team = old.teams.get(team_name) if old is not None else None
            keep = old_team is not None and old_team.cap_usd == team.cap_usd
            node = control.put_team(org_node, team_name, _cap(team.cap_usd), keep_cap=keep)
            old_limits = old_team.limits if old_team is not None else None
            _apply_limits(control, node, team.limits, old_limits)


def _apply_limits(
    control: Control, node: int, declared: tuple[str, ...], before: tuple[str, ...] | None
) -> None:
    """Set the limits that the declaration has changed since `before`, and lift those that it has no more. One
    that a person set by hand holds until the declaration changes that one."""
    limits = Limits(control)
    wanted = {(words.unit, words.period): words for words in map(limit_words, declared)}
    was = {(words.unit, words.period): words for words in map(limit_words, before or ())}
    for unit, period in was.keys() - wanted.keys():
        limits.put(node, unit, period, None)
    for at, words in wanted.items():
        if was.get(at) != words:
            limits.put(node, words.unit, words.period, words.amount, zone=words.zone)


def fresh_key(control: Control, team: str, name: str) -> str:
    """Return the secret of a new key `name` for `team` ("org/team"); one of that name before it ends now."""
    node = control.find(team)
    records, _ = control.credentials()
    for key in records:
        if key.full_name == f"{team}/{name}" and key.revoked_us is None:
            return control.rotate_key(key.id)[1]
    try:
        control.find(f"{team}/{name}")
    except NoSuch:
        return control.create_key(node.id, name)[1]
    return fresh_key(control, team, f"{name}-again")  # revoked by somebody: its node and name are spent


def declared_tier(control: Control, tier: str | None) -> str | None:
    """Return `tier` if it is declared. Raises `ControlError`."""
    config = control.config()
    known = restored(config[1]).tiers if config is not None else {}
    if tier is not None and tier not in known:
        raise ControlError(
            f"no tier {tier!r} (known: {', '.join(known) or 'none'}); declare [tiers.{tier}] first"
        )
    return tier


def not_declared(control: Control, *, models: Iterable[str], pools: Iterable[str]) -> list[str]:
    """Return, in words, what a key's scopes name and the declaration does not have (yet)."""
    config = control.config()
    if config is None:
        return []
    declared = restored(config[1]).pools
    served = {name for pool in declared.values() for name in pool.models}
    for pool in declared.values():
        if isinstance(pool, HttpPool) and pool.stand_in is not None:
            served.update(pool.stand_in.models)
    return [
        f"no {kind} {name!r} is declared ({', '.join(sorted(known))} {'is' if len(known) == 1 else 'are'})"
        for kind, names, known in (("model", models, served), ("pool", pools, declared.keys()))
        for name in names
        if name not in known
    ]


def _cap(cap_usd: str | None) -> int | None:
    return None if cap_usd is None else nusd_from_usd(cap_usd)
