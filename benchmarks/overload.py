"""More than there is: three times the load that two places can serve, and who gets what of it.

Two paced engines with fixed slots and rates, a real factory (`wattmill up`), 1 and then 2 workers. Tenants of
three tiers send Poisson arrivals for `--seconds`; in the lowest tier all are equal and one sends ten times as
much. All is told from what the clients saw and what the engines counted; the books are asked at the end.

    python benchmarks/overload.py                     the whole, about two minutes
    python benchmarks/overload.py --workers 1 --seconds 10      a smoke
    python benchmarks/overload.py --without           the same load without tiers, to see what they are for
    python benchmarks/overload.py --live              a smoke on the embedded engine

The last line says whether the goals are met; the exit code does too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from factory import KEY, Factory, Server, free_port, http, wattmill
from overload_client import Crowd, Seen, Tenant

HERE = Path(__file__).parent
MODEL = "m"
TOKENS = 16
PREFILL_MS, TOKEN_MS, SLOTS, PLACES = 50.0, 20.0, 6, 2
SERVICE_S = (PREFILL_MS + TOKENS * TOKEN_MS) / 1000
CAPACITY_PER_S = SLOTS * PLACES / SERVICE_S
OVERLOAD = 3.0
LONGEST_RETRY_S = 600

# Tier, tenants, share of the capacity that all of them ask for. Promises leave room for one service time.
DEMAND = (("premium", 3, 0.40), ("high", 3, 0.30), ("free", 6, 2.30))
GREEDY = "free-0"  # asks for ten times as much as each of its equals
PROMISES = {"premium": (1.0, 30.0), "high": (3.0, 20.0), "free": (5.0, 10.0)}  # seconds, tokens per second
QUEUE_S = {"premium": 5.0, "high": 8.0, "free": 8.0}

WARM_S = 3.0  # until then queues fill, and who comes first has no rival
FEWEST_TOLD = 20  # a share of fewer says little
GOAL_KEPT, GOAL_JAIN, GOAL_HONEST = 0.95, 0.95, 0.90


def tiers_toml() -> str:
    return "".join(
        f"[tiers.{name}]\nttft_s = {ttft}\ntok_per_s = {speed}\nqueue_s = {QUEUE_S[name]}\n"
        for name, (ttft, speed) in PROMISES.items()
    )


def declaration(engines: list[str], *, port: int, admin_port: int, workers: int, tiers: bool) -> str:
    pools = "".join(
        f"""
[pools.place{n}]
engine = "openai_http"
adapter = "openai"
place = "place {n}"
base_url = "{url}"
models = ["{MODEL}"]
slots = {SLOTS}
queue = 4096
context_tok = 8192
max_connections = 4096
speed = {{ prefill_tok_per_s = 1000.0, decode_tok_per_s = {1000 / TOKEN_MS} }}
cost = {{ rule = "rates", input_usd_per_mtok = "0.10", output_usd_per_mtok = "0.40" }}
charge = {{ rule = "cost_plus", markup = 0.2 }}
"""
        for n, url in enumerate(engines)
    )
    teams = "".join(
        f"[tenants.crowd.teams.{name}-{n}]\n" + (f'tier = "{name}"\n' if tiers else "")
        for name, count, _ in DEMAND
        for n in range(count)
    )
    return f"""
[factory]
name = "overload"

[gateway]
host = "127.0.0.1"
port = {port}
workers = {workers}
drain_s = 1.0
limits = {{ in_flight = 20000, connections = 20000 }}

[admin]
host = "127.0.0.1"
port = {admin_port}

[models.{MODEL}]
context_tok = 8192
{pools}
[routing]
expected_output_tok = {TOKENS}

{tiers_toml() if tiers else ""}
[admission]
longest_retry_s = {LONGEST_RETRY_S}

