"""What `wattmill up` says when everything stands, and when it is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wattmill.app.figures import figures
from wattmill.app.home import Home
from wattmill.app.supervisor import Factory


@dataclass(frozen=True, slots=True)
class Welcome:
    """What there is to say. `key` is None where the declaration names no team for it."""

    factory: Factory
    key: str | None
    admin_token: str
    started_s: float
    example: bool
    warnings: list[str]


def welcome(w: Welcome) -> RenderableType:
    """Return where everything is, with snippets that can be pasted."""
    factory = w.factory
    url = f"{factory.gateway_url}/v1"
    places = Table.grid(padding=(0, 2))
    for name, place in factory.places().items():
        note = "stand-in: an engine of this machine plays the provider" if place.stand_in else ""
        what = place.weights or getattr(place.declared, "base_url", "")
        places.add_row(
            f"[bold]{name}[/]", place.declared.place, what, ", ".join(place.models), f"[yellow]{note}[/]"
        )
    where = Table.grid(padding=(0, 2))
    where.add_row("gateway", f"[bold]{url}[/]")
    if w.key is not None:
        where.add_row("key", f"[bold]{w.key}[/]  (shown once; the next `up` makes a new one)")
    else:
        where.add_row("key", "none yet: wattmill keys create ORG/TEAM NAME")
    where.add_row("board", f"[bold]{factory.admin_url}/#token={w.admin_token}[/]")
    where.add_row("data", f"{factory.home.root}  (logs in {factory.home.logs.name}/)")
    model = next(iter(next(iter(factory.places().values())).models))
    title = f"wattmill: {factory.settings.factory.name}, ready in {w.started_s:.1f} s"
    parts: list[RenderableType] = [Panel(Group(where, Text(), places), title=title, title_align="left")]
    if w.example:
        parts.append(
            Text("running the built-in example; `wattmill init` writes it for you to change", style="dim")
        )
    parts += [Text(f"warning: {text}", style="yellow") for text in w.warnings]
    parts.append(Text(snippets(url, w.key or "$KEY", model)))
    return Group(*parts)


def snippets(url: str, key: str, model: str) -> str:
    """Return a curl and an OpenAI-client call that work as they stand."""
    return f"""
curl -N {url}/chat/completions -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model":"{model}","stream":true,"max_tokens":48,
       "messages":[{{"role":"user","content":"What is a watt?"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="{key}")
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
        tokens = f"in {place.tokens_in.text}, out {place.tokens_out.text}"
        times = f"TTFT p50 {place.ttft_p50.text}, p95 {place.ttft_p95.text}"
        table.add_row(f"at {place.pool}", f"{tokens}, {times}")
    return Panel(table, title="summary", title_align="left")
