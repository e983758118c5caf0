"""What `wattmill up` says when everything stands, and when it is over."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from wattmill.app.home import Home
from wattmill.app.running.supervisor import Factory
from wattmill.app.seeing.figures import figures
from wattmill.cli.control_door import DEFAULT_HOME


@dataclass(frozen=True, slots=True)
class Welcome:
    """What there is to say. `key` is None where the declaration names no team for it."""

    factory: Factory
    key: str | None
    admin_token: str
    started_s: float
    example: bool
    warnings: list[str]


def show_welcome(console: Console, w: Welcome) -> None:
    """Print where everything is, in lines that can be copied whole: a terminal may wrap them, we never do."""
    factory = w.factory
    url = f"{factory.gateway_url}/v1"
    say = partial(console.print, soft_wrap=True)
    say(f"\n[bold]wattmill: {escape(factory.settings.factory.name)}[/], ready in {w.started_s:.1f} s")
    if w.example:
        say("running the built-in example; `wattmill init` writes it for you to change", style="dim")
    say(f"  gateway  [bold]{url}[/]")
    if w.key is not None:
        say(f"  key      [bold]{w.key}[/]  (shown once; the next `up` makes a new one)")
    else:
        say("  key      none yet: wattmill keys create ORG/TEAM NAME")
    say(f"  board    [bold]{factory.admin_url}/#token={w.admin_token}[/]")
    say(f"  data     {escape(str(factory.home.root))}")
    elsewhere = factory.home.root != Path(os.environ.get("WATTMILL_HOME", DEFAULT_HOME)).absolute()
    where = f" --home {factory.home.root}" if elsewhere else ""
    say(f"  ask it   {escape(_command() + ' status' + where)}, or: explain REQUEST_ID, audit, budget show")
    for name, place in factory.places().items():
        what = place.weights or getattr(place.declared, "base_url", "")
        note = "  [yellow]stand-in: an engine of this machine plays the provider[/]" if place.stand_in else ""
        said = f"{name:<8} {place.declared.place}: {', '.join(place.models)} ({what})"
        say(f"  {escape(said)}{note}")
    for text in w.warnings:
        say(f"warning: {escape(text)}", style="yellow")
    model = next(iter(next(iter(factory.places().values())).models))
    print(snippets(url, w.key, model), flush=True)


def _command() -> str:
    """Return what the next command begins with, typed in this folder."""
    if shutil.which("wattmill") is not None:
        return "wattmill"
    beside = Path(sys.executable).with_name("wattmill")
    if not beside.exists():
        return f"{sys.executable} -m wattmill"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


def snippets(url: str, key: str | None, model: str) -> str:
    """Return a curl and an OpenAI-client call that work as they stand; without a key, where KEY holds one."""
    imports, key_in_python = ("", f'"{key}"') if key else ("import os\n", 'os.environ["KEY"]')
    return f"""
curl -N {url}/chat/completions -H "Authorization: Bearer {key or "$KEY"}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model":"{model}","stream":true,"max_tokens":48,
       "messages":[{{"role":"user","content":"What is a watt?"}}]}}'

{imports}from openai import OpenAI
client = OpenAI(base_url="{url}", api_key={key_in_python})
print(client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "What is a watt?"}}], max_tokens=48
).choices[0].message.content)
"""


def summary(home: Home) -> RenderableType:
    """Return what this day brought, from the closed books."""
    f = figures(home, time.time_ns() // 1_000)
    table = Table.grid(padding=(0, 2))
    for count in f.statuses:
        if count.figure.value:
            table.add_row(count.label, count.figure.text)
    for name in ("charge_today", "cost_today", "margin_today"):
        if name in f.money:
            table.add_row(name.replace("_", " "), f.money[name].text)
    for place in f.places:
        money = f"charged {place.charge.text}, cost {place.cost.text}"
        times = f"TTFT p50 {place.ttft_p50.text}, p95 {place.ttft_p95.text}"
        table.add_row(f"at {place.pool}", f"{place.requests.text} attempts, {money}, {times}")
    return Panel(table, title="summary", title_align="left")
