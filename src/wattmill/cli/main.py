"""The command `wattmill`: each subcommand lives in a module of its own, imported when it is asked for."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import sqlite3
import sys

from wattmill import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("wattmill.cli.up", "Run the factory."),
    "init": ("wattmill.cli.config", "Write a commented wattmill.toml."),
    "config": ("wattmill.cli.config", "Check, show or describe the declaration, wattmill.toml."),
    "status": ("wattmill.cli.status", "Say how the running factory is."),
    "explain": ("wattmill.cli.explain", "Tell the whole story of one request."),
    "replay": ("wattmill.cli.replay", "Take recorded routing decisions again, or by another policy."),
    "simulate": ("wattmill.cli.simulate", "Run the declared factory on a simulated clock."),
    "efficiency": ("wattmill.cli.efficiency", "Say where paid hours and joules go, and what would help."),
    "audit": ("wattmill.cli.audit", "Prove that the books balance, or name the rows that do not."),
    "reconcile": ("wattmill.cli.reconcile", "Settle what is in doubt."),
    "backup": ("wattmill.cli.backup", "Copy the books while they are open."),
    "restore": ("wattmill.cli.backup", "Bring a backup back."),
    "keys": ("wattmill.cli.keys", "Make, list, rotate and revoke API keys."),
    "budget": ("wattmill.cli.budget", "Show and set limits: dollars, tokens, requests, joules, grams."),
    "runs": ("wattmill.cli.runs", "List, pause, stop and top up runs."),
    "meters": ("wattmill.cli.meters", "Read and measure the meters of power."),
    "power": ("wattmill.cli.power", "Hold the factory to a power limit or grid event, and see what it cost."),
    "kept": ("wattmill.cli.kept", "Show and delete what is kept for tenants: answers, responses, files."),
    "prices": ("wattmill.cli.prices", "Show and import prices."),
    "models": ("wattmill.cli.models", "Fetch and list weights."),
    "twin": (
        "wattmill.cli.twin",
        "Fit the twin to an engine, and hold its predictions against measured ones.",
    ),
    "plan": ("wattmill.cli.plan", "Find the factory for a demand, and what a token costs there."),
    "site": ("wattmill.cli.site", "Work out a site's watts, from the grid to the chip and out as heat."),
    "check-claim": ("wattmill.cli.check_claim", "Hold published arithmetic against itself."),
    "doctor": ("wattmill.cli.doctor", "Say what this machine can do and measure."),
}
"""name -> (module, one line). The module has a `typer.Typer` called `app_name(name)`."""


EXTRAS = {
    "numba": "twin",
    "scipy": "twin",
    "highspy": "twin",
    "ray": "scale",
    "aiconfigurator_core": "twin-operators",
    "pyarrow": "twin-operators",
    "psycopg": "postgres",
    "pvlib": "site",
    "zeus": "meters",
}
"""package -> the extra of pyproject.toml that brings it."""


_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main() -> None:
    """Run one command; what the machine refuses (a closed pipe, a full disk) is said in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks an arrow still gets its figures
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not flushed again
        raise SystemExit(1) from None
    except (OSError, sqlite3.Error) as error:
        refused = _refused_by_the_machine(error)
        if refused is None:
            raise
        print(f"wattmill: {refused}; `wattmill doctor` looks at the data folder", file=sys.stderr)
        raise SystemExit(1) from None


def _refused_by_the_machine(error: OSError | sqlite3.Error) -> str | None:
    """Return what a full disk or a missing right says; None for anything else, a defect of ours."""
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" if error.errno in _REFUSED else None
    refused = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code
    return str(error) if kind in refused else None


def run(args: list[str]) -> None:
    """Run one command; only its own module is imported, so that `wattmill --help` answers at once."""
    if not args or args[0] in {"-h", "--help", "help"}:
        print(overview())
        return
    if args[0] in {"-V", "--version", "version"}:
        print(f"wattmill {__version__}")
        return
    entry = COMMANDS.get(args[0])
    if entry is None:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f" Did you mean `wattmill {near[0]}`?" if near else " `wattmill --help` lists them."
        print(f"wattmill: no command {args[0]!r}.{hint}", file=sys.stderr)
        raise SystemExit(2)
    module, summary = entry
    try:
        app = getattr(importlib.import_module(module), app_name(args[0]))
        from wattmill.cli.application import command_of  # imports typer, which the overview does without

        command_of(app, args[0], summary)(args=args[1:], prog_name=f"wattmill {args[0]}")
    except ModuleNotFoundError as missing:
        extra = EXTRAS.get((missing.name or "").split(".")[0])
        if extra is None:
            raise
        print(
            f"wattmill: `wattmill {args[0]}` needs {missing.name}, which is not installed here: "
            f"pip install 'wattmill[{extra}]', or in a clone `make dev`",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def app_name(command: str) -> str:
    """Return what a command's application is called in its module."""
    return command.replace("-", "_") + "_app"


def overview() -> str:
    """Return the help page: every command with its one line."""
    lines = ["wattmill: the operating system of a token factory", "", "  wattmill COMMAND --help", ""]
    lines += [f"  {name:<11} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "Begin with `wattmill up`. A page for each job: docs/index.md; all options: docs/reference/cli.md",
    ]
    return "\n".join(lines)
