"""`wattmill runs`: the runs that keys opened, and what a person may do about one."""

from __future__ import annotations

from typing import Annotated

import typer

from wattmill.app.runs.minding import (
    RunLine,
    all_runs,
    find_run,
    line_of,
    pause,
    resume,
    stop,
    top_up,
)
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    amount_typed,
    control_at,
    show_json,
    show_table,
    usd_cell,
    when_cell,
)
from wattmill.units import usd_text

runs_app = application(group=True)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its number, or its name.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Told to the run's client.")]


@runs_app.command("list")
def list_runs(
    all: Annotated[bool, typer.Option("--all", help="Those that have ended too.")] = False,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """List runs with what they spent, the newest first."""
    with control_at(home) as control:
        found = all_runs(control, ended_too=all)
    if json:
        show_json(found)
    elif not found:
        typer.echo("no run is open" + ("" if all else "; --all shows those that have ended"))
    else:
        _show(found)


@runs_app.command("show")
def show(run: RunArgument, home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Show one run: its state, its money, its other limits."""
    with control_at(home) as control:
        found = line_of(control, find_run(control, run))
    if json:
        show_json(found)
        return
    _show([found])
    if found.budget.limits:
        show_table(
            ("limit", "per", "amount", "used", "left"),
            [
                (s.unit, s.period, str(s.amount), str(s.used), str(max(0, s.left)))
                for s in found.budget.limits
            ],
            numbers=("amount", "used", "left"),
        )


@runs_app.command("stop")
def stop_run(
    run: RunArgument, reason: ReasonOption = None, home: HomeOption = DEFAULT_HOME, json: JsonOption = False
) -> None:
    """End a run and all below it. What is in flight ends as it would; nothing further is admitted."""
    with control_at(home) as control:
        _tell(stop(control, find_run(control, run), reason), json)


@runs_app.command("pause")
def pause_run(
    run: RunArgument, reason: ReasonOption = None, home: HomeOption = DEFAULT_HOME, json: JsonOption = False
) -> None:
    """Hold a run until it is resumed or topped up."""
    with control_at(home) as control:
        _tell(pause(control, find_run(control, run), reason), json)


@runs_app.command("resume")
def resume_run(run: RunArgument, home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Let a paused run go on."""
    with control_at(home) as control:
        _tell(resume(control, find_run(control, run)), json)


@runs_app.command("top-up")
def top_up_run(
    run: RunArgument,
    amount: Annotated[
        list[str],
        typer.Argument(metavar="AMOUNT", help="How much more: 1 USD, 20000 tokens, 50 requests/hour, 500 J."),
    ],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Raise the cap or another limit of a run, and let it go on if it is paused. What holds above it holds as
    before."""
    with control_at(home) as control:
        unit, period, more = amount_typed(" ".join(amount))
        _tell(top_up(control, find_run(control, run), more, unit=unit, period=period), json)


def _tell(line: RunLine, json: bool) -> None:
    if json:
        show_json(line)
    else:
        _show([line])


def _show(lines: list[RunLine]) -> None:
    show_table(
        ("run", "name", "state", "spent USD", "cap USD", "spent %", "opened", "why"),
        [
            (
                str(line.node),
                line.name,
                line.state,
                usd_text(line.budget.used_nusd),
                usd_cell(line.budget.cap_nusd, "none"),
                f"{100 * line.budget.used_nusd / line.budget.cap_nusd:.1f}" if line.budget.cap_nusd else "-",
                when_cell(line.opened_us),
                line.reason or "-",
            )
            for line in lines
        ],
        numbers=("run", "spent USD", "cap USD", "spent %"),
        always=("state",),
    )
