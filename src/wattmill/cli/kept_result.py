"""Where commands leave what they found for the board: the folder of a factory, where there is one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wattmill.app.results.sheet import Sheet
from wattmill.app.results.shelf import Shelf
from wattmill.units import US_PER_S

KeepInOption = Annotated[
    Path,
    typer.Option(
        "--keep-in",
        envvar="WATTMILL_HOME",
        help="Folder of the factory whose board shows the result; kept only if it is there.",
        show_default=True,
    ),
]


def now_us() -> int:
    return time.time_ns() * US_PER_S // 1_000_000_000


def keep_result(home: Path, sheet: Sheet, *, quiet: bool) -> None:
    """Keep `sheet` in the factory at `home`. Where there is none, or none that we may write, nothing is kept
    and nothing is wrong: the result was printed."""
    if not home.is_dir():
        return
    try:
        Shelf(home).keep(sheet)
    except OSError as error:
        typer.echo(f"wattmill: not kept for the board: {error}", err=True)
        return
    if not quiet:
        typer.echo(f"kept in {home}: the board's twin room shows it")
