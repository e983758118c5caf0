"""`wattmill power`: hold the factory to a power limit, and see what that did and cost."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from wattmill.app.flexing.shelf import MOST_BYTES, EventReport, Shelf
from wattmill.app.home import Home
from wattmill.app.seeing.power import lifting, overview
from wattmill.app.seeing.readings import read_supervisor
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
from wattmill.cli.power_rehearse import rehearse
from wattmill.cli.spans import seconds_of, share_of
from wattmill.power.signal.account import GRACE_S
from wattmill.power.signal.formats import BadEvent, read_events
from wattmill.power.signal.spec import PowerEvent
from wattmill.units import usd_text

power_app = application(group=True)

power_app.command("rehearse")(rehearse)

EventArgument = Annotated[
    str, typer.Argument(metavar="EVENT", help="Its id; `wattmill power list` has them.")
]


@power_app.command("limit")
def limit(
    for_: Annotated[str, typer.Option("--for", metavar="3m", help="How long: 90s, 3m or 1h.")],
    watts: Annotated[float | None, typer.Option("--watts", help="At most so many watts.")] = None,
    reduce: Annotated[
        str | None, typer.Option("--reduce", metavar="25%", help="Less than the mean of the time before.")
    ] = None,
    notice: Annotated[str, typer.Option("--notice", metavar="60s", help="Begins after this.")] = "0s",
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Ask for less power for a while."""
    if (watts is None) == (reduce is None):
        fail("give one of --watts (such as 900) and --reduce (such as 25%)")
    message: dict[str, Any] = {
        "id": f"cli-{secrets.token_hex(3)}",
        "notice_s": seconds_of("--notice", notice),
        "duration_s": seconds_of("--for", for_),
    }
    if watts is not None:
        message["limit_w"] = watts
    if reduce is not None:
        message["reduce"] = share_of("--reduce", reduce)
    _send(home, msgspec.json.encode(message), json=json)


