"""Routing policies on recorded traffic and simulated places: `make policies`.

Two whole traces (Azure's LLM conversations of 2023, Mooncake's conversations) at loads of 0.5, 0.8 and 1.1
of what the declared factory (`policies_fleet.py`) could ever serve of them, through every built-in policy
and through LiteLLM's strategies (`policies_rivals.py`). Printed: charge, time to first token, share that met
its SLO, share served, CO2, and how far above the lower bound (`wattmill.twin.bound`) the sum of dollars and
the worth of seconds lies. Written: `benchmarks/results/policies.json`. Deterministic but for the wall times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from policies_fleet import MODEL, PLACES, PRIVACY_SHARES, REFUSED_USD, WEIGHTS
from policies_rivals import RIVALS
from wattmill.scheduling.policies import POLICIES
from wattmill.twin.bound.ascent import refined
from wattmill.twin.bound.lp import Solved, capacity_per_s, lower_bound
from wattmill.twin.bound.search import Found, better_schedule
from wattmill.twin.bound.terms import terms
from wattmill.twin.factory import Dispatcher, simulate
from wattmill.twin.gateway import Gateway, chats
from wattmill.twin.report import Result, Slo, result
from wattmill.twin.spec import Place, StepLaw, Work
from wattmill.twin.workload import at_rate, from_csv, from_jsonl, with_privacy
from wattmill.units import US_PER_S
from wattmill.vocab.caller import Caller

HERE = Path(__file__).resolve().parent
LOADS = (0.5, 0.8, 1.1)
CACHED_LOADS = (0.5,)
HALVINGS = 2
"""So often the bound's windows are cut in two after the programme is solved."""
SEED = 7
REFRESH_US = 250_000
"""How old the gateway's view may be: a worker looks four times a second. Load is counted at once."""

CALLER = Caller(key=1, name="twin", path=(1,), privacy="public")
DEFAULT = "cheapest-adequate"
NEVER_EARLY = "cheapest-adequate, no refusal_usd"
"""The default policy where nothing says what a refusal costs: it refuses only where all is full."""


def slo(work: Work) -> Slo:
    """Declared: the first token within 1 s up to 4,096 prompt tokens, 3 s up to 32,768, 10 s beyond; then 20
    tokens a second."""
    ttft_s = 1.0 if work.input_tok <= 4_096 else 3.0 if work.input_tok <= 32_768 else 10.0
    return Slo(ttft_s, 0.05)


def uncached(places: Sequence[Place]) -> tuple[Place, ...]:
    """Return the places without prefix caches."""
    return tuple(
        msgspec.structs.replace(place, law=msgspec.structs.replace(place.law, cache_blocks=0))
        if isinstance(place.law, StepLaw)
        else place
        for place in places
    )


def traces(most: int | None) -> dict[str, tuple[list[Work], tuple[Place, ...]]]:
    azure = from_csv(HERE / "data/azure_llm_2023_conv.csv.gz", max_output_tok=1_024)
    mooncake = from_jsonl(HERE / "data/mooncake_conversation.jsonl.gz", max_output_tok=2_048)
    return {
        "azure_llm_2023_conv": (azure[:most], uncached(PLACES)),
        "mooncake_conversation": (mooncake[:most], uncached(PLACES)),
        "mooncake_conversation, prefix caches": (mooncake[:most], PLACES),
    }


def dispatchers(places: Sequence[Place]) -> Iterator[tuple[str, Callable[[], Dispatcher]]]:
    asks = chats(model=MODEL, caller=CALLER, weights=WEIGHTS)
    for name in POLICIES:
        yield (
            name,
            lambda name=name: Gateway(places, asks=asks, weights=WEIGHTS, seed=SEED, policy=name),
        )
    never = msgspec.structs.replace(WEIGHTS, refusal_usd=None)
    yield NEVER_EARLY, lambda: Gateway(places, asks=asks, weights=never, seed=SEED)
    for name, rival in RIVALS.items():
        yield name, lambda rival=rival: rival(places, model=MODEL, caller=CALLER, seed=SEED)


