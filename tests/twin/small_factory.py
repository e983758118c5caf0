"""Small declared factories for the twin's tests, and one run of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wattmill.app.declared.declaration import Loaded, decode
from wattmill.app.home import Home
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.simulating.demand import DemandFile, StreamSettings, Who, demand
from wattmill.app.simulating.factory import Core, SimulatedFactory
from wattmill.ledger.audit import Report
from wattmill.ledger.stores.sqlite_read import AttemptRow, Books, Overview

HEAD = """
[models.m]
context_tok = 8192
params = 8_000_000_000

[tenants.acme.teams.search]
[tenants.acme.teams.chat]
"""


def owned(
    name: str, *, slots: int = 4, replicas: int = 1, twin: str = "", usd_out: str = "1", queue: int = 64
) -> str:
    """An owned place: 10 ms a step whatever is in it, 100 us a prompt token: 100 tokens a second alone."""
    return f"""
[pools.{name}]
engine = "openai_http"
adapter = "vllm"
base_url = "http://127.0.0.1:9/v1"
place = "{name}"
models = ["m"]
privacy = "private"
slots = {slots}
queue = {queue}
context_tok = 8192
[pools.{name}.speed]
prefill_tok_per_s = 10000.0
decode_tok_per_s = 100.0
[pools.{name}.cost]
rule = "owned"
hourly_usd = "3.6"
power_w = 300.0
idle_w = 100.0
prefill_tok_per_s = 10000.0
decode_tok_per_s = 400.0
tariff_usd_per_kwh = "0.36"
[pools.{name}.charge]
rule = "price_book"
book = "{name}-book"
[prices.{name}-book.m]
input_usd_per_mtok = "0.5"
output_usd_per_mtok = "{usd_out}"
[pools.{name}.twin]
replicas = {replicas}
[pools.{name}.twin.step]
step_ms = 10.0
decode_us = 0.0
prefill_us_per_tok = 100.0
source = "made up"
{twin}
"""


def bought(name: str, *, twin: str = "", usd_out: str = "4") -> str:
    return f"""
[pools.{name}]
engine = "openai_http"
adapter = "openai"
base_url = "http://127.0.0.1:9/v1"
place = "{name}"
models = ["m"]
slots = 64
context_tok = 8192
[pools.{name}.speed]
prefill_tok_per_s = 5000.0
decode_tok_per_s = 50.0
overhead_s = 0.2
[pools.{name}.cost]
rule = "rates"
input_usd_per_mtok = "1"
output_usd_per_mtok = "{usd_out}"
[pools.{name}.twin.provider]
source = "made up"
{twin}
"""


class Run(NamedTuple):
    factory: SimulatedFactory
    audit: Report
    attempts: list[AttemptRow]  # oldest first
    overview: Overview
    home: Home


def load(text: str) -> Loaded:
    loaded = decode(text, file="test.toml", folder=Path.cwd(), env={})
    assert isinstance(loaded, Loaded), loaded
    return loaded


def stream(**more: object) -> StreamSettings:
    usual: dict[str, object] = {
        "per_s": 2.0, "duration_s": 20.0, "input_tok": "100", "output_tok": "21",
        "clients": (Who(team="acme/search"),),
    }  # fmt: skip
    return StreamSettings(**(usual | more))  # type: ignore[arg-type]


def run(text: str, folder: Path, *streams: StreamSettings, seed: int = 1, core: Core = "python") -> Run:
    """Run a declaration on some streams in an empty folder, and audit it."""
    loaded = load(text)
    wanted = demand(DemandFile(stream=streams or (stream(),)), loaded.settings, folder=Path.cwd(), seed=seed)
    home = Home(folder / "home")
    home.create()
    factory = SimulatedFactory(loaded.settings, {}, wanted, home, seed=seed, timeline_s=1.0, core=core)
    factory.run()
    with Books(home.ledger_db) as books:
        attempts = books.recent(100_000)[::-1]
        overview = books.overview()
    return Run(factory, audit_home(home), attempts, overview, home)


def holds(audit: Report) -> bool:
    """Return whether every law holds; a broken one is shown."""
    broken = [(check.name, check.rows) for check in audit.checks if not check.holds]
    assert not broken, broken
    return True
