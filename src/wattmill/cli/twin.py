"""`wattmill twin`: how far the twin's predictions are from what was measured."""

from __future__ import annotations

import typer

from wattmill.cli.twin_law import crossval, validate
from wattmill.cli.twin_live import calibrate, check

twin_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@twin_app.callback()
def twin() -> None:
    """Score the twin's predictions against measurements."""


twin_app.command()(validate)
twin_app.command()(crossval)
twin_app.command()(calibrate)
twin_app.command()(check)
