"""`wattmill audit`: prove that the books balance, or name the rows that do not."""

from __future__ import annotations

import sys

import typer

from wattmill.app.seeing.auditing import audit_home
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    factory_in,
    fail,
    show_json,
    show_table,
)
from wattmill.ledger.audit import PlaceTokens, Report, as_builtins
from wattmill.ledger.refusing import amount_text
from wattmill.units import usd_text

audit_app = application()


@audit_app.command()
def main(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Check every law of the books from the postings up. Exit code 1 when one does not hold."""
    place = factory_in(home)
    try:
        report = audit_home(place, _progress if sys.stderr.isatty() else _silent)
    except FileNotFoundError as error:
        fail(str(error))
    if json:
        show_json(as_builtins(report))
    else:
        show_report(report)
    raise typer.Exit(0 if report.holds else 1)


def _progress(done: int, steps: int, name: str) -> None:
    """Say on one line of the terminal what is looked at: a year of books takes minutes."""
    sys.stderr.write(f"\r\033[K{done} of {steps}: {name} ..." if name else "\r\033[K")
    sys.stderr.flush()


def _silent(done: int, steps: int, name: str) -> None:
    """Where nobody looks."""


def show_report(report: Report) -> None:
    """Print the laws, the witnesses and the verdict, for people."""
    show_table(
        ["law", "holds", "checked"],
        [[check.name, "yes" if check.holds else "NO", check.detail] for check in report.checks],
        always=["holds"],
    )
    if report.places:
        show_table(_HEADERS, [_row(place) for place in report.places], numbers=_HEADERS[2:])
    for check in report.checks:
        for row in check.rows:
            typer.echo(f"  {check.name}: {row}")
        if check.broken > len(check.rows):
            typer.echo(f"  ... and {check.broken - len(check.rows)} more")
    if report.in_doubt:
        typer.echo(
            f"in doubt: {len(report.in_doubt)} attempts at {usd_text(report.in_doubt_nusd)} USD; "
            "`wattmill reconcile` lists and settles them"
        )
    for unit, amount in report.overrun_units.items():
        typer.echo(f"overrun: {amount_text(unit, amount)} beyond what was reserved of limits, the operator's")
    if report.overrun_nusd:
        typer.echo(f"overrun: {usd_text(report.overrun_nusd)} USD beyond reservations, the operator's")
    verdict = "every law holds" if report.holds else "the books are broken"
    typer.echo(f"{report.attempts} attempts, difference {report.difference_tok} tok: {verdict}")


_HEADERS = [
    "place", "witness", "engine, tok", "books, tok", "difference, tok", "newer, tok", "unmetered, tok",
    "partial", "uncounted", "in doubt",
]  # fmt: skip


def _row(place: PlaceTokens) -> list[str]:
    return [
        place.pool,
        place.witness,
        "-" if place.engine_tok is None else str(sum(place.engine_tok)),
        str(sum(place.books_tok)),
        "-" if place.engine_tok is None else str(place.difference_tok),
        str(sum(place.since_tok)),
        str(place.unmetered_tok),
        str(place.estimated),
        str(place.unmetered),
        str(place.in_doubt),
    ]
