"""A live hour under load with kills: does every joule of the meter stand in the books, and with whom?

A factory with an embedded engine on this machine serves a few callers (whole answers, streams, and streams
whose client leaves). In the first half nothing is killed, in the second half a gateway worker, the engine,
the ledger or the admin app dies by SIGKILL every `--kill-s` seconds. Then the books settle, `wattmill audit`
must hold, and this script adds the postings up by itself, from the tables and not by wattmill's code:

    requests + idle + service + foreign + overhead + unattributed = meter, to the microjoule
    |unattributed| <= 1 % of the half without kills, <= 3 % of the half with them

    python benchmarks/joules_hour.py                       an hour
    python benchmarks/joules_hour.py --seconds 40 --kill-s 6     a smoke

Watts are modelled on a machine without a meter that can be read (CPU time through the declared host model):
what is proved is the accounting, not the watts. `foreign` is what other programs of this machine used: its
share says how busy the machine was with something else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

from factory import Factory, free_port, wattmill

MODEL = "smollm2-135m"
GOALS = {"quiet": 0.01, "kills": 0.03}
KINDS = ("gateway", "engine", "ledger", "engine", "admin", "gateway")
SETTLE_S = 4.0


def declaration(port: int, admin_port: int) -> str:
    return f"""
[factory]
name = "joules hour"

[gateway]
host = "127.0.0.1"
port = {port}
workers = 2
drain_s = 2.0

[admin]
host = "127.0.0.1"
port = {admin_port}

[models.{MODEL}]
context_tok = 8192

[pools.edge]
engine = "embedded"
place = "edge"
weights = "smollm2-135m-instruct.q4_0-from-q4_1"
models = ["{MODEL}"]
slots = 2
queue = 64
speed = {{ prefill_tok_per_s = 350.0, decode_tok_per_s = 105.0 }}
cost = {{ rule = "rates", input_usd_per_mtok = "0.01", output_usd_per_mtok = "0.03" }}

