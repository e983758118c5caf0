"""`wattmill site year`: what a site takes over a year, where it goes, what it costs, and what binds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.site_file import Standing, load_site
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.site.racks.spec import Fill
from wattmill.site.yearly.answer import Dispatched, YearAnswer
from wattmill.units import TOK_PER_MTOK, USD_PER_MUSD, W_PER_KW

SiteFile = Annotated[Path, typer.Argument(help="A site; examples/ has some.")]


def standing_at(file: Path) -> Standing:
    """Return the site of a file, or end the command with everything that is wrong with it."""
    found = load_site(file)
    if not isinstance(found, Standing):
        refuse(found)
    return found


def year(
    file: SiteFile,
    months: Annotated[bool, typer.Option("--months", help="Show the bill of each month, too.")] = False,
    json: JsonOption = False,
) -> None:
    """Live a site through a year, hour by hour."""
    standing = standing_at(file)
    from wattmill.site.yearly.account import year as year_of

    try:
        answer = year_of(*standing)
    except ValueError as error:
        fail(str(error))
    if json:
        show_json(
            {
                **msgspec.to_builtins(answer),
                "energy_gap": answer.energy.gap,
                "usd": answer.money.usd,
                "regret": None if answer.dispatch is None else answer.dispatch.regret,
            }
        )
        return
    show_year(answer, months=months)


def show_year(a: YearAnswer, *, months: bool = False) -> None:
    """Print a year for people."""
    typer.echo(
        f"{a.name}: weather of {a.place} {f'({a.climate}) ' if a.climate else ''}{a.year}, "
        f"{a.hours:,} hours; "
        f"{a.units:,} loads, {a.equipment_mw:.3f} MW at their inlets, {a.busy:.0%} busy in the mean"
    )
    typer.echo("\nEnergy")
    whole = a.energy.in_mwh
    show_table(
        ("stage", "counts as", "MWh", "of all", "figures are"),
        [(r.name, r.boundary, f"{r.mwh:,.1f}", f"{r.mwh / whole:.2%}", r.provenance) for r in a.energy.rows],
        numbers=("MWh", "of all"),
    )
    typer.echo(
        f"in {whole:,.1f} MWh, accounted for {a.energy.out_mwh:,.1f} MWh: open {a.energy.gap:.1e} of it"
    )
    r = a.ratios
    typer.echo(
        f"PUE {r.pue:.4f}, WUE {r.wue_l_per_kwh:.3f} l/kWh, ERE {r.ere:.4f}; meter over chip rails "
        f"{r.tue:.4f}; "
        f"chain {r.chain_efficiency:.2%}"
    )
    typer.echo(
        f"chillers ran {a.chiller_hours:,} hours for the water loop, {a.air_chiller_hours:,} for "
        "the air loop; "
        f"supply missed in {a.too_warm_hours:,}; water {a.water_m3:,.0f} m3"
    )
    if a.heat_sold_mwh:
        cop = "" if a.heat_pump_cop is None else f" by a heat pump of COP {a.heat_pump_cop:.2f}"
        typer.echo(f"heat sold {a.heat_sold_mwh:,.0f} MWh{cop}")
    _show_money(a, months=months)
    if a.dispatch is not None:
        _show_dispatch(a.dispatch)
    _show_binding(a)
    if a.hall is not None:
        _show_hall(a.hall)
    if a.per_token is not None:
        p = a.per_token
        grams = "" if p.g_per_mtok is None else f", {p.g_per_mtok:.1f} g/Mtok"
        typer.echo(
            f"\n{p.tok / TOK_PER_MTOK:,.0f} Mtok: {p.j_per_tok:.4f} J/tok at the meter "
            f"({p.chip_j_per_tok:.4f} at the "
            f"chips), {p.usd_per_mtok:.5f} $/Mtok of power{grams}"
        )
    if a.up is not None:
        typer.echo(
            f"\nup {a.up.availability:.5%} of the time, {a.up.down_h_per_year:.2f} h a year down; "
            f"most by {a.up.worst}"
        )
    if a.sci is not None:
        per = "" if a.sci.g_per_mtok is None else f"; SCI {a.sci.g_per_mtok:.1f} g/Mtok"
        typer.echo(f"embodied {a.sci.embodied_t:,.0f} t CO2e of this year{per}")
    for note in a.notes:
        typer.echo(f"note: {note}")


def _show_money(a: YearAnswer, *, months: bool) -> None:
    m = a.money
    typer.echo(
        f"\nM$ a year: energy {m.energy_usd / USD_PER_MUSD:.4f} + demand {m.demand_usd / USD_PER_MUSD:.4f} + "
        f"minimum {m.minimum_usd / USD_PER_MUSD:.4f} - given back {m.export_usd / USD_PER_MUSD:.4f} + sun "
        f"{m.sun_usd / USD_PER_MUSD:.4f} - heat {m.heat_usd / USD_PER_MUSD:.4f} = "
        f"{m.usd / USD_PER_MUSD:.4f}; "
        f"peak {a.peak_mw:.3f} MW"
    )
    c = a.carbon
    if c.location_t is None:
        typer.echo("t CO2e: unknown (no intensity is declared)")
    else:
        market = "unknown (no contract is declared)" if c.market_t is None else f"{c.market_t:,.0f}"
        mean = "" if c.mean_g_per_kwh is None else f" ({c.mean_g_per_kwh:.0f} g/kWh as bought, average mix)"
        typer.echo(f"t CO2e: {c.location_t:,.0f} location based{mean}, {market} market based")
    if months:
        headers = ("month", "MWh", "peak", "charged", "energy $", "demand $", "$")
        show_table(
            headers,
            [
                (
                    b.month,
                    f"{b.energy_kwh / W_PER_KW:,.1f}",
                    f"{b.peak_kw:,.0f} kW",
                    f"{b.charged_kw:,.0f} kW",
                    f"{b.energy_usd:,.0f}",
                    f"{b.demand_usd:,.0f}",
                    f"{b.usd:,.0f}",
                )
                for b in m.months
            ],
            numbers=headers[1:],
        )


def _show_dispatch(d: Dispatched) -> None:
    typer.echo("\nDispatch: energy and demand charge, as the programme counts them")
    rows = [
        ("as it comes: no battery, nothing waits", d.as_it_comes_usd, d.as_it_comes_t),
        ("planned each day for 48 hours (this year)", d.lived_usd, d.lived_t),
        ("knowing the whole year", d.foresight_usd, d.foresight_t),
    ]
    show_table(
        ("how", "M$", "saved", "t CO2e"),
        [
            (
                how,
                f"{usd / USD_PER_MUSD:.4f}",
                f"{1 - usd / d.as_it_comes_usd:.2%}",
                "unknown" if t is None else f"{t:,.0f}",
            )
            for how, usd, t in rows
        ],
        numbers=("M$", "saved", "t CO2e"),
    )
    typer.echo(
        f"regret {d.regret:.2%}; {d.deferred_mwh:,.0f} MWh of work done later than it came, "
        f"{d.curtailed_mwh:,.0f} MWh of sun thrown away; the programme's meter is {d.linear_error:.2%} off"
    )


def _show_binding(a: YearAnswer) -> None:
    typer.echo("\nWhat binds")
    show_table(
        ("limit", "unit", "used", "allowed", "hours at it", "one more unit is worth $"),
        [
            (
                b.limit,
                b.unit,
                f"{b.used:.3f}",
                f"{b.allowed:.3f}",
                f"{b.hours:,}",
                "-" if b.worth_usd is None else f"{b.worth_usd:,.0f}",
            )
            for b in a.binding
        ],
        numbers=("used", "allowed", "hours at it", "one more unit is worth $"),
    )


def _show_hall(hall: Fill) -> None:
    typer.echo(f"\nRacks: {hall.racks:,}; {hall.binds} binds; {hall.amperes:,.0f} A on a rack's bus")
    show_table(
        ("limit", "lets in", "a rack or row takes", "allowed", "unit"),
        [(x.name, f"{x.racks:,}", f"{x.used:,.1f}", f"{x.allowed:,.1f}", x.unit) for x in hall.limits],
        numbers=("lets in", "a rack or row takes", "allowed"),
    )
    typer.echo(
        f"built for {hall.provisioned_kw:,.0f} kW; nameplates {hall.nameplate_kw:,.0f} kW "
        f"({hall.oversubscription:.0%} of it), peaks {hall.peak_kw:,.0f}, means "
        f"{hall.mean_kw:,.0f}: stranded "
        f"{hall.stranded_kw:,.0f} kW, within reach and unused {hall.unused_kw:,.0f} kW"
    )
