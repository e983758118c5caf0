"""Record a life with everything in it, then take each routing decision again (`make replay-proof`).

A factory with two gateway workers in front of four mock places serves seeded requests: several models and
keys (one team routes by `round-robin`, one key may use two places only), streams and whole answers, requests
for a place by name, with tools, of each privacy class, for a model that nobody serves, prompts that begin
alike. One place goes down and comes back; the declaration is changed under load (weights, policy,
exploration); a worker is killed; the factory is stopped and started again. Then `wattmill replay` must find
every decision identical, refusals too. Its last line:

    decisions=N identical=N refusals=K workers=2 reloads=1 kills=1 restarts=1

    python benchmarks/replay_proof.py --requests 12000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httptools

import books
from factory import KEY, Factory, Server, declaration, free_port, script, wattmill

ROUTING = """
[routing]
policy = "{policy}"
usd_per_s = {usd_per_s}
explore = {explore}
seed = 7

[tenants.turns]
policy = "round-robin"

[tenants.turns.teams.all]
"""
PLACES = {"near": "--delay-ms 1", "far": "--delay-ms 4", "large": "--delay-ms 2", "public": ""}
MODELS = {"near": "small", "far": "small", "large": "large", "public": "small"}
TEXT = "the quick brown fox jumps over the lazy dog and rests beside the turbine hall "


def toml(urls: dict[str, str], port: int, admin_port: int, **routing: Any) -> str:
    """Return a declaration in which the places differ: privacy, what they can do, how much they take."""
    text = declaration(urls, model="small", port=port, admin_port=admin_port, workers=2, slots=16)
    large = text[text.index("[models.small]") : text.index("[pools.")]
    text = text.replace(large, large + large.replace("models.small", "models.large"))
    prices = text[text.index("[prices.standard.small]") : text.index("[tenants.")]
    text = text.replace(prices, prices + prices.replace("standard.small", "standard.large"))
    for place in urls:
        start = text.index(f"[pools.{place}]")
        end = (
            text.index("[pools.", start + 1)
            if "[pools." in text[start + 1 :]
            else text.index("[prices", start)
        )
        pool = text[start:end]
        new = pool.replace('models = ["small"]', f'models = ["{MODELS[place]}"]')
        if place == "large":
            new = new.replace('models = ["large"]', 'models = ["small", "large"]')
        if place == "public":
            new = new.replace('privacy = "private"', 'privacy = "public"')
        if place == "far":
            new = new.replace('privacy = "private"', 'privacy = "internal"').replace(
                "slots = 16", "slots = 2"
            )
            new = new.replace("context_tok = 1000000", 'context_tok = 2000\ncapabilities = ["chat"]')
        text = text.replace(pool, new)
    return text + ROUTING.format(**routing)


class Phase:
    """How many answers a part of the life has, and how many it is to have."""

    def __init__(self, wanted: int) -> None:
        self.answers = 0
        self.wanted = wanted


class Asker:
    """One connection after another: asks what its seed says, takes any answer that is one."""

    def __init__(self, port: int, keys: list[str], rng: random.Random) -> None:
        self.port, self.keys, self.rng = port, keys, rng
        self.statuses: dict[int, int] = {}
        self.lost = 0

    def request(self) -> bytes:
        rng = self.rng
        model = rng.choices(("small", "large", "near/small", "large/large", "far/small", "unheard-of"),
                            (60, 10, 8, 5, 5, 2))[0]  # fmt: skip
        system = f"You are assistant {rng.randrange(5)}. " + TEXT * rng.choice((0, 4, 20))
        body: dict[str, Any] = {
            "model": model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": f"{rng.random()} " + TEXT * rng.choice((1, 1, 5, 30))},
            ],
        }
        if rng.random() < 0.7:
            body["max_tokens"] = rng.choice((1, 8, 64))
        if rng.random() < 0.3:
            body["stream"] = True
        if rng.random() < 0.05:
            body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        data = json.dumps(body).encode()
        privacy = rng.choices((b"", b"x-wattmill-privacy: private\r\n"), (4, 1))[0]
        return b"".join(
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n",
                b"authorization: Bearer " + rng.choice(self.keys).encode() + b"\r\n",
                privacy,
                b"content-length: %d\r\n\r\n" % len(data),
                data,
            )
        )

    async def ask(self, phase: Phase) -> None:
        """Ask until the phase has its answers. A connection asks some times and is made anew, so that a
        worker that has just begun gets its share."""
        reader = writer = None
        left = 0
        while phase.answers < phase.wanted:
            try:
                if writer is None or left <= 0:
                    if writer is not None:
                        writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    left = self.rng.randrange(10, 40)
                assert reader is not None
                left -= 1
                writer.write(self.request())
                status, keep = await _answer(reader)
            except (OSError, EOFError, httptools.HttpParserError):
                self.lost += 1
                left = 0
                await asyncio.sleep(0.05)
                continue
            phase.answers += 1
            self.statuses[status] = self.statuses.get(status, 0) + 1
            left = left if keep else 0
        if writer is not None:
            writer.close()


class _Told:
    done = False

    def on_message_complete(self) -> None:
        self.done = True


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    told = _Told()
    parser = httptools.HttpResponseParser(told)
    while not told.done:
        data = await asyncio.wait_for(reader.read(65_536), 30.0)
        if not data:
            raise EOFError
        parser.feed_data(data)
    return parser.get_status_code(), parser.should_keep_alive()


class Proof:
    """One recorded life."""

    def __init__(self, folder: Path, *, requests: int, seed: int, askers: int) -> None:
        self.folder, self.requests, self.seed, self.crowd = folder, requests, seed, askers
        self.engines = {
            place: Server(*script("mock_upstream.py"), *args.split(), "--tokens", "12")
            for place, args in PLACES.items()
        }
        for engine in self.engines.values():
            engine.start()
        self.ports = {"port": free_port(), "admin_port": free_port()}
        self.factory = Factory(
            folder / "home",
            self.toml(policy="cheapest-adequate", usd_per_s=0.00005, explore=0.02),
            port=self.ports["port"],
        )
        self.statuses: dict[int, int] = {}
        self.lost = 0

    def toml(self, **routing: Any) -> str:
        urls = {place: f"http://127.0.0.1:{engine.port}/v1" for place, engine in self.engines.items()}
        return toml(urls, self.ports["port"], self.ports["admin_port"], **routing)

    def key(self, team: str, name: str, *more: str) -> str:
        """Make a key that the gateway learns of by itself."""
        made = wattmill("keys", "create", team, name, *more, "--json", "--home", str(self.factory.home))
        found = KEY.search(made.stdout)
        if found is None:
            raise RuntimeError(made.stdout + made.stderr)
        return found.group()

    async def phase(self, number: int, wanted: int, keys: list[str], disturb: Any = None) -> None:
        """Let the crowd ask `wanted` requests, and do something in the middle."""
        phase = Phase(wanted)
        askers = [
            Asker(self.factory.port, keys, random.Random(f"{self.seed}/{number}/{i}"))
            for i in range(self.crowd)
        ]
        tasks = [asyncio.create_task(asker.ask(phase)) for asker in askers]
        if disturb is not None:
            while phase.answers < wanted // 3:
                await asyncio.sleep(0.02)
            phase.wanted = sys.maxsize
            await disturb()
            phase.wanted = max(wanted, phase.answers + wanted // 3)
        await asyncio.gather(*tasks)
        for asker in askers:
            self.lost += asker.lost
            for status, n in asker.statuses.items():
                self.statuses[status] = self.statuses.get(status, 0) + n

    async def place_goes_and_comes(self) -> None:
        engine = self.engines["near"]
        port = engine.port
        engine.kill()
        await asyncio.sleep(0.7)
        engine.argv += ["--port", str(port)]
        await asyncio.to_thread(engine.start)

    async def reload(self) -> None:
        self.factory.file.write_text(self.toml(policy="fastest", usd_per_s=0.001, explore=0.1))
        assert self.factory.process is not None
        self.factory.process.send_signal(signal.SIGHUP)
        while "declaration taken over" not in self.factory.printed():
            await asyncio.sleep(0.05)

    async def kill_a_worker(self) -> None:
        pid = self.factory.pids()["gateway-0"]
        os.kill(pid, signal.SIGKILL)
        ends_s = time.monotonic() + 10.0
        while self.factory.pids().get("gateway-0", pid) == pid:
            if time.monotonic() > ends_s:
                raise TimeoutError("the killed worker did not come back in 10 s")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)  # until it listens

    async def run(self) -> dict[str, Any]:
        part = self.requests // 4
        await asyncio.to_thread(self.factory.start)
        public = ("--privacy", "public")
        keys = [
            self.factory.key,
            await asyncio.to_thread(self.factory.new_key, "one-place", cap_usd="1000"),
            await asyncio.to_thread(self.key, "turns/all", "turn", *public),
            await asyncio.to_thread(
                self.key, "turns/all", "narrow", "--pool", "near", "--pool", "public", *public
            ),
        ]
        await self.phase(0, part, keys, self.place_goes_and_comes)
        await self.phase(1, part, keys, self.reload)
        await self.phase(2, part, keys, self.kill_a_worker)
        await asyncio.to_thread(self.factory.stop)
        await asyncio.to_thread(self.factory.start)
        await self.phase(3, self.requests - 3 * part, keys)
        await asyncio.to_thread(books.wait_settled, self.factory.home)
        await asyncio.to_thread(self.factory.stop)
        return await asyncio.to_thread(self.replayed)

    def replayed(self) -> dict[str, Any]:
        began_s = time.monotonic()
        done = wattmill("replay", "--json", "--home", str(self.factory.home), timeout_s=300.0)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        told: dict[str, Any] = json.loads(done.stdout)
        told["exit_code"] = done.returncode
        told["replay_s"] = round(time.monotonic() - began_s, 2)
        told["journal_bytes"] = sum(
            file.stat().st_size for file in (self.factory.home / "journal").glob("*/*.wmj")
        )
        return told

    def close(self) -> None:
        if self.factory.process is not None and self.factory.process.poll() is None:
            self.factory.stop()
        for engine in self.engines.values():
            engine.kill()


def verdict(proof: Proof, told: dict[str, Any]) -> list[str]:
    """Return what is wrong: a decision that is not identical, or a life that had too little in it."""
    wrong = []
    answered = sum(proof.statuses.values())
    if told["exit_code"] != 0 or told["different"]:
        wrong.append(f"{told['different']} decisions differ: {told['rows'][:3]}")
    if told["not_replayable"]:
        wrong.append(f"{told['not_replayable']} decisions cannot be taken again")
    if told["identical"] != told["decisions"]:
        wrong.append(f"{told['identical']} of {told['decisions']} are identical")
    if told["decisions"] < 0.98 * proof.requests:
        wrong.append(f"only {told['decisions']} decisions of {proof.requests} requests were recorded")
    if told["epochs"] < 5:
        wrong.append(
            f"{told['epochs']} lives of workers, there must be two, one after the kill, and two more"
        )
    if not told["refusals"] or not told["explored"] or len(told["policies"]) < 3:
        wrong.append(f"the life was a poor one: {told['refusals']} refusals, {told['policies']}")
    if proof.statuses.get(200, 0) < 0.7 * answered:
        wrong.append(f"most requests were to be served, statuses are {proof.statuses}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--askers", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        proof = Proof(Path(folder), requests=args.requests, seed=args.seed, askers=args.askers)
        try:
            told = asyncio.run(proof.run())
            print(
                f"answers {dict(sorted(proof.statuses.items()))}, {proof.lost} connections lost by the kill"
            )
            print(
                f"{told['views']} views, {told['epochs']} lives of workers, policies {told['policies']}, "
                f"{told['explored']} explorations; {told['journal_bytes'] / told['decisions']:.0f} journal "
                f"bytes a request; replayed in {told['replay_s']} s"
            )
            beside = subprocess.run(
                [sys.executable, "-m", "wattmill", "replay", "--policy", "least-loaded",
                 "--home", str(proof.factory.home)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            print(beside.stdout.rstrip())
            wrong = verdict(proof, told)
            for problem in wrong:
                print(f"WRONG: {problem}")
            print(
                f"decisions={told['decisions']} identical={told['identical']} refusals={told['refusals']} "
                f"workers=2 reloads=1 kills=1 restarts=1"
            )
        finally:
            proof.close()
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
