"""Bars for long work: on stderr, so that stdout is the answer's, and only where a terminal shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
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


def left_out(shown: Progress, part: str = "") -> Callable[[str, int, int], None]:
    """Return what takes (fold, done, of) and keeps a bar for each fold, made when it is first heard of."""
    tasks: dict[str, TaskID] = {}

    def progress(name: str, done: int, of: int) -> None:
        if name not in tasks:
            tasks[name] = shown.add_task(f"{part}{name} left out", total=of)
        shown.update(tasks[name], completed=done)

    return progress
