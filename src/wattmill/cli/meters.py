"""`wattmill meters`: what the declared meters say, what they show at rest, and where their joules went."""

from __future__ import annotations

import os
import statistics
import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.declaration import Loaded, load
from wattmill.app.declared.meter_settings import configs
from wattmill.app.energy_views import EnergyView, energy_view
from wattmill.app.meter_checkup import said
from wattmill.app.running.clock import LiveClock
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
from wattmill.cli.spans import SINCE, instant_us, seconds_of
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.power.live.bank import Trace
from wattmill.power.live.meters.registry import open_meter, read_now, sources
from wattmill.power.spec import MeterConfig
from wattmill.units import UG_PER_G, UJ_PER_J
from wattmill.vocab.meter import MeterError

meters_app = application(group=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The declaration. Default: ./wattmill.toml, else the built-in example."),
]


@meters_app.command("read")
def read(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Read every declared meter once. Exit code 1 if one cannot be read."""
    rows, bad = [], 0
    for one in _declared(config):
        try:
            meter = open_meter(one)
            rows.append({"meter": one.name, "says": said(meter, read_now(meter, t_s=time.monotonic()))})
        except MeterError as error:
            bad += 1
            rows.append({"meter": one.name, "says": f"cannot be read: {error}"})
    if json:
        show_json(rows)
    elif rows:
        show_table(["meter", "says"], [[row["meter"], row["says"]] for row in rows])
    else:
        typer.echo(f"no meter is declared: joules are modelled. Sources: {', '.join(sources())}")
    raise typer.Exit(1 if bad else 0)


@meters_app.command("idle")
def idle(
    meter: Annotated[str, typer.Argument(help="A declared meter.")],
    for_: Annotated[str, typer.Option("--for", metavar="60s", help="How long to look.")] = "60s",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Measure what a meter shows while nobody is served, and print the line to declare.

    Stop the load first, and leave the engines loaded if they usually are.
    """
    seconds = seconds_of("--for", for_)
    found = next((one for one in _declared(config) if one.name == meter), None)
    if found is None:
        fail(f"no meter {meter!r} is declared under [meters]")
    clock = LiveClock()
    try:
        trace = Trace(found, open_meter(found))
    except MeterError as error:
        fail(str(error))
    ends_s = clock.now() + seconds
    while clock.now() < ends_s + found.period_s / 2:
        trace.read(t_s=clock.now(), wall_us=clock.wall_us())
        time.sleep(found.period_s)
    steps = [
        (after.uj - before.uj) / UJ_PER_J / (after.t_s - before.t_s)
        for before, after in zip(trace.points, trace.points[1:], strict=False)
        if after.known
    ]
    if not steps:
        fail(trace.trouble or f"meter {meter!r} gave no two readings in {seconds:g} s")
    watts = statistics.median(steps)
    spread = statistics.pstdev(steps)
    if json:
        show_json({"meter": meter, "idle_w": watts, "spread_w": spread, "readings": len(steps)})
        return
    typer.echo(f"median of {len(steps)} steps: {watts:.2f} W, spread {spread:.2f} W; declare")
    typer.echo(f"[meters.{meter}]\nidle_w = {watts:.2f}")


@meters_app.command("joules")
def joules(
    since: Annotated[str, typer.Option("--since", metavar="1h", help=SINCE)] = "1h",
    config: ConfigOption = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Say where the joules of each meter went, and who bears those of idle time."""
    host = _loaded(config).settings.host
    now_us = time.time_ns() // 1_000
    since_us = instant_us("--since", since, now_us)
    try:
        with Books(factory_in(home).ledger_db) as books:
            view = energy_view(
                books.db,
                since_us=since_us,
                until_us=now_us,
                rule=host.idle_cost,
                tariff_usd_per_kwh=Decimal(host.tariff_usd_per_kwh),
            )
    except FileNotFoundError as error:
        fail(str(error))
    if json:
        show_json(msgspec.to_builtins(view, str_keys=True))
    else:
        _show(view)


def _show(view: EnergyView) -> None:
    parts = ("requests", "host", "idle", "service", "foreign", "overhead", "unattributed", "total")
    grams = any(one.ug is not None for one in view.meters)
    carbon = ["CO2e g"] if grams else []
    show_table(
        ["meter", *(f"{part} J" for part in parts), *carbon, "known", "odd windows"],
        [
            [
                one.meter,
                *(f"{getattr(one, f'{part}_uj') / UJ_PER_J:.3f}" for part in parts),
                *((("-" if one.ug is None else f"{one.ug / UG_PER_G:.6f}"),) if grams else ()),
                ", ".join(one.provenance),
                ", ".join(f"{event} {n}" for event, n in one.events.items()) or "none",
            ]
            for one in view.meters
        ],
        numbers=[*(f"{part} J" for part in parts), *carbon],
    )
    typer.echo(
        "host is a part of requests. total = requests + idle + service + foreign + overhead + unattributed"
    )
    marginal = sum(key.marginal_uj for key in view.keys) / UJ_PER_J
    tokens = sum(key.tokens for key in view.keys)
    each = f", {marginal / tokens:.4f} J a token" if tokens else ""
    typer.echo(f"marginal view: {marginal:.3f} J of requests{each}")
    if view.rule == "unallocated":
        typer.echo(
            f"idle, own and overhead: {view.shared_uj / UJ_PER_J:.3f} J = {view.unallocated_usd:.6f} USD, "
            "unallocated (host.idle_cost names a rule)"
        )
    else:
        whole = sum(key.attributional_uj for key in view.keys) / UJ_PER_J
        each = f", {whole / tokens:.4f} J a token" if tokens else ""
        typer.echo(f"attributional view, idle {view.rule}: {whole:.3f} J{each}")


def _declared(config: Path | None) -> list[MeterConfig]:
    return configs(_loaded(config).settings.meters, os.environ)


def _loaded(config: Path | None) -> Loaded:
    loaded = load(config, os.environ)
    if not isinstance(loaded, Loaded):
        fail("; ".join(str(problem) for problem in loaded))
        raise typer.Exit(2)
    return loaded
