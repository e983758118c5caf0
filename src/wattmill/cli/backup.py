"""`wattmill backup` and `wattmill restore`: copy the books while they are open, and bring a copy back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wattmill.app.home import Home
from wattmill.cli.application import application
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, factory_in, fail
from wattmill.ledger.backup import BackupError, backup, restore

backup_app = application()
restore_app = application()


@backup_app.command()
def make(
    file: Annotated[Path, typer.Argument(help="The tar file to write; it must not exist.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Copy books, keys, prices and journals into one file. The factory may run."""
    place = factory_in(home)
    try:
        manifest = backup(
            file.absolute(),
            ledger_db=place.ledger_db,
            control_db=place.control_db,
            journal=place.journal,
            at_us=time.time_ns() // 1000,
        )
    except (BackupError, OSError) as error:
        fail(str(error))
    size = sum(entry.bytes for entry in manifest.files.values())
    typer.echo(f"{file}: {len(manifest.files)} files, {size} bytes, with checksums")


@restore_app.command()
def bring_back(
    file: Annotated[
        Path, typer.Argument(help="A file that `wattmill backup` wrote.", exists=True, dir_okay=False)
    ],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Bring a backup back into a new folder. What was in flight when it was made is in doubt there."""
    try:
        manifest = restore(file, home.absolute())
    except (BackupError, OSError) as error:
        fail(str(error))
    Home(home).create()
    typer.echo(
        f"{home}: {len(manifest.files)} files, every checksum holds; `wattmill audit --home {home}` proves it"
    )
