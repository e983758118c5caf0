"""`--operators`: what a command needs that may take operator tables beside the law."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wattmill.cli.control_door import fail

if TYPE_CHECKING:
    from wattmill.twin.operators.mixture import Operators
    from wattmill.twin.operators.sources import Wheel

OperatorsOption = Annotated[
    bool,
    typer.Option(
        "--operators",
        help="Where a model or an accelerator was never measured on its engine, take timings of single "
        "operators beside the law (pip install 'wattmill[twin-operators]').",
    ),
]


def operator_tables() -> Operators:
    """Return the installed tables; ends the command where they are of another version.

    Raises:
        ModuleNotFoundError: they are not installed.
    """
    from wattmill.twin.operators.mixture import operators_installed

    try:
        return operators_installed()
    except ValueError as error:
        fail(str(error))


def operator_wheel() -> Wheel:
    """Return the wheel alone, without the factors that were fitted with it; as `operator_tables`."""
    from wattmill.twin.operators.sources import installed

    try:
        return installed()
    except ValueError as error:
        fail(str(error))
