"""What binds, what training takes, and what a reader of a plan must know."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.twin.planning.jobs import flops, runs_at_once
from wattmill.twin.planning.nodes import Bought, Flow
from wattmill.twin.planning.offers import energy_usd_per_j
from wattmill.twin.planning.plan import Binding, JobAnswer, TaskAnswer, TierAnswer, Totals
from wattmill.twin.planning.programme import Chosen, Problem, column
from wattmill.units import H_PER_YEAR, S_PER_DAY, S_PER_YEAR, TOK_PER_MTOK, USD_PER_MUSD, W_PER_MW

_NOTHING = 1e-6


def binding(done: Chosen, totals: Totals) -> list[Binding]:
    limits, prices = done.problem.demand.limits, done.prices
    rows: list[tuple[str, str, str, float, float | None]] = [
        ("power", "power at the meter", "MW", totals.provisioned_mw, limits.power_mw),
        (
            "budget",
            "dollars of a year",
            "M$",
            totals.cost_usd_per_year / USD_PER_MUSD,
            _millions(limits.usd_per_year),
        ),
        ("carbon", "CO2e of a year", "t", totals.tonnes_co2_per_year or 0.0, limits.tonnes_co2_per_year),
    ]
    for offer in done.problem.offers:
        if offer.most_nodes is not None:
            used = done.solution.values[column("nodes", offer)]
            rows.append(
                (column("most", offer), f"nodes of {offer.name}", "node", used, float(offer.most_nodes))
            )
    return [
        Binding(
            limit=words,
            unit=unit,
            used=used,
            allowed=allowed,
            worth_usd_per_year=prices[row] * USD_PER_MUSD,
            binds=abs(prices[row]) > _NOTHING,
        )
        for row, words, unit, used, allowed in rows
        if allowed is not None
    ]


def _millions(usd: float | None) -> float | None:
    return None if usd is None else usd / USD_PER_MUSD


def task_answers(
    done: Chosen, tiers: tuple[TierAnswer, ...], flows: tuple[Flow, ...], bought: dict[str, Bought]
) -> list[TaskAnswer]:
    """Return what a task of each tier takes. The interval scales its cost with the claimed multiple, which
    leaves out that longer contexts make smaller batches: a plan with another multiple says that."""
    out = []
    provisioned = sum(b.provisioned_mw for b in bought.values())
    for tier in tiers:
        thinking = done.problem.demand.tiers[tier.tier].thinking_x
        times = thinking.value if thinking is not None else 1.0
        low = thinking.low if thinking is not None and thinking.low is not None else times
        high = thinking.high if thinking is not None and thinking.high is not None else times
        usd = tier.usd_per_mtok_output * tier.output_tok / TOK_PER_MTOK
        mw = sum(
            b.provisioned_mw * b.serving_share * flow.busy_gpus / b.busy_gpus
            for flow in flows
            if flow.tier.name == tier.tier and (b := bought[flow.offer.name]).busy_gpus
        )
        out.append(
            TaskAnswer(
                tier=tier.tier,
                times=times,
                times_low=low,
                times_high=high,
                output_tok=tier.output_tok,
                usd_per_task=usd,
                usd_low=usd * low / times,
                usd_high=usd * high / times,
                j_per_task=None if tier.j_per_output_tok is None else tier.j_per_output_tok * tier.output_tok,
                provisioned_mw=mw,
                mw_share=mw / provisioned if provisioned else 0.0,
            )
        )
    return out


def job_answers(done: Chosen, bought: dict[str, Bought]) -> list[JobAnswer]:
    out = []
    for name, job in done.problem.demand.jobs.items():
        need = flops(name, done.problem.demand.jobs)
        nodes = mw = usd = joules = 0.0
        elsewhere = False
        run_share = job.days * S_PER_DAY / S_PER_YEAR / runs_at_once(job)  # of nodes that several runs share
        for b in bought.values():
            own = b.training.get(name, 0)
            gpus = own * b.offer.per_node
            nodes += own
            usd += gpus * b.offer.fixed_usd_per_gpu_h * H_PER_YEAR * run_share
            if b.offer.own:
                mw += gpus * b.offer.provisioned_w / W_PER_MW
                joules += gpus * b.offer.full_w * run_share * S_PER_YEAR
            elif own:
                elsewhere = True
        usd += joules * energy_usd_per_j(done.problem.demand)
        done_it = nodes > 0
        wide = job.mfu
        slow = wide.value / (wide.low or wide.value)
        fast = wide.value / (wide.high or wide.value)
        out.append(
            JobAnswer(
                job=name,
                law=need.law,
                flop=need.value,
                flop_low=need.low,
                flop_high=need.high,
                nodes=round(nodes),
                mw=mw,
                usd_per_run=usd,
                usd_low=usd * need.low / need.value * fast,
                usd_high=usd * need.high / need.value * slow,
                usd_per_task=usd / job.tasks if job.tasks else None,
                j_per_run=None if elsewhere else joules,
                done=done_it,
            )
        )
    return out


def notes_on(problem: Problem, rented: Sequence[str]) -> tuple[str, ...]:
    """Return what a reader must know. `rented`: offers of the plan that stand elsewhere."""
    notes = [
        "Load is packed onto as few replicas as it needs while the others idle; spread out, it draws more.",
        "Failures are taken as independent of each other.",
    ]
    unknown = sorted(
        {o.accelerator.name for o in problem.offers if o.own and problem.power(o.accelerator, 1.0) is None}
    )
    if unknown:
        notes.append(
            f"No power curve of {', '.join(unknown)} is known: each is taken to draw all that it is "
            "provisioned with, so joules, grams and energy dollars are upper bounds."
        )
    if rented:
        notes.append(
            f"{', '.join(rented)} stands elsewhere: its watts, joules and grams are not known, and what it "
            "serves is not counted by MW."
        )
    return tuple(notes)
