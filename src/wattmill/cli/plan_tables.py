"""A plan as tables for people: units in the headers, and after each table what its figures stand on."""

from __future__ import annotations

import typer

from wattmill.cli.control_door import show_table
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.given import Given
from wattmill.twin.planning.plan import Binding, Plan, Purchase, TierAnswer
from wattmill.twin.prediction import Interval
from wattmill.units import J_PER_GJ, J_PER_KJ, USD_PER_MUSD


def show_plan(demand: Demand, plan: Plan, *, why: bool = False) -> None:
    """Print what to buy, what a token costs, what binds, and how near to the best it is."""
    totals = plan.totals
    served = "as many requests as the limits carry: " if _free(demand) else ""
    typer.echo(
        f"{plan.name}: {served}{totals.requests_per_s:,.0f} requests/s in the mean, "
        f"{totals.peak_requests_per_s:,.0f} in the peak (x {totals.peak_to_mean:g}; {plan.how})"
    )
    _show_site(demand)
    _show_purchases(plan)
    _show_pools(plan)
    _show_tiers(plan)
    _show_totals(plan)
    show_tasks(plan)
    show_jobs(plan)
    _show_binding(plan)
    _show_proof(plan)
    if why:
        for what, reason in plan.left.items():
            typer.echo(f"left out: {what}: {reason}")
    elif plan.left:
        typer.echo(f"{len(plan.left)} configurations were left out; --why lists them")
    for note in plan.notes:
        typer.echo(f"note: {note}")


def _free(demand: Demand) -> bool:
    return getattr(demand.load, "as_many_as_fit", False) or (
        hasattr(demand.load, "requests_per_s") and demand.load.requests_per_s is None
    )


def _show_site(demand: Demand) -> None:
    """Say what the year of a site has given, where the file names one."""
    site = demand.site
    if site.file is None:
        return
    peak = "" if site.peak_pue is None else f", {site.peak_pue.value:.3f} in the highest hour"
    carbon = "" if site.g_per_kwh is None else f", {_figure(site.g_per_kwh, 0)} g/kWh"
    typer.echo(
        f"{site.name} ({site.file}): PUE {_figure(site.overhead, 3)}{peak}; "
        f"{_figure(site.electricity, 1)} $/MWh{carbon}; limit {demand.limits.power_mw:.3f} MW"
    )


def _figure(given: Given, digits: int) -> str:
    if given.low is None or given.high is None:
        return f"{given.value:.{digits}f}"
    return f"{given.value:.{digits}f} ({given.low:.{digits}f}–{given.high:.{digits}f})"


def _show_purchases(plan: Plan) -> None:
    typer.echo("\nWhat to buy")
    headers = ("offer", "accelerator", "GPU", "nodes", "racks", "spare nodes", "training", "MW", "M$/year")
    show_table(
        headers,
        [
            (
                p.offer,
                p.accelerator,
                f"{p.gpus:,}",
                f"{p.nodes:,}",
                f"{p.racks:,}",
                str(p.spare_nodes),
                str(p.training_nodes),
                f"{p.provisioned_mw:.3f}",
                f"{p.fixed_usd_per_year / USD_PER_MUSD:.2f}",
            )
            for p in plan.purchases
        ],
        numbers=headers[2:],
    )
    for p in plan.purchases:
        typer.echo(f"{p.offer}: {_rate(p)}")


def _rate(p: Purchase) -> str:
    """Return how an hour's dollars are made: energy inside a rate goes out before the tariff comes in."""
    drawn = f"+ {p.drawn_usd_per_gpu_h:.4f} drawn at the site's price"
    if p.energy_inside_usd_per_gpu_h is None:
        return f"{p.fixed_usd_per_gpu_h:.4f} USD/GPU-hour {drawn}"
    whole = p.fixed_usd_per_gpu_h + p.energy_inside_usd_per_gpu_h
    return (
        f"{whole:.4f} USD/GPU-hour all-in - {p.energy_inside_usd_per_gpu_h:.4f} energy inside "
        f"= {p.fixed_usd_per_gpu_h:.4f}, {drawn}"
    )


