"""`wattmill simulate`: run the declared factory on a simulated clock, with the gateway's own decisions."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from wattmill.app.declared import declaration
from wattmill.app.declared.declaration import Loaded
from wattmill.app.home import Home
from wattmill.app.results.sheet import Sheet
from wattmill.app.results.simulated import simulated
from wattmill.app.simulating.demand import (
    BadDemand,
    Demand,
    DemandFile,
    StreamSettings,
    Who,
    demand,
    of_load,
    read_demand,
)
from wattmill.app.simulating.laws import CannotSimulate
from wattmill.app.simulating.run import simulate
from wattmill.cli.application import application
from wattmill.cli.bar import bars
from wattmill.cli.control_door import DEFAULT_HOME, JsonOption, show_json, show_table
from wattmill.cli.kept_result import KeepInOption, keep_result, now_us
from wattmill.twin.fleet.report import PoolRow, Report, Row, Spread, TierRow
from wattmill.twin.fleet.words import played_words
from wattmill.units import S_PER_H

simulate_app = application()

_S_PER_MIN = 60
EXIT_DECLARATION, EXIT_DEMAND = 2, 3


@simulate_app.command()
def main(
    config: Annotated[
        Path | None, typer.Argument(help="Declaration. Default: ./wattmill.toml, else the built-in example.")
    ] = None,
    demand_file: Annotated[
        str | None,
        typer.Option(
            "--demand",
            metavar="FILE",
            help="A trace (.csv, .jsonl, or these and .gz) or a file of streams (.toml). Default: an open "
            "loop if --rate is given, else the declaration's [load].",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Requests (or sessions) per second; a trace is pressed to it."),
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="10m", help="So long requests come: 30s, 10m or 2h.")
    ] = None,
    input_tok: Annotated[
        str | None,
        typer.Option("--input", metavar="TOKENS", help="512, 100-200 or 'p50 500 p95 2000' (log-normal)."),
    ] = None,
    output_tok: Annotated[
        str | None, typer.Option("--output", metavar="TOKENS", help="Likewise, of answers.")
    ] = None,
    lengths_of: Annotated[
        str | None, typer.Option(metavar="TRACE", help="Draw input and output lengths from this trace.")
    ] = None,
    max_output: Annotated[
        int | None, typer.Option(min=1, help="What clients ask for at most. Default: what they will get.")
    ] = None,
    turns: Annotated[
        str | None, typer.Option(metavar="N", help="Sessions of so many turns; see --think.")
    ] = None,
    think: Annotated[float, typer.Option(min=0, help="Mean seconds before a session's next turn.")] = 10.0,
    model: Annotated[str | None, typer.Option(help="Model that is asked for.")] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORG/TEAM[@TIER][=SHARE]", help="Who asks, by shares; may be given several times."
        ),
    ] = None,
    tries: Annotated[
        int, typer.Option(min=1, max=100, help="How often a client asks in all that is told when to return.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same run, to the byte.")] = 1,
    timeline_s: Annotated[
        float, typer.Option(min=0.001, help="Seconds between two moments of the timeline.")
    ] = 1.0,
    home: Annotated[
        Path | None,
        typer.Option(help="Keep books and journal in this new folder: audit, explain and replay read it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write report, facts, timeline and pictures into this folder.")
    ] = None,
    keep_in: KeepInOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Run the declared factory on a simulated clock: the gateway's own policies, caps, prices and books.

    Exit code 1 when a law of the books does not hold.
    """
    loaded = _declaration(config)
    try:
        if demand_file is not None and demand_file.endswith(".toml"):
            path = Path(demand_file)
            declared, folder = read_demand(path), path.resolve().parent
        else:
            folder = Path.cwd()
            declared = _one_stream(
                loaded, demand_file, rate, for_, input_tok, output_tok, lengths_of, max_output, turns, think,
                model, client or [], tries,
            )  # fmt: skip
        wanted = demand(declared, loaded.settings, folder=folder, seed=seed)
    except BadDemand as error:
        _end(EXIT_DEMAND, str(error))
    began_s = time.perf_counter()
    sheets: list[Sheet] = []
    with tempfile.TemporaryDirectory(prefix="wattmill-twin-") as temporary:
        where = Home(home.absolute() if home is not None else Path(temporary) / "home")
        if where.control_db.exists():
            _end(EXIT_DEMAND, f"{where.root} has a factory already: name a new folder with --home")
        try:
            told = _shown(
                wanted,
                lambda tell: simulate(
                    loaded,
                    wanted,
                    where,
                    env=os.environ,
                    seed=seed,
                    out=out,
                    timeline_s=timeline_s,
                    tell=tell,
                    ended=lambda told, moments: sheets.append(simulated(told, moments, at_us=now_us())),
                ),
            )
        except CannotSimulate as error:
            _end(EXIT_DECLARATION, str(error))
    if json:
        show_json(msgspec.to_builtins(told))
    else:
        show_report(told)
        took_s = time.perf_counter() - began_s
        typer.echo(
            f"{told.asked} requests in {took_s:.1f} s: {told.asked / took_s:,.0f} a second, "
            f"{told.simulated_s / took_s:,.0f} times as fast as life"
        )
        if out is not None:
            typer.echo(f"files in {out}: report.json, facts.jsonl, timeline.csv, timeline.svg, speed.svg")
        if home is not None:
            typer.echo(f"books in {home}: wattmill audit --home {home}")
    for sheet in sheets:
        keep_result(keep_in, sheet, quiet=json)
    raise typer.Exit(0 if told.holds else 1)


