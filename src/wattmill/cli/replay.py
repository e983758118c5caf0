"""`wattmill replay`: take the decisions of a period again."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
import typer

from wattmill import __version__
from wattmill.app.declared.policy_named import UnknownPolicy
from wattmill.app.home import Home
from wattmill.app.seeing.replay import Report, paired, quantile, replay
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, JsonOption, fail, show_json, show_table
from wattmill.units import US_PER_S

replay_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


@replay_app.command()
def main(
    since: Annotated[
        dt.datetime | None, typer.Option(formats=_TIMES, help="Begin here (UTC). Default: all that is kept.")
    ] = None,
    until: Annotated[dt.datetime | None, typer.Option(formats=_TIMES, help="End here (UTC).")] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show beside it what this policy would have done and cost."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Take every recorded decision again, with the inputs that its policy was given then. Exit code 1 when
    one is not identical."""
    where = Home(home)
    if not where.journal.is_dir():
        fail(f"no journal in {where.root}: is it the factory's folder (--home)?")
    try:
        report = replay(where, since_us=_us(since) or 0, until_us=_us(until), other=policy)
    except UnknownPolicy as error:
        fail(str(error))
    if json:
        show_json(as_builtins(report))
    else:
        show_report(report)
    raise typer.Exit(0 if report.holds else 1)


def show_report(report: Report) -> None:
    """Print what was found, for people."""
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


def _us(when: dt.datetime | None) -> int | None:
    return None if when is None else int(when.replace(tzinfo=dt.UTC).timestamp() * US_PER_S)
