"""The default policy and LiteLLM's rules on traffic that no setting was chosen on.

`python benchmarks/policies_held_out.py --seed 21 --seed 22` prints, for both traces at loads of 0.5, 0.8 and
1.1, the score of the default beside the best of LiteLLM's rules, and writes
`benchmarks/results/policies_held_out.json`. A seed draws a trace of its own: 48 pieces of the recorded one,
with replacement, in a drawn order, and other privacy classes. The requests are those that were recorded, so
this holds out which of them meet, not what they are; the rest is as in `policies.py`, whose run is seed 7.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from policies import CALLER, DEFAULT, LOADS, NEVER_EARLY, REFRESH_US, SEED, dispatchers, slo, traces
from policies_fleet import MODEL, PRIVACY_SHARES, REFUSED_USD, WEIGHTS
from policies_rivals import RIVALS
from wattmill.twin.bound.lp import capacity_per_s
from wattmill.twin.bound.terms import terms
from wattmill.twin.factory import simulate
from wattmill.twin.report import result
from wattmill.twin.spec import Place, Work
from wattmill.twin.workload import at_rate, with_privacy

PIECES = 48


def spliced(works: Sequence[Work], *, seed: int) -> list[Work]:
    """Return as long a trace, of pieces of this one that are drawn with replacement."""
    width_us = -(-(works[-1].at_us + 1) // PIECES)
    pieces: list[list[Work]] = [[] for _ in range(PIECES)]
    for work in works:
        pieces[work.at_us // width_us].append(work)
    rng = random.Random(seed)
    out: list[Work] = []
    for at in range(PIECES):
        drawn = rng.randrange(PIECES)
        later_us = (at - drawn) * width_us
        out += [msgspec.structs.replace(work, at_us=work.at_us + later_us) for work in pieces[drawn]]
    return out


def cell(works: Sequence[Work], places: Sequence[Place], *, load: float, seed: int) -> dict[str, Any]:
    """Play the default and the rivals at one load."""
    works = with_privacy(works if seed == SEED else spliced(works, seed=seed), PRIVACY_SHARES, seed=seed)
    worth = {"usd_per_s": WEIGHTS.usd_per_s, "refused_usd": REFUSED_USD}
    works = at_rate(works, load * capacity_per_s(terms(works, places, model=MODEL, caller=CALLER, **worth)))
    rows: dict[str, Any] = {}
    for name, make in dispatchers(places):
        if name in (DEFAULT, NEVER_EARLY) or name in RIVALS:
            told = result(
                simulate(works, places, make(), refresh_us=REFRESH_US),
                works, places, model=MODEL, slo=slo, **worth,
            )  # fmt: skip
            rows[name] = {
                "usd_per_1k": told.objective_usd / len(works) * 1_000,
                "served_share": told.served / len(works),
            }
    best = min(RIVALS, key=lambda name: rows[name]["usd_per_1k"])
    against = rows[DEFAULT]["usd_per_1k"] / rows[best]["usd_per_1k"] - 1.0
    return {"load": load, "seed": seed, "rows": rows, "best_rival": best, "default_against_best": against}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--requests", type=int, help="only so many of each trace")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/policies_held_out.json")
    args = parser.parse_args()
    cells = []
    for trace, (works, places) in traces(args.requests).items():
        if "caches" in trace:
            continue  # pieces that come twice would be found in the caches
        for load in LOADS:
            for seed in args.seed or (21,):
                one = cell(works, places, load=load, seed=seed)
                cells.append({"trace": trace} | one)
                row = one["rows"][DEFAULT]
                print(
                    f"{trace} {load} seed {seed}: {row['usd_per_1k']:.3f} USD/1k, served "
                    f"{100 * row['served_share']:.2f} %, {100 * one['default_against_best']:+.1f} % against "
                    f"{one['best_rival']} ({one['rows'][one['best_rival']]['usd_per_1k']:.3f}); without "
                    f"refusal_usd {one['rows'][NEVER_EARLY]['usd_per_1k']:.3f}",
                    flush=True,
                )
    args.out.write_text(json.dumps({"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
