"""How commands reach the control database of a factory, running or not, and how they answer."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from wattmill.app.home import Home
from wattmill.app.running.worker_control import tell_workers
from wattmill.ledger.amounts import amount_of
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import CapsUnavailable, ControlError
from wattmill.units import US_PER_S, usd_text
from wattmill.vocab.budget import Period, Unit

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="WATTMILL_HOME", help="Data folder of the factory.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT_HOME = Path(".wattmill")
LIFTED = {"none", "unlimited"}
_PLAIN = re.compile(r"-?[0-9]+\.[0-9]+")
_NUMBER = re.compile(r"[0-9][0-9_]*(\.[0-9]+)?")


@contextlib.contextmanager
def control_at(home: Path) -> Iterator[Control]:
    """Open the control database under `home`; what cannot be done ends the command with its message."""
    place = factory_in(home)
    if not place.control_db.exists():
        fail(f"{place.control_db} is missing: `wattmill restore` brings keys, limits and prices back")
    try:
        with Control(place.control_db) as control:
            before = control.generation()
            yield control
            after = control.generation()
        if after != before:
            tell_workers(place, after)
    except (ControlError, LookupError, CapsUnavailable) as error:
        fail(str(error))


def factory_in(home: Path) -> Home:
    """Return the data folder of a factory that ran there at least once, or end the command.

    A journal alone is enough: it tells what happened even where all else is lost.
    """
    place = Home(home)
    if not place.control_db.exists() and not any(place.journal.glob("*")):
        fail(
            f"no factory in {home.absolute()}: name its folder with --home or WATTMILL_HOME, or start one "
            "with `wattmill up`"
        )
    return place


def fail(message: str) -> NoReturn:
    """Say why on stderr and exit with 1."""
    typer.echo(f"wattmill: {message}", err=True)
    raise typer.Exit(1)


def show_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    always: Sequence[str] = (),
) -> None:
    """Print a table; columns named in `numbers` stand to the right. A pipe gets its full width.

    Where a terminal is too narrow, columns that say the same in every row become one line below the table,
    but for those named in `always`.
    """
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    if not rows:
        console.print(f"none (no {headers[0]} to list)")
        return
    rows = points_in_line(headers, rows, numbers)
    shown, alike = columns_that_fit(headers, rows, console.width, always)
    console.print(_table(headers, rows, numbers, shown))
    if alike:
        console.print("in every row: " + "; ".join(f"{headers[n]} {rows[0][n]}" for n in alike))


def points_in_line(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]
) -> list[list[str]]:
    """Return the rows with plain numbers padded, so that the points of a column stand below each other."""
    lines = [list(row) for row in rows]
    for n in (n for n, head in enumerate(headers) if head in numbers):
        plain = [line for line in lines if _PLAIN.fullmatch(line[n])]
        tails = [len(line[n].partition(".")[2]) for line in plain]
        for line, tail in zip(plain, tails, strict=True):
            line[n] += " " * (max(tails) - tail)
    return lines


def columns_that_fit(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, always: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Return the columns to show in `width`, and those left out: from the right, and only such that every
    row says the same in them, so that nothing is lost. The first column always stays."""
    shown, left_out = list(range(len(headers))), list[int]()
    for n in reversed(range(1, len(headers))):
        if _natural_width(headers, rows, shown) <= width:
            break
        if headers[n] not in always and len(rows) > 1 and len({row[n] for row in rows}) == 1:
            shown.remove(n)
            left_out.insert(0, n)
    return shown, left_out


def _table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str], shown: Sequence[int]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n in shown:
        table.add_column(headers[n], justify="right" if headers[n] in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[n] for n in shown))
    return table


def _natural_width(headers: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    """Return the columns that a table needs without folding anything."""
    gap = 3  # between two columns; one more at each side
    widths = [max(cell_len(text) for text in (headers[n], *(row[n] for row in rows))) for n in shown]
    return sum(widths) + gap * (len(widths) - 1) + 2


def show_json(value: Any) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def usd_cell(nusd: int | None, none: str = "-") -> str:
    return none if nusd is None else usd_text(nusd)


def when_cell(at_us: int | None, none: str = "-") -> str:
    """Return an instant to the second, UTC; 0 is "since ever"."""
    if at_us is None:
        return none
    if at_us == 0:
        return "since ever"
    return dt.datetime.fromtimestamp(at_us // US_PER_S, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def amount_typed(text: str) -> tuple[Unit, Period, int]:
    """Return an amount as people type it at a prompt, where a bare number means dollars."""
    return amount_of(f"{text} USD" if _NUMBER.fullmatch(text.strip()) else text)


def cap_nusd(text: str) -> int | None:
    """Return nano-dollars of `10`, `0.5 USD`, `$5` or `none` (no cap)."""
    if text.strip().lower() in LIFTED:
        return None
    try:
        unit, period, nusd = amount_typed(text)
    except ControlError:
        unit = None
    if unit != "nusd" or period != "life":
        raise ControlError(
            f"cap is {text!r}, must be dollars such as 25 or '0.5 USD', or `none`; `wattmill budget set` "
            "takes other units and periods"
        )
    return nusd
