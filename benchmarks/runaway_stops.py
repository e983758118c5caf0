"""The shipped runaway agent meets its cap: on each door, streamed and not, with one worker and with two.

    python benchmarks/runaway_stops.py [--workers 1,2] [--budget-usd 0.05]

A scripted place answers at a fixed pace and writes down every token that it read and made; it is priced so
that the cap comes within 30 s. What was spent is counted from that log and the price book, never from
wattmill's own words. The last line is for machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factory import ROOT, Factory, Server, declaration, environment, free_port, running, script, wattmill

IN_NUSD, OUT_NUSD = 1_000, 4_000  # a token: 1 USD and 4 USD per million
DOORS = ("chat", "responses", "messages")
WITHIN_S = 30.0


@contextmanager
def factory(folder: Path, log: Path, workers: int) -> Iterator[Factory]:
    """A factory in front of one scripted place whose tokens are the bytes of its prompt."""
    engine = Server(
        *script("scripted_engine.py"),
        "--log",
        str(log),
        "--pool",
        "place",
        "--tokens",
        "100000",
        "--delay-ms",
        "2",
        "--bytes-per-tok",
        "1",
        "--says-length",
    )
    engine.start()
    port = free_port()
    toml = declaration(
        {"place": f"http://127.0.0.1:{engine.port}/v1"},
        model="scripted",
        port=port,
        admin_port=free_port(),
        workers=workers,
    )
    toml = toml.replace('adapter = "openai"', 'adapter = "openai-compatible"')  # it speaks chat only
    toml = toml.replace('input_usd_per_mtok = "0.15"', 'input_usd_per_mtok = "1"')
    toml = toml.replace('cached_input_usd_per_mtok = "0.075"', 'cached_input_usd_per_mtok = "1"')
    toml = toml.replace('output_usd_per_mtok = "0.60"', 'output_usd_per_mtok = "4"')
    try:
        with running(Factory(folder / f"home{workers}", toml, port=port)) as one:
            yield one
    finally:
        engine.kill()


@dataclasses.dataclass
class Made:
    """What the place itself wrote down."""

    nusd: int = 0
    calls: int = 0
    characters: int = 0  # of all answers
    last_tok: int = 0  # of the last answer


def made(log: Path, after_line: int) -> tuple[Made, int]:
    """Return what was made after a line of the log, and where the log ends now."""
    lines = log.read_text().splitlines() if log.exists() else []
    found = Made()
    for line in lines[after_line:]:
        words = line.split()
        if words[0] == "A":
            found.nusd += int(words[3]) * IN_NUSD
            found.calls += 1
            found.last_tok = 0
        elif words[0] == "T":
            found.nusd += OUT_NUSD
            found.characters += len(f"t{words[2]} ")
            found.last_tok += 1
    return found, len(lines)


def booked_nusd(one: Factory, run: object, expected: int) -> int:
    """Return what `wattmill runs show` says; workers tell each other within 0.25 s."""
    for _ in range(20):
        said = wattmill("runs", "show", str(run), "--json", "--home", str(one.home))
        found = int(json.loads(said.stdout)["budget"]["used_nusd"])
        if found == expected:
            break
        time.sleep(0.1)
    return found


def agent(
    one: Factory, door: str, stream: bool, budget: str, max_tokens: int
) -> tuple[dict[str, object], float]:
    """Run the example as its user would; return what it says and how long it took."""
    argv = [sys.executable, str(ROOT / "examples" / "runaway_agent.py"), "--json", "--model", "scripted"]
    argv += [
        "--door",
        door,
        "--budget",
        budget,
        "--max-tokens",
        str(max_tokens),
        *(["--stream"] if stream else []),
    ]
    env = {**environment(), "WATTMILL_BASE_URL": one.url + "/v1", "WATTMILL_API_KEY": one.key}
    began_s = time.monotonic()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(f"the agent failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--budget-usd", default="0.05")
    parser.add_argument("--max-tokens", type=int, default=500, help="of each answer")
    parser.add_argument("--doors", default=",".join(DOORS))
    args = parser.parse_args()
    cap_nusd = round(float(args.budget_usd) * 1e9)
    overshoot, failures, cells, slowest_s = 0, [], 0, 0.0
    print(
        f"{'workers':>7} {'door':10} {'form':8} {'calls':>5} {'seconds':>7} {'spent USD':>12} "
        f"{'of cap':>7} {'overshoot':>9}  stopped by, last answer"
    )
    for workers in map(int, args.workers.split(",")):
        with (
            tempfile.TemporaryDirectory() as temp,
            factory(Path(temp), Path(temp) / "place.log", workers) as one,
        ):
            log, lines = Path(temp) / "place.log", 0
            for door in args.doors.split(","):
                for stream in (False, True):
                    said, took_s = agent(one, door, stream, f"{args.budget_usd} USD", args.max_tokens)
                    place, lines = made(log, lines)
                    over = max(0, place.nusd - cap_nusd)
                    overshoot += over
                    cells += 1
                    slowest_s = max(slowest_s, took_s)
                    booked = booked_nusd(one, said["run"], place.nusd)
                    wrong = {
                        "stopped": said["stopped_by"] == "budget_exceeded",
                        "answers kept": said["calls"] == place.calls > 0,
                        "characters kept": said["kept_characters"] == place.characters,
                        "books": booked == place.nusd,
                    }
                    if not all(wrong.values()):
                        failures.append((workers, door, stream, wrong, said, place, booked))
                    print(
                        f"{workers:7} {door:10} {'streamed' if stream else 'whole':8} {place.calls:5} "
                        f"{took_s:7.1f} {place.nusd / 1e9:12.9f} {place.nusd / cap_nusd:7.1%} {over:9}  "
                        f"{said['stopped_by']}, {said['last_end']} after {place.last_tok} of "
                        f"{args.max_tokens} tokens"
                    )
    for failure in failures:
        print("FAILED", failure)
    print(
        f"cells={cells} overshoot={overshoot} slowest_s={slowest_s:.1f} "
        f"kept_partial={cells - len(failures)}/{cells}"
    )
    sys.exit(1 if overshoot or failures or slowest_s > WITHIN_S else 0)


if __name__ == "__main__":
    main()
