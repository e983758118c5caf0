"""What commands leave for the board's twin room: a check, a simulation, a plan, and a calibration."""

from __future__ import annotations

from pathlib import Path

import msgspec

from wattmill.app.results.checked import checked
from wattmill.app.results.making import fact, modelled, table
from wattmill.app.results.sheet import Sheet
from wattmill.app.results.shelf import Shelf
from wattmill.app.results.simulated import simulated
from wattmill.twin.calibration.kept import keep
from wattmill.twin.calibration.spec import Calibration
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.twin.fleet.report import (
    PROVENANCE,
    Drafts,
    Handed,
    PoolRow,
    Refusals,
    Report,
    Row,
    Spread,
    TierRow,
)
from wattmill.twin.fleet.timeline import Moment
from wattmill.twin.plots.chart import Axis, Chart, Series

S = 1_000_000
MODEL = "smollm2-135m"

MEASURED = (  # load, figure, predicted, measured, spread of the repeats
    (0.5, "output_tok_per_s", 21.1, 21.12, 0.01), (0.5, "ttft_p50_s", 0.61, 0.5, 0.05),
    (0.5, "ttft_p95_s", 1.22, 1.2, 0.09), (0.5, "tpot_p50_s", 0.031, 0.031, 0.02),
    (0.5, "tpot_p95_s", 0.049, 0.062, 0.07), (0.9, "output_tok_per_s", 37.8, 36.9, 0.02),
    (0.9, "ttft_p50_s", 1.23, 1.5, 0.06), (0.9, "ttft_p95_s", 2.11, 3.2, 0.09),
    (0.9, "tpot_p50_s", 0.047, 0.068, 0.03), (0.9, "tpot_p95_s", 0.067, 0.08, 0.05),
)  # fmt: skip


def a_check(at_us: int) -> Sheet:
    rows = [
        {
            "load": load, "figure": name, "predicted": told, "measured": real, "error": told / real - 1,
            "spread": apart, "holds": abs(told / real - 1) <= max(0.1, apart), "provenance": "measured",
        }
        for load, name, told, real, apart in MEASURED
    ]  # fmt: skip
    return checked(
        MODEL, "llama.cpp q8_0", rows, median_error=0.167, repeats=3, requests=16, goal=0.10, at_us=at_us
    )


def a_simulation(at_us: int) -> Sheet:
    moments = [
        Moment(float(t), pool, (t * (n + 2)) % 9, 8, 1, 0, 0.5, 40.0 + t % 7 * (n + 1), max(0, t % 20 - 12))
        for t in range(600)
        for n, pool in enumerate(("own", "cloud"))
    ]
    return simulated(a_report(), moments, at_us=at_us)


def a_report() -> Report:
    spread = Spread(n=900, p50=0.4, p95=1.3, p99=2.2)

    def row(name: str, requests: int, charge: float) -> dict[str, object]:
        return {
            "name": name, "requests": requests, "attempts": requests, "failed": 0, "refused": 3,
            "input_tok": requests * 400, "cached_tok": 0, "output_tok": requests * 120,
            "output_tok_per_s": requests / 5, "ttft_s": spread, "tpot_s": spread, "charge_usd": charge,
            "cost_usd": charge * 0.7, "margin_usd": charge * 0.3,
        }  # fmt: skip

    def pool(name: str, occupancy: float | None, joules: float | None) -> PoolRow:
        return PoolRow(
            **row(name, 450, 1.25), provenance="declared", source="speed of the declaration",  # type: ignore[arg-type]
            twin_error=0.06, replicas=(1, 1), occupancy=occupancy, hours_usd=1.0, idle_usd=0.2,
            energy_j=joules, idle_j=None, j_per_output_tok=None, carbon_g=None, cold_starts=0, failures=0,
        )  # fmt: skip

    own = msgspec.structs.replace(
        pool("own", 0.95, 81_000.0), failures=2, void_tok=280, void_j=12.0,
        handed=Handed(prefill_replicas=1, hand_overs=450, sent_gb=72.6, mean_wait_s=0.0017, link_busy=0.028),
        speculation=Drafts(
            drafted=3, acceptance=0.7, law_tok_per_step=2.533, drawn_tok_per_step=2.543, draws=36_069
        ),
    )  # fmt: skip
    tier = TierRow(
        **row("premium", 300, 2.0), promise="first token in 1 s", offered=300, kept=294,  # type: ignore[arg-type]
        kept_share=0.98, queued=12, mean_queue_s=0.2,
    )  # fmt: skip
    return Report(
        factory="two places", demand="1.5 requests/s for 600 s", seed=1, policy="value", simulated_s=604.2,
        asked=900, came_back=0, total=Row(**row("all", 900, 2.5)),  # type: ignore[arg-type]
        pools=(own, pool("cloud", None, None)), tiers=(tier,),
        tenants=(Row(**row("acme/search", 900, 2.5)),),  # type: ignore[arg-type]
        refusals=(Refusals(code="context_too_long", requests=3),), energy_j=81_000.0,
        energy_provenance="modelled", law="every law of the books holds", holds=True, provenance=PROVENANCE,
    )  # fmt: skip


def a_plan(at_us: int) -> Sheet:
    """A sheet of the plan's kind; the planner's own is tested where plans are made."""
    front = tuple((160.0 / (n + 1), 40.0 * 2**n) for n in range(6))
    return Sheet(
        kind="plan",
        at_us=at_us,
        key="ten megawatts",
        title="ten megawatts",
        says="4,608 B200-SXM; binds: power at the meter",
        facts=(fact("provisioned", 9.999e6, "w"), fact("margin", 517.4e6, "usd_per_year")),
        charts=(
            Chart(
                id="pareto",
                kind="scatter",
                title="Throughput of a GPU against interactivity",
                says="Six points of the front.",
                x=Axis(label="speed for one user", unit="output tok/s", provenance="modelled"),
                y=Axis(label="throughput", unit="output tok/s/GPU", provenance="modelled"),
                series=(Series(name="front", points=front, joined=True, names=("batch 1",) * 6),),
            ),
        ),
        tables=(table("binding", "What binds", ["limit", "used"], [["power", modelled(9.999, "plain")]]),),
        notes=("80 % of 2,000 draws: margin 198.3 to 934.0 M$ a year.",),
    )


def a_calibration(at_us: int, *, checked_us: int | None) -> Calibration:
    cost = StepCost(step_ps=(8_000_000_000,), context_ps_per_tok=700, prefill_ps_per_tok=30_000_000)
    return Calibration(
        model=MODEL, engine="llama.cpp q8_0", at_us=at_us, cost=cost,
        limits=EngineLimits(max_num_seqs=4, budget_tok=128, kv_blocks=512), rows=96, fit_error=0.081,
        check_error=None if checked_us is None else 0.167, checked_us=checked_us,
    )  # fmt: skip


def fill(home: Path, now_us: int) -> dict[str, str]:
    """Leave one result of each kind and a checked calibration; return the ids by kind."""
    shelf = Shelf(home)
    keep(home, a_calibration(now_us - 7200 * S, checked_us=now_us - 3600 * S))
    sheets = (a_check(now_us - 3600 * S), a_simulation(now_us - 900 * S), a_plan(now_us - 300 * S))
    return {sheet.kind: shelf.keep(sheet) for sheet in sheets}


def same(one: Sheet, other: Sheet) -> bool:
    return msgspec.json.encode(one) == msgspec.json.encode(other)