def _show_pools(plan: Plan) -> None:
    typer.echo("\nWhat runs on it")
    show_table(
        (
            "offer",
            "model",
            "engine",
            "precision",
            "split",
            "replicas",
            "batch",
            "batch is bound by",
            "serves",
            "law",
        ),
        [
            (
                p.offer,
                p.model,
                p.engine,
                p.precision,
                p.split,
                f"{p.replicas:,}",
                str(p.batch),
                p.bound_by,
                ", ".join(f"{tier} {per_s:,.0f}/s" for tier, per_s in p.tiers.items()),
                p.klass,
            )
            for p in plan.pools
        ],
        numbers=("replicas", "batch"),
    )
    for p in plan.pools:
        typer.echo(f"{p.offer}, {p.engine} {p.split} at {p.batch}: {p.instead}")
    for words in dict.fromkeys(p.beyond for p in plan.pools if p.beyond):
        wider = " / ".join(dict.fromkeys(p.widened for p in plan.pools if p.beyond == words and p.widened))
        typer.echo(words + (f"; 80 % interval of the time per token {wider}" if wider else ""))


def _show_tiers(plan: Plan) -> None:
    typer.echo("\nWhat a token costs (modelled; spares, room for the peak and idle time inside)")
    headers = (
        "tier",
        "requests/s",
        "tok/s per user",
        "first token s",
        "price $/Mtok out",
        "cost $/Mtok out",
        "cost $/Mtok in+out",
        "one more $/Mtok out",
        "J/tok out",
        "J/tok in+out",
        "g/Mtok out",
        "margin M$/year",
    )
    show_table(headers, [_tier_row(t) for t in plan.tiers], numbers=headers[1:])
    typer.echo(
        "J and g: drawn at the utility meter. In brackets: 80 % interval. One more: marginal cost by the "
        "relaxation, what it displaces included."
    )


def _tier_row(t: TierAnswer) -> tuple[str, ...]:
    return (
        t.tier,
        f"{t.requests_per_s:,.0f}",
        interval_cell(t.tok_per_s_per_user, 0),
        interval_cell(t.ttft_s, 2),
        f"{t.price_usd_per_mtok_output:.2f}",
        f"{t.usd_per_mtok_output:.3f}",
        f"{t.usd_per_mtok_both:.4f}",
        f"{t.marginal_usd_per_mtok_output:.3f}",
        "-" if t.j_per_output_tok is None else f"{t.j_per_output_tok:.3f}",
        "-" if t.j_per_tok_both is None else f"{t.j_per_tok_both:.4f}",
        "-" if t.g_per_mtok_output is None else f"{t.g_per_mtok_output:.0f}",
        f"{t.margin_usd_per_year / USD_PER_MUSD:.1f}",
    )


def interval_cell(interval: Interval, digits: int) -> str:
    """Return `25 (22–29)`."""
    low, high = f"{interval.low:.{digits}f}", f"{interval.high:.{digits}f}"
    return f"{interval.value:.{digits}f} ({low}–{high})"


def _show_totals(plan: Plan) -> None:
    t = plan.totals
    mw = t.provisioned_mw
    per_mw = f", {t.margin_usd_per_year / USD_PER_MUSD / mw:.2f} per MW" if mw else ""
    revenue_per_mw = f" ({t.revenue_usd_per_year / USD_PER_MUSD / mw:.2f} per MW)" if mw else ""
    typer.echo(
        f"\nFactory: {t.provisioned_mw:.3f} MW provisioned, {t.drawn_mw:.3f} MW drawn in the mean; working "
        f"capacity {t.utilisation_peak:.0%} full in the peak, {t.utilisation_mean:.0%} in the mean"
    )
    typer.echo(
        f"{t.output_tok_per_s:,.0f} output tok/s ({t.output_tok_per_s_per_mw:,.0f} per provisioned MW), "
        f"{t.both_tok_per_s:,.0f} input + output tok/s ({t.both_tok_per_s_per_mw:,.0f} per MW)"
    )
    typer.echo(
        f"M$ a year: revenue {t.revenue_usd_per_year / USD_PER_MUSD:.2f}{revenue_per_mw} - fixed "
        f"{t.fixed_usd_per_year / USD_PER_MUSD:.2f} - energy {t.energy_usd_per_year / USD_PER_MUSD:.2f}"
        + (f" + training {t.jobs_usd_per_year / USD_PER_MUSD:.2f}" if t.jobs_usd_per_year else "")
        + f" = margin {t.margin_usd_per_year / USD_PER_MUSD:.2f}{per_mw}"
    )
    if t.tonnes_co2_per_year is not None:
        typer.echo(f"CO2e of the drawn energy: {t.tonnes_co2_per_year:,.0f} t a year")


