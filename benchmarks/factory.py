"""A real factory under test: `wattmill up` as a process of its own, on ports that the kernel chose.

Only what a user has is used: the command, what it prints, and the folder's `run/state.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import procfs

ROOT = Path(__file__).resolve().parents[1]
TEAM = "bench/load"
KEY = re.compile(r"\bwm-[A-Za-z0-9_-]{20,}")


def free_port() -> int:
    """Return a port that was free a moment ago, below those that the kernel gives to outgoing connections:
    while a killed process restarts, no stranger's connection can take its port."""
    while True:
        port = random.randint(15_000, 31_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def environment() -> dict[str, str]:
    """Return the environment in which `python -m wattmill` finds the package of this checkout."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def wattmill(
    *args: str, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "wattmill", *args],
        env={**environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def pool_toml(name: str, base_url: str, model: str, *, slots: int = 256) -> str:
    """Return one openai_http pool. No token class is free, so that a lost token shows as money."""
    return f"""
[pools.{name}]
engine = "openai_http"
adapter = "openai"
place = "bench {name}"
base_url = "{base_url}"
models = ["{model}"]
privacy = "private"
slots = {slots}
queue = 4096
context_tok = 1000000

[pools.{name}.speed]
prefill_tok_per_s = 5000.0
decode_tok_per_s = 500.0

[pools.{name}.cost]
rule = "rates"
input_usd_per_mtok = "0.10"
cached_input_usd_per_mtok = "0.05"
output_usd_per_mtok = "0.40"

[pools.{name}.charge]
rule = "price_book"
book = "standard"
"""


def declaration(
    pools: Mapping[str, str],
    *,
    model: str,
    port: int,
    admin_port: int,
    workers: int = 1,
    cap_usd: str = "1000000",
    team_cap_usd: str = "900000",
    slots: int = 256,
    journal_toml: str = "",
) -> str:
    """Return a whole `wattmill.toml` whose pools stand at the given base URLs; caps hold at org and team."""
    org, team = TEAM.split("/")
    return (
        f"""
[factory]
name = "bench"

[gateway]
host = "127.0.0.1"
port = {port}
workers = {workers}
drain_s = 2.0

[admin]
host = "127.0.0.1"
port = {admin_port}
{journal_toml}
[models.{model}]
context_tok = 1000000
source = "mock"
"""
        + "".join(pool_toml(name, url, model, slots=slots) for name, url in pools.items())
        + f"""
[prices.standard.{model}]
input_usd_per_mtok = "0.15"
cached_input_usd_per_mtok = "0.075"
output_usd_per_mtok = "0.60"

[tenants.{org}]
cap_usd = "{cap_usd}"

[tenants.{org}.teams.{team}]
cap_usd = "{team_cap_usd}"
"""
    )


def http(
    url: str, *, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 10.0
) -> tuple[int, dict[str, str], bytes]:
    """Return (status, headers in lower case, body); an error status is an answer too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={"content-type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def wait_ready(url: str, timeout_s: float, *, poll_s: float = 0.02) -> float:
    """Poll `url` until it answers 200; return the seconds that took. Raises TimeoutError."""
    began_s = time.monotonic()
    last = ""
    while (waited_s := time.monotonic() - began_s) < timeout_s:
        try:
            status, _, answer = http(url, timeout_s=1.0)
            if status == 200:
                return time.monotonic() - began_s
            last = f"{status} {answer[:200]!r}"
        except OSError as error:
            last = repr(error)
        time.sleep(poll_s)
    raise TimeoutError(f"{url} did not answer 200 in {waited_s:.1f} s; last: {last}")


class Factory:
    """`wattmill up` on `home`. Start it, find its processes, kill some, stop it."""

    def __init__(
        self, home: Path, toml: str, *, port: int, extra_args: Sequence[str] = (), wrap: Sequence[str] = ()
    ) -> None:
        self.home = home
        self.port = port
        self.file = home.parent / f"{home.name}.toml"
        self.file.write_text(toml)
        self.log = home.parent / f"{home.name}.up.log"
        self.extra_args = list(extra_args)
        self.wrap = list(wrap)  # a command in front, such as `faketime`
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.key = ""
        self.key_cap_usd = "800000"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, timeout_s: float = 30.0) -> float:
        """Start and wait for readiness; return the seconds to the first 200 of /readyz."""
        logged_before = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [
                    *self.wrap,
                    *(sys.executable, "-m", "wattmill", "up"),
                    *("--home", str(self.home), "--config", str(self.file)),
                    *self.extra_args,
                ],
                env={**environment(), **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        took_s = self._until_ready(timeout_s)
        self._until_said("ready in", from_byte=logged_before, timeout_s=timeout_s)
        if not self.key:
            self.key = self.new_key("bench", cap_usd=self.key_cap_usd)
        return took_s

    def new_key(self, name: str, *, cap_usd: str) -> str:
        """Make a key and wait until the gateway knows it."""
        argv = ("keys", "create", TEAM, name, "--cap", cap_usd, "--json", "--home", str(self.home))
        made = wattmill(*argv, env=self.env)
        found = KEY.search(made.stdout)
        if made.returncode or found is None:
            raise RuntimeError(
                f"`wattmill keys create` ends with {made.returncode}: {made.stdout}{made.stderr}"
            )
        for _ in range(100):
            # Workers read keys a few times a second, each by itself: several yeses in a row mean all of them.
            told = [
                http(self.url + "/v1/models", headers={"authorization": f"Bearer {found.group()}"})[0]
                for _ in range(6)
            ]
            if told == [200] * 6:
                return found.group()
            time.sleep(0.1)
        raise RuntimeError(f"the gateway does not know a new key after 10 s; last answers: {told}")

    def _until_ready(self, timeout_s: float) -> float:
        assert self.process is not None
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"`wattmill up` ended with {self.process.returncode}:\n{self.printed()}")
            try:
                wait_ready(self.url + "/readyz", 0.2)
                return time.monotonic() - began_s
            except TimeoutError:
                continue
        raise TimeoutError(f"not ready in {timeout_s} s:\n{self.printed()}")

    def _until_said(self, words: str, *, from_byte: int, timeout_s: float) -> None:
        """Wait for `up` to print `words`: /readyz speaks for one worker, this for the whole factory."""
        began_s = time.monotonic()
        while words.encode() not in self.log.read_bytes()[from_byte:]:
            if time.monotonic() - began_s > timeout_s:
                raise TimeoutError(f"{words!r} was not printed in {timeout_s} s:\n{self.printed()}")
            time.sleep(0.02)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.home / "run" / "state.json").read_bytes()))
        except (OSError, json.JSONDecodeError):
            return {}

    def pids(self) -> dict[str, int]:
        """Return {role: pid} of the children that run now, from the process table rather than from a file."""
        found: dict[str, int] = {}
        for pid, line in procfs.processes_with(str(self.home)).items():
            if "wattmill.app.worker" in line:
                index = re.search(r"--worker[= ](\d+)", line)
                found[f"gateway-{index.group(1) if index else '?'}"] = pid
            elif "wattmill.app.ledger_process" in line:
                found["ledger"] = pid
            elif "wattmill.app.admin_process" in line:
                found["admin"] = pid
            elif "embedded_server" in line:
                found[f"engine-{pid}"] = pid
            elif " up " in line and "wattmill" in line and not self.wrap:
                found["supervisor"] = pid
        if self.process is not None and self.process.poll() is None:
            found.setdefault("supervisor", self.process.pid)
        return found

    def stop(self, *, timeout_s: float = 20.0) -> int:
        """End it as Ctrl-C would; return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return int(self.process.returncode)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def remains(self) -> dict[int, str]:
        """Return processes that still run for this folder."""
        return procfs.processes_with(str(self.home))


class Server:
    """A helper script that prints `listening PORT`."""

    def __init__(self, *argv: str, cpu: int | None = None) -> None:
        self.argv = [*(["taskset", "-c", str(cpu)] if cpu is not None else []), *argv]
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, env=environment())
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError(f"{self.argv} did not start: {line}")
        self.port = int(line[1])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


def script(name: str) -> tuple[str, str]:
    return sys.executable, str(ROOT / "benchmarks" / name)


@contextlib.contextmanager
def running(factory: Factory) -> Iterator[Factory]:
    """Start, hand out, and never leave anything behind."""
    try:
        factory.start()
        yield factory
    finally:
        if factory.process is not None:
            factory.stop()
