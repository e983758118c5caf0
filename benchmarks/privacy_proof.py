"""Random requests of random classes under random faults: does a place get what it must not see?

A factory with two gateway workers stands before twelve scripted places that differ in class, region and
operator; the more a place may see, the dearer it is, so every violation would be a bargain. Teams differ in
class, regions and operators; requests raise their class, narrow their regions, pin places, and carry e-mail
addresses, cards, account numbers, secrets and staff numbers, written with random JSON escapes. Places fail at
random (error status, resets, breaks, silence, being down), so that a request may fail over, be hedged, go on
elsewhere in its middle, or be answered from the cache of its team.

`privacy_verdict.py`, which does not import wattmill, then counts violations from what each place itself
logged. Its last line is the last line here (`make privacy-proof`).

    python benchmarks/privacy_proof.py --requests 100000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httptools

from factory import Factory, environment, free_port, http, script, wattmill

MODEL = "scripted"
RANK = {"public": 0, "internal": 1, "private": 2}


class Where(NamedTuple):
    cls: str
    region: str
    operator: str


PLACES = {
    "us-open": Where("public", "us", "bigco"),
    "eu-open": Where("public", "eu", "bigco"),
    "us-desk": Where("internal", "us", "bigco"),
    "nowhere-desk": Where("internal", "", ""),
    "eu-desk": Where("internal", "eu", "trusted"),
    "ch-desk": Where("internal", "ch", "own"),
    "nowhere-vault": Where("private", "", ""),
    "eu-vault-bigco": Where("private", "eu", "bigco"),
    "us-vault": Where("private", "us", "trusted"),
    "eu-vault": Where("private", "eu", "trusted"),
    "eu-vault-own": Where("private", "eu", "own"),
    "ch-vault-own": Where("private", "ch", "own"),
}
"""In the order of their price: the first is the cheapest."""


class Team(NamedTuple):
    cls: str | None
    regions: tuple[str, ...] | None
    operators: tuple[str, ...] | None


ORGS: dict[str, Team] = {
    "acme": Team(None, None, None),
    "beta": Team("internal", ("eu", "us"), None),
}
TEAMS: dict[str, Team] = {
    "acme/open": Team("public", None, None),
    "acme/desk": Team("internal", None, None),
    "acme/vault": Team("private", ("eu",), None),
    "acme/swiss": Team("internal", ("ch", "eu"), ("own",)),
    "acme/us": Team(None, ("us",), None),
    "beta/plain": Team(None, None, None),
    "beta/eu": Team("private", ("eu", "ch"), ("own", "trusted", "bigco")),
}
KEYS = {
    ("acme/open", "k"): "public",
    ("acme/open", "careful"): "private",
    ("acme/desk", "k"): "internal",
    ("acme/desk", "low"): "public",
    ("acme/vault", "k"): "internal",
    ("acme/swiss", "k"): "internal",
    ("acme/us", "k"): "public",
    ("beta/plain", "k"): "public",
    ("beta/eu", "k"): "public",
}
PRIVATE_OPERATORS = ("own", "trusted")
RULES = """
[privacy.classes.private]
operators = ["own", "trusted"]

[privacy.patterns.staff]
regex = '\\bE-[0-9]{6}\\b'

[[privacy.rules]]
pattern = "email"
action = "redact"

[[privacy.rules]]
pattern = "card"
action = "redact,raise:internal"

[[privacy.rules]]
pattern = "iban"
action = "raise:private"

[[privacy.rules]]
pattern = "api_key"
action = "refuse"

[[privacy.rules]]
pattern = "staff"
action = "redact"
teams = ["acme"]
"""
EVERYTHING = """
[cache]
models = ["*"]
when = "always"
scope = "team"

