"""A factory's folder as a busy hour leaves it, booked by the real bookkeeper; nothing of it runs.

The processes that a board asks are played: a lock that is held, a state file, a worker's control socket.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from wattmill.app.home import Home
from wattmill.app.ledger_process import follower
from wattmill.app.running.admin_token import admin_token
from wattmill.app.running.home_lock import Holder, HomeLock
from wattmill.app.running.lag import Lag
from wattmill.app.running.state import FactoryState, PlaceState, ProcessState, write_state
from wattmill.distribution.metrics import BY_NAME
from wattmill.ledger.journal import Journal
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.vocab.fact import End, Intent, MeterWindow, Refused
from wattmill.vocab.route import Candidate, Excluded, Route
from wattmill.vocab.usage import Usage

S = 1_000_000
SOURCE = "host model idle=20W max=65W alpha=1.0 on 2 cores"
MODEL = "smollm2-135m"
POOLS = ("edge", "local", "cloud")
RATES = {
    "edge": (60_000_000, 6_000_000, None, None, 240_000_000, 240_000_000, None),
    "local": (90_000_000, 9_000_000, None, None, 360_000_000, 360_000_000, None),
    "cloud": (150_000_000, 75_000_000, None, None, 600_000_000, 600_000_000, None),
}
REASON = "least expected dollars plus waiting: edge $0.000031 in 0.9 s, local $0.000046 in 1.1 s"


class PlayedWorker(threading.Thread):
    """Answers a worker's control socket."""

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        super().__init__(name="played-worker", daemon=True)
        self.answers = answers
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(16)

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file:
                for line in file:
                    operation = msgspec.json.decode(line)["op"]
                    file.write(msgspec.json.encode(self.answers[operation]) + b"\n")
                    file.flush()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()