@power_app.command("send")
def send(
    file: Annotated[
        Path, typer.Argument(help="A message: wattmill's own, DSX Flex (CloudEvents) or OpenADR 3, as JSON.")
    ],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Hand over an event from a file."""
    try:
        if file.stat().st_size > MOST_BYTES:
            fail(f"{file} must be at most {MOST_BYTES} bytes")
        message = file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    _send(home, message, json=json)


@power_app.command("lift")
def lift(event: EventArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """End an event now."""
    report = _report(home, event)
    message = lifting(report.event, time.time())
    if message is None:
        fail(f"event {event!r} has ended already")
    Shelf(Home(home)).put(message)
    typer.echo(f"{event} is lifted; power comes back over the declared ramp")


@power_app.command("now")
def now(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Say what holds at this moment."""
    found = overview(factory_in(home))
    if json:
        show_json({key: value for key, value in found.items() if key not in ("events", "refused")})
        return
    if not found["running"]:
        typer.echo("the factory does not run")
        return
    host, idle = found["host_w"], found["idle_w"]
    drawn = (
        "not read yet: ask again in two seconds"
        if host is None
        else f"{host:.1f} W ({idle:.1f} W of it idle), {found['provenance']}"
    )
    typer.echo(f"power     {drawn}")
    orders = (found["now"] or {}).get("orders") or {}
    if orders.get("phase", "none") == "none":
        typer.echo("limit     none: `wattmill power limit --reduce 25% --for 3m` asks for one")
        return
    aim = orders.get("target_w")
    typer.echo(
        f"event     {orders['event']}: {orders['phase']}" + ("" if aim is None else f", at most {aim:.1f} W")
    )
    pace = orders.get("lower_work_per_s")
    typer.echo(
        "gives way "
        + ", ".join(
            filter(
                None,
                (
                    "nobody yet" if pace is None and orders["batches"] else None,
                    None if pace is None else f"lower tiers begin {pace:.1f} tok/s of work",
                    None if orders["batches"] else "the batch lane waits",
                    f"engines run {orders['engine_share']:.0%} of the time"
                    if orders["engine_share"] < 1
                    else None,
                ),
            )
        )
    )


@power_app.command("list")
def list_events(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """List events, the newest first, and messages that were refused."""
    shelf = Shelf(factory_in(home))
    reports = shelf.reports()
    if json:
        show_json([msgspec.structs.replace(report, samples=()) for report in reports])
        return
    for name, why in shelf.refusals():
        typer.echo(f"refused   {name}: {why}")
    if not reports:
        typer.echo("no power event was taken yet: `wattmill power limit --reduce 25% --for 3m` asks for one")
        return
    show_table(
        ("event", "from", "start (UTC)", "lasts", "limit W", "state", "met after", "mean W", "saved"),
        [_row(report) for report in reports],
        numbers=("lasts", "limit W", "met after", "mean W", "saved"),
    )


@power_app.command("show")
def show(event: EventArgument, home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Show one event: what was asked, what power did, who gave way, what it cost."""
    report = _report(home, event)
    if json:
        show_json(report)
        return
    for line in told(report):
        typer.echo(line)


def told(report: EventReport) -> list[str]:
    """Return the story of one event, a line each."""
    event, got = report.event, report.reached
    span = "until further notice" if event.end_s is None else f"{event.end_s - event.start_s:.0f} s"
    asked = "lifts what was asked before"
    if report.limit_w is not None:
        asked = f"at most {report.limit_w:.1f} W"
    if event.keep is not None:
        base = "unknown" if report.baseline_w is None else f"{report.baseline_w:.1f} W"
        asked += f", {1 - event.keep:.0%} less than {base} (mean of {report.baseline_from_s or 0:.0f} s)"
    lines = [
        f"event     {event.id} ({event.source}), {report.state}",
        f"asked     {asked}, for {span} from {_utc(event.start_s)}, "
        f"notice {max(0.0, event.start_s - event.told_s):.0f} s",
    ]
    if report.problem:
        lines.append(f"refused   {report.problem}")
    if report.infeasible_floor_w is not None:
        lines.append(
            f"infeasible: idle power alone is {report.infeasible_floor_w:.1f} W; that is the least that any "
            "order reaches. Switch machines off, or ask for more than that"
        )
    if got is not None:
        met = "never" if got.met_after_s is None else f"after {got.met_after_s:.0f} s"
        lines.append(
            f"power     met {met} (allowed {GRACE_S:.0f} s), mean {got.mean_w:.1f} W, highest 10-s mean "
            f"{got.highest_w:.1f} W, {got.over_s:.0f} s above the limit"
        )
        if got.joules_not_used is not None:
            rebound = (
                "" if got.rebound_j is None else f", rebound {got.rebound_j:.0f} J above the baseline after"
            )
            lines.append(f"saved     {got.joules_not_used:.0f} J against the baseline{rebound}")
        if got.peak_before_w is not None and got.peak_after_w is not None:
            new = "a NEW demand peak" if got.peak_after_w > got.peak_before_w else "no new demand peak"
            lines.append(
                f"peak      {got.peak_before_w:.1f} W before, {got.peak_after_w:.1f} W after: {new} "
                "(10-s means)"
            )
    gave = report.gave_way
    refused = ", ".join(
        f"{tier} {n} ({gave.refused_work.get(tier, 0):.0f} tok)"
        for tier, n in sorted(gave.refused.items())
        if n
    )
    lost = sum(gave.value_lost_nusd.values())
    unknown = f"; without a price per token: {', '.join(gave.value_unknown)}" if gave.value_unknown else ""
    lines.append(f"gave way  {gave.deferred_work:.0f} tok of work waited; refused: {refused or 'nobody'}")
    lines.append(f"value     {usd_text(lost)} USD of refused work at its tiers' prices (estimated){unknown}")
    if report.least_engine_share < 1.0:
        lines.append(f"engines   slowed to {report.least_engine_share:.0%} of their time at the least")
    lines.append(f"watts     {report.provenance}, boundary {report.boundary}: {report.meter}")
    return lines


def _row(report: EventReport) -> tuple[str, ...]:
    event, got = report.event, report.reached
    return (
        event.id,
        event.source,
        _utc(event.start_s),
        "-" if event.end_s is None else f"{event.end_s - event.start_s:.0f} s",
        "-" if report.limit_w is None else f"{report.limit_w:.1f}",
        "infeasible" if report.infeasible_floor_w is not None else report.state,
        "-" if got is None or got.met_after_s is None else f"{got.met_after_s:.0f} s",
        "-" if got is None else f"{got.mean_w:.1f}",
        "-" if got is None or got.joules_not_used is None else f"{got.joules_not_used:.0f} J",
    )


def _report(home: Path, event: str) -> EventReport:
    report = Shelf(factory_in(home)).report(event)
    if report is None:
        fail(f"no power event {event!r} in {home}: `wattmill power list` has them")
    return report


def _send(home: Path, message: bytes, *, json: bool) -> None:
    place = factory_in(home)
    running, state = read_supervisor(place)
    if not running:
        fail(f"no factory runs in {home}: nobody would obey. `wattmill up` starts one")
    try:
        events = read_events(message, now_s=time.time(), id="x")
    except BadEvent as error:
        fail(str(error))
    Shelf(place).put(message)
    if json:
        show_json(events)
        return
    idle_w = None if state is None else state.idle_w
    for event in events:
        typer.echo(_said(event, idle_w))


def _said(event: PowerEvent, idle_w: float | None) -> str:
    what = "lifts what was asked before"
    if event.limit_w is not None:
        what = f"at most {event.limit_w:.1f} W"
        if idle_w is not None and event.limit_w < idle_w:
            what += f" (infeasible: idle power alone is {idle_w:.1f} W; we go as low as that)"
    elif event.keep is not None:
        what = f"{1 - event.keep:.0%} less than before"
    return (
        f"{event.id}: {what}, from {_utc(event.start_s)}. `wattmill power show {event.id}` tells how it goes"
    )


def _utc(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
