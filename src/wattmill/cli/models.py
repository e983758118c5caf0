"""`wattmill models`: fetch and list weights."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from wattmill.cli.application import application
from wattmill.models.requantise import BadWeights
from wattmill.models.weights import Fetched, lock, models_folder, pull, weights_path

models_app = application(group=True)


@models_app.command("pull")
def pull_command(
    names: Annotated[list[str] | None, typer.Argument(help="Names of the lock; without one, all.")] = None,
) -> None:
    """Fetch what the lock pins, verify it, and make the derived files."""
    try:
        paths = pull(names, say=typer.echo)
    except BadWeights as e:
        typer.echo(f"wattmill models pull: {e}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{len(paths)} files in {models_folder()}")


@models_app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="The same facts for programs.")] = False,
) -> None:
    """List the weights of the lock, and which of them are here."""
    rows = []
    for name, entry in lock().items():
        path = weights_path(name)
        here = not hasattr(path, "message")
        origin = (
            entry.origin if isinstance(entry, Fetched) else f"made here from {entry.source}, {entry.type}"
        )
        rows.append(
            {
                "name": name,
                "present": here,
                "bytes": path.stat().st_size if here else None,  # type: ignore[union-attr]
                "path": str(path) if here else None,
                "license": entry.license if isinstance(entry, Fetched) else None,
                "origin": origin,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    typer.echo(f"{'weights':<42} {'MiB':>6}  origin")
    for row in rows:
        size = f"{row['bytes'] >> 20}" if isinstance(row["bytes"], int) else "-"
        typer.echo(f"{row['name']:<42} {size:>6}  {row['origin']}")
    typer.echo(f"\nfolder {models_folder()}; any path of a GGUF file may be declared too")