class BoardFactory:
    """`busy` seconds of traffic that end now. `close` it."""

    def __init__(
        self, root: Path, *, requests: int = 120, busy_s: float = 240.0, now_us: int | None = None
    ) -> None:
        self.home = Home(root)
        self.home.create()
        self.now_us = now_us or time.time_ns() // 1_000
        self.control = Control(self.home.control_db)
        self.token = admin_token(self.home, self.control)
        self._rng = random.Random(7)
        self._tenants()
        self.prices = {
            pool: (
                self.control.publish_price(f"{pool} cost", MODEL, [r and r * 7 // 10 for r in RATES[pool]]),
                self.control.publish_price(f"{pool} list", MODEL, RATES[pool]),
            )
            for pool in POOLS
        }
        self.gateway = Journal(self.home.journal, kind="gateway", worker=0)
        self.meter = Journal(self.home.journal, kind="meter", worker=0)
        self.seq = 0
        self.counted: dict[tuple[str, ...], float] = {}
        self._lock = HomeLock(self.home)
        holder = Holder(pid=os.getpid(), since="now", command="wattmill up", gateway="http://127.0.0.1:8686")
        assert self._lock.take(holder) is None
        self._traffic(requests, busy_s)
        self.book()
        self.worker = PlayedWorker(
            self.home.worker_socket(0), {"status": self._status(), "metrics": self.worker_metrics()}
        )
        self.worker.start()
        self.write_state()

    def _tenants(self) -> None:
        control = self.control
        org = control.put_org("demo", cap_nusd=5 * 10**9)
        first = control.put_team(org, "first-light", cap_nusd=10**9)
        load = control.put_team(org, "load", cap_nusd=20_000_000)
        Limits(control).put(load, "requests", "minute", 60)
        Limits(control).put(first, "total_tok", "day", 250_000)
        self.console, _ = control.create_key(first, "console")
        self.script, _ = control.create_key(load, "script")

    def _traffic(self, requests: int, busy_s: float) -> None:
        rng = self._rng
        begin = self.now_us - int(busy_s * S)
        for second in range(int(busy_s)):
            self.window(begin + second * S, edge_uj=14_000_000, local_uj=8_900_000, other_uj=6_200_000)
        for n in range(requests):
            at = begin + int(n / requests * (busy_s - 3) * S)
            pool = rng.choices(POOLS, (6, 3, 1))[0]
            key = rng.choices((self.console, self.script), (3, 7))[0]
            if n % 29 == 11:
                self.refuse(key.path, at, "budget_exceeded")
                continue
            seq = self.begin(key.path, pool, at)
            usage = Usage(rng.randint(40, 400), rng.randint(8, 160), cached_tok=rng.choice((0, 0, 32)))
            status = "aborted" if n % 31 == 7 else "finished"
            if n % 41 == 13:
                self.end(seq, "cloud" if pool == "cloud" else pool, at + 90_000, None, status="failed")
                seq = self.begin(key.path, "local", at + 100_000, first=seq)
                pool = "local"
            self.end(seq, pool, at + rng.randint(300_000, 2_400_000), usage, status=status, since_us=at)
        self.begin(self.console.path, "edge", self.now_us - S)  # still running

    def begin(self, path: tuple[int, ...], pool: str, at_us: int, *, first: int | None = None) -> int:
        self.seq += 1
        cost, charge = self.prices[pool]
        candidates = tuple(
            Candidate(p, 31_000 + 15_000 * i, 0.15 + 0.1 * i, 0.9 + 0.2 * i, 1.0 + i)
            for i, p in enumerate(("edge", "local"))
        )
        route = Route(candidates, (Excluded("cloud", "privacy"),), REASON, 1) if first is None else None
        self.gateway.append_intent(
            Intent(
                self.seq,
                first or self.seq,
                0 if first is None else 1,
                at_us,
                path,
                pool,
                MODEL,
                "chat",
                True,
                900,
                256,
                900_000,
                cost.id,
                charge.id,
                asked_output_tok=256,
                route=route,
                reserved_cost_nusd=900_000,
            )
        )
        return self.seq

    def end(
        self,
        seq: int,
        pool: str,
        at_us: int,
        usage: Usage | None,
        *,
        status: str = "finished",
        since_us: int = 0,
    ) -> None:
        cost, charge = self.prices[pool]
        spent, charged = (rate(cost, usage), rate(charge, usage)) if usage else (0, 0)
        took = at_us - since_us if since_us else 90_000
        ttft = min(took, self._rng.randint(90_000, 420_000)) if usage else None
        self.gateway.append_end(
            End(
                seq, at_us, status, usage, "measured" if usage else "none", spent, charged, ttft_us=ttft,
                duration_us=took, started_us=at_us - took, queue_us=4_000, prefill_us=80_000,
                finish_reason="stop" if status == "finished" else None,
                error="upstream_failed" if not usage else None,
            )  # type: ignore[arg-type]
        )  # fmt: skip
        self.count("wattmill_attempts_total", pool, status)
        self.count("wattmill_requests_total", "chat", pool, "2xx")
        self.count("wattmill_charge_nusd_total", pool, by=charged)
        if ttft:
            self.count("wattmill_ttft_seconds", pool)

    def refuse(self, path: tuple[int, ...], at_us: int, code: str) -> None:
        self.seq += 1
        self.gateway.append_note(
            Refused(self.seq, at_us, path, "chat", MODEL, code, "the cap of demo/load is used up")
        )
        self.count("wattmill_refusals_total", code)

    def window(self, start_us: int, *, edge_uj: int, local_uj: int, other_uj: int) -> None:
        shares = {"edge": edge_uj, "local": local_uj}
        total = 20_000_000 + sum(shares.values()) + other_uj
        self.meter.append_note(
            MeterWindow(
                "host", start_us, start_us + S, total, 20_000_000, shares, other_uj, "modelled", SOURCE
            )
        )

    def book(self) -> None:
        """Book what was written, as the ledger process does."""
        with Control(self.home.control_db) as control:
            loop = follower(self.home, control)
            loop.catch_up()
            loop.close()
        lag = Lag(at_us=time.time_ns() // 1_000, behind_records=0)
        (self.home.run / "ledger.json").write_bytes(msgspec.json.encode(lag))

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        self.counted[name, *labels] = self.counted.get((name, *labels), 0) + by

    def worker_metrics(self) -> dict[str, Any]:
        """Return what a worker answers: {"epoch", "metrics": {name: [[labels, value or buckets], …]}}."""
        snapshot: dict[str, list[Any]] = {"wattmill_in_flight": [[[], 1]]}
        for (name, *labels), value in self.counted.items():
            buckets = len(BY_NAME[name].buckets)
            row = [value, *[0.0] * buckets, 0.01 * value] if buckets else value
            snapshot.setdefault(name, []).append([labels, row])
        return {"epoch": self.gateway.epoch, "metrics": snapshot}

    def _status(self) -> dict[str, Any]:
        fleet = [
            {"pool": p, "healthy": True, "busy": int(p == "edge"), "slots": 4, "last_error": None}
            for p in POOLS
        ]
        started = self.now_us - 600 * S
        return {
            "epoch": self.gateway.epoch, "worker": 0, "listening": True, "draining": False,
            "started_us": started, "in_flight": 1, "rss_mb": 41.2, "cpu_s": 6.0, "fleet": fleet,
        }  # fmt: skip

    def write_state(self, **more: Any) -> None:
        """Write the state file as the supervisor does; `more` replaces fields."""
        roles = ("ledger", "gateway-0", "admin", "engine-edge", "engine-local", "engine-cloud")
        up = [
            ProcessState(role=r, pid=9_000 + i, since_us=self.now_us - 600 * S, restarts=0, state="up")
            for i, r in enumerate(roles)
        ]
        places = [
            PlaceState(
                pool=pool, place=pool, engine=f"llama.cpp, {MODEL}-{kind}", stand_in=pool == "cloud",
                power_w=watts, power_provenance="modelled" if watts else "unknown",
            )
            for pool, kind, watts in (("edge", "q4_0", 14.0), ("local", "q8_0", 8.9), ("cloud", "q8_0", None))
        ]  # fmt: skip
        state = FactoryState(
            name="first light", supervisor_pid=os.getpid(), started_us=self.now_us - 600 * S,
            at_us=time.time_ns() // 1_000, gateway_url="http://127.0.0.1:8686", admin_url="http://127.0.0.1:8687",
            workers=1, processes=up, places=places, host_w=49.1, idle_w=20.0,
            rest_w={"service": 0.9, "foreign": 4.1, "unattributed": 1.2},
            power_provenance="modelled", power_source=SOURCE, config_version=1,
        )  # fmt: skip
        write_state(self.home, msgspec.structs.replace(state, **more))

    def close(self) -> None:
        self.worker.stop()
        self.gateway.close()
        self.meter.close()
        self._lock.release()
        self.control.close()
