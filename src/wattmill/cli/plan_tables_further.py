"""What stands below a plan: owning beside renting and buying, how sure it is, and what a sweep found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from wattmill.cli.control_door import show_table
from wattmill.twin.planning.demand import Demand
from wattmill.units import USD_PER_MUSD

if TYPE_CHECKING:  # they bring numpy and the solver along
    from wattmill.twin.planning.breakeven import Alternative, BreakEven
    from wattmill.twin.planning.played import Played
    from wattmill.twin.planning.sweep import Varied
    from wattmill.twin.planning.uncertainty import Spread, Sureness


def show_break_even(even: BreakEven) -> None:
    """Print dollars per million output tokens by utilisation of what is bought."""
    typer.echo("\nOwn, rent or buy: $/Mtok out, by utilisation of the working capacity over a year")
    levels = list(even.alternatives[0].usd_per_mtok_output)
    show_table(
        ("way", "paid", *levels, "owning pays from"),
        [
            (a.name, a.way, *(f"{a.usd_per_mtok_output[level]:.3f}" for level in levels), _from(a))
            for a in even.alternatives
        ],
        numbers=(*levels, "owning pays from"),
    )
    typer.echo(
        f"100 % is {even.capacity_output_tok_per_s:,.0f} output tok/s all year; the plan is at "
        f"{even.planned_utilisation:.0%}. An API's price is for the plan's input and output tokens together."
    )
    for reason in even.left:
        typer.echo(f"left out: {reason}")


def _from(a: Alternative) -> str:
    if a.way == "own":
        return "-"
    if a.owning_pays_from is None:
        return "never"
    if a.owning_pays_to is not None:
        return f"0% to {a.owning_pays_to:.0%}"
    return "always" if a.owning_pays_from == 0.0 else f"{a.owning_pays_from:.0%}"


def show_sureness(demand: Demand, sure: Sureness) -> None:
    """Print 80 % of the draws, which promises held, and what moves the outcome."""
    typer.echo(f"\nHow sure: {sure.draws:,} draws, seed {sure.seed}; 80 % lie between")
    rows = [
        (f"$/Mtok out, {name}", *_cells(spread, 1.0, 3)) for name, spread in sure.usd_per_mtok_output.items()
    ]
    rows += [
        ("margin M$/year", *_cells(sure.margin_usd_per_year, USD_PER_MUSD, 1)),
        ("cost M$/year", *_cells(sure.cost_usd_per_year, USD_PER_MUSD, 2)),
        ("requests/s", *_cells(sure.requests_per_s, 1.0, 0)),
        ("MW drawn", *_cells(sure.drawn_mw, 1.0, 2)),
    ]
    if sure.tonnes_co2_per_year is not None:
        rows.append(("t CO2e/year", *_cells(sure.tonnes_co2_per_year, 1.0, 0)))
    show_table(
        ("figure", "planned", "10 %", "50 %", "90 %"), rows, numbers=("planned", "10 %", "50 %", "90 %")
    )
    for tier, share in sure.promise_can_be_kept.items():
        typer.echo(
            f"tier {tier}: the planned batch keeps the promise in {sure.as_planned[tier]:.0%} of the draws, "
            f"some batch in {share:.0%}"
        )
    typer.echo(f"enough nodes were up for the planned peak in {sure.enough_nodes_up:.2%} of the draws")
    outcome = "margin" if demand.goal == "margin" else "cost"
    moved = ", ".join(f"{i.of} {i.correlation:+.2f}" for i in sure.influences[:5])
    typer.echo(f"what moves the {outcome} (rank correlation with the goal): {moved}")


def _cells(spread: Spread, unit: float, digits: int) -> tuple[str, str, str, str]:
    planned, p10, p50, p90 = (
        f"{value / unit:,.{digits}f}" for value in (spread.planned, spread.p10, spread.p50, spread.p90)
    )
    return planned, p10, p50, p90


def show_sweep(varied: Sequence[Varied]) -> None:
    """Print what each changed figure does to the plan."""
    typer.echo("\nSensitivities: each line is planned anew")
    show_table(
        ("changed", "goal M$/year", "$/Mtok out", "requests/s", "buys", "gap"),
        [
            (
                v.what,
                _or_dash(v.objective_usd_per_year, USD_PER_MUSD, 2),
                _or_dash(v.usd_per_mtok_output, 1.0, 3),
                _or_dash(v.requests_per_s, 1.0, 0),
                v.buys,
                "-" if v.gap is None else f"{v.gap:.0e}",
            )
            for v in varied
        ],
        numbers=("goal M$/year", "$/Mtok out", "requests/s", "gap"),
    )
    machines = sorted({v.machine for v in varied})
    typer.echo(f"planned by {len(machines)} process{'es' if len(machines) > 1 else ''}")


def _or_dash(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def show_played(played: Sequence[Played]) -> None:
    """Print points of the front as the events gave them, beside the closed form."""
    typer.echo("\nThe front on the simulated engine (modelled by events), beside the law's closed form")
    headers = ("configuration", "batch", "tok/s a user", "law", "off", "tok/s a GPU", "law ", "off ")
    show_table(
        headers,
        [
            (
                p.config,
                str(p.batch),
                f"{p.tok_per_s_per_user:.1f}",
                f"{p.law_tok_per_s_per_user:.1f}",
                f"{p.tok_per_s_per_user / p.law_tok_per_s_per_user - 1:+.1%}",
                f"{p.output_tok_per_s_per_gpu:.1f}",
                f"{p.law_output_tok_per_s_per_gpu:.1f}",
                f"{p.output_tok_per_s_per_gpu / p.law_output_tok_per_s_per_gpu - 1:+.1%}",
            )
            for p in played
        ],
        numbers=headers[1:],
    )
