"""`wattmill status`: how the factory is, in one screen; the same figures as the board."""

from __future__ import annotations

import sys
import time

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wattmill.app.seeing.board import Figures
from wattmill.app.seeing.figures import figures
from wattmill.cli.application import application
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, JsonOption, factory_in, when_cell
from wattmill.cli.live_line import told
from wattmill.ledger.refusing import amount_text

_NARROW = 80  # columns, below which times are left out
_MIDDLING = 100  # columns, below which engines are left out: their names would be folded in the middle
_ROOMY = 120  # columns, from where an engine is told with its weights

status_app = application()


@status_app.command()
def status(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Say how the factory is. Exit code 0: all is well, 1: it does not run, or somebody must act."""
    f = figures(factory_in(home.absolute()), time.time_ns() // 1_000)
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(f) + b"\n")
    else:
        _print(f)
    raise typer.Exit(0 if f.running and f.health.mood in {"good", "watch"} else 1)


def _print(f: Figures) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{escape(f.name)}[/]  {escape(f.health.sentence)}")
    if f.health.help:
        console.print(f"  {escape(f.health.help)}")
    console.print(told(f))
    if f.running and f.gateway_url:
        console.print(f"gateway {f.gateway_url}/v1   board {f.admin_url}")
    columns = ["place", "pool", "engine", "up", "busy", "out", "TTFT p50", "TTFT p95", "today"]
    if console.width < _MIDDLING:
        columns.remove("engine")
    if console.width < _NARROW:
        columns = [c for c in columns if c not in {"TTFT p50", "TTFT p95"}]
    places = _table(*columns)
    for p in f.places:
        note = " (stand-in)" if p.stand_in else ""
        up = "–" if p.healthy is None else "yes" if p.healthy else "[red]no[/]"
        if p.breaker is not None:
            up += f" ({p.breaker.replace('_', ' ')})"
        cells = {
            "place": escape(p.place) + note,
            "pool": escape(p.pool),
            "engine": escape(p.engine if console.width >= _ROOMY else p.engine.partition(",")[0]),
            "up": up,
            "busy": p.busy.text,
            "out": p.tokens_out.text,
            "TTFT p50": p.ttft_p50.text,
            "TTFT p95": p.ttft_p95.text,
            "today": p.charge.text,
        }
        places.add_row(*(cells[c] for c in columns))
    console.print(places)
    if f.tiers:
        console.print(_tiers(f, console.width))
    spenders = _table("who", "today", "used in all", "cap", "share of cap")
    for s in f.spenders:
        spenders.add_row(
            "  " * s.depth + escape(s.name), s.today.text, s.used.text, s.cap.text, s.cap_used.text
        )
    console.print(spenders)
    if any(s.limits for s in f.spenders):
        console.print(_limits(f, console.width))
    if f.runs:
        runs = _table("run", "state", "spent", "cap", "share of cap")
        for one in f.runs:
            runs.add_row(
                f"{one.node} {escape(one.label or one.name)}",
                one.state + (f" ({escape(one.reason)})" if one.reason else ""),
                one.spent.text,
                one.cap.text,
                one.cap_used.text,
            )
        console.print(runs)
    processes = _table("process", "state", "pid", "restarts", "last exit")
    for process in f.processes:
        processes.add_row(
            process.role,
            process.state,
            "–" if process.pid is None else str(process.pid),
            str(process.restarts),
            process.last_exit or "–",
        )
    console.print(processes)


def _limits(f: Figures, width: int) -> Table:
    """Limits beside caps. Where there is little room, what is reserved and when it begins anew are left out,
    and amounts stand without their unit, which the first one names."""
    narrow = width < _ROOMY
    columns = ["limit of", "at most", "used", "reserved", "left", "begins anew (UTC)"]
    if narrow:
        columns = [c for c in columns if c not in {"reserved", "begins anew (UTC)"}]
    table = _table(*columns)
    for s in f.spenders:
        for state in s.limits:
            per = "" if state.period == "life" else f" per {state.period}"
            cells = {
                "limit of": escape(s.name),
                "at most": amount_text(state.unit, state.amount) + per,
                "begins anew (UTC)": when_cell(state.resets_us, "never"),
            }
            for name, n in (("used", state.used), ("reserved", state.reserved), ("left", state.left)):
                text = amount_text(state.unit, n)
                cells[name] = text.partition(" ")[0] if narrow else text
            table.add_row(*(cells[c] for c in columns))
    return table


def _tiers(f: Figures, width: int) -> Table:
    """Promises of the last hour, the highest tier first."""
    columns = ["tier", "promise", "kept", "TTFT", "tok/s", "asked", "refused", "waiting", "charge", "margin"]
    if width < _ROOMY:
        columns = [c for c in columns if c not in {"promise", "charge"}]
    if width < _NARROW:
        columns = [c for c in columns if c not in {"TTFT", "tok/s", "asked"}]
    table = _table(*columns)
    for t in f.tiers:
        cells = {
            "tier": escape(t.name),
            "promise": escape(t.promise),
            "kept": t.kept.text,
            "TTFT": t.ttft_kept.text,
            "tok/s": t.speed_kept.text,
            "asked": t.offered.text,
            "refused": t.refused.text,
            "waiting": t.waiting.text,
            "charge": t.charge.text,
            "margin": t.margin.text,
        }
        table.add_row(*(cells[c] for c in columns))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for n, column in enumerate(columns):
        is_word = n == 0 or column in {"pool", "engine", "state", "promise"}
        # Words fold where room is short, figures never do: half a sum of money would be a wrong one.
        table.add_column(column, justify="left" if is_word else "right", overflow="fold", no_wrap=not is_word)
    return table
