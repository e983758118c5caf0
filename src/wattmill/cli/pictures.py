"""Charts as files: `--plots FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wattmill.cli.control_door import fail

if TYPE_CHECKING:
    from wattmill.twin.plots.chart import Chart

PlotsOption = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for plots as SVG files.")]


def write_pictures(folder: Path, drawn: Mapping[str, Sequence[Chart]]) -> list[str]:
    """Write each file's charts below each other; return the files. An unwritable folder ends it."""
    from wattmill.twin.plots.chart import picture
    from wattmill.twin.plots.svg import stacked

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, charts in drawn.items():
            (folder / name).write_text(stacked([picture(chart) for chart in charts]), encoding="utf-8")
    except OSError as error:
        fail(f"--plots {folder} cannot be written: {error.strerror}")
    return [str(folder / name) for name in drawn]