[tenants.bench.teams.load]
"""


class Caller(threading.Thread):
    """Asks, waits, asks again; every fourth stream is left after its first bytes."""

    def __init__(self, factory: Factory, *, seed: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.factory, self.random, self.pause_s = factory, random.Random(seed), pause_s
        self.ending = threading.Event()
        self.asked = self.answered = self.left = self.failed = 0

    def run(self) -> None:
        while not self.ending.wait(self.random.expovariate(1 / self.pause_s)):
            self.asked += 1
            try:
                self.ask()
            except (OSError, http.client.HTTPException):
                self.failed += 1

    def ask(self) -> None:
        stream = self.random.random() < 0.6
        leave = stream and self.random.random() < 0.25
        words = " ".join(self.random.choices(("red", "house", "seven", "river", "light"), k=40))
        body = {
            "model": MODEL,
            "max_tokens": self.random.randint(8, 48),
            "stream": stream,
            "messages": [{"role": "user", "content": f"Say something of these: {words}"}],
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.factory.port, timeout=60)
        try:
            headers = {"content-type": "application/json", "authorization": f"Bearer {self.factory.key}"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            if leave:
                answer.read(200)
                self.left += 1
            else:
                answer.read()
                self.answered += answer.status == 200
                self.failed += answer.status != 200
        finally:
            connection.close()


def kill_one(factory: Factory, kind: str, rng: random.Random) -> str | None:
    """Kill one process of a kind; return its role, or None where none runs just now."""
    pids = {
        one["role"]: one["pid"]
        for one in factory.state().get("processes", ())
        if one["role"].startswith(kind) and one["pid"] is not None
    }
    if not pids:
        return None
    role = rng.choice(sorted(pids))
    try:
        os.kill(pids[role], signal.SIGKILL)
    except ProcessLookupError:
        return None
    return role


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="both halves together")
    parser.add_argument("--kill-s", type=float, default=20.0, help="mean seconds between kills")
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument(
        "--pause-s", type=float, default=4.0, help="mean pause of a caller between two requests"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        factory = Factory(Path(folder) / "home", declaration(port, free_port()), port=port)
        factory.start(timeout_s=120.0)
        callers = [
            Caller(factory, seed=args.seed * 100 + n, pause_s=args.pause_s) for n in range(args.callers)
        ]
        kills: dict[str, int] = {}
        strikes = 0
        try:
            for caller in callers:
                caller.start()
            print(
                f"{platform.platform()}, {os.cpu_count()} cores; {args.seconds:g} s, half of it with kills",
                flush=True,
            )
            time.sleep(args.seconds / 2)
            halfway_us = time.time_ns() // 1_000
            ends_s = time.monotonic() + args.seconds / 2
            while (left_s := ends_s - time.monotonic()) > 0:
                time.sleep(min(left_s, args.kill_s * rng.uniform(0.5, 1.5)))
                if ends_s - time.monotonic() > 3.0:
                    role = kill_one(factory, KINDS[strikes % len(KINDS)], rng)
                    strikes += 1
                    if role is not None:
                        kills[role] = kills.get(role, 0) + 1
            for caller in callers:
                caller.ending.set()
            for caller in callers:
                caller.join(60)
            time.sleep(SETTLE_S)
        finally:
            factory.stop()
        audit = wattmill("audit", "--json", "--home", str(factory.home), timeout_s=300.0)
        return verdict(factory.home / "ledger.db", halfway_us, json.loads(audit.stdout), callers, kills)


def verdict(ledger: Path, halfway_us: int, audit: dict, callers: list[Caller], kills: dict[str, int]) -> int:
    asked = {name: sum(getattr(c, name) for c in callers) for name in ("asked", "answered", "left", "failed")}
    print("callers: " + ", ".join(f"{name} {n}" for name, n in asked.items()))
    print(f"kills: {sum(kills.values())} ({', '.join(f'{role} {n}' for role, n in sorted(kills.items()))})")
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
        ok = True
        for half, since, until in (("quiet", 0, halfway_us), ("kills", halfway_us, 1 << 62)):
            sums = postings(db, since, until)
            meter = -sums.pop("meter", 0)
            difference = meter - sum(sums.values())
            rest = sums.get("unattributed", 0) / meter if meter else float("nan")
            said = ", ".join(
                f"{kind} {uj / 1e6:.3f} J ({uj / meter:.2%})" for kind, uj in sorted(sums.items())
            )
            met = difference == 0 and abs(rest) <= GOALS[half]
            ok = ok and met
            print(f"{half}: meter {meter / 1e6:.3f} J = {said}; difference {difference} uJ")
            own = sums.get("unattributed", 0) / ((meter - sums.get("foreign", 0)) or 1)
            goal = f"goal {GOALS[half]:.0%}: {'met' if met else 'MISSED'}"
            print(f"  unattributed {rest:.3%} of the meter ({goal}), {own:.3%} of it without foreign")
        kinds = db.execute(
            "SELECT p.text, count(*), sum(length_us) / 1e6 FROM meter_window JOIN name p "
            "ON p.id = provenance GROUP BY 1"
        ).fetchall()
    print("provenance: " + ", ".join(f"{kind}: {n} windows, {seconds:.0f} s" for kind, n, seconds in kinds))
    failed = [check["name"] for check in audit["checks"] if not check["holds"]]
    energy = [c for c in audit["checks"] if "joule" in c["name"]]
    for check in energy:
        print(f"audit: {check['name']}: {'holds' if check['holds'] else 'BROKEN'} ({check['detail']})")
    ok = ok and not failed and len(energy) == 2
    print(f"joules_hour: {'every goal met' if ok else f'NOT MET {failed}'}")
    return 0 if ok else 1


def postings(db: sqlite3.Connection, since_us: int, until_us: int) -> dict[str, int]:
    """Sum the microjoules of the windows that began in a span, by kind of account, from the postings."""
    rows = db.execute(
        "SELECT substr(a.name, 1, instr(a.name, ':') - 1) AS kind, sum(amount) FROM posting p "
        "JOIN account a ON a.id = p.account JOIN meter_more x ON p.id >= x.tx << 6 "
        "AND p.id < (x.last_tx + 1) << 6 JOIN meter_window w ON w.tx = x.tx "
        "WHERE commodity = 'uj' AND w.start_us >= ? AND w.start_us < ? GROUP BY kind",
        (since_us, until_us),
    )
    return {"requests" if kind == "key" else kind: uj for kind, uj in rows}


if __name__ == "__main__":
    sys.exit(main())