def _end(code: int, message: str) -> NoReturn:
    typer.echo(f"wattmill simulate: {message}", err=True)
    raise typer.Exit(code)


def _declaration(config: Path | None) -> Loaded:
    loaded = declaration.load(config, os.environ)
    if isinstance(loaded, list):
        for problem in loaded:
            typer.echo(str(problem), err=True)
        raise typer.Exit(EXIT_DECLARATION)
    return loaded


def _one_stream(
    loaded: Loaded,
    trace: str | None,
    rate: float | None,
    for_: str | None,
    input_tok: str | None,
    output_tok: str | None,
    lengths_of: str | None,
    max_output: int | None,
    turns: str | None,
    think_s: float,
    model: str | None,
    clients: list[str],
    tries: int,
) -> DemandFile:
    who = tuple(_who(text, tries) for text in clients)
    if trace is None and rate is None:
        plain = of_load(loaded.settings)
        duration_s = plain.stream[0].duration_s if for_ is None else _seconds(for_)
        changed = msgspec.structs.replace(
            plain.stream[0], clients=who, duration_s=duration_s, model=model or plain.stream[0].model
        )
        return DemandFile(stream=(changed,))
    return DemandFile(
        stream=(
            StreamSettings(
                trace=trace,
                per_s=rate,
                duration_s=None if for_ is None else _seconds(for_),
                input_tok=input_tok,
                output_tok=output_tok,
                lengths_of=lengths_of,
                max_output_tok=max_output,
                turns=turns,
                think_s=think_s,
                model=model,
                clients=who,
            ),
        )
    )


