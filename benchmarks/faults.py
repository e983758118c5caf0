"""Fault injection: ten thousand scripted faults on real sockets, judged from outside.

    python benchmarks/faults.py [--injections 10000] [--seed N]

Three places with engines that do what each request tells them, by place: reset, error status, silence (until
a time-out), garbage; before the first chunk, after the first, in the middle. Streamed and not, with and
without hedging, with data that may go to some of the places only. The verdict is that of `faults_verdict.py`,
which imports nothing of wattmill: the clients' log, the engines' log and the rows of `ledger.db`.

Declared for this run, and printed: `continuation = true` (a stream that breaks after its first content goes
on elsewhere; without it such a stream is a marked partial, which is not served), and a budget for further
attempts that is larger than the default, since half of all requests are made to fail at least once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools

import books
from chaos_client import Answer, Seen
from factory import ROOT, Factory, Server, declaration, free_port, script, wattmill

MODEL = "scripted"
PLACES = ("a", "b", "c")
ADAPTERS = {"a": "vllm", "b": "llama.cpp", "c": "vllm"}
NOT_PRIVATE = "c"  # the place that may not see private data
STREAMED = (
    *("reset_0", "reset_1", "reset_half", "garbage_0", "garbage_1", "garbage_half"),
    *("silent_0", "silent_1", "silent_half", "status_500", "status_502", "status_503"),
)
TIMEOUT_S = 1.5  # a busy machine is late too, and that is no scripted fault
SLOW_MS = 150.0
RESILIENCE = """
[resilience]
attempts = 8
continuation = {continuation}
hedge_after = "{hedge}"
[resilience.retries]
share = {share}
burst = 1000.0
per_s = 100.0
"""


@dataclass(slots=True)
class Plan:
    """What is asked, and what goes wrong where."""

    label: str
    stream: bool
    tokens: int
    privacy: str
    faults: dict[str, str]
    slow: tuple[str, ...]

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(p for p in PLACES if self.privacy != "private" or p != NOT_PRIVATE)


class Campaign:
    """One factory, its engines and its callers, with or without hedging."""

    def __init__(self, folder: Path, *, seed: int, hedge: str, fault_share: float, resilience: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(seed)
        self.fault_share = fault_share
        self.name = f"h{seed}" if hedge != "off" else f"n{seed}"
        self.engine_log = folder / "engine.log"
        self.client_log = folder / "client.log"
        self.engine_log.touch()
        self.client = os.open(self.client_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.engines = {
            place: Server(
                *script("scripted_engine.py"),
                *("--log", str(self.engine_log), "--pool", place, "--tokens", "100000", "--delay-ms", "0"),
            )
            for place in PLACES
        }
        self.home = folder / "home"
        self.resilience = resilience
        self.factory: Factory
        self.serial = 0
        self.injected = 0

    def start(self) -> None:
        for engine in self.engines.values():
            engine.start()
        port = free_port()
        toml = declaration(
            {place: f"http://127.0.0.1:{engine.port}/v1" for place, engine in self.engines.items()},
            model=MODEL,
            port=port,
            admin_port=free_port(),
            slots=4096,
        )
        for place in PLACES:
            at = toml.index(f"[pools.{place}]")
            end = toml.index("[pools.", at + 1)
            part = toml[at:end].replace('adapter = "openai"', f'adapter = "{ADAPTERS[place]}"')
            part += f"first_byte_timeout_s = {TIMEOUT_S}\nidle_timeout_s = {TIMEOUT_S}\n"
            if place == NOT_PRIVATE:
                part = part.replace('privacy = "private"', 'privacy = "internal"')
            toml = toml[:at] + part + toml[end:]
        self.factory = Factory(self.home, toml + self.resilience, port=port)
        self.factory.start()

    def plan(self) -> Plan:
        """Draw a request: who may see it, how it is answered, and the fault of each place."""
        rng = self.random
        self.serial += 1
        stream = rng.random() < 0.6
        faults = {p: rng.choice(STREAMED) for p in PLACES if rng.random() < self.fault_share}
        slow = tuple(p for p in PLACES if p not in faults and rng.random() < 0.05)
        return Plan(
            label=f"{self.name}-{self.serial}",
            stream=stream,
            tokens=rng.randint(3, 16),
            privacy="internal" if rng.random() < 0.6 else "private",
            faults=faults,
            slow=slow,
        )

    async def caller(self, until: int) -> None:
        """One caller with one connection, until so many faults were asked for and happened."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self.injected < until:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self.factory.port)
            if not await self.ask(self.plan(), *connection):
                connection[1].close()
                with contextlib.suppress(OSError):
                    await connection[1].wait_closed()
                connection = None
        if connection is not None:
            connection[1].close()

    async def ask(self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": plan.tokens,
            "user": plan.label,
            "messages": [{"role": "user", "content": "watt " * self.random.randint(3, 60)}],
            "mock_faults": plan.faults | dict.fromkeys(plan.slow, "slow"),
            "mock_slow_ms": SLOW_MS,
        }
        if plan.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        payload = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.factory.key}\r\n"
            f"x-request-id: {plan.label}\r\nx-wattmill-privacy: {plan.privacy}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        seen = Seen(plan.label, plan.stream)
        answer = Text(seen)
        reusable = False
        try:
            writer.write(head.encode() + payload)
            reusable = await self.read(reader, answer)
        except (OSError, httptools.HttpParserError):
            seen.end = "cut"
        whole = "".join(f"t{n} " for n in range(plan.tokens))
        entry = {
            "label": plan.label,
            "stream": plan.stream,
            "asked": plan.tokens,
            "allowed": plan.allowed,
            "faults": plan.faults,
            "slow": plan.slow,
            "end": seen.end,
            "status": seen.status,
            "error": seen.error,
            "request_id": seen.request_id,
            "exact": answer.text == whole,
            "tokens": len(answer.text.split()),
            "told_nusd": answer.charge_nusd,
            "text": "" if answer.text == whole else answer.text[:400],
        }
        os.write(self.client, json.dumps(entry).encode() + b"\n")
        return reusable

    async def read(self, reader: asyncio.StreamReader, answer: Text) -> bool:
        seen = answer.seen
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await asyncio.wait_for(reader.read(65_536), 60)
            if not data:
                seen.end = "cut"
                return False
            parser.feed_data(data)
            seen.status = parser.get_status_code()
        answer.finish()
        return bool(parser.should_keep_alive())

    async def count(self, until: int) -> None:
        """Follow the engines' log: only a fault that happened counts."""
        at = 0
        while self.injected < until:
            with open(self.engine_log, "rb") as file:
                file.seek(at)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            at += whole
            self.injected += sum(
                line.startswith(b"F ") and b" slow " not in line for line in data[:whole].splitlines()
            )
            await asyncio.sleep(0.05)

    async def run(self, injections: int, callers: int) -> None:
        counting = asyncio.ensure_future(self.count(injections))
        await asyncio.gather(*(self.caller(injections) for _ in range(callers)))
        await counting

    def judge(self) -> tuple[int, str]:
        """Let the books settle and stop; return the exit code and the last line of the verdict."""
        problems: list[str] = []
        try:
            books.wait_settled(self.home, timeout_s=60)
        except TimeoutError as error:
            problems.append(str(error))
        code = self.factory.stop()
        if code:
            problems.append(f"`wattmill up` ended with {code}:\n{self.factory.printed()}")
        audit = wattmill("audit", "--home", str(self.home), timeout_s=300)
        if audit.returncode:
            problems.append(f"`wattmill audit` exits with {audit.returncode}:\n{audit.stdout[-2000:]}")
        for problem in problems:
            print(f"PROBLEM {problem}")
        sys.stdout.flush()
        judged = subprocess.run(
            [
                *(sys.executable, str(ROOT / "benchmarks" / "faults_verdict.py"), "--home", str(self.home)),
                *("--engine-log", str(self.engine_log), "--client-log", str(self.client_log)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        print(judged.stdout.rstrip(), judged.stderr.rstrip(), sep="\n" if judged.stderr else "", flush=True)
        lines = judged.stdout.strip().splitlines()
        return int(bool(judged.returncode or problems)), lines[-1] if lines else ""

    def close(self) -> None:
        os.close(self.client)
        for engine in self.engines.values():
            engine.kill()
        if getattr(self, "factory", None) is not None and self.factory.process is not None:
            self.factory.stop()


class Text(Answer):
    """An answer whose text and told charge are read too."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen)
        self.text = ""
        self.charge_nusd: int | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == b"x-wattmill-charge-usd":
            self.charge_nusd = _nusd(value)

    def on_event(self, event: bytes) -> None:
        if event.startswith(b": wattmill charge_usd="):
            self.charge_nusd = _nusd(event.split(b"charge_usd=")[1].split(b" ")[0])
            return
        for line in event.split(b"\n"):
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:]).get("choices", ()):
                    self.text += (choice.get("delta") or {}).get("content") or ""
        super().on_event(event)

    def finish(self) -> None:
        seen = self.seen
        if seen.status != 200:
            seen.end = "refused"
            with contextlib.suppress(ValueError, KeyError, TypeError):
                seen.error = json.loads(self.body)["error"]["code"]
        elif not seen.stream:
            self.text = json.loads(self.body)["choices"][0]["message"]["content"] or ""
            seen.end = "done"
        else:
            seen.end = "error" if seen.error is not None else "done" if self.told_done else "cut"


def _nusd(usd: bytes) -> int:
    whole, _, part = usd.partition(b".")
    return int(whole) * 10**9 + int((part + b"0" * 9)[:9])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--injections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="absent: drawn, and printed")
    parser.add_argument("--callers", type=int, default=96)
    parser.add_argument("--fault-share", type=float, default=0.4, help="of requests, for each place")
    parser.add_argument("--no-continuation", action="store_true", help="what a broken stream costs without")
    parser.add_argument("--retry-share", type=float, default=3.0, help="[resilience.retries] share")
    parser.add_argument("--hedge-after", default="p95", help="of the half with hedging")
    parser.add_argument("--keep", type=Path, default=None, help="work in this folder and leave it there")
    args = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    print(f"seed {seed}; each place fails {args.fault_share:.0%} of requests; declared:", flush=True)
    worst, injected, sums = 0, 0, {"double_charges": 0, "audit_difference": 0, "servable": 0, "served": 0}
    with tempfile.TemporaryDirectory(prefix="wattmill-faults-") as temporary:
        for hedge in ("off", args.hedge_after):
            began_s = time.monotonic()
            folder = (args.keep or Path(temporary)) / ("hedged" if hedge != "off" else "plain")
            resilience = RESILIENCE.format(
                hedge=hedge, share=args.retry_share, continuation=str(not args.no_continuation).lower()
            )
            campaign = Campaign(
                folder, seed=seed, hedge=hedge, fault_share=args.fault_share, resilience=resilience
            )
            try:
                campaign.start()
                print(resilience, flush=True)
                asyncio.run(campaign.run((args.injections + 1) // 2, args.callers))
                code, line = campaign.judge()
            finally:
                campaign.close()
            print(f"took {time.monotonic() - began_s:.0f} s", flush=True)
            worst |= code
            figures = dict(part.split("=", 1) for part in line.split() if "=" in part)
            injected += int(figures.get("injections", 0))
            for name in sums:
                sums[name] += int(figures.get(name, 0))
    share = sums["served"] / sums["servable"] if sums["servable"] else 0.0
    if injected < args.injections or share < 0.999:
        worst = 1
    print(
        f"\ninjections={injected} double_charges={sums['double_charges']} "
        f"audit_difference={sums['audit_difference']} servable={sums['servable']} served={sums['served']} "
        f"({share:.3%})"
    )
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
