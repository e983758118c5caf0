"""A plan as a sheet: what to buy, what a token costs, the front that it was chosen from, what binds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from wattmill.app.results.making import fact, modelled, table, usd
from wattmill.app.results.sheet import Fact, Sheet, Table
from wattmill.app.seeing.figure import Figure, figure
from wattmill.units import NUSD_PER_USD, W_PER_MW

if TYPE_CHECKING:  # they bring numpy and the solver along
    from wattmill.twin.planning.breakeven import BreakEven
    from wattmill.twin.planning.plan import Plan, TierAnswer
    from wattmill.twin.planning.played import Played
    from wattmill.twin.planning.uncertainty import Spread, Sureness
    from wattmill.twin.plots.chart import Chart
    from wattmill.twin.prediction import Interval


def planned(
    plan: Plan,
    sure: Sureness,
    even: BreakEven | None,
    *,
    charts: Sequence[Chart],
    played: Sequence[Played] = (),
    at_us: int,
) -> Sheet:
    """Return the sheet of one plan. `charts`: the front, the break-even and the costs, as files have them."""
    what = ", ".join(f"{p.gpus:,} {p.accelerator}" for p in plan.purchases) or "nothing to buy"
    bound = [b.limit for b in plan.binding if b.binds]
    margin = sure.margin_usd_per_year
    return Sheet(
        kind="plan",
        at_us=at_us,
        key=plan.name,
        title=plan.name,
        says=f"{what}; {'binds: ' + ', '.join(bound) if bound else 'no limit binds'}",
        facts=_facts(plan, sure),
        charts=tuple(charts),
        tables=tuple(_tables(plan, sure, even, played)),
        notes=(
            f"80 % of {sure.draws:,} draws (seed {sure.seed}): margin {_musd(margin)} M$ a year, requests "
            f"{sure.requests_per_s.p10:,.1f} to {sure.requests_per_s.p90:,.1f} a second.",
            f"Proof: within {plan.proof.gap:.2%} of the best plan, {plan.proof.columns:,} columns.",
            f"Demand: {plan.how}.",
            *(f"{note}." if note[-1:].isalnum() else note for note in plan.notes),
        ),
    )


def _musd(spread: Spread) -> str:
    return f"{spread.p10 / 1e6:,.1f} to {spread.p90 / 1e6:,.1f}"


def _facts(plan: Plan, sure: Sureness) -> tuple[Fact, ...]:
    t = plan.totals

    def interval(spread: Spread) -> str:
        return f"80 % of the draws: {spread.p10:,.4g} to {spread.p90:,.4g}"

    yearly = "usd_per_year"
    return (
        fact("accelerators", sum(p.gpus for p in plan.purchases), "count", note="nodes are whole"),
        fact("provisioned", t.provisioned_mw * W_PER_MW, "w"),
        fact("drawn in the mean", t.drawn_mw * W_PER_MW, "w", note=interval(sure.drawn_mw) + " MW"),
        *(
            [
                fact(
                    "CO2e",
                    sure.tonnes_co2_per_year.planned,
                    "t_per_year",
                    note=interval(sure.tonnes_co2_per_year) + " t",
                )
            ]
            if sure.tonnes_co2_per_year is not None
            else []
        ),
        fact("requests", t.requests_per_s, "per_s", note=interval(sure.requests_per_s)),
        fact("output tokens", t.output_tok_per_s, "tok_per_s"),
        fact("of a provisioned MW", t.output_tok_per_s_per_mw, "tok_per_s"),
        fact("cost", t.cost_usd_per_year, yearly, note=interval(sure.cost_usd_per_year) + " $"),
        fact("revenue", t.revenue_usd_per_year, yearly, note="at the declared prices"),
        fact("margin", t.margin_usd_per_year, yearly, note=interval(sure.margin_usd_per_year) + " $"),
    )


def _tables(plan: Plan, sure: Sureness, even: BreakEven | None, played: Sequence[Played]) -> Iterable[Table]:
    yield table(
        "binding",
        "What binds",
        ["limit", "used", "allowed", "unit", "binds", "one more is worth"],
        [
            [
                b.limit, modelled(b.used, "plain"), figure(b.allowed, "plain", provenance="declared"), b.unit,
                "yes" if b.binds else "no", modelled(b.worth_usd_per_year, "usd_per_year"),
            ]
            for b in plan.binding
        ],
        note="Worth a year of one more unit of the limit, in the relaxation.",
    )  # fmt: skip
    yield table(
        "tiers",
        "What a token costs",
        (
            "tier",
            "requests",
            "tok/s for a user",
            "80 % of it",
            "first token",
            "cost",
            "80 % of the cost",
            "price",
            "energy",
        ),
        [_tier(tier, sure) for tier in plan.tiers],
        note="Spares, room for the peak and idle time inside. The law's intervals, and those of the draws.",
    )
    yield table(
        "pools",
        "What runs",
        ["offer", "model", "engine", "split", "replicas", "batch", "bound by", "stands on"],
        [
            [
                p.offer, p.model, f"{p.engine} {p.precision}",
                p.split,
                modelled(p.replicas, "count"), modelled(p.batch, "count"), p.bound_by,
                f"{p.klass}, nearest {p.nearest or 'none'}",
            ]
            for p in plan.pools
        ],
        note=" ".join(
            f"{words[0].upper()}{words[1:]}."
            for words in dict.fromkeys([
                *(f"{p.offer}, {p.engine} {p.split} at {p.batch}: {p.instead}" for p in plan.pools),
                *(p.beyond for p in plan.pools if p.beyond),
            ])
        ),
    )  # fmt: skip
    yield table(
        "purchases",
        "What to buy",
        ["offer", "accelerator", "nodes", "racks", "spare nodes", "power", "cost"],
        [
            [
                p.offer, p.accelerator, modelled(p.nodes, "count"), modelled(p.racks, "count"),
                modelled(p.spare_nodes, "count"), modelled(p.provisioned_mw * W_PER_MW, "w"),
                modelled(p.fixed_usd_per_year, "usd_per_year"),
            ]
            for p in plan.purchases
        ],
    )  # fmt: skip
    if even is not None:
        levels = list(even.alternatives[0].usd_per_mtok_output)
        yield table(
            "ways",
            "Own, rent or buy a million output tokens, by utilisation",
            ["way", "paid", *levels],
            [[a.name, a.way, *(usd(a.usd_per_mtok_output[at]) for at in levels)] for a in even.alternatives],
        )
    if played:
        yield table(
            "played",
            "The front, by events and in closed form",
            ("configuration", "batch", "tok/s a user", "law", "tok/s a GPU", "a GPU, law", "first token"),
            [
                [
                    p.config, modelled(p.batch, "count"), modelled(p.tok_per_s_per_user, "tok_per_s"),
                    modelled(p.law_tok_per_s_per_user, "tok_per_s"),
                    modelled(p.output_tok_per_s_per_gpu, "tok_per_s"),
                    modelled(p.law_output_tok_per_s_per_gpu, "tok_per_s"), modelled(p.ttft_s, "s"),
                ]
                for p in played
            ],
        )  # fmt: skip


def _tier(tier: TierAnswer, sure: Sureness) -> list[Figure | str]:
    cost = sure.usd_per_mtok_output.get(tier.tier)
    return [
        tier.tier,
        modelled(tier.requests_per_s, "per_s"),
        modelled(tier.tok_per_s_per_user.value, "tok_per_s"),
        _between(tier.tok_per_s_per_user),
        modelled(tier.ttft_s.value, "s"),
        usd(tier.usd_per_mtok_output, "nusd_per_mtok"),
        "–" if cost is None else f"{cost.p10:,.3f} to {cost.p90:,.3f}",
        figure(tier.price_usd_per_mtok_output * NUSD_PER_USD, "nusd_per_mtok", provenance="declared"),
        modelled(tier.j_per_output_tok, "j_per_tok"),
    ]


def _between(interval: Interval) -> str:
    return f"{interval.low:,.3g} to {interval.high:,.3g}"
