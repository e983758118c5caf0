"""What the runaway detector sees and what it does not: detection within five steps, false alarms by kind.

    python benchmarks/runaway.py [--sessions 250] [--seed 1] [--json FILE]

Each line is one kind of session. The last line is for machines.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

from runaway_sessions import (
    APART,
    BENIGN,
    RUNAWAYS,
    Call,
    generations,
    impatient_polling,
    seeded_rng,
    trace_sessions,
)
from wattmill.agents.runaway.policy import Trail, enter, leave, sub_runs
from wattmill.agents.runaway.sketch import sketch
from wattmill.agents.runaway.spec import Rules, Verdict

RULES = Rules()


def play(calls: Iterable[Call], rules: Rules = RULES) -> tuple[Call, Verdict] | None:
    """Return the first call that is told to be a runaway's."""
    trail = Trail()
    open_calls: list[tuple[float, int, int, bool]] = []
    for n, call in enumerate(sorted(calls, key=lambda c: c.start_s)):
        while open_calls and open_calls[0][0] <= call.start_s:
            end_s, _, pair, failed = heapq.heappop(open_calls)
            leave(trail, pair, failed, end_s)
        pair, last, wordy = sketch(call.messages)
        verdict = enter(trail, pair, last, wordy, call.prompt_tok, call.start_s, rules)
        if verdict is not None:
            return call, verdict
        heapq.heappush(open_calls, (call.end_s, n, pair, call.failed))
    return None


def seeded(make: Callable[[random.Random], list[Call]], seed: int, n: int) -> list[Call]:
    return make(seeded_rng(make.__name__, seed, n))


def false_alarms(sessions: int, seed: int) -> dict[str, dict[str, Any]]:
    """Count benign sessions in which any call is told to be a runaway's."""
    out: dict[str, dict[str, Any]] = {}
    for name, make in [*BENIGN.items(), ("impatient_polling", impatient_polling)]:
        found = [play(seeded(make, seed, n)) for n in range(sessions)]
        out[name] = _counted(found)
    out["agent_trace"] = _counted([play(calls) for _, calls in trace_sessions()])
    return out


def _counted(found: list[tuple[Call, Verdict] | None]) -> dict[str, Any]:
    rules: dict[str, int] = {}
    for one in found:
        if one is not None:
            rules[one[1].rule] = rules.get(one[1].rule, 0) + 1
    return {"sessions": len(found), "alarms": sum(rules.values()), "rules": rules}


def detections(sessions: int, seed: int) -> dict[str, dict[str, Any]]:
    """In which step of a runaway it is told; None: never. A verdict before step 1 counts as a miss."""
    out: dict[str, dict[str, Any]] = {}
    for name, make in (RUNAWAYS | APART).items():
        few = min(sessions, 20) if name == "incident_whole_run" else sessions
        steps: list[int | None] = []
        rules: dict[str, int] = {}
        shares = []
        for n in range(few):
            calls = seeded(make, seed, n)
            found = play(calls)
            steps.append(found[0].step if found and found[0].step else None)
            if found:
                rules[found[1].rule] = rules.get(found[1].rule, 0) + 1
                sent = sum(c.prompt_tok for c in calls if c.start_s <= found[0].start_s)
                shares.append(sent / sum(c.prompt_tok for c in calls))
        out[name] = _within(steps) | {
            "rules": rules,
            "tokens_before": statistics.fmean(shares) if shares else None,
        }
    steps = []
    for n in range(sessions):
        rng = random.Random(f"fan_out/{seed}/{n}")
        levels = [(level, sub_runs(opened, level, RULES)) for opened, level, _ in generations(rng)]
        steps.append(next((level for level, verdict in levels if verdict is not None), None))
    out["fan_out"] = _within(steps) | {"rules": {"children": sessions}, "tokens_before": None}
    return out


def _within(steps: list[int | None]) -> dict[str, Any]:
    seen = [step for step in steps if step is not None]
    return {
        "sessions": len(steps),
        "within_5": sum(step <= 5 for step in seen),
        "never": len(steps) - len(seen),
        "median_step": statistics.median(seen) if seen else None,
        "latest_step": max(seen, default=None),
    }


def cost_us(size: int = 1_000, rounds: int = 50_000) -> float:
    """Return CPU microseconds of one call's detection, for a request of `size` bytes; best of five."""
    text = json.dumps(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x y z " * (size // 6)}]
    )
    messages = memoryview(text.encode())
    trail, best = Trail(), float("inf")
    for _ in range(5):
        began_s = time.process_time()
        for n in range(rounds):
            pair, last, wordy = sketch(messages)
            enter(trail, pair, last, wordy, 250, n * 10.0, RULES)
            leave(trail, pair, False, n * 10.0 + 1)
        best = min(best, (time.process_time() - began_s) / rounds * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=250, help="of each kind")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", default="", help="write all figures there")
    args = parser.parse_args()
    seen = detections(args.sessions, args.seed)
    print(f"{'runaway':26} {'sessions':>8} {'within 5':>9} {'never':>6} {'median':>7} {'latest':>7}  rules")
    for name, row in seen.items():
        latest, median = row["latest_step"], row["median_step"]
        print(
            f"{name:26} {row['sessions']:8} {row['within_5']:9} {row['never']:6} "
            f"{'-' if median is None else median:>7} {'-' if latest is None else latest:>7}  {row['rules']}"
        )
    whole = seen["incident_whole_run"]["tokens_before"]
    if whole is not None:
        print(f"incident_whole_run: {whole:.1%} of its prompt tokens had been sent when it was told")
    alarms = false_alarms(args.sessions, args.seed)
    print(f"\n{'benign':26} {'sessions':>8} {'alarms':>9} {'rate':>7}  rules")
    for name, row in alarms.items():
        print(
            f"{name:26} {row['sessions']:8} {row['alarms']:9} {row['alarms'] / row['sessions']:7.2%}  "
            f"{row['rules']}"
        )
    total = sum(alarms[name]["sessions"] for name in BENIGN)
    false = sum(alarms[name]["alarms"] for name in BENIGN)
    claimed = [*RUNAWAYS, "fan_out"]
    caught, runs = sum(seen[n]["within_5"] for n in claimed), sum(seen[n]["sessions"] for n in claimed)
    took_us, trace = cost_us(), alarms["agent_trace"]
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"seen": seen, "alarms": alarms, "cost_us": took_us}, file, indent=1)
    print(
        f"\ndetected_within_5={caught}/{runs} false_alarms={false}/{total} ({false / total:.2%}) "
        f"trace_alarms={trace['alarms']}/{trace['sessions']} us_per_1kB_call={took_us:.1f}"
    )


if __name__ == "__main__":
    main()
