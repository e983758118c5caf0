"""`wattmill keys`: make, list, rotate and revoke API keys. Effective within 1 s on every running worker."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from wattmill.app.declared.tenants import declared_tier, not_declared
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    cap_nusd,
    control_at,
    show_json,
    show_table,
    usd_cell,
    when_cell,
)
from wattmill.cli.spans import seconds_of
from wattmill.ledger.stores.control_records import ControlError, KeyRecord, NoSuch
from wattmill.units import US_PER_S, seconds_from

keys_app = application(group=True)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="ORG/TEAM/KEY, the key's id, or its prefix.")]


@keys_app.command("create")
def create(
    team: Annotated[str, typer.Argument(metavar="ORG/TEAM", help="Team that pays.")],
    name: Annotated[str, typer.Argument(help="Name of the key, unique in its team.")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model (may be repeated).")] = None,
    pool: Annotated[list[str] | None, typer.Option(help="Only this place (may be repeated).")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Only chat, completions, embeddings, responses or messages (may be repeated)."),
    ] = None,
    privacy: Annotated[
        str, typer.Option(help="Class of its data: public, internal or private.")
    ] = "internal",
    expires_in: Annotated[str | None, typer.Option(help="Life time, such as 90d, 12h or 30m.")] = None,
    cap: Annotated[
        str, typer.Option(metavar="USD", help="Hard cap on all that the key is charged.")
    ] = "none",
    tier: Annotated[str | None, typer.Option(help="Its tier. Absent: that of its team.")] = None,
    require_run: Annotated[
        bool, typer.Option("--require-run", help="It serves nothing outside of a run (POST /v1/runs).")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Make a key and show its secret, once."""
    with control_at(home) as control:
        now_us = time.time_ns() // 1_000
        key, secret = control.create_key(
            control.find(team).id,
            name,
            models=model or None,
            pools=pool or None,
            endpoints=endpoint or None,
            privacy=privacy,
            expires_us=None if expires_in is None else now_us + span_s(expires_in) * US_PER_S,
            cap_nusd=cap_nusd(cap),
            tier=declared_tier(control, tier),
            requires_run=require_run,
        )
        unserved = not_declared(control, models=model or (), pools=pool or ())
    for what in unserved:
        typer.echo(f"note: {what}; until it is, this key's requests for it are refused", err=True)
    _show_secret(key, secret, json)


@keys_app.command("tier")
def set_tier(
    key: KeyArgument,
    tier: Annotated[str, typer.Argument(help='Name of a declared tier, or "team" for that of its team.')],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Give a key a tier of its own. Holds for requests that begin from now on."""
    with control_at(home) as control:
        found = find_key(control.keys(), key)
        own = declared_tier(control, None if tier == "team" else tier)
        changed = control.set_tier(found.id, own)
    if json:
        show_json({"id": found.id, "full_name": found.full_name, "tier": own, "changed": changed})
        return
    typer.echo(f"key {found.full_name} has {f'tier {own}' if own else 'the tier of its team'}")


@keys_app.command("list")
def list_keys(
    everything: Annotated[bool, typer.Option("--all", help="Revoked keys too.")] = False,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """List keys; secrets are not stored and cannot be shown."""
    with control_at(home) as control:
        records = control.keys()
    keys = [key for key in records if everything or key.revoked_us is None]
    if json:
        show_json(keys)
        return
    now_us = time.time_ns() // 1_000
    show_table(
        (
            "id",
            "key",
            "prefix",
            "state",
            "models",
            "places",
            "endpoints",
            "privacy",
            "tier",
            "cap USD",
            "expires UTC",
        ),
        [
            (
                str(key.id),
                key.full_name,
                key.prefix + "…",
                _state(key, now_us),
                _scope(key.models),
                _scope(key.pools),
                _scope(key.endpoints),
                key.privacy,
                key.tier or "team's",
                usd_cell(key.cap_nusd, "none"),
                when_cell(key.expires_us, "never"),
            )
            for key in keys
        ],
        numbers=("id", "cap USD"),
    )


@keys_app.command("rotate")
def rotate(
    key: KeyArgument,
    grace: Annotated[
        str, typer.Option("--grace", metavar="10m", help="How long the old secret stays good: 90s, 10m, 2h.")
    ] = "0s",
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Give a key a new secret; its budget and its history go on."""
    grace_s = seconds_of("--grace", grace)
    with control_at(home) as control:
        record, secret = control.rotate_key(find_key(control.keys(), key).id, grace_s)
    _show_secret(record, secret, json)


@keys_app.command("revoke")
def revoke(key: KeyArgument, home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """End a key for good."""
    with control_at(home) as control:
        found = find_key(control.keys(), key)
        changed = control.revoke_key(found.id)
    if json:
        show_json({"id": found.id, "full_name": found.full_name, "revoked": True, "changed": changed})
        return
    typer.echo(f"key {found.full_name} {'is' if changed else 'was already'} revoked")


def find_key(keys: list[KeyRecord], text: str) -> KeyRecord:
    """Return the key with this full name, id or prefix. Raises `NoSuch`, or `ControlError` if two fit."""
    fits = [key for key in keys if text in {key.full_name, str(key.id)}]
    # A whole secret, pasted by mistake, is found by its prefix and never repeated in an answer.
    fits = fits or [key for key in keys if text.startswith(key.prefix)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(key.full_name for key in fits)
        raise ControlError(f"{len(fits)} keys have this prefix: {names}; name one of them")
    raise NoSuch(
        "no such key; `wattmill keys list --all` shows them (give ORG/TEAM/KEY, the id or the prefix)"
    )


def span_s(text: str) -> int:
    """Return the seconds of 90d, 12h, 30m or 45s."""
    seconds = None if text.strip()[-1:].isdigit() else seconds_from(text)
    if not seconds or seconds % 1:
        raise ControlError(
            f"life time is {text!r}, must be a number and a unit, such as 90d, 12h, 30m or 45s"
        )
    return int(seconds)


def _show_secret(key: KeyRecord, secret: str, json: bool) -> None:
    if json:
        show_json({"key": key, "secret": secret})
        return
    typer.echo(f"key     {key.full_name} (id {key.id})")
    typer.echo(f"secret  {secret}")
    typer.echo("Shown this once: only its hash is stored.")


def _state(key: KeyRecord, now_us: int) -> str:
    if key.revoked_us is not None:
        return "revoked"
    return "expired" if key.expires_us is not None and now_us >= key.expires_us else "active"


def _scope(values: tuple[str, ...] | None) -> str:
    return "all" if values is None else ", ".join(values) or "none"
