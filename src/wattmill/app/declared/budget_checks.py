"""What must hold of declared limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from wattmill.app.declared.budget_settings import limit_words
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_errors import Path
from wattmill.ledger.tenancy import ControlError

_Finding = tuple[Literal["error", "warning"], Path, str, str, "str | None"]


def budget_findings(settings: Settings) -> Iterator[_Finding]:
    """Limits can be understood, and no two of a tenant say the same."""
    for org_name, org in settings.tenants.items():
        yield from _limits(("tenants", org_name), org.limits, org.cap_usd is not None)
        for team_name, team in org.teams.items():
            path = ("tenants", org_name, "teams", team_name)
            yield from _limits(path, team.limits, team.cap_usd is not None)


def _limits(path: Path, limits: tuple[str, ...], capped: bool) -> Iterator[_Finding]:
    seen = {("nusd", "life")} if capped else set()
    for number, text in enumerate(limits):
        at = (*path, "limits", str(number))
        try:
            words = limit_words(text)
        except ControlError as error:
            yield "error", at, "must be a limit in words", str(error), text
            continue
        if (words.unit, words.period) in seen:
            rule = "must be the only limit of its unit and period there; `cap_usd` is one of dollars"
            yield "error", at, rule, "leave one of them out", text
        seen.add((words.unit, words.period))
