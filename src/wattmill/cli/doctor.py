"""`wattmill doctor`: what this machine can do and measure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.checkup import checkup
from wattmill.app.declared.declaration import Loaded, load
from wattmill.app.finding import Finding
from wattmill.cli.application import application
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, JsonOption, show_json, show_table

doctor_app = application()


@doctor_app.command()
def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(help="The declaration. Default: ./wattmill.toml, else the built-in example."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Say what this machine can do and measure, and what to do about the rest. Sends nothing anywhere.

    Exit code 1 if something keeps `wattmill up` from running.
    """
    loaded = load(file, os.environ)
    if isinstance(loaded, Loaded):
        findings = [
            Finding(what="declaration", value=f"{loaded.file} is right", verdict="good"),
            *checkup(loaded.settings, home, os.environ),
        ]
    else:
        findings = [
            Finding(
                what="declaration", value=f"{p.key or p.file}: {p.rule}", verdict="bad", way_out=p.way_out
            )
            for p in loaded
        ]
    bad = [finding for finding in findings if finding.verdict == "bad"]
    if json:
        show_json({"ok": not bad, "findings": msgspec.to_builtins(findings)})
    else:
        show_table(
            ("what", "value", "verdict", "what to do"),
            [(f.what, f.value, f.verdict, f.way_out) for f in findings],
        )
        typer.echo(
            f"{len(bad)} to mend before `wattmill up` can run." if bad else "`wattmill up` can run here."
        )
    if bad:
        raise typer.Exit(1)
