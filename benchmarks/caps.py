"""Caps that hold: crowds of callers spend keys to their caps in every way that usually leaks.

    python benchmarks/caps.py [--quick] [--only WORDS]

A matrix of fan-out x scenario x workers against real factories (`wattmill up`) and scripted engines. What was
spent is counted from the engines' own log times the price book, by code that does not import wattmill
(`caps_verdict`). After each crowd one caller goes on alone until it is refused: then its least possible cost
must not fit what the cap has left. The last line is `cells=N overshoot=0`; the exit code is 1 if a cap was
passed or somebody was refused who need not have been.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import caps_units
from caps_client import Caller, Told, crowd
from caps_verdict import Prices, read
from factory import TEAM, Factory, Server, declaration, free_port, http, wattmill
from private_postgres import NoPostgres, PrivatePostgres

MODEL = "scripted"
PRICES = Prices(input_nusd=150, output_nusd=600)  # 0.15 and 0.60 dollars per million tokens
MAX_TOKENS = 20
FAN_OUTS = (1, 4, 16, 64, 256, 1000)
TERM_S = 2.0
SERIAL_USE = 0.90


@dataclass(frozen=True, slots=True)
class Setting:
    """One factory: how many workers, and where their leases are kept."""

    name: str
    workers: int
    postgres: bool = False


SETTINGS = (
    Setting("1 worker", 1),
    Setting("2 workers", 2),
    Setting("2 workers, PostgreSQL", 2, postgres=True),
)


@dataclass(slots=True)
class Cell:
    """What one cell showed."""

    scenario: str
    fan_out: int
    setting: str
    cap: int
    spent: int  # by the engines' log
    counted: int  # by the caps themselves
    told: Told
    took_s: float
    wrong: list[str] = field(default_factory=list)
    unit: str = "nusd"

    @property
    def overshoot(self) -> int:
        return max(0, self.spent - self.cap)

    def row(self) -> str:
        use, counted = self.spent / self.cap, self.counted / self.cap
        codes = " ".join(f"{code}={n}" for code, n in sorted(self.told.codes.items()))
        text = (
            f"{self.setting:22} {self.scenario:35} fan-out {self.fan_out:4}  use {use:6.1%}  counted "
            f"{counted:6.1%}  overshoot {self.overshoot}  served {self.told.served:5}  "
            f"{self.took_s:5.1f} s  {codes}"
        )
        return text + "".join(f"\n    WRONG: {what}" for what in self.wrong)


class Bench:
    """One factory with two scripted engines, and a key for each cell."""

    def __init__(self, folder: Path, setting: Setting, url: str | None, *, hedges: bool = False) -> None:
        self.setting = setting
        self.mark = "h" if hedges else "c"  # a shared store knows spenders of both by their names
        self.folder = folder
        self.log = folder / "engines.log"
        self.engines = {
            name: Server(
                sys.executable, str(Path(__file__).with_name("scripted_engine.py")),
                "--log", str(self.log), "--pool", name, "--tokens", "100000", "--delay-ms", "1",
            )
            for name in ("a", "b")
        }  # fmt: skip
        for engine in self.engines.values():
            engine.start()
        self.port, self.admin_port = free_port(), free_port()
        toml = declaration(
            {name: f"http://127.0.0.1:{engine.port}/v1" for name, engine in self.engines.items()},
            model=MODEL, port=self.port, admin_port=self.admin_port, workers=setting.workers, slots=2048,
        )  # fmt: skip
        store = f'store = "{url}"\n' if url is not None else ""
        toml += f"\n[budgets]\n{store}term_s = {TERM_S}\n"
        # The breaker would end the scenario: it leaves a place alone that fails every other request.
        toml += "\n[resilience]\n" + ('hedge_after = "20 ms"\n' if hedges else "")
        toml += "[resilience.breaker]\nfailures = 1000000\n"
        self.factory = Factory(folder / "home", toml, port=self.port)
        self.factory.key = "made per cell"
        self.factory.start()
        self.cells = 0

    def close(self) -> None:
        self.factory.stop()
        for engine in self.engines.values():
            engine.kill()

    # --- what a user would do ------------------------------------------------------------------------------

    def new_key(self, name: str, cap_nusd: int) -> str:
        token = (self.factory.home / "admin.token").read_text().strip()
        status, _, answer = http(
            f"http://127.0.0.1:{self.admin_port}/api/keys",
            body={"team": TEAM, "name": name, "cap_nusd": cap_nusd},
            headers={"authorization": f"Bearer {token}"},
        )
        if status != 201:
            raise RuntimeError(f"no key: {status} {answer!r}")
        secret = str(json.loads(answer)["secret"])
        until = time.monotonic() + 15
        known = 0
        while known < 3 * self.setting.workers:
            if time.monotonic() > until:
                raise RuntimeError("the gateway does not know a new key after 15 s")
            with contextlib.suppress(OSError):
                headers = {"authorization": f"Bearer {secret}"}
                known = known + 1 if http(self.factory.url + "/v1/models", headers=headers)[0] == 200 else 0
            time.sleep(0.01 if known else 0.05)
        return secret

    def counted_nusd(self, name: str) -> tuple[int, int]:
        """Return what the caps say that a key has used and has reserved, once that stands still."""
        before = None
        for _ in range(100):
            done = wattmill("budget", "show", f"{TEAM}/{name}", "--json", "--home", str(self.factory.home))
            if done.returncode:
                raise RuntimeError(done.stderr)
            shown = json.loads(done.stdout)[0]
            now = int(shown["used_nusd"]), int(shown["reserved_nusd"])
            if now == before and now[1] == 0:
                break
            before = now
            time.sleep(0.3)
        assert before is not None
        return before

    def worker_pids(self) -> list[int]:
        return [pid for role, pid in sorted(self.factory.pids().items()) if role.startswith("gateway-")]

    # --- one cell ------------------------------------------------------------------------------------------

    async def cell(
        self,
        scenario: str,
        fan_out: int,
        *,
        during: Callable[[Bench], Awaitable[None]] | None = None,
        between: Callable[[Bench], None] | None = None,
        cap_nusd: int | None = None,
        **how: object,
    ) -> Cell:
        self.cells += 1
        name = tag = f"{self.mark}{self.cells}"
        # Room for some sixty requests, or for two thirds of a large crowd: somebody is always refused.
        one = 50 * PRICES.input_nusd + MAX_TOKENS * PRICES.output_nusd
        cap = cap_nusd or one * max(60, fan_out * 2 // 3)
        began = time.monotonic()
        key = self.new_key(name, cap)
        caller = Caller(
            port=self.port,
            key=key,
            tag=tag,
            model=MODEL,
            max_tokens=MAX_TOKENS,
            **how,  # type: ignore[arg-type]
        )
        work = asyncio.create_task(crowd(caller, fan_out))
        if during is not None:
            await during(self)
        told = await work
        if between is not None:
            await asyncio.to_thread(between, self)
        # One caller alone, without faults, until nothing is left.
        plain = Caller(port=self.port, key=key, tag=tag, model=MODEL, max_tokens=MAX_TOKENS, delay_ms=0.0)
        alone = await crowd(plain, 1, give_up_s=60)
        counted, reserved = await asyncio.to_thread(self.counted_nusd, name)
        spent = read(self.log)[tag].spent_nusd(PRICES)
        both = Told(
            told.codes + alone.codes, told.served + alone.served, alone.last_floor_nusd, alone.last_code
        )
        cell = Cell(scenario, fan_out, self.setting.name, cap, spent, counted, both, time.monotonic() - began)
        if not both.served:
            cell.wrong.append("nothing was served at all")
        if cell.overshoot:
            cell.wrong.append(f"the cap was passed by {cell.overshoot} nano-dollars")
        if counted < spent:
            cell.wrong.append(f"the caps count {counted} nano-dollars, the engines made {spent}")
        left = cap - counted - reserved
        floor = alone.last_floor_nusd
        if alone.gave_up or told.gave_up:
            cell.wrong.append(f"{told.gave_up + alone.gave_up} callers were never told that nothing is left")
        elif floor is None or floor <= left:
            cell.wrong.append(f"refused with {left} nano-dollars left, at least {floor} were needed")
        if scenario == "success" and fan_out == 1 and spent < SERIAL_USE * cap:
            cell.wrong.append(f"a serial run used {spent / cap:.1%}, {SERIAL_USE:.0%} was promised")
        return cell

    async def unit_cell(self, rule: caps_units.Rule, scenario: str, fan_out: int, **how: object) -> Cell:
        """Spend a key to a limit of another unit, over a period."""
        self.cells += 1
        name = f"{self.mark}{self.cells}"
        key = self.new_key(name, caps_units.PLENTY_NUSD)
        caller = Caller(
            port=self.port,
            key=key,
            tag=name,
            model=MODEL,
            max_tokens=MAX_TOKENS,
            **how,  # type: ignore[arg-type]
        )
        home = self.factory.home
        spent = await caps_units.spend(caller, name, home, self.log, rule, fan_out)
        return Cell(
            ", ".join(word for word in (rule.name, scenario) if word),
            fan_out,
            self.setting.name,
            spent.limit,
            spent.made,
            spent.counted,
            spent.told,
            spent.took_s,
            spent.wrong,
            rule.unit,
        )


# --- the scenarios -----------------------------------------------------------------------------------------


async def kill_a_worker(bench: Bench) -> None:
    """kill -9 one worker while the crowd runs. The supervisor starts another one."""
    await asyncio.sleep(0.15)
    pid = bench.worker_pids()[0]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while len(bench.worker_pids()) < bench.setting.workers or pid in bench.worker_pids():
        if time.monotonic() > until:
            raise RuntimeError("no worker came back")
        await asyncio.sleep(0.1)


def book_again(bench: Bench) -> None:
    """Lose the books: every journal, of lives that were folded long ago too, is booked a second time."""
    bench.factory.stop()
    for path in bench.factory.home.glob("ledger.db*"):
        path.unlink()
    bench.factory.start()


SCENARIOS: dict[str, dict[str, object]] = {
    "success": {},
    "429 then retry": {"first_fault": "status_429"},
    "500 after tokens": {"fault": "spent_500"},
    "reset after tokens": {"fault": "reset_half"},
    "aborted stream": {"leaves_after": 3, "delay_ms": 3.0},
    "kill -9": {"during": kill_a_worker, "delay_ms": 10.0},
    "journal booked twice": {"between": book_again},
}
HEDGE = {"faults": {"a": "slow"}}


async def stopped_past_its_lease(bench: Bench) -> Cell:
    """SIGSTOP a worker that holds money, write it off after its term, let others spend, and wake it."""
    stopped: list[int] = []

    async def during(bench: Bench) -> None:
        await asyncio.sleep(0.3)
        pid = bench.worker_pids()[-1]
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        told = await asyncio.to_thread(
            wattmill, "budget", "leases", "--json", "--home", str(bench.factory.home)
        )
        if told.returncode:
            raise RuntimeError(f"cannot list leases: {told.stderr}")
        epoch = next(row["epoch"] for row in json.loads(told.stdout) if row["place"].endswith(f"pid {pid}"))
        until = time.monotonic() + 6 * TERM_S
        while True:
            await asyncio.sleep(0.5)
            done = await asyncio.to_thread(
                wattmill, "budget", "write-off", epoch, "--home", str(bench.factory.home)
            )
            if done.returncode == 0:
                break
            if time.monotonic() > until:
                raise RuntimeError(f"cannot write off: {done.stderr}")
        # The others spend what there is, then it wakes with what it believes to hold.
        await asyncio.sleep(1.0)
        os.kill(pid, signal.SIGCONT)

    return await bench.cell("stopped past lease", 16, during=during, delay_ms=10.0)


def parts(quick: bool) -> Iterator[tuple[Setting, tuple[int, ...]]]:
    for setting in SETTINGS:
        yield setting, (1, 16) if quick else FAN_OUTS


async def run(args: argparse.Namespace) -> int:
    cells: list[Cell] = []
    skipped: list[str] = []

    def done(cell: Cell) -> None:
        cells.append(cell)
        print(cell.row(), flush=True)

    for setting, fan_outs in parts(args.quick):
        if args.only not in setting.name or args.setting not in ("", setting.name):
            continue
        with contextlib.ExitStack() as stack:
            url = None
            if setting.postgres:
                try:
                    url = stack.enter_context(PrivatePostgres())
                except NoPostgres as error:
                    skipped.append(f"{setting.name}: {error}")
                    continue
            with _bench(setting, url) as bench:
                for scenario, how in SCENARIOS.items():
                    if args.scenario and args.scenario not in scenario:
                        continue
                    for fan_out in args.fan_out or fan_outs:
                        done(await bench.cell(scenario, fan_out, **how))  # type: ignore[arg-type]
                for rule, scenario, how in caps_units.CELLS:
                    if args.scenario and args.scenario not in f"{rule.name}, {scenario}":
                        continue
                    for fan_out in args.fan_out or caps_units.FAN_OUTS[: 2 if args.quick else 3]:
                        done(await bench.unit_cell(rule, scenario, fan_out, **how))
                if setting.workers > 1 and (not args.scenario or args.scenario in "stopped past lease"):
                    done(await stopped_past_its_lease(bench))
            if not args.scenario or args.scenario in "hedge":
                with _bench(setting, url, hedges=True) as bench:
                    for fan_out in args.fan_out or fan_outs:
                        done(await bench.cell("hedge", fan_out, **HEDGE))  # type: ignore[arg-type]
    for line in skipped:
        print(f"SKIPPED {line}")
    if args.out:
        _write(args.out, cells)
    wrong = [cell for cell in cells if cell.wrong]
    print(f"wrong={len(wrong)} skipped={len(skipped)}")
    print(f"cells={len(cells)} overshoot={sum(cell.overshoot for cell in cells)}")
    return 1 if wrong or skipped or not cells else 0


@contextlib.contextmanager
def _bench(setting: Setting, url: str | None, *, hedges: bool = False) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="wattmill-caps-"))
    bench: Bench | None = None
    try:
        bench = Bench(folder, setting, url, hedges=hedges)
        yield bench
    finally:
        if bench is not None:
            bench.close()
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, cells: list[Cell]) -> None:
    rows = [
        {
            "setting": cell.setting,
            "scenario": cell.scenario,
            "fan_out": cell.fan_out,
            "unit": cell.unit,
            "cap": cell.cap,
            "spent": cell.spent,
            "counted": cell.counted,
            "overshoot": cell.overshoot,
            "served": cell.told.served,
            "codes": dict(cell.told.codes),
            "wrong": cell.wrong,
        }
        for cell in cells
    ]
    path.write_text(json.dumps({"cells": rows}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fan-outs 1 and 16 only")
    parser.add_argument("--only", default="", help="part of a setting's name, e.g. 'PostgreSQL'")
    parser.add_argument("--setting", default="", help="the whole name of a setting")
    parser.add_argument("--scenario", default="", help="part of a scenario's name")
    parser.add_argument("--fan-out", type=int, action="append", help="instead of all")
    parser.add_argument("--out", type=Path, help="write the cells as JSON")
    raise SystemExit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
