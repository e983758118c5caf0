"""How every command is made: plain help and errors; each help ends with examples and the page to read on."""

from __future__ import annotations

from typing import Any

import typer
import typer.main

from wattmill.cli.guides import EXAMPLES, page_of


def application(*, group: bool = False) -> typer.Typer:
    """Return an application without a command yet; a `group` is going to have subcommands.

    Help is plain text: boxes take a third of a narrow terminal, and markup would swallow the brackets of
    `[load]`.
    """
    return typer.Typer(
        no_args_is_help=group,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def command_of(app: typer.Typer, name: str, summary: str) -> Any:
    """Return the command `name` with the end of its help; a group says its `summary`."""
    command: Any = typer.main.get_command(app)
    if hasattr(command, "commands"):
        command.help = summary
    _guide(command, name)
    return command


def _guide(command: Any, path: str) -> None:
    examples = [f"  wattmill {example}" for example in EXAMPLES.get(path, ())]
    more = ["Example:" if len(examples) == 1 else "Examples:", *examples] if examples else []
    # \b keeps the lines of a paragraph apart.
    command.epilog = "\b\n" + "\n".join([*more, f"More: {page_of(path)}"])
    for name, inner in getattr(command, "commands", {}).items():
        _guide(inner, f"{path} {name}")
