"""What the gateway costs: CPU, latency and memory beside nginx and beside no proxy at all (`make bench`).

One core carries the proxy under test, the other everything else: mock engine, load generator, and the
factory's ledger, admin and supervisor. The factory is a real `wattmill up` with everything on: key, caps at
organisation, team and key, durable journal, routing, metrics. nginx is a plain reverse proxy with one
worker, kept-alive upstream connections and no log: what moving the bytes costs when nobody looks at them.

CPU per request is the proxy's own CPU time over the answers of a slice of load; slices of the three targets
take turns. A slice during which other processes took more than a tenth of the proxy's core is thrown away
and repeated; if the machine never calms down, the calmest slices are taken and the result says so.

Latency with one connection is taken twice: as the machine is, where each core sleeps between two events and
is woken for the next, and with the cores held awake (`procfs.held_awake`). Without a proxy one core carries
client and engine and never sleeps between them; so waking up counts against whoever stands in between.

    python benchmarks/gateway.py             about 4 minutes; writes benchmarks/results/gateway.json
    python benchmarks/gateway.py --full      and a million requests, for memory
    python benchmarks/gateway.py --smoke     under a minute, figures of no worth: is everything in place?
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import books
import procfs
from factory import ROOT, Factory, Server, declaration, environment, free_port, script, wait_ready

PROXY_CPU, REST_CPU = 0, 1
DISTURBED = 0.10  # share of the proxy's core that others may take
MODEL = "mock"
RESULT = ROOT / "benchmarks" / "results" / "gateway.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of load."""

    name: str
    connections: int
    body_bytes: int = 1000
    stream: bool = False
    tokens: int = 64
    delay_ms: float = 0.0
    awake: bool = False  # the machine's cores are kept from sleeping


CELLS = (
    Cell(name="c1", connections=1),
    Cell(name="c8", connections=8),
    Cell(name="c64", connections=64),
    Cell(name="40kB_c8", connections=8, body_bytes=40_000),
    Cell(name="40kB_c64", connections=64, body_bytes=40_000),
    Cell(name="stream_c1", connections=1, stream=True, tokens=8, delay_ms=5.0),
    Cell(name="c1_awake", connections=1, awake=True),
    Cell(name="stream_c1_awake", connections=1, stream=True, tokens=8, delay_ms=5.0, awake=True),
    Cell(name="stream_fast8", connections=8, stream=True, tokens=256),
    Cell(name="stream_paced32", connections=32, stream=True, tokens=128, delay_ms=5.0),
)


@dataclass(slots=True, kw_only=True)
class Target:
    """Where a slice of load goes, and whose CPU it costs."""

    name: str
    url: str
    key: str = "none"
    pids: Sequence[int] = ()
    ledger_pid: int | None = None


@dataclass(slots=True)
class Slice:
    """One run of the load generator against one target."""

    load: dict[str, Any]
    cpu_s: float  # of the target's processes
    ledger_cpu_s: float
    others: float  # share of the proxy's core that went to somebody else


def take(target: Target, cell: Cell, seconds: float, *, requests: int = 0) -> Slice:
    """Load `target` for `seconds` and account for the CPU."""
    body: dict[str, Any] = {}
    if cell.stream:
        body["mock_delay_ms"] = cell.delay_ms
    argv = [
        *(sys.executable, str(ROOT / "benchmarks" / "loadgen.py"), target.url + "/v1/chat/completions"),
        *("-c", str(cell.connections), "--key", target.key, "--model", MODEL, "--size", str(cell.body_bytes)),
        *("--max-tokens", str(cell.tokens), "--extra", json.dumps(body), "--cpu", str(REST_CPU)),
        *(("-n", str(requests)) if requests else ("-s", str(seconds))),
        *(("--stream",) if cell.stream else ()),
    ]
    began_s, busy = time.monotonic(), procfs.busy_s(PROXY_CPU)
    before = sum(procfs.cpu_ns(pid) for pid in target.pids)
    ledger = procfs.cpu_ns(target.ledger_pid) if target.ledger_pid else 0
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
    cpu_s = (sum(procfs.cpu_ns(pid) for pid in target.pids) - before) / 1e9
    ledger_s = (procfs.cpu_ns(target.ledger_pid) - ledger) / 1e9 if target.ledger_pid else 0.0
    took_s = time.monotonic() - began_s
    others = max(0.0, procfs.busy_s(PROXY_CPU) - busy - cpu_s) / took_s
    if ran.returncode:
        raise RuntimeError(f"load generator failed on {target.name}: {ran.stderr[-2000:]}")
    load = json.loads(ran.stdout)
    if load["errors"] or not load["requests"]:
        raise RuntimeError(
            f"{target.name}, {cell.name}: {load['errors']} errors, first: {load['first_error']}"
        )
    return Slice(load, cpu_s, ledger_s, others)