[tenants.crowd]
{teams}
[tenants.bench.teams.load]
"""


def demand() -> list[tuple[str, str, float]]:
    """Return (team, tier, requests per second)."""
    out = []
    for tier, count, share in DEMAND:
        rates = [1.0] * count
        if f"{tier}-0" == GREEDY:
            rates[0] = 10.0
        total = sum(rates)
        out += [
            (f"{tier}-{n}", tier, rate / total * share * CAPACITY_PER_S * OVERLOAD / 3.0)
            for n, rate in enumerate(rates)
        ]
    return out


@dataclass
class Row:
    """One tier as its clients saw it; who was refused and came back is counted again."""

    tier: str
    offered: int
    served: int
    kept: int
    p50_ttft_s: float
    p95_ttft_s: float
    refused: int
    told: int  # refusals that told a time within the run, and came back then
    honest: int  # of these, served

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Result:
    workers: int
    tiers: bool
    rows: list[Row]
    jain: float
    served_by: dict[str, int]
    most_inside: list[int]
    bound: int
    served_per_s: float
    status: list[dict[str, Any]]

    @property
    def by_tier(self) -> dict[str, Row]:
        return {row.tier: row for row in self.rows}


def jain(values: list[int]) -> float:
    """Return Jain's index: 1 if all are equal, 1/n if one has all."""
    squares = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def kept(seen: Seen) -> bool:
    ttft_s, tok_per_s = PROMISES[seen.tenant.tier]
    if seen.status != 200 or seen.ttft_s is None or seen.output_tok < TOKENS:
        return False
    decode_s = seen.total_s - seen.ttft_s
    return seen.ttft_s <= ttft_s and (seen.output_tok - 1) >= tok_per_s * decode_s


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def judge(tier: str, seen: list[Seen]) -> Row:
    mine = [s for s in seen if s.tenant.tier == tier]
    ttfts = [s.ttft_s for s in mine if s.ttft_s is not None]
    refused = [s for s in mine if s.status in (429, 503)]
    back = [s for s in mine if s.retry_of is not None and s.status]
    return Row(
        tier=tier,
        offered=len([s for s in mine if s.retry_of is None]),
        served=sum(s.status == 200 for s in mine),
        kept=sum(map(kept, mine)),
        p50_ttft_s=quantile(ttfts, 0.5),
        p95_ttft_s=quantile(ttfts, 0.95),
        refused=len(refused),
        told=len(back),
        honest=sum(s.status == 200 for s in back),
    )