def experiment(
    trace: str, works: Sequence[Work], places: Sequence[Place], *, load: float, windows: int, rounds: int
) -> dict[str, Any]:
    """Run all dispatchers on `works` at `load`, and bound them."""
    works = with_privacy(works, PRIVACY_SHARES, seed=SEED)
    worth = {"usd_per_s": WEIGHTS.usd_per_s, "refused_usd": REFUSED_USD}
    capacity = capacity_per_s(terms(works, places, model=MODEL, caller=CALLER, **worth))
    works = at_rate(works, load * capacity)
    used = terms(works, places, model=MODEL, caller=CALLER, **worth)
    begun = time.perf_counter()
    span_s = works[-1].at_us / US_PER_S
    solved = refined(lower_bound(used, window_s=span_s / windows), halvings=HALVINGS)
    bound_s = time.perf_counter() - begun
    rows: dict[str, dict[str, Any]] = {}
    placements: dict[str, list[int]] = {}
    for name, make in dispatchers(places):
        begun = time.process_time()
        run = simulate(works, places, make(), refresh_us=REFRESH_US)
        spent_s = time.process_time() - begun
        told = result(run, works, places, model=MODEL, slo=slo, **worth)
        rows[name] = _row(told, solved.bound.usd) | {"simulated_per_s": round(len(works) / spent_s)}
        where = [-1] * len(works)
        for one in run.served:
            where[one.work] = one.place
        placements[name] = where
    start = min(rows, key=lambda name: rows[name]["objective_usd"])
    begun = time.perf_counter()
    found = better_schedule(
        works, places, placements[start], model=MODEL, caller=CALLER, seed=SEED, rounds=rounds, **worth
    )
    told = result(found.run, works, places, model=MODEL, slo=slo, **worth)
    rows["(best schedule found)"] = _row(told, solved.bound.usd)
    return {
        "trace": trace,
        "load": load,
        "requests": len(works),
        "capacity_per_s": capacity,
        "span_s": span_s,
        "rows": rows,
        "bound": _bound(solved, bound_s),
        "search": _search(found, start, time.perf_counter() - begun),
    }


def _row(told: Result, bound_usd: float) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(told)
    return row | {
        "regret": told.objective_usd / bound_usd - 1.0,
        "served_share": told.served / told.requests,
        "slo_share": told.in_slo / told.requests,
    }


def _bound(solved: Solved, wall_s: float) -> dict[str, Any]:
    names = [place.name for place in solved.terms.places]
    prices = {
        name: {
            "usd_per_place_second": float(np.mean(price.time[:-1])),
            "usd_per_slot_step": float(np.mean(price.slots[:-1])),
            "usd_per_ktok_step_held": float(np.mean(price.held[:-1])) * 1_000,
            "usd_per_second_in_queue_room": float(np.mean(price.room[:-1])),
        }
        for name, price in zip(names, solved.prices, strict=True)
    }
    return {
        "usd": solved.bound.usd,
        "window_s": float(solved.edges_s[1]),
        "windows": len(solved.edges_s),
        "wall_s": wall_s,
        "programme_usd": solved.programme_usd,
        "prices": prices,
        "binds": binding(solved),
    }


def binding(solved: Solved) -> dict[str, str]:
    """Return, for each place, what one more of would save most: of its time, its slots, its memory, its
    room."""
    told = {}
    for place, price in zip(solved.terms.places, solved.prices, strict=True):
        worth = {
            "time": float(np.sum(price.time)) * place.width,
            "room": float(np.sum(price.room)) * place.room,
        }
        if place.step_s:
            steps = 1.0 / place.step_s
            worth["slots"] = float(np.sum(price.slots)) * place.slots * steps
            worth["memory"] = float(np.sum(price.held)) * place.held_tok * steps
            worth["time"] -= worth["slots"] + worth["memory"]
        most = max(worth, key=lambda what: worth[what])
        told[place.name] = most if worth[most] > 1e-9 else "nothing"
    return told


