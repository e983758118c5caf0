"""What each part of the request path costs: `make parts`.

A worker in this process, with sockets that are none: what a client and an engine would send is handed to the
gateway's protocols, and what it writes is dropped. So the figures hold Python, the journal's two `pwrite`s
and nothing of the network, and are steady enough to tell a microsecond. Each part is switched on alone and
measured against the plain factory in turns, in processes of their own; the difference of the smallest times
is printed, with the smallest plain time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN = """
[factory]
name = "parts"
console_team = "demo/a"
[gateway]
port = 0
[admin]
port = 0
[models.mock]
context_tok = 200000
[pools.mock]
engine = "openai_http"
place = "mock"
base_url = "http://127.0.0.1:9/v1"
models = ["mock"]
privacy = "private"
slots = 512
context_tok = 200000
speed = { prefill_tok_per_s = 10000.0, decode_tok_per_s = 1000.0 }
[pools.mock.cost]
rule = "rates"
input_usd_per_mtok = "0.15"
output_usd_per_mtok = "0.60"
[tenants.demo]
cap_usd = "1000000"
[tenants.demo.teams.a]
cap_usd = "900000"
"""
OFF = """
[runaway]
near_identical = "off"
context_growth = "off"
fan_out = "off"
retry_storm = "off"
"""
OTHER_POOL = """
[pools.other{n}]
engine = "openai_http"
place = "other{n}"
base_url = "http://127.0.0.1:9/v1"
models = ["mock"]
privacy = "private"
slots = 512
context_tok = 200000
speed = {{ prefill_tok_per_s = 900.0, decode_tok_per_s = 90.0 }}
[pools.other{n}.cost]
rule = "rates"
input_usd_per_mtok = "{n}.15"
output_usd_per_mtok = "{n}.60"
"""
PATTERNS = """
[privacy]
rules = [
    { pattern = "card", action = "raise:private" },
    { pattern = "iban", action = "raise:private" },
    { pattern = "email", action = "redact" },
    { pattern = "api_key", action = "refuse" },
]
"""
CACHE = """
[cache]
models = ["mock"]
when = "always"
memory_mib = 1
ttl_s = 1
"""
LIMITS = PLAIN.replace(
    'cap_usd = "900000"',
    'cap_usd = "900000"\nlimits = ["100000000000 tokens/day", "1000000000 requests/day", "512 concurrent"]',
)
TIERS = PLAIN.replace('cap_usd = "900000"', 'cap_usd = "900000"\ntier = "high"') + "[tiers.high]\n"

PARTS: dict[str, tuple[str, str]] = {
    # name: (declaration, the door it comes through)
    "plain": (PLAIN + OFF, "chat"),
    "runaway detection": (PLAIN, "chat"),
    "two more places to choose from": (PLAIN + OFF + "".join(OTHER_POOL.format(n=n) for n in (1, 2)), "chat"),
    "limits on tokens, requests and concurrency": (LIMITS + OFF, "chat"),
    "a tier: admission, promise, price of its own": (TIERS + OFF, "chat"),
    "privacy patterns (card, IBAN, e-mail, API key)": (PLAIN + OFF + PATTERNS, "chat"),
    "cache, when nothing is found": (PLAIN + OFF + CACHE, "chat"),
    "the door /v1/responses (not stored)": (PLAIN + OFF, "responses"),
    "the door /v1/messages": (PLAIN + OFF, "messages"),
}

ASKS = 2_048  # different requests, in turn: more than a cache of one MiB holds
TEXT = "@" * 880  # replaced by words of its own in each request
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "mock", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 64},
    ),
    "responses": (
        "/v1/responses",
        {"model": "mock", "input": TEXT, "max_output_tokens": 64, "store": False},
    ),
    "messages": (
        "/v1/messages",
        {"model": "mock", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 64},
    ),
}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-00000001",
    "object": "chat.completion",
    "created": 1,
    "model": "mock",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "y" * 850},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13},
}


class Nowhere(asyncio.Transport):
    """A connection to nobody: what is written to it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Any] = []

    def write(self, data: Any) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def prepare(folder: Path, declaration: str) -> tuple[Any, str]:
    """Make a factory's home; return it and a key of its team."""
    from wattmill.app.declared.declaration import load, stored
    from wattmill.app.declared.price_plan import price_specs, publish
    from wattmill.app.declared.tenants import apply_tenants, fresh_key
    from wattmill.app.home import Home
    from wattmill.ledger.stores.control import Control

    file = folder / "wattmill.toml"
    file.write_text(declaration)
    loaded = load(file, os.environ)
    if isinstance(loaded, list):
        raise SystemExit("\n".join(map(str, loaded)))
    home = Home(folder / "home")
    home.create()
    control = Control(home.control_db)
    apply_tenants(control, loaded.settings, None)
    publish(control, price_specs(loaded.settings, os.environ), now_us=0)
    control.put_config(stored(loaded.settings), 0)
    key = fresh_key(control, "demo/a", "console")
    control.close()
    return home, key