def rounds_of(
    targets: Sequence[Target], cell: Cell, *, rounds: int, seconds: float
) -> tuple[list[dict[str, Slice]], bool]:
    """Return `rounds` rounds in which every target had its turn, and whether they were disturbed."""
    clean: list[dict[str, Slice]] = []
    rejected: list[dict[str, Slice]] = []
    while len(clean) < rounds and len(clean) + len(rejected) < 3 * rounds:
        turn = len(clean) + len(rejected)
        order = [targets[(turn + i) % len(targets)] for i in range(len(targets))]
        with procfs.held_awake() if cell.awake else contextlib.nullcontext():
            took = {target.name: take(target, cell, seconds) for target in order}
        calm = all(one.others <= DISTURBED for one in took.values())
        (clean if calm else rejected).append(took)
    if len(clean) >= rounds:
        return clean, False
    rejected.sort(key=lambda took: max(one.others for one in took.values()))
    return clean + rejected[: rounds - len(clean)], True


def median(values: Sequence[float], digits: int = 3) -> float:
    return round(statistics.median(values), digits)


def figures(cell: Cell, rounds: Sequence[dict[str, Slice]], target: str) -> dict[str, float]:
    """Return the figures of one target in one cell; `added_` is against direct, in the same round."""
    mine = [took[target] for took in rounds]
    pairs = [(took[target].load, took["direct"].load) for took in rounds]
    count = "chunks" if cell.stream else "requests"
    out = {
        "added_p50_ms": median([a["p50_ms"] - b["p50_ms"] for a, b in pairs], 4),
        "added_p99_ms": median([a["p99_ms"] - b["p99_ms"] for a, b in pairs], 4),
        "req_per_s": median([one.load["req_per_s"] for one in mine], 1),
        "others_share": median([one.others for one in mine]),
    }
    if target != "direct":
        per = "cpu_us_per_chunk" if cell.stream else "cpu_us_per_request"
        out[per] = median([one.cpu_s / one.load[count] * 1e6 for one in mine], 2)
        if any(one.ledger_cpu_s for one in mine):
            out["ledger_cpu_us_per_request"] = median(
                [one.ledger_cpu_s / one.load["requests"] * 1e6 for one in mine], 1
            )
    if cell.stream:
        out["added_ttft_ms"] = median([a["ttft_p50_ms"] - b["ttft_p50_ms"] for a, b in pairs], 4)
        out["added_ttft_p99_ms"] = median([a["ttft_p99_ms"] - b["ttft_p99_ms"] for a, b in pairs], 4)
        out["chunks_per_read"] = median([one.load["chunks_per_read"] for one in mine])
        if cell.delay_ms:
            out["gap_p99_ms"] = median([one.load["gap_p99_ms"] for one in mine])
    return out


# --- nginx -----------------------------------------------------------------------------------------------