def _search(found: Found, start: str, wall_s: float) -> dict[str, Any]:
    return {"from": start, "rounds": found.rounds, "moved": found.moved, "wall_s": wall_s}


def told(report: dict[str, Any]) -> str:
    """Return one experiment as text."""
    bound, n = report["bound"], report["requests"]
    lines = [
        f"{report['trace']}, load {report['load']}: {n} requests in {report['span_s']:.0f} s "
        f"(capacity {report['capacity_per_s']:.1f}/s)",
        f"{'policy':30} {'USD/1k':>8} {'s':>6} {'TTFT p50':>8} {'p95':>7} {'p99':>7} {'SLO %':>6} "
        f"{'served %':>8} {'gCO2/1k':>8} {'known %':>7} {'score/1k':>9} {'above bound %':>13} "
        f"{'req/CPU s':>9}",
    ]
    for name, row in report["rows"].items():
        ttft = row["ttft_s"] or (float("nan"),) * 3
        served = max(1, row["served"])
        grams = f"{row['carbon_g'] / row['carbon_known'] * 1_000:8.1f}" if row["carbon_known"] else "       -"
        lines.append(
            f"{name:30} {row['charge_usd'] / served * 1_000:8.4f} {row['seconds'] / served:6.2f} "
            f"{ttft[0]:8.2f} {ttft[1]:7.2f} {ttft[2]:7.2f} {100 * row['slo_share']:6.1f} "
            f"{100 * row['served_share']:8.2f} {grams} {100 * row['carbon_known'] / served:7.1f} "
            f"{row['objective_usd'] / n * 1_000:9.4f} {100 * row['regret']:13.1f} "
            f"{row.get('simulated_per_s', ''):>9}"
        )
    lines.append(
        f"{'lower bound (LP dual)':30} {'':62} {bound['usd'] / n * 1_000:18.4f} "
        f"    {bound['windows']} windows of {bound['window_s']:.1f} s, {bound['wall_s']:.0f} s"
    )
    binds = ", ".join(f"{name}: {what}" for name, what in bound["binds"].items())
    lines.append(f"binds: {binds}")
    prices = ", ".join(
        f"{name} {price['usd_per_place_second'] * 1_000:.3f}" for name, price in bound["prices"].items()
    )
    lines.append(f"shadow price of a second of the place's time, USD/1000: {prices}")
    best = report["rows"]["(best schedule found)"]["objective_usd"]
    default = report["rows"][DEFAULT]["objective_usd"]
    lines.append(
        f"the default is {100 * (default / bound['usd'] - 1):.1f} % above the bound and "
        f"{100 * (default / best - 1):.1f} % above the best schedule found; that schedule is "
        f"{100 * (best / bound['usd'] - 1):.1f} % above the bound"
    )
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "results/policies.json")
    parser.add_argument("--requests", type=int, help="only so many of each trace (a smoke test)")
    parser.add_argument("--load", type=float, action="append", help="instead of 0.5, 0.8 and 1.1")
    parser.add_argument(
        "--windows", type=int, default=24, help="windows of the programme; each is cut in four"
    )
    parser.add_argument("--rounds", type=int, default=24, help="rounds of the search for a better schedule")
    args = parser.parse_args()
    reports = []
    for trace, (works, places) in traces(args.requests).items():
        for load in args.load or (CACHED_LOADS if "caches" in trace else LOADS):
            report = experiment(trace, works, places, load=load, windows=args.windows, rounds=args.rounds)
            reports.append(report)
            print(told(report), flush=True)
            print(flush=True)
    args.out.write_text(
        json.dumps({"environment": environment(), "seed": SEED, "experiments": reports}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