def asked(path: str, body: dict[str, Any], key: str, seed: int) -> bytes:
    """Return a request whose text is its own: a crowd that says the same is a cache's or a runaway's case."""
    text = "".join(random.Random(seed).choices("abcdefgh ", k=len(TEXT)))
    data = json.dumps(body, separators=(",", ":")).replace(TEXT, text).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Wired:
    """A worker whose one client and one engine are this program: what they would send is handed to it."""

    def __init__(self, declaration: str) -> None:
        from wattmill.app.worker import Worker
        from wattmill.distribution.connection import Connection
        from wattmill.distribution.upstream_conn import UpstreamConnection

        home, self.key = prepare(Path(tempfile.mkdtemp(prefix="wattmill-parts-")), declaration)
        self.worker = Worker(home, 0, env=os.environ)
        upstream = self.worker._gateway.upstreams["mock"]
        self.engine = Nowhere()
        self.way = UpstreamConnection(upstream)
        self.way.connection_made(self.engine)
        self.way.idle_since_s = upstream.now_s()
        upstream._open.add(self.way)
        upstream._idle.append(self.way)
        self.client = Nowhere()
        self.conn = Connection(self.worker._server, self.worker._server.limits())
        self.conn.connection_made(self.client)

    def asks(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        """Return requests without end, each with a text of its own among many."""
        return itertools.cycle([asked(path, body, self.key, seed) for seed in range(ASKS)])

    def tells(self, data: bytes) -> None:
        """The engine sends `data`."""
        self.way.get_buffer(-1)[: len(data)] = data
        self.way.buffer_updated(len(data))
        self.conn.flush()


async def measure(declaration: str, door: str, *, slices: int, requests: int) -> float:
    """Return the smallest CPU time of a slice, in microseconds a request."""
    wired = Wired(declaration)
    worker, way, engine, client, conn = wired.worker, wired.way, wired.engine, wired.client, wired.conn
    asks = wired.asks(*BODIES[door])
    told = json.dumps(ANSWER, separators=(",", ":")).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(told)
    answer += told

    def serve() -> None:
        way.flush()
        if engine.written:
            engine.written.clear()
            wired.tells(answer)

    async def once() -> None:
        client.written.clear()
        conn.data_received(next(asks))
        while not client.written:
            serve()
            await asyncio.sleep(0.001)

    for _ in range(20):
        await once()
    if not client.written[-1].startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not served: {client.written[-1][:400]!r}")
    for _ in range(4):  # let the purse learn the demand, and lease ahead of it
        for _ in range(requests):
            conn.data_received(next(asks))
            serve()
            if conn.current is not None:  # it waits, for a lease
                while conn.current is not None:
                    await asyncio.sleep(0.001)
                    serve()
        await worker._purse.tick()
    gc.collect()
    gc.freeze()
    best = float("inf")
    for _ in range(slices):
        client.written.clear()
        waits = 0
        began = time.thread_time()
        for _ in range(requests):
            conn.data_received(next(asks))
            serve()
            if conn.current is not None:
                waits += 1
                while conn.current is not None:
                    await asyncio.sleep(0.001)
                    serve()
        spent = (time.thread_time() - began) / requests * 1e6
        if waits * 100 <= requests:
            best = min(best, spent)
        await worker._purse.tick()
    return best


def child(name: str, slices: int, requests: int) -> None:
    declaration, door = PARTS[name]
    import uvloop

    async def main() -> None:
        print(json.dumps(await measure(declaration, door, slices=slices, requests=requests)), flush=True)
        os._exit(0)  # the journal's thread and the pool's have nothing to say

    uvloop.run(main())


def take(name: str, slices: int, requests: int) -> float:
    argv = [sys.executable, __file__, "--part", name, "--slices", str(slices), "--requests", str(requests)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout))


def table(rounds: int, slices: int, requests: int) -> dict[str, float]:
    """Return microseconds a request: "plain" as it is, every other part beyond it."""
    taken: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(rounds):
        for name in PARTS:
            taken[name].append(take(name, slices, requests))
    plain = min(taken["plain"])
    out = {"plain": plain}
    for name, values in taken.items():
        if name != "plain":
            beyond = [value - base for value, base in zip(values, taken["plain"], strict=True)]
            out[name] = statistics.median(beyond)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.part:
        child(args.part, args.slices, args.requests)
        return
    figures = table(args.rounds, args.slices, args.requests)
    print(f"Python {sys.version.split()[0]}, µs of CPU a 1 kB request, without sockets")
    for name, value in figures.items():
        print(f"  {value:6.1f}  plain" if name == "plain" else f"  {value:+6.1f}  {name}")
    if args.out:
        args.out.write_text(json.dumps({name: round(v, 2) for name, v in figures.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
