"""The planner's programme against a grid search over the same curves, prices and limits: `make plan-grid`.

The grid search is what a spreadsheet does, done well. For every combination of one configuration for each
tier it gives each tier nodes of its own, rounds replicas and nodes up, adds the spares of each accelerator,
and looks for the largest demand (or takes the given one) that keeps every limit. It tries every combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.twin.planning.answer import answered
from wattmill.twin.planning.offers import Offer, energy_usd_per_j, fixed_usd_per_node_year
from wattmill.twin.planning.options import Option, TierAsk
from wattmill.twin.planning.performance import declared_power
from wattmill.twin.planning.programme import Problem
from wattmill.twin.planning.spares import enough_up
from wattmill.twin.prediction import predict
from wattmill.units import G_PER_T, J_PER_KWH, S_PER_YEAR, W_PER_MW

CASES = ("demand-virginia-10mw", "demand-assistants", "demand-scarce")
_STEPS = 40


class Best(NamedTuple):
    usd_per_year: float  # margin, or minus the cost
    requests_per_s: float
    combinations: int
    search_s: float


def grid_search(problem: Problem) -> Best | None:
    """Return the best of all combinations; None if none keeps every limit."""
    began = time.perf_counter()
    per_tier = [[(f, o) for f, o in problem.pairs() if tier.name in o.gives] for tier in problem.tiers]
    best: tuple[float, float] | None = None
    tried = 0
    for combination in itertools.product(*per_tier):
        tried += 1
        rate = problem.asked.requests_per_s
        if rate is None:
            rate = _largest(problem, combination)
        found = _usd(problem, combination, rate) if rate > 0.0 else None
        if found is not None and (best is None or found > best[0]):
            best = found, rate
    if best is None:
        return None
    return Best(best[0], best[1], tried, time.perf_counter() - began)


def _largest(problem: Problem, combination: Sequence[tuple[Offer, Option]]) -> float:
    low, high = 0.0, 1.0
    while _usd(problem, combination, high) is not None:
        low, high = high, 2.0 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _usd(problem, combination, middle) is not None else (low, middle)
    return low


def _usd(problem: Problem, combination: Sequence[tuple[Offer, Option]], rate: float) -> float | None:
    """Return the year's margin, or minus the cost, of one combination at a mean rate; None: over a limit."""
    demand, load = problem.demand, problem.asked
    working: dict[str, int] = {}
    busy_w = 0.0
    for (offer, option), tier in zip(combination, problem.tiers, strict=True):
        at = option.gives[tier.name]
        peak = rate * tier.share * load.peak_to_mean
        replicas = math.ceil(peak / at.requests_per_s / demand.load.utilisation - 1e-9)
        nodes = math.ceil(replicas * option.config.gpus / offer.per_node - 1e-9)
        working[offer.name] = working.get(offer.name, 0) + nodes
        gpus = rate * tier.share / at.requests_per_s * option.config.gpus
        busy_w += gpus * (offer.busy_w(at.batch, problem.power) - offer.idle_w)
    mw = fixed = 0.0
    watts = busy_w
    for offer in problem.offers:
        at_work = working.get(offer.name, 0)
        if not at_work:
            continue
        spare = 0
        while enough_up(at_work, spare, offer.down) < demand.availability.target:
            spare += 1
        nodes = at_work + spare
        if offer.most_nodes is not None and nodes > offer.most_nodes:
            return None
        mw += nodes * offer.per_node * offer.provisioned_w / W_PER_MW
        fixed += nodes * fixed_usd_per_node_year(offer)
        watts += nodes * offer.per_node * offer.idle_w
    cost = fixed + watts * S_PER_YEAR * energy_usd_per_j(demand)
    limits, carbon = demand.limits, demand.site.g_per_kwh
    if limits.power_mw is not None and mw > limits.power_mw * (1 + 1e-9):
        return None
    if limits.usd_per_year is not None and cost > limits.usd_per_year:
        return None
    grams = watts * S_PER_YEAR / J_PER_KWH * (carbon.value if carbon is not None else 0.0)
    if limits.tonnes_co2_per_year is not None and grams / G_PER_T > limits.tonnes_co2_per_year:
        return None
    return (_revenue(problem.tiers, rate) if demand.goal == "margin" else 0.0) - cost


def _revenue(tiers: Sequence[TierAsk], rate: float) -> float:
    return rate * sum(tier.share * tier.usd_per_request for tier in tiers) * S_PER_YEAR


def compared(path: Path, *, extrapolate: bool) -> dict[str, object]:
    """Return both answers to one demand file."""
    asking = load_demand(path)
    if not isinstance(asking, Asking):
        raise SystemExit("\n".join(map(str, asking)))
    began = time.perf_counter()
    found = answered(asking.demand, asking.trace, predict, declared_power, extrapolate=extrapolate)
    plan_s = time.perf_counter() - began
    grid = grid_search(found.chosen.problem)
    proof = found.plan.proof
    ahead = None if grid is None else proof.objective_usd_per_year - grid.usd_per_year
    return {
        "case": path.stem,
        "goal": asking.demand.goal,
        "programme_usd_per_year": proof.objective_usd_per_year,
        "bound_usd_per_year": proof.bound_usd_per_year,
        "gap": proof.gap,
        "grid_usd_per_year": None if grid is None else grid.usd_per_year,
        "combinations": None if grid is None else grid.combinations,
        "ahead_usd_per_year": ahead,
        "ahead_percent": None if grid is None or ahead is None else 100 * ahead / abs(grid.usd_per_year),
        "programme_s": plan_s,
        "grid_s": None if grid is None else grid.search_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    # The traces' answers are shorter than any that were measured; both searches see the same curves.
    parser.add_argument("--extrapolate", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan_grid.json"))
    args = parser.parse_args()
    folder = Path(__file__).parents[1] / "examples"
    rows = [compared(folder / f"{name}.toml", extrapolate=args.extrapolate) for name in args.cases]
    for row in rows:
        print(
            f"{row['case']}: programme {row['programme_usd_per_year'] / 1e6:.4f} M$/year "  # type: ignore[operator]
            f"(gap {row['gap']:.1e}, {row['programme_s']:.2f} s), grid of {row['combinations']} combinations "
            f"{row['grid_usd_per_year'] / 1e6:.4f} ({row['grid_s']:.1f} s): "  # type: ignore[operator]
            f"{row['ahead_usd_per_year'] / 1e6:.4f} ahead, {row['ahead_percent']:.2f} %"  # type: ignore[operator]
        )
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if any(row["ahead_usd_per_year"] is None or row["ahead_usd_per_year"] <= 0 for row in rows):  # type: ignore[operator]
        sys.exit("the grid search was as good")


if __name__ == "__main__":
    main()
