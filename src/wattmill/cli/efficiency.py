"""`wattmill efficiency`: where what is paid goes, in hours and in joules, and what would help most."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.efficiency.asked import LONGEST_S, seen_at
from wattmill.app.efficiency.drill import NAMES, Row, columns, rows
from wattmill.app.efficiency.model import efficiency
from wattmill.app.efficiency.page import ChainLines, Page, page
from wattmill.app.seeing.figure import DASH, Figure
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
from wattmill.cli.spans import SINCE, instant_us
from wattmill.units import US_PER_S

efficiency_app = application()

_LEVERS = 5


@efficiency_app.command()
def main(
    since: Annotated[str, typer.Option("--since", metavar="1h", help=SINCE)] = "1h",
    rows_of: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="LOSS",
            help="The rows that a loss (failed) or a chain (capacity, watts) was computed from.",
        ),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(help="A site's file: its year gives conversion and cooling, kept for the next time."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Say where paid hours and joules go: each loss with its size, rows and what helps.

    Two chains: watts from the grid to useful joules, and capacity from paid hours at the best measured rate
    to useful work. What nobody knows is left out and named.
    """
    place = factory_in(home)
    if site is not None:
        _learn(site, home)
    until_us = time.time_ns() // 1_000
    since_us = instant_us("--since", since, until_us)
    if not 0 < until_us - since_us <= LONGEST_S * US_PER_S:
        fail(f"--since is {since!r}, must be before now, and 31 days ago at most")
    seen = seen_at(place, since_us=since_us, until_us=until_us)
    if rows_of is not None:
        _show_rows(rows(seen, rows_of.replace(" ", "-")), rows_of, json=json)
        return
    told = page(efficiency(seen))
    if json:
        show_json(msgspec.to_builtins(told))
        return
    show_page(told)


def _learn(file: Path, home: Path) -> None:
    """Live the site through its year, and keep what it takes for a joule at the equipment."""
    from wattmill.app.efficiency.siting import keep, overheads
    from wattmill.cli.site_year import standing_at
    from wattmill.site.yearly.account import year

    try:
        answer = year(*standing_at(file))
    except ValueError as error:
        fail(str(error))
    keep(home, overheads(answer.energy.rows, source=f"mean of a year of {answer.name!r}, {answer.place}"))


def _show_rows(found: tuple[str, str, list[Row]] | None, name: str, *, json: bool) -> None:
    if found is None:
        fail(f"--rows is {name!r}, must be one of {', '.join(NAMES)}")
    title, note, lines = found
    if json:
        show_json({"title": title, "note": note, "rows": lines})
        return
    typer.echo(f"{title}. {note}")
    names = columns(lines)
    shown = [[_cell(line[name]) for name in names] for line in lines]
    show_table(names, shown, numbers=[n for n in names if isinstance(lines[0][n], int | float)])


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


def show_page(told: Page) -> None:
    """Print figures, chains and levers for people."""
    typer.echo(told.says)
    typer.echo(told.period)
    if not any(fact.figure.value for fact in told.facts):
        typer.echo("send it requests, or look further back with --since")
        return
    show_table(
        ["figure", "value", "known by", "of what"],
        [
            [fact.label, fact.figure.text, fact.figure.provenance, fact.figure.note or ""]
            for fact in told.facts
        ],
        numbers=["value"],
    )
    for chain in told.chains:
        _show_chain(chain)
    if told.places.rows:
        typer.echo(f"\n{told.places.title}. {told.places.note}")
        names = [column.name for column in told.places.columns]
        cells = [[c if isinstance(c, str) else c.text for c in row] for row in told.places.rows]
        show_table(names, cells, numbers=names[1:])
    if told.levers:
        typer.echo("\nWhat would help most (gain in useful work, all else being equal)")
        show_table(
            ["without", "gain", "what to do"],
            [[lever.loss, lever.gain.text, lever.what] for lever in told.levers[:_LEVERS]],
            numbers=["gain"],
        )
    for note in told.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        "rows behind a loss: wattmill efficiency --rows LOSS; behind factors: --rows capacity, --rows watts"
    )


def _show_chain(chain: ChainLines) -> None:
    typer.echo(f"\n{chain.title}: {chain.whole.text} -> {chain.useful.text}")
    lines: list[list[str]] = []
    for stage in chain.stages:
        lines.append([stage.name, stage.factor.text, "", "", "", stage.factor.provenance, ""])
        lines += [
            ["", "", loss.name, loss.share.text, loss.points.text, loss.points.provenance, _note(loss.points)]
            for loss in stage.losses
        ]
    show_table(
        ["stage", "factor", "loss", "of the stage", "of all", "known by", "how"],
        lines,
        numbers=["factor", "of the stage", "of all"],
    )
    typer.echo(chain.says)


def _note(figure: Figure) -> str:
    return figure.note or ("" if figure.text != DASH else "unknown")
