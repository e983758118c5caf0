"""Bars are for people at a terminal, and never part of an answer."""

from __future__ import annotations

import io

from rich.console import Console

from wattmill.cli.bar import bars, with_bar


def shown(*, terminal: bool, quiet: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    with bars(quiet=quiet, console=console) as progress:
        task = progress.add_task("adding up", total=4)
        for _ in range(4):
            progress.advance(task)
    return out.getvalue()


def test_a_terminal_sees_a_bar_and_a_pipe_sees_nothing():
    assert "adding up" in shown(terminal=True) and "4/4" in shown(terminal=True)
    assert shown(terminal=False) == "" and shown(terminal=True, quiet=True) == ""


def test_work_under_a_bar_comes_whole_and_in_order():
    assert with_bar((n * n for n in range(5)), "squares", 5) == [0, 1, 4, 9, 16]
