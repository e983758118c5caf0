"""`wattmill replay`: take the decisions of a period again."""

from __future__ import annotations

import datetime as dt
import time
from typing import Annotated, Any

import msgspec
import typer

from wattmill import __version__
from wattmill.app.declared.policy_named import UnknownPolicy
from wattmill.app.seeing.replay import Report, paired, quantile, replay
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    factory_in,
    fail,
    show_json,
    show_table,
)
from wattmill.cli.spans import SINCE, UNTIL, instant_us
from wattmill.units import US_PER_S

replay_app = application()


@replay_app.command()
def main(
    since: Annotated[str | None, typer.Option(help=f"{SINCE} Default: all that is kept.")] = None,
    until: Annotated[str | None, typer.Option(help=f"{UNTIL} Default: now.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show beside it what this policy would have done and cost."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Take every recorded decision again, with the inputs that its policy was given then. Exit code 1 when
    one is not identical."""
    where = factory_in(home)
    now_us = time.time_ns() // 1_000
    since_us = 0 if since is None else instant_us("--since", since, now_us)
    until_us = None if until is None else instant_us("--until", until, now_us)
    try:
        report = replay(where, since_us=since_us, until_us=until_us, other=policy)
    except UnknownPolicy as error:
        fail(str(error))
    if json:
        show_json(as_builtins(report))
    else:
        show_report(report)
    raise typer.Exit(0 if report.holds else 1)


def show_report(report: Report) -> None:
    """Print what was found, for people."""
    if not report.decisions:
        typer.echo("no decision was recorded in this period: a request makes one; --since looks further back")
        return
    if report.other is not None:
        show_table(
            ["figure", "as decided", f"by {report.other}", "as it happened"],
            [list(row) for row in paired(report)],
            numbers=["as decided", f"by {report.other}", "as it happened"],
        )
        both = report.decisions - report.not_replayable
        typer.echo(
            f"{report.same_place} of {both} to the same place. Expected figures, with the load as it was: "
            "what another policy would have done to the load, only a simulation can say."
        )
    for row in report.rows:
        when = dt.datetime.fromtimestamp(row.at_us / US_PER_S, dt.UTC)
        typer.echo(f"{row.request_id}  {when:%Y-%m-%d %H:%M:%S} UTC  {row.policy}")
        typer.echo(f"  recorded  {row.recorded}")
        typer.echo(f"  again     {row.again}")
    if report.different > len(report.rows):
        typer.echo(f"... and {report.different - len(report.rows)} more")
    others = {version: n for version, n in report.versions.items() if version != __version__}
    if others and report.different:
        by = ", ".join(f"{n} by {version or 'an unknown one'}" for version, n in sorted(others.items()))
        typer.echo(f"another wattmill than this ({__version__}) decided some, perhaps by other rules: {by}")
    if report.not_replayable:
        typer.echo(
            f"{report.not_replayable} decisions cannot be taken again: their inputs are no longer in the "
            "journal ([journal] keep_decisions_days), or were recorded by an older version"
        )
    by = ", ".join(f"{name} {count}" for name, count in sorted(report.policies.items()))
    typer.echo(
        f"{report.decisions} decisions of {report.epochs} workers' lives in {report.views} views ({by}; "
        f"{report.refusals} refusals, {report.explored} explorations): {report.identical} identical, "
        f"{report.different} different"
    )


def as_builtins(report: Report) -> dict[str, Any]:
    """Return the report for programs: times as quantiles, not one by one."""
    told: dict[str, Any] = msgspec.to_builtins(report)
    for name in ("recorded", "instead", "happened"):
        part = told[name]
        for field in ("ttft_s", "total_s"):
            values = part.pop(field)
            for share, word in ((0.5, "p50"), (0.95, "p95")):
                part[f"{field.removesuffix('_s')}_{word}_s"] = quantile(values, share)
    if report.other is None:
        del told["recorded"], told["instead"]
    return told
