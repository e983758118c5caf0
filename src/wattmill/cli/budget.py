"""`wattmill budget`: show and set hard caps. Effective within 1 s on every running worker."""

from __future__ import annotations

from typing import Annotated

import typer

from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    cap_nusd,
    control_at,
    show_json,
    show_table,
    usd_cell,
)
from wattmill.ledger.stores.control_records import Budget

budget_app = typer.Typer(
    help="Show and set caps.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@budget_app.command("show")
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="[ORG[/TEAM[/KEY]]]", help="One spender and all below it.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Show cap, use and what is left, for each spender. Use of running workers is about 0.25 s old."""
    with control_at(home) as control:
        if name is not None:
            control.find(name)
        budgets = [
            budget
            for budget in sorted(control.summaries(), key=lambda budget: budget.name.split("/"))
            if name is None or budget.name == name or budget.name.startswith(name + "/")
        ]
    if json:
        show_json(budgets)
        return
    _show(budgets)


@budget_app.command("set")
def set_cap(
    name: Annotated[str, typer.Argument(metavar="ORG[/TEAM[/KEY]]", help="Spender.")],
    usd: Annotated[str, typer.Argument(metavar="USD", help="Hard cap in dollars, or `none`.")],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Set a hard cap on all that a spender is ever charged, or lift it with `none`."""
    with control_at(home) as control:
        node = control.find(name)
        control.set_cap(node.id, cap_nusd(usd))
        budget = control.summary(node.id)
    if json:
        show_json(budget)
        return
    _show([budget])
    if budget.left_nusd is not None and budget.left_nusd <= 0:
        typer.echo(
            "Nothing is left under this cap: no further request is admitted. Running ones are not cut."
        )


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
