"""`wattmill site import`: published weather and carbon, made into the tables that a site reads."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Annotated

import typer

from wattmill.cli.control_door import fail
from wattmill.site.importing.model import carbon_of_mix, weather_of_epw


def import_(
    file: Annotated[Path, typer.Argument(help="An EPW file, or an hourly mix (timestamp, avg_CI).")],
    out: Annotated[Path, typer.Argument(help="Table to write; .csv or .csv.gz.")],
    name: Annotated[
        str | None, typer.Option(help="Place (EPW: its own if not given) or zone of the table.")
    ] = None,
) -> None:
    """Make a table of weather from an EPW file, or one of carbon from an hourly mix of a grid."""
    if out.exists():
        fail(f"{out} is there already: name another file, or remove it")
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix.lower() == ".epw":
            table, said = weather_of_epw(text, place=name), "weather; wet bulb by Stull (2011)"
        elif name is None:
            fail("--name says which zone the mix is of")
        else:
            table, filled = carbon_of_mix(text, name)
            said = f"average carbon; {filled} empty hours hold the value before them"
        raw = table.encode()
        out.write_bytes(gzip.compress(raw, mtime=0) if out.suffix == ".gz" else raw)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        fail(f"{file} {error}")
    typer.echo(f"wrote {out}: {len(table.splitlines()) - 1:,} hours of {said}")