[resilience]
hedge_after = "p90"
continuation = true
"""


def declaration(ports: dict[str, int], *, port: int, admin_port: int, extra: str) -> str:
    out = [
        '[factory]\nname = "privacy"\n',
        f'[gateway]\nhost = "127.0.0.1"\nport = {port}\nworkers = 2\ndrain_s = 2.0\n',
        f'[admin]\nhost = "127.0.0.1"\nport = {admin_port}\n',
        f'[models.{MODEL}]\ncontext_tok = 100000\nsource = "scripted"\n',
        f'[prices.standard.{MODEL}]\ninput_usd_per_mtok = "0.15"\noutput_usd_per_mtok = "0.60"\n',
    ]
    for rank, (name, place) in enumerate(PLACES.items()):
        region = f'region = "{place.region}"\n' if place.region else ""
        operator = f'operator = "{place.operator}"\n' if place.operator else ""
        out.append(
            f'[pools.{name}]\nengine = "openai_http"\nadapter = "openai"\nplace = "{name}"\n'
            f'base_url = "http://127.0.0.1:{ports[name]}/v1"\nmodels = ["{MODEL}"]\nprivacy = "{place.cls}"\n'
            f"{region}{operator}slots = 64\nqueue = 1024\ncontext_tok = 100000\n"
            "connect_timeout_s = 0.5\nfirst_byte_timeout_s = 1.0\nidle_timeout_s = 1.0\n"
            f"[pools.{name}.speed]\nprefill_tok_per_s = 5000.0\ndecode_tok_per_s = 500.0\n"
            f'[pools.{name}.cost]\nrule = "rates"\n'
            'input_usd_per_mtok = "0.01"\noutput_usd_per_mtok = "0.04"\n'
            f'[pools.{name}.charge]\nrule = "cost_plus"\nmarkup = {rank}.0\n'
        )
    for org, rule in ORGS.items():
        out.append(f"[tenants.{org}]\n" + tenant(rule))
    for team, rule in TEAMS.items():
        org, name = team.split("/")
        out.append(f"[tenants.{org}.teams.{name}]\n" + tenant(rule))
    return "\n".join([*out, RULES, extra])


def tenant(rule: Team) -> str:
    lines = []
    if rule.cls is not None:
        lines.append(f'privacy = "{rule.cls}"')
    for name, values in (("residency", rule.regions), ("operators", rule.operators)):
        if values is not None:
            lines.append(f"{name} = {json.dumps(list(values))}")
    return "\n".join(lines) + "\n"


# --- requests --------------------------------------------------------------------------------------------


def luhn_digit(digits: str) -> str:
    total = 0
    for place, char in enumerate(reversed(digits)):
        double = int(char) * (2 if place % 2 == 0 else 1)
        total += double - 9 if double > 9 else double
    return str(-total % 10)


def german_iban(account: str) -> str:
    check = 98 - int(account + "131400") % 97
    text = f"DE{check:02}{account}"
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


class Asked(NamedTuple):
    """One request and the truth about it."""

    head: bytes
    body: bytes
    stream: bool
    truth: dict[str, Any]


class Maker:
    """Makes requests of a seed, and knows what may happen to each."""

    def __init__(self, seed: int, keys: dict[tuple[str, str], str], port: int) -> None:
        self.random = random.Random(seed)
        self.keys = keys
        self.port = port
        self.recent: collections.deque[Asked] = collections.deque(maxlen=200)
        rnd = random.Random(0)
        stems = ["4539" + "".join(rnd.choice("0123456789") for _ in range(11)) for _ in range(40)]
        cards = [stem + luhn_digit(stem) for stem in stems]
        self.cards = [
            c if rnd.random() < 0.5 else " ".join(c[i : i + 4] for i in range(0, 16, 4)) for c in cards
        ]
        self.ibans = [german_iban("".join(rnd.choice("0123456789") for _ in range(18))) for _ in range(40)]

    def secrets(self) -> list[str]:
        """Return what must stand in no file: parts of addresses, and cards."""
        return ["@leak.example", *self.cards]

    def one(self, n: int) -> Asked:
        """Return a new request, or one that was asked before, byte for byte: for the cache and for claims."""
        if self.recent and self.random.random() < 0.1:
            return self.random.choice(self.recent)
        asked = self.fresh(n)
        self.recent.append(asked)
        return asked

    def fresh(self, n: int) -> Asked:
        rnd = self.random
        team, key = rnd.choice(sorted(KEYS))
        org = team.split("/")[0]
        words = [
            rnd.choice(("watt", "to", "token", "zürich", "漢字", "line\n", 'a "quote"')) for _ in range(8)
        ]
        raised, hidden, refuse = [], [], False
        if rnd.random() < 0.3:
            for _ in range(rnd.randint(1, 2)):
                hidden.append(f"p{rnd.randrange(10**6)}@leak.example")
        if rnd.random() < 0.1:
            hidden.append(rnd.choice(self.cards))
            raised.append("internal")
        if rnd.random() < 0.1:
            words.append(rnd.choice(self.ibans))
            raised.append("private")
        if rnd.random() < 0.03:
            words.append("sk-proj-" + "".join(rnd.choice("abcdefghijklmnop") for _ in range(24)))
            refuse = True
        staff = f"E-{rnd.randrange(10**6):06}" if rnd.random() < 0.1 else None
        if staff is not None and org == "acme":
            hidden.append(staff)
        elif staff is not None:
            words.append(staff)
        words += hidden
        rnd.shuffle(words)
        text = " , ".join([f"cnry-{n}-", *words])
        headers = {"authorization": f"Bearer {self.keys[team, key]}", "x-request-id": f"r{n}"}
        classes = [KEYS[team, key], TEAMS[team].cls, ORGS[org].cls, *raised]
        if rnd.random() < 0.1:
            headers["idempotency-key"] = f"once-{n}"
        if rnd.random() < 0.3:
            said = rnd.choice(sorted(RANK))
            headers["x-wattmill-privacy"] = said
            classes.append(said)
        regions = [ORGS[org].regions, TEAMS[team].regions]
        if rnd.random() < 0.2:
            named = tuple(rnd.sample(("eu", "us", "ch", "mars"), rnd.randint(1, 3)))
            headers["x-wattmill-residency"] = ", ".join(named)
            regions.append(named)
        cls = max((c for c in classes if c is not None), key=RANK.__getitem__)
        operators = [
            ORGS[org].operators,
            TEAMS[team].operators,
            PRIVATE_OPERATORS if cls == "private" else None,
        ]
        pinned = rnd.choice(sorted(PLACES)) if rnd.random() < 0.15 else None
        path, body, stream, expected = self.shape(text, f"{pinned}/{MODEL}" if pinned else MODEL)
        data = written(body, rnd)
        lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(data)}"]
        head = "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items())]) + "\r\n\r\n"
        truth = {
            "n": n,
            "team": team,
            "class": cls,
            "regions": common(regions),
            "operators": common(operators),
            "pinned": pinned,
            "refuse": refuse,
            "secrets": hidden,
            "expected": expected,
        }
        return Asked(head.encode(), data, stream, truth)

    def shape(self, text: str, model: str) -> tuple[str, dict[str, Any], bool, str | None]:
        rnd = self.random
        kind = rnd.random()
        if kind < 0.1:
            return "/v1/embeddings", {"model": model, "input": text}, False, None
        stream = rnd.random() < 0.5
        body: dict[str, Any] = {"model": model, "max_tokens": 200}
        if stream:
            body["stream"] = True
        if kind < 0.2:
            return "/v1/completions", body | {"prompt": text}, stream, text
        content: Any = text if rnd.random() < 0.7 else [{"type": "text", "text": text}]
        messages = [{"role": "system", "content": "Repeat."}, {"role": "user", "content": content}]
        return "/v1/chat/completions", body | {"messages": messages}, stream, text


def common(rules: list[tuple[str, ...] | None]) -> list[str] | None:
    given = [set(rule) for rule in rules if rule is not None]
    return sorted(set.intersection(*given)) if given else None


def written(body: dict[str, Any], rnd: random.Random) -> bytes:
    """Write a body as JSON, characters of its texts escaped at random."""
    text = json.dumps(body, ensure_ascii=rnd.random() < 0.3)
    if rnd.random() < 0.5:
        return text.encode()
    out = []
    for at, char in enumerate(text):
        harmless = (char in "@.-" or char.isdigit()) and text[at - 1] != "\\" and not in_escape(text, at)
        inside = text.count('"', 0, at) - text.count('\\"', 0, at)
        out.append(f"\\u{ord(char):04x}" if harmless and inside % 2 and rnd.random() < 0.3 else char)
    return "".join(out).encode()


def in_escape(text: str, at: int) -> bool:
    """Return whether the character is one of the four digits of an escape."""
    start = text.rfind("\\u", max(0, at - 5), at)
    return start >= 0 and at - start < 6


# --- clients ---------------------------------------------------------------------------------------------


class Reply:
    """Callbacks of the response parser for one answer."""

    def __init__(self, stream: bool) -> None:
        self.stream = stream
        self.parts: list[bytes] = []
        self.done = False

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.done = True

    def text(self, status: int) -> tuple[str | None, bool]:
        """Return what the client was shown, and whether it was told that this is all."""
        data = b"".join(self.parts)
        if status != 200 or not self.done:
            return data.decode(errors="replace"), False
        if not self.stream:
            body = json.loads(data)
            choices = body.get("choices") or [{}]
            said = choices[0].get("message", choices[0])
            return said.get("content", said.get("text", "")), True
        shown, told = "", False
        for event in data.split(b"\n\n"):
            if event == b"data: [DONE]":
                told = True
            elif event.startswith(b"data: "):
                body = json.loads(event[6:])
                if "error" in body:
                    return shown, False
                for choice in body.get("choices", ()):
                    shown += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        return shown, told


class Crowd:
    """Asks `requests` times over `connections` connections and writes down the truth and what was seen."""

    def __init__(self, maker: Maker, port: int, log: Path, requests: int) -> None:
        self.maker = maker
        self.port = port
        self.log = open(log, "w")  # noqa: SIM115 - closed by `run`
        self.left = requests
        self.serial = 0

    async def run(self, connections: int) -> None:
        with self.log:
            await asyncio.gather(*(self.caller() for _ in range(connections)))

    async def caller(self) -> None:
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self.left > 0:
            self.left -= 1
            self.serial += 1
            asked = self.maker.one(self.serial)
            for _ in range(20):
                with contextlib.suppress(OSError):
                    link = link or await asyncio.open_connection("127.0.0.1", self.port)
                    break
                await asyncio.sleep(0.1)
            assert link is not None, "the gateway takes no connections"
            if not await self.one(asked, *link):
                link[1].close()
                link = None
        if link is not None:
            link[1].close()

    async def one(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        reply = Reply(asked.stream)
        parser = httptools.HttpResponseParser(reply)
        leaves = self.maker.random.random() < 0.03
        status, again = 0, False
        with contextlib.suppress(OSError, httptools.HttpParserError):
            writer.write(asked.head + asked.body)
            while not reply.done:
                data = await reader.read(65_536)
                if not data:
                    break
                parser.feed_data(data)
                status = parser.get_status_code()
                if leaves:
                    break
            again = reply.done and bool(parser.should_keep_alive())
        shown, complete = reply.text(status)
        entry = asked.truth | {"status": status, "answer": shown, "complete": complete}
        self.log.write(json.dumps(entry) + "\n")
        return again


# --- the run ---------------------------------------------------------------------------------------------


def start_places(folder: Path, seed: int, fault_share: float) -> tuple[subprocess.Popen[str], dict[str, int]]:
    process = subprocess.Popen(
        [
            *script("privacy_places.py"),
            *("--log", str(folder / "places.log"), "--seed", str(seed), "--fault-share", str(fault_share)),
            *PLACES,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    ports: dict[str, int] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            return process, ports
        _, name, port = line.split()
        ports[name] = int(port)
    raise RuntimeError("the places did not start")


def make_keys(factory: Factory) -> dict[tuple[str, str], str]:
    made: dict[tuple[str, str], str] = {}
    for (team, name), privacy in KEYS.items():
        command = ("keys", "create", team, name, "--privacy", privacy, "--json", "--home", str(factory.home))
        done = wattmill(*command)
        if done.returncode:
            raise RuntimeError(f"`wattmill {' '.join(command)}`: {done.stdout}{done.stderr}")
        made[team, name] = json.loads(done.stdout)["secret"]
    last = {"authorization": f"Bearer {made[team, name]}"}
    for _ in range(100):
        if [http(factory.url + "/v1/models", headers=last)[0] for _ in range(6)] == [200] * 6:
            return made
        time.sleep(0.1)
    raise RuntimeError("the gateway does not know its keys after 10 s")


def prove(
    folder: Path,
    *,
    requests: int,
    seed: int,
    connections: int = 96,
    fault_share: float = 0.2,
    extra: str = EVERYTHING,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it in `folder`; return the verdict."""
    (folder / "places.json").write_text(
        json.dumps(
            {n: {"class": p.cls, "region": p.region, "operator": p.operator} for n, p in PLACES.items()}
        )
    )
    (folder / "places.log").touch()
    places, ports = start_places(folder, seed, fault_share)
    port = free_port()
    factory = Factory(
        folder / "home", declaration(ports, port=port, admin_port=free_port(), extra=extra), port=port
    )
    factory.env = env or {}
    factory.key = "made below"
    try:
        factory.start()
        maker = Maker(seed, make_keys(factory), port)
        (folder / "secrets.txt").write_text("\n".join(maker.secrets()) + "\n")
        began_s = time.monotonic()
        asyncio.run(Crowd(maker, port, folder / "clients.log", requests).run(connections))
        took_s = time.monotonic() - began_s
        print(f"{requests} requests in {took_s:.1f} s ({requests / took_s:.0f}/s), seed {seed}", flush=True)
        status, _, _ = http(factory.url + "/readyz")
        if status != 200:
            print(f"the gateway is not ready after it: {status}")
    finally:
        factory.stop()
        places.kill()
        places.wait()
        assert places.stdout is not None
        places.stdout.close()
    return subprocess.run(
        [*script("privacy_verdict.py"), "--folder", str(folder)], capture_output=True, text=True, check=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=96)
    parser.add_argument("--fault-share", type=float, default=0.2)
    parser.add_argument(
        "--extra", type=Path, help="lines of wattmill.toml in place of cache, hedges and such"
    )
    parser.add_argument("--keep", type=Path, help="folder for logs and data; absent: a temporary one")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privacy-")))
        folder.mkdir(parents=True, exist_ok=True)
        done = prove(
            folder,
            requests=args.requests,
            seed=args.seed,
            connections=args.connections,
            fault_share=args.fault_share,
            extra=args.extra.read_text() if args.extra else EVERYTHING,
        )
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
