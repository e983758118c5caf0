"""`wattmill site against`: sites near their users against one large one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.site_file import Compared, load_comparison
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.site.regional.spec import Comparison, OptionAnswer
from wattmill.units import USD_PER_MUSD


def against(
    file: Annotated[Path, typer.Argument(help="A comparison; examples/regional-against-one.toml.")],
    json: JsonOption = False,
) -> None:
    """Live every site of every option through its year: latency, dollars, grams, heat, what binds."""
    found = load_comparison(file)
    if not isinstance(found, Compared):
        refuse(found)
    from wattmill.site.regional.model import option

    try:
        answers = [option(name, found.asked, dict(sites)) for name, sites in found.options.items()]
    except ValueError as error:
        fail(str(error))
    if json:
        show_json(msgspec.to_builtins(answers))
        return
    _show(found.asked, answers)


def _show(asked: Comparison, answers: list[OptionAnswer]) -> None:
    typer.echo(f"{asked.name}: {sum(users.tok_per_s for users in asked.users.values()):,.0f} tok/s asked")
    rows: list[tuple[str, list[str]]] = [
        ("round trip ms, mean over tokens", [f"{a.rtt_mean_ms:.1f}" for a in answers]),
        ("round trip ms, worst", [f"{a.rtt_worst_ms:.1f}" for a in answers]),
        ("tok/s without a place", [f"{a.unserved_tok_per_s:,.0f}" for a in answers]),
        ("M$ a year: power, heat taken off", [_m(a.power_usd) for a in answers]),
        ("M$ a year: house", [_m(a.house_usd) for a in answers]),
        ("$/Mtok of both", [f"{a.usd_per_mtok:.5f}" for a in answers]),
        ("J/tok at the meters", [f"{a.j_per_tok:.4f}" for a in answers]),
        ("t CO2e a year, location based", [_t(a.location_t) for a in answers]),
        ("t CO2e a year, market based", [_t(a.market_t) for a in answers]),
        ("t CO2e embodied, of this year", [_t(a.embodied_t) for a in answers]),
        ("heat sold MWh", [f"{a.heat_mwh:,.0f}" for a in answers]),
        ("M$ of heat", [_m(a.heat_usd) for a in answers]),
        ("PUE", [f"{a.pue:.4f}" for a in answers]),
        ("MW of peaks, added", [f"{a.peak_mw:.3f}" for a in answers]),
        ("all of it up", [_share(a.all_up) for a in answers]),
        (f"at least {asked.enough:.0%} up", [_share(a.enough_up) for a in answers]),
    ]
    names = [a.name for a in answers]
    show_table(("", *names), [(name, *cells) for name, cells in rows], numbers=names)
    headers = (
        "option",
        "site",
        "zone",
        "busy",
        "PUE",
        "chiller h",
        "M$ power",
        "t CO2e",
        "heat MWh",
        "nearest limit",
    )
    show_table(
        headers,
        [
            (
                a.name,
                s.name,
                s.year.place,
                f"{s.year.busy:.0%}",
                f"{s.year.ratios.pue:.4f}",
                f"{s.year.chiller_hours:,}",
                _m(s.year.money.usd),
                _t(s.year.carbon.location_t),
                f"{s.year.heat_sold_mwh:,.0f}",
                f"{s.nearest_limit}, {s.nearest_share:.0%}",
            )
            for a in answers
            for s in a.sites
        ],
        numbers=headers[3:9],
    )
    for a in answers:
        ways = ", ".join(
            f"{s.users} to {s.site} {s.tok_per_s:,.0f} tok/s ({s.rtt_ms:.0f} ms)" for s in a.served
        )
        typer.echo(f"{a.name}: {ways}")


def _m(usd: float) -> str:
    return f"{usd / USD_PER_MUSD:.3f}"


def _t(tonnes: float | None) -> str:
    return "unknown" if tonnes is None else f"{tonnes:,.0f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.5%}"