def _who(text: str, tries: int) -> Who:
    rest, _, share = text.partition("=")
    team, _, tier = rest.partition("@")
    try:
        return msgspec.convert(
            {"team": team, "share": float(share or 1), "tier": tier or None, "tries": tries}, Who
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise BadDemand(
            f"--client is {text!r}, must be ORG/TEAM, perhaps with @TIER and =SHARE: {error}"
        ) from error


def _seconds(text: str) -> float:
    units = {"s": 1, "m": _S_PER_MIN, "h": S_PER_H}
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * units[unit]
    except (KeyError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise BadDemand(f"--for is {text!r}, must be a time such as 30s, 10m or 2h")
    return seconds


def _shown(wanted: Demand, run: Callable[[Callable[[int], None]], Report]) -> Report:
    """Run with a progress bar on a terminal, on stderr, so that stdout is the report's."""
    with bars() as progress:
        task = progress.add_task("simulating requests", total=wanted.about)
        return run(lambda done: progress.update(task, completed=done))


# ---- for people


def show_report(told: Report) -> None:
    """Print tables with units."""
    typer.echo(
        f"{told.factory}: {told.demand}; policy {told.policy}, seed {told.seed}, "
        f"{told.simulated_s:,.1f} s simulated"
    )
    show_table(_POOL, [_pool_cells(row) for row in told.pools], numbers=_POOL[1:])
    show_table(_MACHINES, [_machine_cells(row) for row in told.pools], numbers=_MACHINES[2:-1])
    if told.tiers:
        show_table(_TIER, [_tier_cells(row) for row in told.tiers], numbers=_TIER[2:])
    show_table(_TENANT, [_tenant_cells(row) for row in (*told.tenants, told.total)], numbers=_TENANT[1:])
    if told.refusals:
        show_table(
            ["refused", "requests"], [[r.code, str(r.requests)] for r in told.refusals], numbers=["requests"]
        )
    for row in told.pools:
        error = "error not known" if row.twin_error is None else f"median error {row.twin_error:.0%}"
        typer.echo(f"{row.name}: times {row.provenance} ({row.source}); {error}")
        for words in played_words(row):
            typer.echo(f"{row.name}: {words}")
        if row.idle_usd is not None and row.idle_usd < 0:
            typer.echo(
                f"{row.name}: its tokens cost {-row.idle_usd:.6f} USD more than its hours: it was busier "
                "than its price per token assumes, so nothing is left idle"
            )
    if told.energy_j is not None:
        typer.echo(f"joules are {told.energy_provenance}, dollars are rated by the declared prices")
    typer.echo(f"{told.total.attempts} attempts, {told.law}")


_POOL = [
    "place", "requests", "failed", "output tok", "tok/s", "first token p50/p95/p99, s",
    "per token p50/p95/p99, ms", "charge, USD", "cost, USD", "margin, USD",
]  # fmt: skip
_MACHINES = [
    "place", "replicas", "busy %", "hours, USD", "idle, USD", "J", "idle, J", "J/output tok", "CO2, g",
    "cold starts", "failures", "times",
]  # fmt: skip
_TIER = [
    "tier", "promise", "offered", "kept %", "refused", "waited", "mean wait, s", "first token p50/p95/p99, s",
    "per token p50/p95/p99, ms", "tok/s", "charge, USD", "cost, USD",
]  # fmt: skip
_TENANT = [
    "tenant", "requests", "refused", "input tok", "cached tok", "output tok", "charge, USD", "cost, USD",
    "margin, USD",
]  # fmt: skip


def _pool_cells(row: PoolRow) -> list[str]:
    return [
        row.name, str(row.requests), str(row.failed), str(row.output_tok), f"{row.output_tok_per_s:,.1f}",
        _three(row.ttft_s, 1.0, 3), _three(row.tpot_s, 1e3, 1), *_money(row),
    ]  # fmt: skip


def _machine_cells(row: PoolRow) -> list[str]:
    few, many = row.replicas
    return [
        row.name, f"{few}" if few == many else f"{few}-{many}", _share(row.occupancy),
        _figure(row.hours_usd, 6), _figure(row.idle_usd, 6), _figure(row.energy_j, 0),
        _figure(row.idle_j, 0), _figure(row.j_per_output_tok, 3), _figure(row.carbon_g, 3),
        str(row.cold_starts), str(row.failures), row.provenance,
    ]  # fmt: skip


def _tier_cells(row: TierRow) -> list[str]:
    return [
        row.name, row.promise, str(row.offered), _share(row.kept_share), str(row.refused), str(row.queued),
        _figure(row.mean_queue_s, 3), _three(row.ttft_s, 1.0, 3), _three(row.tpot_s, 1e3, 1),
        f"{row.output_tok_per_s:,.1f}", f"{row.charge_usd:.6f}", f"{row.cost_usd:.6f}",
    ]  # fmt: skip


def _tenant_cells(row: Row) -> list[str]:
    return [
        row.name, str(row.requests), str(row.refused), str(row.input_tok), str(row.cached_tok),
        str(row.output_tok), *_money(row),
    ]  # fmt: skip


def _money(row: Row) -> list[str]:
    return [f"{row.charge_usd:.6f}", f"{row.cost_usd:.6f}", f"{row.margin_usd:.6f}"]


def _three(spread: Spread | None, factor: float, digits: int) -> str:
    if spread is None:
        return "-"
    return " / ".join(f"{value * factor:.{digits}f}" for value in (spread.p50, spread.p95, spread.p99))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f}"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
