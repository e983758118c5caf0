"""Losses injected into a living factory: does each move its own bar most, and what moves along with it?

    python benchmarks/efficiency_live.py [--seconds 25] [--only aborted]

One embedded place with two slots serves two clients that ask again as soon as they are answered. Then, for
as long each: clients that leave in the middle of every second answer, clients that pause as long as they
were served, an engine that is stopped for half of each half second, six clients on two slots under a
promise of the first token, and an engine that is killed again and again. Each time the page of `wattmill
efficiency` is held against the first one. Prints a table, and one line a loss: by how many points its own
bar moved, and which other moved most.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from wattmill.app.efficiency.asked import seen_at
from wattmill.app.efficiency.model import efficiency
from wattmill.app.efficiency.spec import Chain
from wattmill.app.home import Home

DECLARATION = """
[factory]
name = "losses"
console_team = "demo/clients"
[gateway]
port = 0
[admin]
port = 0
[models.smollm2-135m]
context_tok = 8192
params = 134_515_008
[tiers.medium]
ttft_s = {ttft_s}
[tenants.demo.teams.clients]
tier = "medium"
[pools.edge]
engine = "embedded"
place = "here"
weights = "smollm2-135m-instruct.q4_0-from-q4_1"
models = ["smollm2-135m"]
privacy = "private"
slots = 2
queue = 64
speed = {{ prefill_tok_per_s = 350.0, decode_tok_per_s = 105.0 }}
[pools.edge.cost]
rule = "owned"
hourly_usd = "0.004"
power_w = 12.0
prefill_tok_per_s = 350.0
decode_tok_per_s = 125.0
"""
OWN = {"aborted": "aborted", "idle": "idle", "throttled": "shallow batch", "killed": "down", "crowd": "late"}
WORDS = "tell me in a few plain words how a mill turns water into flour and what a watt has to do with it "


class Clients:
    """Ask over and over until told to stop."""

    def __init__(self, url: str, key: str, count: int, *, leave: bool = False, pause: bool = False) -> None:
        self._host, self._port = re.match(r"http://([^:/]+):(\d+)", url).groups()  # type: ignore[union-attr]
        self._key = key
        self._leave, self._pause = leave, pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, n: int) -> None:
        turn = n
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._ask(turn)
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)
            turn += 1
            if self._pause:
                self._stop.wait(time.monotonic() - began)

    def _ask(self, turn: int) -> None:
        connection = http.client.HTTPConnection(self._host, int(self._port), timeout=60)
        body = {
            "model": "smollm2-135m", "stream": True, "max_tokens": 64,
            "messages": [{"role": "user", "content": f"{turn}: {WORDS * 3}"}],
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            seen = 0
            for line in answer:
                seen += line.startswith(b"data:")
                if self._leave and turn % 2 and seen > 30:
                    return  # the connection closes in the middle
        finally:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def bars(chain: Chain) -> dict[str, float]:
    """Return each bar as the page draws it: points of all that is paid."""
    return {loss.name: loss.points or 0.0 for stage in chain.stages for loss in stage.losses}


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> object:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError("the factory did not come up")


def engine_pid(home: Path) -> int | None:
    state = json.loads((home / "run" / "state.json").read_text())
    found = [p["pid"] for p in state["processes"] if p["role"] == "engine-edge"]
    return found[0] if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=25.0, help="of each phase")
    parser.add_argument(
        "--only", action="append", choices=OWN, help="this loss (several: again); all, if none"
    )
    parser.add_argument("--ttft-s", type=float, default=2.5, help="promise of the first token")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wattmill-losses-") as folder:
        root = Path(folder)
        (root / "wattmill.toml").write_text(DECLARATION.format(ttft_s=args.ttft_s))
        home = root / "home"
        log = (root / "up.log").open("wb")
        up = subprocess.Popen(
            [sys.executable, "-m", "wattmill", "up", "-c", str(root / "wattmill.toml"), "--home", str(home)],
            stdout=log, stderr=subprocess.STDOUT, cwd=root,
        )  # fmt: skip
        try:
            return _phases(args.seconds, root, home, args.only or list(OWN))
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(30)
            log.close()


def _phases(seconds: float, root: Path, home: Path, losses: list[str]) -> int:
    key = str(wait_for(lambda: (m := re.search(r"wm-[\w-]+", (root / "up.log").read_text())) and m[0]))
    wait_for(lambda: (home / "run" / "state.json").exists() and engine_pid(home))
    url = json.loads((home / "run" / "state.json").read_text())["gateway_url"]
    told: dict[str, dict[str, float]] = {}

    def phase(name: str, clients: Clients, meanwhile: Callable[[], None] = lambda: None) -> None:
        time.sleep(2.0)  # what came before has ended
        begin = time.time_ns() // 1_000
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            meanwhile()
            time.sleep(0.1)
        end = time.time_ns() // 1_000
        clients.stop()
        found = efficiency(seen_at(Home(home), since_us=begin, until_us=end)).capacity
        told[name] = bars(found) | {"useful": found.factor or 0.0}
        print(f"{name}: useful {found.factor or 0.0:.1%}", flush=True)

    killed = [time.monotonic()]

    def kill() -> None:
        pid = engine_pid(home)
        if pid and time.monotonic() - killed[0] > 8.0:
            killed[0] = time.monotonic()
            os.kill(pid, signal.SIGKILL)

    def throttle() -> None:
        pid = engine_pid(home)
        if pid:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.25)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.15)

    warm = Clients(url, key, 2)
    time.sleep(min(8.0, seconds))
    warm.stop()
    phase("as it is", Clients(url, key, 2))
    inject: dict[str, Callable[[], None]] = {
        "aborted": lambda: phase("aborted", Clients(url, key, 2, leave=True)),
        "idle": lambda: phase("idle", Clients(url, key, 2, pause=True)),
        "throttled": lambda: phase("throttled", Clients(url, key, 2), throttle),
        "crowd": lambda: phase("crowd", Clients(url, key, 6)),
        "killed": lambda: phase("killed", Clients(url, key, 2), kill),
    }
    for name in losses:
        inject[name]()
    _table(told)
    return _verdict(told)


def _table(told: dict[str, dict[str, float]]) -> None:
    names = [n for n in told["as it is"] if any(abs(told[p][n]) >= 5e-4 for p in told)]
    print("\n| points of all | " + " | ".join(told) + " |\n|---|" + "---:|" * len(told))
    for name in names:
        print(f"| {name} | " + " | ".join(f"{told[p][name]:.1%}" for p in told) + " |")


def _verdict(told: dict[str, dict[str, float]]) -> int:
    base, right = told["as it is"], 0
    print()
    put_in = {phase: own for phase, own in OWN.items() if phase in told}
    for phase, own in put_in.items():
        moved = {n: told[phase][n] - base[n] for n in base if n != "useful"}
        by = moved.pop(own)
        along = sorted(moved.items(), key=lambda row: -abs(row[1]))[:2]
        most = all(by > other for other in moved.values())
        right += most
        print(
            f"{phase}: {own} {by * 100:+.1f} points; with it "
            + ", ".join(f"{name} {other * 100:+.1f}" for name, other in along)
            + ("" if most else "   <- another bar grew more")
        )
    print(f"own_bar_moved_most={right}/{len(put_in)}")
    return 0 if right == len(put_in) else 1


if __name__ == "__main__":
    raise SystemExit(main())