NGINX = """
worker_processes 1;
worker_cpu_affinity {mask};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 128k;
  client_max_body_size 16m;
  keepalive_requests 1000000000;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def nginx_command() -> str | None:
    """Return the path of nginx; install it where this machine lets us, None if it cannot be had."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found or os.geteuid() or not shutil.which("apt-get"):
        return found
    print("nginx is missing: installing it with apt-get", flush=True)
    for argv in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "-y", "nginx-light"]):
        subprocess.run(
            argv,
            check=False,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Target | None]:
    command = nginx_command()
    if command is None:
        yield None
        return
    port = free_port()
    conf = folder / "nginx.conf"
    mask = "".join("1" if cpu == PROXY_CPU else "0" for cpu in reversed(range(os.cpu_count() or 2)))
    conf.write_text(NGINX.format(folder=folder, upstream=upstream, port=port, mask=mask))
    began_s = time.monotonic()
    process = subprocess.Popen([command, "-p", str(folder), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url + "/health", 10.0, poll_s=0.002)
        start_s = time.monotonic() - began_s
        workers = [pid for pid in procfs.processes_with("nginx") if procfs.parent(pid) == process.pid]
        target = Target(name="nginx", url=url, pids=workers)
        target_extra[target.name] = {"start_s": round(start_s, 3)}
        yield target
    finally:
        process.terminate()
        process.wait()


target_extra: dict[str, dict[str, float]] = {}


# --- the factory -----------------------------------------------------------------------------------------


def pinned(factory: Factory) -> Target:
    """Put the gateway on its core and the rest of the factory on the other."""
    pids = factory.pids()
    for role, pid in pids.items():
        procfs.pin(pid, {PROXY_CPU if role.startswith("gateway") else REST_CPU})
    workers = [pid for role, pid in pids.items() if role.startswith("gateway")]
    return Target(
        name="wattmill", url=factory.url, key=factory.key, pids=workers, ledger_pid=pids.get("ledger")
    )


def ledger_figures(factory: Factory, target: Target, *, requests: int) -> dict[str, float]:
    """How far the books lag under full load, how fast they catch up, and what a request weighs in them."""
    home = factory.home
    books.wait_settled(home)
    weight_before, requests_before = books.weight_bytes(home), books.attempts(home)
    lag: list[float] = []
    cell = CELLS[2]
    load = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "loadgen.py"), target.url + "/v1/chat/completions"),
            *("-c", str(cell.connections), "--key", target.key, "--model", MODEL, "-n", str(requests)),
            *("--cpu", str(REST_CPU)),
        ],
        stdout=subprocess.DEVNULL,
    )
    while load.poll() is None:
        newest_us = books.newest_us(home)
        if newest_us is not None and books.attempts(home) > requests_before:
            lag.append(time.time() - newest_us / 1e6)
        time.sleep(0.1)
    books.wait_settled(home)
    weight = (books.weight_bytes(home) - weight_before) / (books.attempts(home) - requests_before)
    # Hold the ledger process still, let a backlog grow, let it go: what it books when it never waits.
    assert target.ledger_pid is not None
    os.kill(target.ledger_pid, signal.SIGSTOP)
    try:
        before, rows = books.attempts(home), books.rows(home)
        take(target, cell, 0.0, requests=requests)
    finally:
        began_s = time.monotonic()
        os.kill(target.ledger_pid, signal.SIGCONT)
    while books.attempts(home) < before + requests:
        if time.monotonic() - began_s > 300:
            raise TimeoutError(f"{books.attempts(home) - before} of {requests} requests booked in 300 s")
        time.sleep(0.02)
    took_s = time.monotonic() - began_s
    return {
        "ledger_rows_per_s": round((books.rows(home) - rows) / took_s),
        "ledger_requests_per_s": round(requests / took_s),
        "ledger_lag_s": round(statistics.median(lag), 3) if lag else 0.0,
        "ledger_lag_max_s": round(max(lag), 3) if lag else 0.0,
        "bytes_per_request": round(weight, 1),
    }


