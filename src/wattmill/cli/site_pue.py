"""`wattmill site pue`: published PUE figures against the same plant and chain equations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.site_file import load_points
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.site.cooling.spec import Loop
from wattmill.site.published.model import checked
from wattmill.site.published.spec import GOAL, Checked, Points, Verdict


def pue(
    file: Annotated[Path, typer.Argument(help="Published figures; examples/pue-published.toml.")],
    json: JsonOption = False,
) -> None:
    """Calibrate two overhead constants on two published PUE figures and predict the others."""
    found = load_points(file)
    if isinstance(found, list):
        refuse(found)
    points, years = found
    try:
        done = checked(points, years)
    except ValueError as error:
        fail(str(error))
    if json:
        builtins = msgspec.to_builtins(done)
        for row, verdict in zip(builtins["verdicts"], done.verdicts, strict=True):
            row["within"] = verdict.within
        show_json(builtins)
        return
    _show_designs(points)
    _show(points, done)


def _show_designs(points: Points) -> None:
    typer.echo("Designs")
    show_table(
        ("design", "chain", "water", "air", "by air", "busy"),
        [
            (
                name,
                d.chain + (f", {d.redundancy}" if d.redundancy else ""),
                _loop(d.liquid) if d.air_share < 1 else "-",
                _loop(d.air) if d.air_share > 0 else "-",
                f"{d.air_share:.0%}",
                f"{d.busy:.0%}",
            )
            for name, d in points.designs.items()
        ],
        numbers=("by air", "busy"),
    )
    for name, design in points.designs.items():
        typer.echo(f"{name}: assumed {design.assumed}")


def _loop(loop: Loop) -> str:
    """Return `45 °C, 4 K lost, dry + 8 K`."""
    lost = f", {loop.exchanger_k:g} K lost" if loop.exchanger_k else ""
    chiller = "" if loop.chiller else ", no chiller"
    return f"{loop.supply_c:g} °C{lost}, {loop.cooler} + {loop.approach_k:g} K{chiller}"


def _show(points: Points, done: Checked) -> None:
    typer.echo(
        f"\ncalibrated: air movers {done.air:.4f} W/W, pumps and small things {done.water:.4f} W/W "
        "of heat at "
        "rated flow; nothing else is fitted"
    )
    headers = ("point", "role", "published", "here", "off", "met", "climate", "WUE l/kWh")
    show_table(
        headers,
        [
            (
                v.name,
                v.role,
                f"{v.low:g}" if v.low == v.high else f"{v.low:g}–{v.high:g}",
                f"{v.pue:.3f}" if v.role != "range" else f"{v.pue_low:.3f}–{v.pue_high:.3f}",
                "-" if v.role == "range" else f"{v.off:+.3f}",
                _met(v),
                v.climate,
                f"{v.wue_l_per_kwh:.2f}",
            )
            for v in done.verdicts
        ],
        numbers=("published", "here", "off", "WUE l/kWh"),
    )
    told = [v for v in done.verdicts if v.role == "predicted"]
    typer.echo(f"{sum(v.within for v in told)} of {len(told)} predicted points within {GOAL:g}")
    for v in done.verdicts:
        point = points.points[v.name]
        typer.echo(f"{v.name}: {point.period}; {point.source}")


def _met(v: Verdict) -> str:
    if v.role in ("predicted", "range"):
        return "yes" if v.within else "no"
    return "not counted" if v.role == "second-hand" else "by construction"