def run(workers: int, seconds: float, seed: int, *, tiers: bool = True) -> Result:
    engines = [
        Server(
            sys.executable, str(HERE / "paced_engine.py"), "--slots", str(SLOTS),
            "--prefill-ms", str(PREFILL_MS), "--token-ms", str(TOKEN_MS),
        )
        for _ in range(PLACES)
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for engine in engines:
            engine.start()
            stack.callback(engine.kill)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        urls = [f"http://127.0.0.1:{engine.port}/v1" for engine in engines]
        toml = declaration(urls, port=port, admin_port=free_port(), workers=workers, tiers=tiers)
        factory = Factory(folder / "home", toml, port=port)
        factory.start()
        stack.callback(factory.stop)
        tenants = [
            Tenant(team, tier, _key(factory, f"crowd/{team}"), per_s) for team, tier, per_s in demand()
        ]
        _until_known(factory, tenants)
        crowd = Crowd(port, tokens=TOKENS, model=MODEL, seed=seed)
        uvloop.run(crowd.run(tenants, seconds=seconds, patience_s=max(QUEUE_S.values()) + 5))
        stats = [json.loads(http(f"{url}/stats")[2]) for url in urls]
        return _result(workers, tiers, crowd.seen, seconds, stats, _status(factory))


def _result(
    workers: int,
    tiers: bool,
    seen: list[Seen],
    seconds: float,
    stats: list[dict[str, Any]],
    status: list[Any],
) -> Result:
    equals = [f"{tier}-{n}" for tier, count, _ in DEMAND if tier == "free" for n in range(count)]
    under_load: dict[str, int] = {}
    for one in seen:
        if WARM_S <= one.at_s + one.total_s <= seconds:
            under_load[one.tenant.name] = under_load.get(one.tenant.name, 0) + one.output_tok
    made: dict[str, int] = {}
    for place in stats:
        for team, tokens in place["tokens"].items():
            made[team] = made.get(team, 0) + tokens
    return Result(
        workers=workers,
        tiers=tiers,
        rows=[judge(tier, seen) for tier, _, _ in DEMAND],
        jain=jain([under_load.get(team, 0) for team in equals]),
        served_by=dict(sorted(made.items())),
        most_inside=[one["most_inside"] for one in stats],
        bound=SLOTS + workers - 1,
        served_per_s=sum(s.status == 200 and s.at_s + s.total_s <= seconds for s in seen) / seconds,
        status=status,
    )


def _key(factory: Factory, team: str) -> str:
    made = wattmill("keys", "create", team, "one", "--json", "--home", str(factory.home))
    found = KEY.search(made.stdout)
    if found is None:
        raise RuntimeError(f"no key for {team}: {made.stdout}{made.stderr}")
    return found.group()


def _until_known(factory: Factory, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        for _ in range(200):
            headers = {"authorization": f"Bearer {tenant.key}"}
            if all(http(factory.url + "/v1/models", headers=headers)[0] == 200 for _ in range(4)):
                break


def _status(factory: Factory) -> list[Any]:
    """Return what `wattmill status` says of the tiers, once the books have all of it."""
    for _ in range(40):
        told = wattmill("status", "--json", "--home", str(factory.home))
        figures = json.loads(told.stdout)
        if figures["books"]["lag"]["value"] in (None, 0) or (figures["books"]["lag"]["value"] or 0) < 0.5:
            break
    return list(figures.get("tiers", []))


def table(result: Result) -> str:
    what = "tiers and admission" if result.tiers else "no tiers: every place queues by itself"
    lines = [
        f"{result.workers} worker{'s' if result.workers > 1 else ''}, {what}; capacity "
        f"{CAPACITY_PER_S:.1f} req/s, offered {OVERLOAD:.0f} x, served {result.served_per_s:.1f} req/s",
        "tier     offered  served  promise kept  TTFT p50   p95      refused  came back when told, served",
    ]
    for row in result.rows:
        share = row.kept / (row.offered or 1)
        told = f"{row.honest} of {row.told}" if row.told else "-"
        lines.append(
            f"{row.tier:8} {row.offered:7d} {row.served:7d} {share:12.1%} {row.p50_ttft_s:8.3f} s "
            f"{row.p95_ttft_s:7.3f} s {row.refused:7d}  {told}"
        )
    lines.append(
        f"Jain's index of the {len([t for t in result.served_by if t.startswith('free')])} equal tenants of "
        f"free (one asks 10 x): {result.jain:.4f}   "
        f"most inside a place: {max(result.most_inside)} (slots {SLOTS}, bound {result.bound})"
    )
    if result.status:
        shares = ", ".join(f"{tier['name']} {tier['kept']['text']}" for tier in result.status)
        lines.append(f"promises kept, as `wattmill status` says: {shares}")
    return "\n".join(lines)


def misses(result: Result) -> list[str]:
    """Return the goals that were not met."""
    rows = result.by_tier
    shares = {tier: row.kept / (row.offered or 1) for tier, row in rows.items()}
    told = sum(row.told for row in rows.values())
    honest = sum(row.honest for row in rows.values()) / told if told >= FEWEST_TOLD else 1.0
    found = []
    if shares["premium"] < GOAL_KEPT:
        found.append(f"premium kept {shares['premium']:.1%} of its promise, goal {GOAL_KEPT:.0%}")
    if not shares["free"] < shares["high"] <= shares["premium"] + 0.02:
        found.append(f"the lowest tier did not give way first: {shares}")
    if result.jain < GOAL_JAIN:
        found.append(f"Jain's index is {result.jain:.3f}, goal {GOAL_JAIN}")
    if max(result.most_inside) > result.bound:
        found.append(f"{max(result.most_inside)} were inside a place, bound {result.bound}")
    if honest < GOAL_HONEST:
        found.append(f"{honest:.1%} of those who came back when told were served, goal {GOAL_HONEST:.0%}")
    if result.served_per_s < 0.85 * CAPACITY_PER_S:
        found.append(f"served {result.served_per_s:.1f} req/s of {CAPACITY_PER_S:.1f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, action="append", help="repeat for several; default 1 and 2")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", action="store_true", help="the same load without tiers")
    parser.add_argument("--live", action="store_true", help="a smoke on the embedded engine")
    parser.add_argument("--json", type=Path, help="write the results there too")
    args = parser.parse_args()
    if args.live:
        from overload_live import live

        raise SystemExit(asyncio.run(live(args.seconds)))
    results = [
        run(workers, args.seconds, args.seed, tiers=not args.without) for workers in args.workers or [1, 2]
    ]
    print(f"python {platform.python_version()}, {args.seconds:g} s each, seed {args.seed}")
    found = []
    for result in results:
        print(table(result), flush=True)
        found += [f"{result.workers} workers: {miss}" for miss in misses(result)]
    if args.json is not None:
        told = [{**vars(r), "rows": [row.as_json() for row in r.rows]} for r in results]
        args.json.write_text(json.dumps(told, indent=1, default=str) + "\n")
    if args.without:
        print("without tiers there is nothing to keep: compare the shares above")
        return
    print("\n".join(found) or "all goals met: premium >= 95 %, Jain >= 0.95, the lowest tier gave way first")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
