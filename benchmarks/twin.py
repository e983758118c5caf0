"""How fast the twin is: compiled engines, a whole fleet, the gateway's own policy in the loop, a what-if.

`make bench-twin` writes benchmarks/results/twin.json. Lengths are those of Azure's 2023 conversation trace
(drawn with a seed), arrivals are Poisson. Each part runs in a process of its own, so that its memory is its
own; compiling is not counted (it happens once, and is kept on disk).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from wattmill.twin.engine.defaults import limits  # noqa: E402
from wattmill.twin.engine.experiment import Requests, simulate  # noqa: E402
from wattmill.twin.engine.spec import EngineLimits, StepCost  # noqa: E402

US_PS = 1_000_000
# A 70-billion-parameter model in 8 bits on two accelerators of 3.35 TB/s and 80 GB: 11 ms of weights and
# launches, 160 kB of cache a token, 60 % of the 8-bit peak in prefill. Steps must be of real size, no more.
COST = StepCost(
    step_ps=tuple((11_000 + 8 * n) * US_PS for n in range(1_025)),
    beyond_ps_per_tok=8 * US_PS,
    context_ps_per_tok=25_000,
    prefill_ps_per_tok=60 * US_PS,
    attention_ps_per_ktok=600_000,
    power_mw=tuple(min(1_400_000, 500_000 + 30_000 * n) for n in range(31)),
    idle_mw=180_000,
)
LIMITS = limits("vllm", kv_tok=300_000, max_num_seqs=256, budget_tok=2_048)


def lengths(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(ROOT / "benchmarks/data/azure_llm_2023_conv.csv.gz", "rt") as lines:
        rows = [(int(row["in_tokens"]), int(row["out_tokens"])) for row in csv.DictReader(lines)]
    drawn = np.array(rows, np.int64)[np.random.default_rng(seed).integers(0, len(rows), count)]
    return drawn[:, 0].copy(), drawn[:, 1].copy()


def arrivals(count: int, per_s: float, seed: int) -> np.ndarray:
    gaps = np.random.default_rng(seed).exponential(1e12 / per_s, count)
    return np.cumsum(gaps).astype(np.int64)


def play(count: int, per_s: float, replicas: list[tuple[StepCost, EngineLimits]]) -> dict[str, float]:
    inputs, outputs = lengths(count, 1)
    requests = Requests(at_ps=arrivals(count, per_s, 2), input_tok=inputs, output_tok=outputs)
    started = time.perf_counter()
    cpu = time.process_time()
    ran = simulate(replicas, requests)  # conservation is checked inside
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    ttft_s = (ran.first_ps - ran.at_ps) / 1e12
    end_s = float(ran.end_ps.max()) / 1e12
    return {
        "requests": count,
        "offered_per_s": round(per_s, 2),
        "seconds": round(seconds, 3),
        "cpu_s": round(cpu_s, 3),
        "requests_per_s": round(count / seconds),
        "simulated_s": round(end_s),
        "busy": round(float(ran.busy_ps.sum()) / 1e12 / end_s / len(replicas), 4),
        "ttft_p50_s": round(float(np.median(ttft_s)), 3),
        "ttft_p95_s": round(float(np.percentile(ttft_s, 95)), 3),
        "preemptions": int(ran.preemptions.sum()),
        "steps": int(ran.steps.sum()),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024, 1),
    }


def capacity_per_s(replicas: int) -> float:
    """Return how many requests a second `replicas` can serve: the rate at which a long queue goes down."""
    count = 3_000
    inputs, outputs = lengths(count, 3)
    ran = simulate(
        [(COST, LIMITS)], Requests(at_ps=np.zeros(count, np.int64), input_tok=inputs, output_tok=outputs)
    )
    return replicas * count / (float(np.quantile(ran.end_ps, 0.95)) / 1e12) * 0.95


def part_million(count: int) -> dict[str, object]:
    most = capacity_per_s(16)
    replicas = [(COST, LIMITS)] * 16
    runs = {f"{load:g}": play(count, load * most, replicas) for load in (0.95, 1.1)}
    slowest = max(runs.values(), key=lambda one: one["seconds"])
    return {
        "requests_per_s": slowest["requests_per_s"],
        "million_s": round(1e6 / slowest["requests_per_s"], 2),
        "rss_mb": max(one["rss_mb"] for one in runs.values()),
        "capacity_per_s": round(most, 1),
        "by_load": runs,
    }


def part_fleet(replicas: int, seconds: int) -> dict[str, object]:
    capacity_per_s(1)
    ran = play(replicas * seconds, float(replicas), [(COST, LIMITS)] * replicas)
    return {"fleet_s": ran["seconds"], "fleet": ran}


def part_whatif() -> dict[str, object]:
    from wattmill.compute.catalogue import accelerator
    from wattmill.models.architectures import architecture
    from wattmill.models.deployment import Deployment
    from wattmill.twin.prediction import predict

    def once(concurrency: int) -> None:
        predict(
            Deployment(
                architecture=architecture("meta-llama/Llama-3.1-70B-Instruct"),
                accelerator=accelerator("H100-SXM"),
                engine="vllm",
                weight_bits=8,
                kv_bits=8,
                tp=2,
            ),
            isl=1_155,
            osl=211,
            concurrency=concurrency,
        )

    once(1)
    took = []
    for concurrency in range(1, 201):
        started = time.perf_counter()
        once(concurrency)
        took.append((time.perf_counter() - started) * 1e3)
    return {
        "whatif_ms": round(float(np.median(took)), 3),
        "whatif_p99_ms": round(float(np.quantile(took, 0.99)), 3),
    }


def part_policy(count: int) -> dict[str, object]:
    from twin_policy import policy_speed

    played = [policy_speed(requests=count) for _ in range(3)]
    booked = policy_speed(requests=count, booked=True)
    return {
        "policy_requests_per_s": round(max(one.requests_per_s for one in played)),
        "policy_rounds_per_s": [round(one.requests_per_s) for one in played],
        "policy_booked_requests_per_s": round(booked.requests_per_s),
    }


def part_agree(views: int) -> dict[str, object]:
    """Let the gateway's own least-loaded policy and the compiled one decide on the same random loads."""
    from wattmill.scheduling.policies import POLICIES
    from wattmill.scheduling.spec import Fleet, Pool, Weights
    from wattmill.twin.engine.run import least_of_views
    from wattmill.vocab.caller import Caller
    from wattmill.vocab.request import Request
    from wattmill.vocab.route import Route

    pools = tuple(
        Pool(
            name=f"p{at}",
            models=frozenset(["m"]),
            capabilities=frozenset(["chat"]),
            context_tok=4_096,
            privacy="public",
            slots=64,
            queue=1_000,
            charge_in_nusd_per_mtok={"m": 1},
            charge_out_nusd_per_mtok={"m": 1},
            prefill_tok_per_s=1_000.0,
            decode_tok_per_s=50.0,
        )
        for at in range(16)
    )
    fleet = Fleet(id=0, at_us=0, pools=pools)
    ask = Request(
        id="",
        endpoint="chat",
        model="m",
        pool=None,
        stream=True,
        input_bound_tok=10,
        max_output_tok=10,
        privacy="public",
    )
    caller = Caller(key=1, name="twin", path=(1,), privacy="public")
    rng = np.random.default_rng(11)
    # Ties are the rule among small numbers, and the exception among large ones.
    drawn = np.concatenate([rng.integers(0, 3, (views // 2, 16)), rng.integers(0, 900, (views // 2, 16))])
    policy, weights = POLICIES["least-loaded"], Weights()
    at = {pool.name: index for index, pool in enumerate(pools)}
    compiled = least_of_views(drawn).tolist()
    agreed = 0
    for busy, theirs in zip(drawn.tolist(), compiled, strict=True):
        route = policy(ask, caller, fleet, busy=busy, weights=weights, now_s=0.0, draw=0.5)
        agreed += isinstance(route, Route) and at[route.candidates[0].pool] == theirs
    return {"views_agreed": agreed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["million", "fleet", "whatif", "policy", "agree"])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=3_600)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/twin.json")
    args = parser.parse_args()
    if args.part:
        part = {
            "million": lambda: part_million(args.requests),
            "fleet": lambda: part_fleet(args.replicas, args.seconds),
            "whatif": part_whatif,
            "agree": lambda: part_agree(min(args.requests, 100_000)),
            "policy": lambda: part_policy(min(args.requests, 20_000)),
        }[args.part]
        print(json.dumps(part()))
        return
    told: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, one core of a shared machine",
    }
    for name in ("million", "fleet", "whatif", "policy", "agree"):
        ran = subprocess.run(
            [
                sys.executable, __file__, "--part", name, "--requests", str(args.requests),
                "--replicas", str(args.replicas), "--seconds", str(args.seconds),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            print(ran.stderr, file=sys.stderr)
            raise SystemExit(f"part {name} failed")
        told.update(json.loads(ran.stdout))
        print(f"{name}: {ran.stdout.strip()}", flush=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    names = ("requests_per_s", "rss_mb", "fleet_s", "policy_requests_per_s", "whatif_ms", "views_agreed")
    print(" ".join(f"{name}={told[name]}" for name in names))


if __name__ == "__main__":
    main()