def start_seconds(factory: Factory, times: int) -> float:
    """Return the median seconds from the spawn of a worker process, alone, to its first 200 on /readyz."""
    took: list[float] = []
    for _ in range(times):
        reader, lifeline = os.pipe()  # a worker lives as long as the other end of its lifeline
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "wattmill.app.worker", "--home", str(factory.home), "--worker", "0"],
            env={**environment(), "WATTMILL_LIFELINE": str(reader)},
            pass_fds=(reader,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reader)
        try:
            wait_ready(factory.url + "/readyz", 10.0, poll_s=0.005)
            took.append(time.monotonic() - began_s)
        finally:
            os.close(lifeline)
            process.terminate()
            process.wait(10)
    return round(statistics.median(took), 3)


# --- all of it ---------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    out = {}
    for name in ("uvloop", "httptools", "msgspec"):
        out[name] = importlib.metadata.version(name)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    out["commit"] = commit.stdout.strip() or "unknown"
    if command := nginx_command():
        banner = subprocess.run([command, "-v"], capture_output=True, text=True, check=False)
        out["nginx"] = banner.stderr.strip().rsplit("/", 1)[-1]
    return out


def flat(cells: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the figures under the names that readers know, and all cells below them."""
    names = {
        "cpu_us_per_request_c1": ("c1", "cpu_us_per_request"),
        "cpu_us_per_request_c8": ("c8", "cpu_us_per_request"),
        "cpu_us_per_request_c64": ("c64", "cpu_us_per_request"),
        "cpu_us_per_request_40kB_c64": ("40kB_c64", "cpu_us_per_request"),
        "cpu_us_per_chunk": ("stream_paced32", "cpu_us_per_chunk"),
        "cpu_us_per_chunk_fast8": ("stream_fast8", "cpu_us_per_chunk"),
        "req_per_s_c64": ("c64", "req_per_s"),
        "added_p50_ms_c1": ("c1", "added_p50_ms"),
        "added_p99_ms_c8": ("c8", "added_p99_ms"),
        "added_ttft_ms": ("stream_c1", "added_ttft_ms"),
        "added_p50_ms_c1_awake": ("c1_awake", "added_p50_ms"),
        "added_ttft_ms_awake": ("stream_c1_awake", "added_ttft_ms"),
        "added_ttft_ms_paced32": ("stream_paced32", "added_ttft_ms"),
    }
    told = {name: cells[cell][figure] for name, (cell, figure) in names.items() if cell in cells}
    return told | {"cells": cells}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rounds, seconds = (1, 0.4) if args.smoke else (args.rounds, args.seconds)
    mock = Server(*script("mock_upstream.py"), "--tokens", "1000000", cpu=REST_CPU)
    mock.start()
    os.sched_setaffinity(0, {REST_CPU})
    port = free_port()
    toml = declaration(
        {"mock": f"http://127.0.0.1:{mock.port}/v1"}, model=MODEL, port=port, admin_port=free_port()
    )
    factory = Factory(folder / "home", toml, port=port)
    out: dict[str, Any] = {}
    try:
        factory.start()
        target = pinned(factory)
        with nginx(folder, mock.port) as rival:
            direct = Target(name="direct", url=f"http://127.0.0.1:{mock.port}", pids=[mock.pid])
            targets = [one for one in (direct, rival, target) if one is not None]
            for one in targets:
                take(one, CELLS[2], 0.5 if args.smoke else 2.0)  # warm
            cells: dict[str, dict[str, dict[str, float]]] = {one.name: {} for one in targets}
            disturbed = []
            for cell in CELLS:
                if cell.awake and not procfs.can_hold_awake():
                    print(f"  {cell.name}: left out, {procfs.AWAKE} may not be written here", flush=True)
                    continue
                took, was_disturbed = rounds_of(targets, cell, rounds=rounds, seconds=seconds)
                if was_disturbed:
                    disturbed.append(cell.name)
                for one in targets:
                    cells[one.name][cell.name] = figures(cell, took, one.name)
                print(
                    f"  {cell.name}: " + ", ".join(text_of(name, cells[name][cell.name]) for name in cells),
                    flush=True,
                )
            for one in targets[1:]:
                out[one.name] = flat(cells[one.name])
            out["direct"] = {"cells": cells["direct"]}
            if rival is not None:
                out["nginx"] |= target_extra["nginx"] | {
                    "rss_mb": round(sum(map(procfs.rss_mb, rival.pids)), 1)
                }
        ours = out["wattmill"]
        if args.full:
            take(target, CELLS[2], 0.0, requests=1_000_000)
        ours["rss_mb"] = round(max(map(procfs.rss_mb, target.pids)), 1)
        ours["rss_after_requests"] = books.attempts(factory.home)
        ours |= ledger_figures(factory, target, requests=2_000 if args.smoke else 30_000)
        factory.stop()
        ours["start_s"] = start_seconds(factory, 2 if args.smoke else 7)
        out["machine"] = procfs.machine() | {
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
            "proxy_cpu": PROXY_CPU,
            "rest_cpu": REST_CPU,
            "rounds": rounds,
            "slice_s": seconds,
            "disturbed_cells": disturbed,
            "smoke": args.smoke,
        }
    finally:
        if factory.process is not None and factory.process.poll() is None:
            factory.stop()
        mock.kill()
    return out


def text_of(name: str, cell: dict[str, float]) -> str:
    cpu = cell.get("cpu_us_per_request", cell.get("cpu_us_per_chunk"))
    return f"{name} {cpu if cpu is not None else '-'} µs +{cell['added_p50_ms']} ms {cell['req_per_s']}/s"


def table(result: dict[str, Any]) -> str:
    """Return the comparison for people."""
    rows = [
        ("CPU per request, 1 kB, c=1", "cpu_us_per_request_c1", "µs"),
        ("CPU per request, 1 kB, c=8", "cpu_us_per_request_c8", "µs"),
        ("CPU per request, 1 kB, c=64", "cpu_us_per_request_c64", "µs"),
        ("CPU per request, 40 kB, c=64", "cpu_us_per_request_40kB_c64", "µs"),
        ("CPU per streamed chunk, 32 × 5 ms", "cpu_us_per_chunk", "µs"),
        ("CPU per streamed chunk, 8 fast", "cpu_us_per_chunk_fast8", "µs"),
        ("requests per second, c=64", "req_per_s_c64", "/s"),
        ("added latency p50, c=1", "added_p50_ms_c1", "ms"),
        ("added latency p99, c=8", "added_p99_ms_c8", "ms"),
        ("added time to first token, c=1", "added_ttft_ms", "ms"),
        ("added latency p50, c=1, cores awake", "added_p50_ms_c1_awake", "ms"),
        ("added TTFT, c=1, cores awake", "added_ttft_ms_awake", "ms"),
        ("memory", "rss_mb", "MB"),
        ("start to ready", "start_s", "s"),
        ("ledger, rows booked", "ledger_rows_per_s", "/s"),
        ("ledger, lag under load", "ledger_lag_s", "s"),
        ("ledger, bytes per request", "bytes_per_request", "B"),
    ]
    lines = [f"{'':<36}{'wattmill':>12}{'nginx':>12}"]
    for text, name, unit in rows:
        values = [result.get(who, {}).get(name) for who in ("wattmill", "nginx")]
        cells = "".join(f"{'–' if value is None else f'{value:,}':>12}" for value in values)
        lines.append(f"{text:<36}{cells}  {unit}")
    machine = result["machine"]
    lines.append(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
    )
    if machine["disturbed_cells"]:
        lines.append(f"disturbed by other processes: {', '.join(machine['disturbed_cells'])}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="is everything in place? figures of no worth")
    parser.add_argument("--full", action="store_true", help="a million requests before memory is read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one slice")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("this needs two cores: one for the proxy, one for the load")
    with tempfile.TemporaryDirectory(prefix="wattmill-bench-") as folder:
        result = measure(args, Path(folder))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
