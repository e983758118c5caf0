"""Kill everything at random under load, then prove that nothing was lost or counted twice (`make chaos`).

A factory with two gateway workers, its ledger and its admin app, in front of two scripted engines, serves a
crowd of callers. Each round kills one thing with SIGKILL at a random moment: a gateway worker, the ledger
process, an engine, the admin app, or the supervisor with everything under it. After each kill:

  * what was killed runs again within 3 s (an outside engine is restarted by this script, `up` by hand too);
  * callers of the other gateway worker notice nothing;
  * after the supervisor's death no process is left and the ports are free, and `wattmill up` starts clean.

At the end the books settle, `wattmill audit` must hold, and `chaos_verdict.py`, which does not import
wattmill, compares the callers' log, the engines' log and the books. Its last line is the last line here.

    python benchmarks/chaos.py --rounds 50 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import books
import procfs
from chaos_client import Callers, Seen
from factory import ROOT, Factory, Server, declaration, free_port, script, wattmill

MODEL = "scripted"
RESTART_S = 3.0
KINDS = ("gateway", "ledger", "engine", "gateway", "admin", "supervisor")


class Chaos:
    """One run: what is alive, what was killed, what was noticed."""

    def __init__(self, folder: Path, *, seed: int, callers: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.engine_log = folder / "engine.log"
        self.client_log = folder / "client.log"
        self.problems: list[str] = []
        self.at_stake = 0
        self.kills = 0
        self.recovery_s: dict[str, list[float]] = {}
        self.crowd = callers
        self.engines = {pool: self._engine(pool, 0) for pool in ("a", "b")}
        for engine in self.engines.values():
            engine.start()
        port, admin_port = free_port(), free_port()
        self.ports = (port, admin_port)
        toml = declaration(
            {pool: f"http://127.0.0.1:{engine.port}/v1" for pool, engine in self.engines.items()},
            model=MODEL,
            port=port,
            admin_port=admin_port,
            workers=2,
        )
        self.factory = Factory(folder / "home", toml, port=port)
        self.callers = Callers(port=port, key="", model=MODEL, log=self.client_log, seed=seed)

    def _engine(self, pool: str, port: int) -> Server:
        return Server(
            *script("scripted_engine.py"),
            *("--log", str(self.engine_log), "--pool", pool, "--delay-ms", "10", "--port", str(port)),
        )

    async def run(self, rounds: int) -> None:
        await asyncio.to_thread(self.factory.start)
        self.callers.key = self.factory.key
        crowd = [asyncio.create_task(self.callers.caller()) for _ in range(self.crowd)]
        await asyncio.sleep(1.0)
        kinds: list[str] = []
        while len(kinds) < rounds:
            deck = list(KINDS)
            self.random.shuffle(deck)
            kinds += deck
        try:
            for number, kind in enumerate(kinds[:rounds], 1):
                await asyncio.sleep(self.random.uniform(0.2, 1.2))
                await self.kill(number, kind)
        finally:
            self.callers.stopping = True
            done, pending = await asyncio.wait(crowd, timeout=30)
            for task in pending:
                task.cancel()
            if pending:
                self.problems.append(
                    f"{len(pending)} callers hang: an answer neither came nor broke off in 30 s"
                )
            for task in done:
                task.result()

    async def kill(self, number: int, kind: str) -> None:
        """Kill one thing, then see that it comes back and who noticed."""
        self.kills += 1
        note: Callable[[str], None] = lambda text: self.problems.append(f"kill {number} ({kind}): {text}")  # noqa: E731
        if kind == "engine":
            took_s = await self.kill_engine()
        elif kind == "supervisor":
            took_s = await self.kill_supervisor(note)
        else:
            took_s = await self.kill_child(kind, note)
        self.recovery_s.setdefault(kind, []).append(took_s)
        print(
            f"kill {number}: {kind}, back after {took_s:.2f} s, {len(self.callers.ended)} requests so far",
            flush=True,
        )
        if took_s > RESTART_S and kind not in ("engine", "supervisor"):  # these two are started by hand
            note(f"back after {took_s:.2f} s, must be within {RESTART_S} s")

    def strike(self, *, takes_gateways: bool) -> list[Seen]:
        """Return what is in flight at the moment of a kill. Only the death of a gateway may leave doubt."""
        stake = self.callers.at_stake()
        if takes_gateways:
            self.at_stake += len(stake)
        return stake

    async def kill_engine(self) -> float:
        pool = self.random.choice(sorted(self.engines))
        port = self.engines[pool].port
        self.engines[pool].kill()
        await asyncio.sleep(self.random.uniform(0.05, 0.5))
        began_s = time.monotonic()
        self.engines[pool] = self._engine(pool, port)
        await asyncio.to_thread(self.engines[pool].start)
        return time.monotonic() - began_s

    async def kill_supervisor(self, note: Callable[[str], None]) -> float:
        self.strike(takes_gateways=True)
        await asyncio.to_thread(self.factory.kill)
        began_s = time.monotonic()
        # The last thread of a killed process may sit in a flush of the disk: its sockets close after that.
        while (left := self.held()) and time.monotonic() - began_s < RESTART_S:
            await asyncio.sleep(0.02)
        for what in left:
            note(f"{RESTART_S:g} s after the supervisor's death there is still {what}")
        began_s = time.monotonic()
        try:
            await asyncio.to_thread(self.factory.start)
        except (RuntimeError, TimeoutError) as error:
            note(f"`wattmill up` did not start again: {error}")
            raise
        return time.monotonic() - began_s

    def held(self) -> list[str]:
        """Return what is left of a factory: processes and listeners."""
        processes = [f"process {pid}: {line}" for pid, line in self.factory.remains().items()]
        return processes + [f"a listener on port {port}" for port in self.ports if procfs.listens(port)]

    async def kill_child(self, kind: str, note: Callable[[str], None]) -> float:
        pids = self.factory.pids()
        roles = sorted(role for role in pids if role.startswith(kind))
        if not roles:
            note(f"nothing of this kind runs: {pids}")
            return 0.0
        role = self.random.choice(roles)
        pid = pids[role]
        epoch = epoch_of(self.factory.home, pid) if kind == "gateway" else None
        before = len(self.callers.ended)
        watched = self.strike(takes_gateways=kind == "gateway")
        subprocess.run(["kill", "-9", str(pid)], check=False)
        began_s = time.monotonic()
        while time.monotonic() - began_s < 15:
            again = [
                one
                for one in self.factory.state().get("processes", ())
                if one["role"] == role and one["state"] == "up" and one["pid"] not in (None, pid)
            ]
            if again:
                break
            await asyncio.sleep(0.02)
        else:
            note(f"{role} did not come back in 15 s; state: {self.factory.state().get('processes')}")
        took_s = time.monotonic() - began_s
        # Those in flight then had 15 s to end; see how the streams of others fared.
        while any(seen.ended_s is None for seen in watched) and time.monotonic() - began_s < 15:
            await asyncio.sleep(0.02)
        for seen in [seen for seen in self.callers.ended[before:] if seen in watched]:
            if seen.end == "cut" and seen.epoch != epoch and (kind != "gateway" or seen.epoch):
                note(f"{seen.label} of epoch {seen.epoch or 'unknown'} broke, killed was {epoch or role}")
        return took_s


def epoch_of(home: Path, pid: int) -> str | None:
    """Return the epoch whose lock file names `pid`."""
    for lock in (home / "journal").glob("*/lock"):
        try:
            if json.loads(lock.read_text() or "{}").get("pid") == pid:
                return lock.parent.name
        except (OSError, json.JSONDecodeError):
            continue
    return None


def verdict(chaos: Chaos) -> int:
    """Let the books settle, audit them, compare the witnesses; return the exit code."""
    factory = chaos.factory
    try:
        books.wait_settled(factory.home, timeout_s=30)
    except TimeoutError as error:
        chaos.problems.append(str(error))
    code = factory.stop()
    if code:
        chaos.problems.append(f"`wattmill up` ended with {code} after Ctrl-C:\n{factory.printed()}")
    if left := factory.remains():
        chaos.problems.append(f"processes are left after the end: {left}")
    audit = wattmill("audit", "--home", str(factory.home), timeout_s=120)
    print(audit.stdout.rstrip())
    if audit.returncode:
        chaos.problems.append(f"`wattmill audit` exits with {audit.returncode}: {audit.stderr[-1500:]}")
    for kind, times in sorted(chaos.recovery_s.items()):
        print(f"{kind:<11} {len(times):>3} kills, back after {max(times):.2f} s at most")
    for problem in chaos.problems:
        print(f"PROBLEM {problem}")
    sys.stdout.flush()
    judged = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "chaos_verdict.py"), "--home", str(factory.home)),
            *("--engine-log", str(chaos.engine_log), "--client-log", str(chaos.client_log)),
            *("--kills", str(chaos.kills), "--in-flight", str(chaos.at_stake)),
        ],
        check=False,
    )
    return int(bool(judged.returncode or chaos.problems))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="absent: drawn, and printed")
    parser.add_argument("--callers", type=int, default=12)
    parser.add_argument("--keep", type=Path, default=None, help="work in this folder and leave it there")
    args = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="wattmill-chaos-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(folder, seed=seed, callers=args.callers)
        try:
            asyncio.run(chaos.run(args.rounds))
            return verdict(chaos)
        finally:
            for engine in chaos.engines.values():
                engine.kill()
            if chaos.factory.process is not None and procfs.alive(chaos.factory.process.pid):
                chaos.factory.kill()
            chaos.callers.close()


if __name__ == "__main__":
    raise SystemExit(main())