def show_tasks(plan: Plan) -> None:
    """Print what one task takes, where some tier thinks for long."""
    if all(task.times == 1.0 for task in plan.tasks):
        return
    typer.echo("\nWhat a task takes (interval: that of the claimed multiple)")
    headers = ("tier", "x tokens", "80 %", "output tok", "$/task", "80 % $", "kJ/task", "MW", "of the power")
    show_table(
        headers,
        [
            (
                t.tier,
                f"{t.times:g}",
                f"{t.times_low:g}–{t.times_high:g}",
                f"{t.output_tok:,.0f}",
                f"{t.usd_per_task:.6f}",
                f"{t.usd_low:.6f}–{t.usd_high:.6f}",
                "-" if t.j_per_task is None else f"{t.j_per_task / J_PER_KJ:.2f}",
                f"{t.provisioned_mw:.3f}",
                f"{t.mw_share:.1%}",
            )
            for t in plan.tasks
        ],
        numbers=headers[1:],
    )


def show_jobs(plan: Plan) -> None:
    """Print what training takes of the same power."""
    if not plan.jobs:
        return
    typer.echo("\nWhat training takes")
    headers = ("job", "law", "FLOP", "80 %", "nodes", "MW", "M$/run", "80 % M$", "$/task", "GJ/run", "done")
    show_table(
        headers,
        [
            (
                j.job,
                j.law,
                f"{j.flop:.2e}",
                f"{j.flop_low:.1e}–{j.flop_high:.1e}",
                str(j.nodes),
                f"{j.mw:.3f}",
                f"{j.usd_per_run / USD_PER_MUSD:.3f}",
                f"{j.usd_low / USD_PER_MUSD:.3f}–{j.usd_high / USD_PER_MUSD:.3f}",
                "-" if j.usd_per_task is None else f"{j.usd_per_task:.6f}",
                "-" if j.j_per_run is None else f"{j.j_per_run / J_PER_GJ:,.0f}",
                "yes" if j.done else "no: serving brings more",
            )
            for j in plan.jobs
        ],
        numbers=headers[2:10],
    )


def _show_binding(plan: Plan) -> None:
    typer.echo("\nWhat binds")
    if not plan.binding:
        typer.echo("no limit is declared: the demand itself does")
        return
    show_table(
        ("limit", "unit", "used", "allowed", "binds", "one more unit is worth"),
        [
            (b.limit, b.unit, f"{b.used:,.3f}", f"{b.allowed:,.3f}", "yes" if b.binds else "no", _worth(b))
            for b in plan.binding
        ],
        numbers=("used", "allowed", "one more unit is worth"),
    )


def _worth(b: Binding) -> str:
    return f"{b.worth_usd_per_year / USD_PER_MUSD:.3f} M$/year" if b.binds else "-"


def _show_proof(plan: Plan) -> None:
    p = plan.proof
    typer.echo(
        f"Proof: {p.objective_usd_per_year / USD_PER_MUSD:.4f} M$/year; nothing in whole nodes passes "
        f"{p.bound_usd_per_year / USD_PER_MUSD:.4f} (gap {p.gap:.1e}), nothing at all "
        f"{p.relaxed_usd_per_year / USD_PER_MUSD:.4f}; {p.columns} columns, {p.solve_s:.2f} s"
    )
