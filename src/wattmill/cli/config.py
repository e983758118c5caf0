"""`wattmill config` and `wattmill init`: is the declaration right, what holds, and why?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from wattmill.app.declared.declaration import FILE_NAME, Loaded, example_text, load
from wattmill.app.declared.effective import Effective, effective
from wattmill.app.declared.problem import Problem
from wattmill.app.declared.schema import settings_schema
from wattmill.cli.application import application

config_app = application(group=True)
init_app = application()

FileArgument = Annotated[
    Path | None,
    typer.Argument(help="The declaration. Default: ./wattmill.toml, else the built-in example."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")]


@config_app.command()
def check(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Say whether the declaration holds together; exit code 1 if it does not."""
    loaded = load(file, os.environ)
    problems = list(loaded.warnings) if isinstance(loaded, Loaded) else loaded
    errors = [p for p in problems if p.level == "error"]
    if as_json:
        _print_json({"ok": not errors, "problems": msgspec.to_builtins(problems)})
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        if isinstance(loaded, Loaded):
            pools = ", ".join(loaded.settings.pools)
            print(f"{loaded.file}: right. {_count(loaded)}; pools: {pools}.")
        else:
            print(f"{len(errors)} to correct.", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def _count(loaded: Loaded) -> str:
    settings = loaded.settings
    warnings = len(loaded.warnings)
    teams = sum(len(org.teams) for org in settings.tenants.values())
    parts = [
        _plural(len(settings.pools), "pool"),
        _plural(len(settings.models), "model"),
        _plural(len(settings.tenants), "organisation"),
        _plural(teams, "team"),
    ]
    return ", ".join(parts) + (f", {_plural(warnings, 'warning')}" if warnings else "")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


@config_app.command()
def schema() -> None:
    """Print the JSON schema of wattmill.toml."""
    _print_json(settings_schema())


@config_app.command()
def show(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Show every value that holds and where it comes from. There is no secret among them."""
    loaded = load(file, os.environ)
    if not isinstance(loaded, Loaded):
        refuse(loaded)
    rows = effective(loaded, os.environ)
    if as_json:
        _print_json(msgspec.to_builtins(rows))
        return
    print(f"# {loaded.file}")
    width = min(max(len(r.key) for r in rows), 48)
    for row in rows:
        print(f"{row.key:<{width}}  {_shown(row):<32}  {row.origin}")


def _shown(row: Effective) -> str:
    return "—" if row.value is None else msgspec.json.encode(row.value).decode()


@init_app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(FILE_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the built-in example, commented, as wattmill.toml."""
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(example_text())
    except FileExistsError:
        print(
            f"wattmill init: {file} exists and stays as it is. Use --force to replace it, or name another.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    except OSError as error:
        print(f"wattmill init: {file} cannot be written: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Wrote {file}. `wattmill config check` checks it, `wattmill up` runs it.")


def refuse(problems: list[Problem]) -> NoReturn:
    """Print what is wrong and leave with exit code 1."""
    for problem in problems:
        print(problem, file=sys.stderr)
    raise typer.Exit(1)


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
