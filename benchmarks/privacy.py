"""What looking for personal data costs: `python benchmarks/privacy.py`.

Texts of several kinds, as JSON bodies of 1, 10 and 100 kB, with all built-in patterns declared: CPU time of
one examination (decode, one pass of all patterns, checks, evidence) per kB of body. The kinds include texts
made to be slow. `--json FILE` writes the figures; the goal is 10 µs per kB for a text without findings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from wattmill.distribution.privacy.patterns import BUILT_IN
from wattmill.distribution.privacy.policy import Examined, examine
from wattmill.distribution.privacy.restore import Restorer
from wattmill.distribution.privacy.scan import Scanner
from wattmill.distribution.privacy.spec import Rule

SIZES = (1_000, 10_000, 100_000)
GOAL_US_PER_KB = 10.0
RULES = tuple(Rule(pattern=p, deed="redact") for p in BUILT_IN.values())
WORDS = """
the of and to in that is was he for it with as his on be at by this have from or one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so
""".split()  # noqa: SIM905


def texts(rnd: random.Random, size: int) -> dict[str, str]:
    def fill(make: Callable[[], str]) -> str:
        parts, length = [], 0
        while length < size:
            parts.append(make())
            length += len(parts[-1])
        return "".join(parts)[:size]

    return {
        "prose": fill(lambda: rnd.choice(WORDS) + " "),
        "prose with line ends": fill(lambda: rnd.choice(WORDS) + (" " if rnd.random() < 0.9 else "\n")),
        "code": fill(lambda: f"    return self.value[{rnd.randrange(999)}] + 0x{rnd.randrange(9**9):x}\n"),
        "numbers like cards (near misses)": fill(lambda: f"{rnd.randrange(10 ** rnd.randrange(1, 5))} "),
        "log lines": fill(
            lambda: f"2026-11-21T09:{rnd.randrange(60):02}:07Z app[{rnd.randrange(9999)}]: ok\n"
        ),
        "no Latin letters": fill(lambda: rnd.choice(("漢字", "テスト", "Größe", " "))),
        "digits only (made to be slow)": fill(lambda: "1 "),
        "near e-mails (made to be slow)": fill(lambda: "a.b@c."),
        "an e-mail per kB": fill(lambda: "x " * 490 + "ann.lee@example.org "),
    }


def us_per_kb(body: dict[str, msgspec.Raw], raw: bytes, scanner: Scanner) -> float:
    rounds = max(3, 400_000 // len(raw))
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds):
            examine(body, raw, RULES, scanner)
        best = min(best, (time.process_time() - began) / rounds)
    return best * 1e6 / (len(raw) / 1_000)


def restoring_us() -> tuple[float, float]:
    """Return CPU time of a streamed event that holds no placeholder, and of one that does."""

    def event(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"

    out = []
    for one in (event(" word"), event("to [EMAIL_1] and")):
        tap = Restorer({"[EMAIL_1]": "ann.lee@example.org"})
        began = time.process_time()
        for _ in range(20_000):
            tap.event(one)
        out.append((time.process_time() - began) / 20_000 * 1e6)
    return out[0], out[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scanner = Scanner([rule.pattern for rule in RULES])
    versions = {p: importlib.metadata.version(p) for p in ("google-re2", "msgspec")}
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}, {len(RULES)} patterns")
    print(
        f"{'µs of CPU per kB of body':34}" + "".join(f"{size // 1_000:>6} kB" for size in SIZES) + "   found"
    )
    table: dict[str, dict[str, float]] = {}
    worst_clean = worst_of_all = 0.0
    for size in SIZES:
        for kind, text in texts(random.Random(1), size).items():
            message = {"role": "user", "content": text}
            raw = json.dumps({"model": "m", "messages": [message]}, ensure_ascii=False).encode()
            body = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            done = examine(body, raw, RULES, scanner)
            assert isinstance(done, Examined)
            table.setdefault(kind, {})[str(size)] = us = us_per_kb(body, raw, scanner)
            table[kind]["found"] = sum(f.matches for f in done.evidence)
            worst_of_all = max(worst_of_all, us)
            if not done.evidence and "near" not in kind:
                worst_clean = max(worst_clean, us)
    for kind, row in table.items():
        print(f"{kind:34}" + "".join(f"{row[str(size)]:9.2f}" for size in SIZES) + f"{row['found']:8.0f}")
    passed, put_back = restoring_us()
    print(f"a streamed event that passes: {passed:.2f} µs; one with a placeholder: {put_back:.2f} µs")
    verdict = "met" if worst_clean < GOAL_US_PER_KB else "NOT met"
    print(f"worst text without findings or near misses: {worst_clean:.2f} µs per kB", end=" ")
    print(f"(goal < {GOAL_US_PER_KB:g}: {verdict}); worst of all: {worst_of_all:.2f}")
    if args.json:
        args.json.write_text(
            json.dumps({"us_per_kb": table, "event_us": [passed, put_back]}, indent=1) + "\n"
        )
    return 0 if worst_clean < GOAL_US_PER_KB else 1


if __name__ == "__main__":
    raise SystemExit(main())
