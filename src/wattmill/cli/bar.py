"""Bars for long work: on stderr, so that stdout is the answer's, and only where a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def bars(*, quiet: bool = False, console: Console | None = None) -> Progress:
    """Return a place for bars; with `quiet`, or without a terminal, nothing is drawn. Use it in a `with`."""
    shown = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=shown, transient=True, disable=quiet or not shown.is_terminal)


def with_bar(work: Iterable[T], what: str, count: int, *, quiet: bool = False) -> list[T]:
    """Return all of `work`, `count` pieces, under a bar."""
    with bars(quiet=quiet) as shown:
        return list(shown.track(work, total=count, description=what))
