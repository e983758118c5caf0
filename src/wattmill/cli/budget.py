"""`wattmill budget`: show and set limits, and write off what a lost worker held. Effective within 1 s."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    LIFTED,
    HomeOption,
    JsonOption,
    amount_typed,
    control_at,
    show_json,
    show_table,
    usd_cell,
    when_cell,
)
from wattmill.ledger.amounts import amount_of
from wattmill.ledger.refusing import amount_text
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import Budget, LimitState
from wattmill.units import US_PER_S
from wattmill.vocab.budget import UNITS, Period, Unit, limit_of, unit_of

budget_app = application(group=True)


@budget_app.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ORG[/TEAM[/KEY[/RUN]]]]", help="One spender and all below it."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Show cap, use and what is left, for each spender, and its further limits. Use of running workers is
    about 0.25 s old."""
    with control_at(home) as control:
        budgets = _below(control, name)
    if json:
        show_json(budgets)
        return
    _show(budgets)
    if any(budget.limits for budget in budgets):
        _show_limits(budgets)


@budget_app.command("list")
def list_limits(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ORG[/TEAM[/KEY[/RUN]]]]", help="One spender and all below it."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """List the limits in all units and periods, with what is used, reserved and left, and when they begin
    anew."""
    with control_at(home) as control:
        budgets = _below(control, name)
    if json:
        show_json([budget for budget in budgets if budget.cap_nusd is not None or budget.limits])
        return
    _show_limits(budgets, caps=True)


@budget_app.command("set")
def set_limit(
    name: Annotated[str, typer.Argument(metavar="ORG[/TEAM[/KEY[/RUN]]]", help="Spender.")],
    limit: Annotated[
        list[str],
        typer.Argument(
            metavar="LIMIT",
            help="Dollars over all time (25), or an amount, a unit and a period: 5 USD/day, 20000 "
            "tokens/hour, 60 requests/minute, 8 concurrent, 500 J, 2 g/month. `none` lifts the cap, `none "
            "tokens/hour` a limit.",
        ),
    ],
    zone: Annotated[
        str, typer.Option("--zone", help="Time zone of days and months, e.g. Europe/Berlin.")
    ] = "UTC",
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Set a hard limit on a spender, or lift one with `none`."""
    with control_at(home) as control:
        node = control.find(name)
        unit, period, amount = _parsed(" ".join(limit))
        Limits(control).put(node.id, unit, period, amount, zone=zone)
        budget = control.summary(node.id)
    if json:
        show_json(budget)
        return
    _show([budget])
    if budget.limits:
        _show_limits([budget])
    if amount is not None and _left(budget, unit, period) <= 0:
        typer.echo(
            "Nothing is left under this limit: no further request is admitted. Running ones are not cut."
        )


@budget_app.command("leases")
def leases(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Show which workers hold a part of the limits now, and when each last said that it lives."""
    with control_at(home) as control:
        found = control.holders()
    if json:
        show_json(found)
        return
    now_us = time.time_ns() // 1_000
    show_table(
        ("epoch", "place", "last said s ago", "term s", "limits", "of caps USD", "used USD", "idle USD"),
        [
            (
                holder.epoch,
                holder.place or "-",
                "-" if holder.seen_us is None else f"{(now_us - holder.seen_us) / US_PER_S:.0f}",
                "-" if holder.term_us is None else f"{holder.term_us / US_PER_S:g}",
                str(holder.gauges),
                usd_cell(holder.granted_nusd),
                usd_cell(holder.used_nusd),
                usd_cell(holder.idle_nusd),
            )
            for holder in found
        ],
        numbers=("last said s ago", "term s", "limits", "of caps USD", "used USD", "idle USD"),
    )


@budget_app.command("write-off")
def write_off(
    epoch: Annotated[str, typer.Argument(metavar="EPOCH", help="As `wattmill budget leases` shows it.")],
    return_idle: Annotated[
        bool,
        typer.Option(
            "--return-idle",
            help="Free what it last told as idle. Only if you know that it did nothing after that: a limit "
            "may be passed by what it did.",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """End the leases of a worker that is lost with its journal. What it held of limits counts as used; if its
    journal is found after all, that is corrected to what the journal shows."""
    with control_at(home) as control:
        done = control.write_off(epoch, return_idle=return_idle)
        names = {budget.node: budget for budget in control.summaries()}
    if json:
        show_json(done)
        return
    by_limit = {state.id: (state, budget.name) for budget in names.values() for state in budget.limits}
    rows = []
    for gone in done:
        limit = limit_of(gone.gauge)
        unit: Unit = UNITS[unit_of(gone.gauge)] if limit else "nusd"
        name = by_limit[limit][1] if limit in by_limit else "-"
        if not limit:
            name = names[gone.gauge].name if gone.gauge in names else "-"
        rows.append((name, *(amount_text(unit, n) for n in (gone.granted, gone.counted, gone.returned))))
    show_table(("spender", "held", "counts as used", "free again"), rows)


def _below(control: Control, name: str | None) -> list[Budget]:
    if name is not None:
        control.find(name)
    return [
        budget
        for budget in sorted(control.summaries(), key=lambda budget: budget.name.split("/"))
        if name is None or budget.name == name or budget.name.startswith(name + "/")
    ]


def _parsed(text: str) -> tuple[Unit, Period, int | None]:
    """Return (unit, period, amount) of `25`, `none`, '60 requests/minute' or 'none tokens/hour'."""
    first, _, rest = text.strip().partition(" ")
    if first.lower() not in LIFTED:
        return amount_typed(text)
    unit, period, _ = amount_of(f"1 {rest}") if rest else ("nusd", "life", 0)
    return unit, period, None


def _left(budget: Budget, unit: Unit, period: Period) -> int:
    for state in budget.limits:
        if (state.unit, state.period) == (unit, period):
            return state.left
    return 1 if budget.left_nusd is None else budget.left_nusd


def _show(budgets: list[Budget]) -> None:
    show_table(
        ("spender", "kind", "cap USD", "used USD", "reserved USD", "left USD", "used %"),
        [
            (
                budget.name,
                budget.kind,
                usd_cell(budget.cap_nusd, "none"),
                usd_cell(budget.used_nusd),
                usd_cell(budget.reserved_nusd),
                usd_cell(budget.left_nusd),
                f"{100 * budget.used_nusd / budget.cap_nusd:.1f}" if budget.cap_nusd else "-",
            )
            for budget in budgets
        ],
        numbers=("cap USD", "used USD", "reserved USD", "left USD", "used %"),
    )


def _show_limits(budgets: list[Budget], *, caps: bool = False) -> None:
    rows = []
    for budget in budgets:
        if caps and budget.cap_nusd is not None:
            amounts = (budget.cap_nusd, budget.used_nusd, budget.reserved_nusd, budget.left_nusd or 0)
            rows.append((budget.name, "life", *(amount_text("nusd", n) for n in amounts), "never"))
        rows += [_row(budget.name, state) for state in budget.limits]
    show_table(("spender", "period", "limit", "used", "reserved", "left", "begins anew (UTC)"), rows)


def _row(name: str, state: LimitState) -> tuple[str, ...]:
    zone = "" if state.zone == "UTC" else f" {state.zone}"
    amounts = (state.amount, state.used, state.reserved, state.left)
    texts = tuple(amount_text(state.unit, n) for n in amounts)
    return (name, state.period + zone, *texts, when_cell(state.resets_us, "never"))
