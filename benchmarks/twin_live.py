"""The twin against a living engine: one declaration, asked live and simulated (`make twin-live`, 7 minutes).

`wattmill up` runs one embedded place. `wattmill twin calibrate` fits the twin to two minutes of measuring;
`wattmill twin check` asks a fixed trace of other lengths and another seed at half, near and beyond what the
engine can serve, each again and again, and holds what the twin predicted against it. Then the same from the
books alone: fitted to the first period of the ledger, held against the second. Nothing is fitted again after
a look at a check.

    python benchmarks/twin_live.py --seed 7
    python benchmarks/twin_live.py --requests 5 --repeats 2 --load 0.5      a smoke, three minutes

Joules and dollars are modelled (CPU time through the declared host). The last line:

    figures=N held=N median=P% spread=P% others_cores=X ledger_figures=N ledger_held=N ledger_median=P%

`held`: within 10 % or within the spread of the repeats, whichever is more; `spread` is the largest one, and
where others took more than a third of a core meanwhile it says little of the twin.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from factory import TEAM, Factory, free_port, wattmill

MODEL, POOL = "smollm2-135m", "local"
SLOTS, BATCH_TOK, CONTEXT_TOK = 2, 128, 4_096
MAX_W, IDLE_W = 65.0, 20.0
ALONE_CORES = 0.3
LEAST_RECORDED = 30  # answers; of fewer no period of the books is checked
RESULT = Path(__file__).parent / "results" / "twin_live.json"


def declaration(port: int, admin_port: int) -> str:
    org, team = TEAM.split("/")
    return f"""
[factory]
name = "twin live"

[gateway]
host = "127.0.0.1"
port = {port}

[admin]
host = "127.0.0.1"
port = {admin_port}

[models.{MODEL}]
context_tok = 8192

[pools.{POOL}]
engine = "embedded"
place = "this machine"
weights = "smollm2-135m-instruct.q8_0-from-q4_1"
models = ["{MODEL}"]
threads = 1
slots = {SLOTS}
queue = 64
context_tok = {CONTEXT_TOK}
speed = {{ prefill_tok_per_s = 350.0, decode_tok_per_s = 84.0 }}

[pools.{POOL}.cost]
rule = "owned"
hourly_usd = "0.020"
power_w = 45.0
prefill_tok_per_s = 350.0
decode_tok_per_s = 60.0
utilization = 0.5

[tenants.{org}.teams.{team}]
"""


def told(*args: str, timeout_s: float = 900.0) -> Any:
    """Run a command with --json and return what it says; a command that fails ends the run with its words."""
    done = wattmill(*args, "--json", timeout_s=timeout_s)
    if done.returncode:
        raise SystemExit(f"wattmill {' '.join(args[:2])} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def instant() -> str:
    """Return now as the commands read it: seconds, UTC."""
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S}"


def lived(factory: Factory, args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate and check by asking, then from the books; return both checks."""
    home, name = str(factory.home), f"{POOL}/{MODEL}"
    engine = next(one["pid"] for one in factory.state()["processes"] if one["role"] == f"engine-{POOL}")
    ask = ("--url", factory.url + "/v1", "--model", name, "--key", factory.key, "--home", home)
    watch = ("--pid", str(engine), "--others", str(args.others))
    began = instant()
    shape = ("--slots", str(SLOTS), "--batch", str(BATCH_TOK), "--context", str(CONTEXT_TOK))
    fitted = told("twin", "calibrate", *ask, *watch, *shape, "--seed", str(args.seed))
    time.sleep(2.0)  # instants are whole seconds: the periods do not touch
    between = instant()
    loads = [word for share in args.load for word in ("--load", f"{share:g}")]
    asked = ("--requests", str(args.requests), "--repeats", str(args.repeats), *loads)
    watts = ("--max-w", str(MAX_W), "--idle-w", str(IDLE_W), "--usd-per-hour", "0.02")
    seed = ("--seed", str(args.seed + 1_000))
    live = told("twin", "check", *ask, *watch, *asked, *watts, *seed)
    time.sleep(2.0)
    ended = instant()
    time.sleep(2.0)  # the ledger process books the last of it
    books = ("--pool", POOL, "--home", home)
    told("twin", "calibrate", *books, "--batch", str(BATCH_TOK), "--since", began, "--until", between)
    ledger = None
    if args.requests * args.repeats * len(args.load) >= LEAST_RECORDED:
        ledger = told("twin", "check", *books, "--since", between, "--until", ended)
    return {"fit_error": fitted["fit_error"], "live": live, "ledger": ledger}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", type=float, action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--others", type=float, default=ALONE_CORES, help="cores; above, a sweep is repeated")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.load = args.load or [0.5, 0.9, 1.3]
    with tempfile.TemporaryDirectory(prefix="twin-live-") as folder:
        port, admin_port = free_port(), free_port()
        factory = Factory(Path(folder) / "home", declaration(port, admin_port), port=port)
        factory.start(timeout_s=60.0)
        try:
            found = lived(factory, args)
        finally:
            factory.stop()
    rows, ledger = found["live"]["figures"], found["ledger"]
    lines = [one for one in ledger["lines"] if one["judged"]] if ledger else []
    for row in rows:
        print(
            f"load {row['load']:g}  {row['figure']:<17} predicted {row['predicted']:10.4g}  measured "
            f"{row['measured']:10.4g}  {row['error']:+7.1%}  repeats {row['spread']:6.1%} apart  "
            f"{'holds' if row['holds'] else 'MISSES'}  ({row['provenance']})"
        )
    for line in lines:
        print(
            f"ledger    {line['figure']:<17} predicted {line['predicted']:10.4g}  recorded "
            f"{line['recorded']:10.4g}  {line['error']:+7.1%}  {'holds' if line['holds'] else 'MISSES'}"
        )
    held, kept = sum(row["holds"] for row in rows), sum(line["holds"] for line in lines)
    others = max((row["others_cores"] or 0.0 for row in rows), default=0.0)
    found["machine"] = {
        "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "seed": args.seed, "requests": args.requests,
        "repeats": args.repeats, "others_cores": others,
    }  # fmt: skip
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if others > ALONE_CORES:
        print(f"others took up to {others:.1f} cores meanwhile: this says more of them than of the twin")
    told_median = f"{ledger['median_error']:.1%}" if ledger else "-"
    print(
        f"figures={len(rows)} held={held} median={found['live']['median_error']:.1%} "
        f"spread={max(row['spread'] for row in rows):.1%} others_cores={others:.2f} "
        f"ledger_figures={len(lines)} ledger_held={kept} "
        f"ledger_median={told_median}"
    )
    sys.exit(0 if held == len(rows) else 1)


if __name__ == "__main__":
    main()
