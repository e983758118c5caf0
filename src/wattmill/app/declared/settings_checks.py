"""What must hold between the parts of a declaration, beyond the type of each value."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from wattmill.app.declared import meter_settings
from wattmill.app.declared.budget_checks import budget_findings
from wattmill.app.declared.kept_checks import kept_findings
from wattmill.app.declared.pool_settings import (
    EmbeddedPool,
    HttpPool,
    ListPriceCost,
    Pool,
    PriceBookCharge,
    upstream_names,
)
from wattmill.app.declared.privacy_checks import privacy_findings
from wattmill.app.declared.problem import Problem
from wattmill.app.declared.provider_key import absent_key
from wattmill.app.declared.routing_checks import routing_findings
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_errors import Path, dotted, line_of
from wattmill.app.declared.tier_checks import tier_findings
from wattmill.ledger.tenancy import CAP_MAX_NUSD
from wattmill.models.spec import CAPABILITIES
from wattmill.units import nusd_from_usd, usd_from_nusd

_Finding = tuple[Literal["error", "warning"], Path, str, str, "str | None"]


def problems(settings: Settings, *, file: str, text: str, env: Mapping[str, str]) -> list[Problem]:
    """Return errors and warnings; an empty list means that the declaration holds together."""
    found: list[_Finding] = []
    found += _listeners(settings)
    found += _backlog(settings)
    found += _power(settings)
    for name, pool in settings.pools.items():
        found += _pool(settings, name, pool, env)
    found += _tenants(settings)
    found += budget_findings(settings)
    found += privacy_findings(settings)
    found += kept_findings(settings)
    found += tier_findings(settings)
    found += routing_findings(settings)
    return [
        Problem(
            file=file,
            key=dotted(path),
            rule=rule,
            way_out=way_out,
            value=value,
            line=line_of(text, path),
            level=level,
        )
        for level, path, rule, way_out, value in found
    ]


def _listeners(settings: Settings) -> Iterator[_Finding]:
    gateway, admin = settings.gateway, settings.admin
    if gateway.port == admin.port != 0:
        yield (
            "error",
            ("admin", "port"),
            f"is also the port of the gateway ({gateway.port})",
            "Give the admin listener a port of its own, or 0 for any free one",
            str(admin.port),
        )
    tls = gateway.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        missing = "cert_file" if tls.cert_file is None else "key_file"
        yield "error", ("gateway", "tls"), f"`{missing}` is missing", "TLS needs both files", None
    for field, value in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        if value is not None and not os.access(value, os.R_OK):
            yield "error", ("gateway", "tls", field), "no such readable file", "Check the path", f'"{value}"'
    if not is_loopback(gateway.host) and tls.cert_file is None:
        yield (
            "warning",
            ("gateway", "host"),
            "listens beyond this machine without TLS, so keys cross the network in clear text",
            "Set `cert_file` and `key_file` under [gateway.tls], or put a TLS proxy in front",
            f'"{gateway.host}"',
        )
    if not is_loopback(admin.host):
        yield (
            "warning",
            ("admin", "host"),
            "the admin listener speaks no TLS and is reachable beyond this machine",
            "Use 127.0.0.1 and a tunnel",
            f'"{admin.host}"',
        )


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _backlog(settings: Settings) -> Iterator[_Finding]:
    ledger = settings.ledger
    if ledger.alarm_backlog_records > ledger.refuse_backlog_records:
        yield (
            "error",
            ("ledger", "alarm_backlog_records"),
            f"must not exceed `refuse_backlog_records` ({ledger.refuse_backlog_records})",
            "The alarm comes before the refusal",
            str(ledger.alarm_backlog_records),
        )


def _power(settings: Settings) -> Iterator[_Finding]:
    if settings.host.idle_w > settings.host.max_w:
        yield (
            "error",
            ("host", "idle_w"),
            f"must not exceed `max_w` ({settings.host.max_w})",
            "A busy machine draws at least what an idle one draws",
            str(settings.host.idle_w),
        )
    named = settings.host.electricity
    if named is not None and named not in settings.electricity:
        yield _reference(("host", "electricity"), "electricity", named, settings.electricity, "Declare it")
    for at, rule, value in meter_settings.faults(settings.meters, settings.pools):
        yield "error", at, rule, "`wattmill doctor` lists the meters of this machine", value


def _pool(settings: Settings, name: str, pool: Pool, env: Mapping[str, str]) -> Iterator[_Finding]:
    at = ("pools", name)
    served = list(upstream_names(pool.models))
    yield from _models(settings, (*at, "models"), served)
    yield from _context(settings, (*at, "context_tok"), pool.context_tok, served)
    if pool.capabilities is not None:
        for wrong in (c for c in pool.capabilities if c not in CAPABILITIES):
            yield _reference((*at, "capabilities"), "capability", wrong, CAPABILITIES, "Use a known one")
    if isinstance(pool, EmbeddedPool):
        yield from _weights((*at, "weights"), pool.weights)
    else:
        yield from _http_pool(settings, at, pool, env)
        served += pool.stand_in.models if pool.stand_in else ()
    if isinstance(pool.charge, PriceBookCharge):
        yield from _charge(settings, at, pool.charge.book, served)
    if isinstance(pool.cost, ListPriceCost):
        yield from _list_price((*at, "cost"), pool.cost)


def _models(settings: Settings, at: Path, names: Collection[str]) -> Iterator[_Finding]:
    for model in names:
        if model not in settings.models:
            yield _reference(
                at, "model", model, settings.models, f"Declare it under [models.{dotted((model,))}]"
            )


def _context(settings: Settings, at: Path, context_tok: int, names: Collection[str]) -> Iterator[_Finding]:
    for model in names:
        card = settings.models.get(model)
        if card is not None and context_tok > card.context_tok:
            yield (
                "error",
                at,
                f"must not exceed the context of model {model!r} ({card.context_tok} tok)",
                "Lower it, or correct the model's card",
                str(context_tok),
            )


def _http_pool(settings: Settings, at: Path, pool: HttpPool, env: Mapping[str, str]) -> Iterator[_Finding]:
    if pool.api_key_env is not None and pool.api_key_file is not None:
        yield "error", (*at, "api_key_file"), "`api_key_env` is given too", "Keep one of the two", None
    missing = absent_key(pool, env)
    if missing is not None and pool.stand_in is None:
        field = "api_key_env" if pool.api_key_env is not None else "api_key_file"
        yield (
            "error",
            (*at, field),
            f"{missing}, and the pool declares no stand-in",
            "Set it before `wattmill up`, remove the pool, or declare [" + dotted((*at, "stand_in")) + "]",
            f'"{pool.api_key_env or pool.api_key_file}"',
        )
    if pool.stand_in is not None:
        if pool.api_key_env is None and pool.api_key_file is None:
            yield (
                "error",
                (*at, "stand_in"),
                "would never be used: the pool names no key whose absence calls for it",
                'Name `api_key_env`, or declare a pool with engine = "embedded"',
                None,
            )
        double = (*at, "stand_in")
        yield from _models(settings, (*double, "models"), pool.stand_in.models)
        yield from _context(
            settings, (*double, "context_tok"), pool.stand_in.context_tok, pool.stand_in.models
        )
        yield from _weights((*at, "stand_in", "weights"), pool.stand_in.weights)
    if pool.ca_file is not None and not os.access(pool.ca_file, os.R_OK):
        yield "error", (*at, "ca_file"), "no such readable file", "Check the path", f'"{pool.ca_file}"'
    for header in pool.headers:
        if header.lower() in {"authorization", "api-key", "x-api-key", "proxy-authorization", "cookie"}:
            yield (
                "error",
                (*at, "headers", header),
                "secrets never stand in a declaration",
                "Name an environment variable (`api_key_env`) or a file (`api_key_file`)",
                None,
            )
    if not pool.tls_verify:
        yield (
            "warning",
            (*at, "tls_verify"),
            "whoever stands between can read and change every answer",
            "Name the authority in `ca_file` instead",
            "false",
        )


def _weights(at: Path, name: str) -> Iterator[_Finding]:
    """Check the name only: whether it has been fetched, the machine must say and not the declaration."""
    from wattmill.models.weights import lock, models_folder

    if name.endswith(".gguf"):
        if not os.access(name, os.R_OK):
            rule, way_out = "no such readable file", "Check the path, or name installed weights"
            yield "error", at, rule, way_out, f'"{name}"'
    elif name not in lock() and not (models_folder() / f"{name}.gguf").is_file():
        yield _reference(at, "weights", name, lock(), "Name one of these, or the path of a GGUF file")


def _charge(settings: Settings, at: Path, book: str, served: Collection[str]) -> Iterator[_Finding]:
    rates = settings.prices.get(book)
    if rates is None:
        yield _reference(
            (*at, "charge", "book"), "price book", book, settings.prices, f"Declare [prices.{book}]"
        )
        return
    for model in served:
        if model not in rates:
            yield (
                "error",
                (*at, "charge", "book"),
                f"book {book!r} has no rates for model {model!r}, which this pool serves",
                f"Declare [{dotted(('prices', book, model))}]: an unknown price is never zero",
                f'"{book}"',
            )


def _list_price(at: Path, cost: ListPriceCost) -> Iterator[_Finding]:
    from wattmill.ledger.price_book import Omitted, list_price, providers, read_provider

    if cost.provider not in providers():
        yield _reference((*at, "provider"), "provider", cost.provider, providers(), "Use one of the data")
        return
    listed = list_price(cost.provider, cost.model)
    if isinstance(listed, Omitted):
        names = [other.model for other in read_provider(cost.provider)]
        near = difflib.get_close_matches(cost.model, names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}? Else declare" if near and near[0] != cost.model else "Declare"
        yield (
            "error",
            (*at, "model"),
            f"no list price can be taken: {listed.reason}",
            f'{hint} rates of your own with rule = "rates"',
            f'"{cost.model}"',
        )


def _tenants(settings: Settings) -> Iterator[_Finding]:
    caps = [(("tenants", org), o.cap_usd) for org, o in settings.tenants.items()] + [
        (("tenants", org, "teams", team), t.cap_usd)
        for org, o in settings.tenants.items()
        for team, t in o.teams.items()
    ]
    for above, cap_usd in caps:
        if cap_usd is not None and nusd_from_usd(cap_usd) > CAP_MAX_NUSD:
            yield (
                "error",
                (*above, "cap_usd"),
                f"must not exceed {usd_from_nusd(CAP_MAX_NUSD)} dollars",
                "Leave it out for no cap",
                f'"{cap_usd}"',
            )
    teams = [f"{org}/{team}" for org, o in settings.tenants.items() for team in o.teams]
    for at, team in (
        (("factory", "console_team"), settings.factory.console_team),
        (("load", "team"), settings.load.team),
    ):
        if team is not None and team not in teams:
            org, _, name = team.partition("/")
            yield _reference(at, "team", team, teams, f"Declare [tenants.{org}.teams.{name}]")
    model = settings.load.model
    if model is not None and model not in settings.models:
        yield _reference(("load", "model"), "model", model, settings.models, "Declare it under [models]")


def _reference(at: Path, noun: str, name: str, known: Collection[str], way_out: str) -> _Finding:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known) or "none"
    return "error", at, f"no {noun} {name!r} (known: {listed})", hint + way_out, None
