"""`wattmill check-claim`: does a published sum follow from the figures printed beside it?"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.planning_files import checked_claims, text_of
from wattmill.app.declared.problem import Problem
from wattmill.cli.application import application
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.twin.planning.claims import Checked

check_claim_app = application()
EXAMPLE = "shipped claims"


@check_claim_app.command()
def check_claim(
    file: Annotated[Path | None, typer.Argument(help="Claims as TOML; --example prints some.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Check the claims that are shipped.")] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Print the shipped claims as a file to begin with.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Work published arithmetic out again. Exit code 1 if a claim does not agree with itself."""
    shipped = (importlib.resources.files("wattmill") / "data" / "claims.toml").read_text(encoding="utf-8")
    if text:
        typer.echo(shipped, nl=False)
        return
    if (file is None) == (not example):
        fail("name one file of claims, or --example for the shipped ones (--text prints them)")
    source = shipped if file is None else text_of(file)
    if isinstance(source, list):
        refuse(source)
    found = checked_claims(source, file=EXAMPLE if file is None else str(file))
    problems = [entry for entry in found if isinstance(entry, Problem)]
    if problems:
        refuse(problems)
    done = [entry for entry in found if isinstance(entry, Checked)]
    if json:
        show_json(msgspec.to_builtins(done))
    else:
        _show(done)
    if any(entry.verdict == "does not agree" for entry in done):
        raise typer.Exit(1)


def _show(done: list[Checked]) -> None:
    show_table(
        ("claim", "printed", "recomputed", "if inputs were rounded", "verdict", "boundary"),
        [
            (c.name, c.claimed, f"{c.computed:.6g} {c.unit}".strip(), _limits(c), c.verdict, c.boundary)
            for c in done
        ],
        numbers=("printed", "recomputed", "if inputs were rounded"),
    )
    wrong = [c for c in done if c.verdict == "does not agree"]
    for c in wrong:
        typer.echo(f"{c.name}: {c.says}")
        off = f"; printed is {c.off_by:.3g} x that" if c.off_by is not None else ""
        typer.echo(f"  {c.relation} = {c.computed:.6g} {c.unit}".rstrip() + f", not {c.claimed}{off}")
        if c.way_out is not None:
            typer.echo(f"  {c.way_out}")
        typer.echo(f"  source: {c.source}")
    typer.echo(f"{len(done)} claims, {len(wrong)} do not agree with themselves")


def _limits(c: Checked) -> str:
    return "exact" if c.low == c.high else f"{c.low:.5g} – {c.high:.5g}"
