"""What must hold between the parts of `[privacy]`, and of where data may go."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Collection, Iterator
from typing import Literal

from wattmill.app.declared.privacy_settings import GuardHook
from wattmill.app.declared.settings import Settings

_Finding = tuple[Literal["error", "warning"], tuple[str, ...], str, str, "str | None"]


def privacy_findings(settings: Settings) -> Iterator[_Finding]:
    """Return errors and warnings, in the order of the declaration."""
    privacy = settings.privacy
    if not privacy.patterns and not privacy.rules and not privacy.hooks:
        yield from _nowhere(settings)
        return
    yield from _patterns(settings)
    teams = [f"{org}/{team}" for org, o in settings.tenants.items() for team in o.teams]
    known = [*settings.tenants, *teams]
    for number, rule in enumerate(privacy.rules):
        for team in rule.teams or ():
            if team not in known:
                yield _unknown(("privacy", "rules", str(number), "teams"), "tenant", team, known)
    for number, hook in enumerate(privacy.hooks):
        at = ("privacy", "hooks", str(number))
        for team in hook.teams or ():
            if team not in known:
                yield _unknown((*at, "teams"), "tenant", team, known)
        yield from _hook(at, hook)
    names = [hook.name for hook in privacy.hooks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "error", ("privacy", "hooks"), f"two hooks are called {name!r}", "Give each its own name", None
    yield from _nowhere(settings)


def _patterns(settings: Settings) -> Iterator[_Finding]:
    # Loads RE2, so only a declaration with patterns or hooks comes here.
    from wattmill.distribution.privacy.patterns import BUILT_IN, Pattern
    from wattmill.distribution.privacy.scan import BadPatternError, Scanner

    own = settings.privacy.patterns
    for name, declared in own.items():
        at = ("privacy", "patterns", name)
        if name in BUILT_IN:
            yield "error", at, "is the name of a built-in pattern", "Choose another name", None
        try:
            scanner = Scanner([Pattern(name=name, find=declared.regex)])
        except BadPatternError as error:
            yield (
                "error",
                (*at, "regex"),
                f"is not in RE2's syntax: {error}",
                "See github.com/google/re2/wiki/Syntax: no look-around and no back-references",
                f'"{declared.regex}"',
            )
            continue
        if scanner.kinds(b""):
            yield (
                "error",
                (*at, "regex"),
                "finds an empty text, so it finds everything",
                "Make a part of it obligatory",
                f'"{declared.regex}"',
            )
    known = [*BUILT_IN, *own]
    for number, rule in enumerate(settings.privacy.rules):
        if rule.pattern not in known:
            where = ("privacy", "rules", str(number), "pattern")
            yield _unknown(where, "pattern", rule.pattern, known)


def _hook(at: tuple[str, ...], hook: GuardHook) -> Iterator[_Finding]:
    if hook.call.startswith(("http://", "https://")):
        if hook.stage == "output":
            yield (
                "error",
                (*at, "call"),
                "an output hook must be a function: an answer does not wait for a service",
                "Name `package.module:function`",
                f'"{hook.call}"',
            )
    else:
        module = hook.call.partition(":")[0]
        try:
            missing = importlib.util.find_spec(module) is None
        except ImportError:
            missing = True
        if missing:
            yield (
                "error",
                (*at, "call"),
                f"no module {module!r} can be imported here",
                "Install it into wattmill's environment, or set PYTHONPATH",
                f'"{hook.call}"',
            )
    if hook.window_chars is not None and hook.stage == "input":
        yield (
            "error",
            (*at, "window_chars"),
            "is for output hooks only",
            "Leave it out: a request is shown whole",
            str(hook.window_chars),
        )


def _nowhere(settings: Settings) -> Iterator[_Finding]:
    """Warn of rules that no place can meet: better now than with the first request."""
    for at, allowed, there, noun in _asked(settings):
        if allowed is not None and not set(allowed) & there:
            yield (
                "warning",
                at,
                f"no pool is declared with such a {noun}, so no request passes",
                f"Give pools a `{noun}`, or correct the names",
                ", ".join(allowed) or "[]",
            )


def _asked(
    settings: Settings,
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...] | None, set[str | None], str]]:
    pools = settings.pools.values()
    regions = {p.region for p in pools} | {settings.host.region}
    operators = {p.operator for p in pools} | {settings.host.operator}
    for org_name, org in settings.tenants.items():
        yield ("tenants", org_name, "residency"), org.residency, regions, "region"
        yield ("tenants", org_name, "operators"), org.operators, operators, "operator"
        for team_name, team in org.teams.items():
            at = ("tenants", org_name, "teams", team_name)
            yield (*at, "residency"), team.residency, regions, "region"
            yield (*at, "operators"), team.operators, operators, "operator"
    for name, rule in settings.privacy.classes.items():
        yield ("privacy", "classes", name, "residency"), rule.residency, regions, "region"
        yield ("privacy", "classes", name, "operators"), rule.operators, operators, "operator"


def _unknown(at: tuple[str, ...], noun: str, name: str, known: Collection[str]) -> _Finding:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known) or "none"
    return (
        "error",
        at,
        f"no {noun} {name!r} (known: {listed})",
        hint + "Declare it, or correct the name",
        None,
    )
