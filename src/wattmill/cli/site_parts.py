"""Parts of a site asked one at a time: its chain at every load, its water in every climate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.cli.site_year import SiteFile, standing_at
from wattmill.site.climate.reading import places, weather
from wattmill.site.conversion.model import bus_current_a, copper_loss_ratio, flow, shared
from wattmill.site.conversion.presets import chains
from wattmill.site.conversion.spec import Chain, Flow, Redundancy
from wattmill.site.cooling.spec import WATER_CLASSES_C
from wattmill.units import W_PER_KW


def chain(
    preset: Annotated[str | None, typer.Argument(help="A shipped chain; without one: their list.")] = None,
    load: Annotated[
        list[float] | None, typer.Option(help="kW of one load (a node, a tray); may be repeated.", min=0.0)
    ] = None,
    redundancy: Annotated[str | None, typer.Option(help="N, N+1 or 2N, where the chain can be.")] = None,
    needed: Annotated[int, typer.Option(help="Units of which N+1 has one more.", min=1)] = 4,
    rack: Annotated[float, typer.Option(help="kW of a rack, for the current of its bus.", min=0.001)] = 120.0,
    volts: Annotated[float, typer.Option(help="Of the rack's bus.", min=1.0)] = 54.0,
    against: Annotated[float, typer.Option(help="Volts that it is compared with.", min=1.0)] = 800.0,
    json: JsonOption = False,
) -> None:
    """Show what a chain loses from grid to chip, stage by stage, at each load."""
    known = chains()
    if preset is None:
        _list(known, as_json=json)
        return
    if preset not in known:
        fail(f"no chain {preset!r}: there are {', '.join(sorted(known))}")
    found = known[preset]
    if redundancy is not None:
        ways: tuple[Redundancy, ...] = ("N", "N+1", "2N")
        if redundancy not in ways:
            fail(f"--redundancy is {redundancy!r}, must be one of {', '.join(ways)}")
        found = shared(found, ways[ways.index(redundancy)], needed=needed)
    loads = load or [share * (found.load_w or 0.0) / W_PER_KW for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    flows: list[Flow] = []
    for kw in loads:
        got = flow(found, kw * W_PER_KW)
        if isinstance(got, Flow):
            flows.append(got)
        else:
            fail(
                f"at {kw:g} kW {got.stage} would have to deliver {got.unit_w:,.0f} W a unit, "
                f"rated {got.rated_w:,.0f} W"
            )
    current = bus_current_a(rack * W_PER_KW, volts)
    ratio = copper_loss_ratio(volts, against)
    if json:
        show_json(
            {
                "chain": found.name,
                "loads": [{**msgspec.to_builtins(f), "efficiency": f.efficiency} for f in flows],
                "bus_a": current,
                "copper_loss_ratio": ratio,
            }
        )
        return
    headers = ("stage", *(f"{kw:g} kW" for kw in loads), "figures are")
    rows = [
        (stage.name, *(f"{f.stages[at].out_w / f.stages[at].in_w:.2%}" for f in flows), stage.provenance)
        for at, stage in enumerate(found.stages)
    ]
    rows.append(("grid to load", *(f"{f.efficiency:.2%}" for f in flows), ""))
    show_table(headers, rows, numbers=headers[1:-1])
    typer.echo(
        f"a rack of {rack:g} kW at {volts:g} V: {current:,.0f} A; the same copper loses "
        f"{ratio:,.0f} times what it "
        f"loses at {against:g} V"
    )
    for stage in found.stages:
        typer.echo(f"{stage.name}: {stage.source}")


def _list(table: Mapping[str, Chain], *, as_json: bool) -> None:
    if as_json:
        show_json(msgspec.to_builtins(dict(table)))
        return
    show_table(
        ("chain", "one load is", "stages, from the chip upwards"),
        [
            (c.name, f"{(c.load_w or 0) / W_PER_KW:g} kW", ", ".join(s.name for s in c.stages))
            for c in table.values()
        ],
        numbers=("one load is",),
    )


def water(
    file: SiteFile,
    table: Annotated[
        Path | None, typer.Option("--weather", help="Table of weather; without it the site's own.")
    ] = None,
    supply: Annotated[
        list[str] | None,
        typer.Option(help="°C at the racks, or a class (W17 … W45); may be repeated. Default: W45 and W32."),
    ] = None,
    cdu: Annotated[
        list[float] | None,
        typer.Option(help="K lost in the distribution unit; may be repeated. Default: 0 and 4."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare temperatures of the facility's water in every climate of a table of weather."""
    standing = standing_at(file)
    from wattmill.site.yearly.climates import in_each_climate

    at = table or file.resolve().parent / standing.site.place.weather
    try:
        supplies_c = [_celsius(text) for text in supply or ["W45", "W32"]]
        years = [weather(at, name) for name in places(at)]
        rows = in_each_climate(
            standing.site,
            years,
            supplies_c=supplies_c,
            exchangers_k=cdu or [0.0, 4.0],
        )
    except (OSError, ValueError, LookupError) as error:
        fail(str(error))
    if json:
        show_json(msgspec.to_builtins(rows))
        return
    headers = ("place", "climate", "°C", "CDU K", "chiller h", "PUE", "WUE l/kWh", "cooling MWh")
    show_table(
        headers,
        [
            (
                r.place,
                r.climate,
                f"{r.supply_c:g}",
                f"{r.exchanger_k:g}",
                f"{r.chiller_hours:,}",
                f"{r.pue:.4f}",
                f"{r.wue_l_per_kwh:.3f}",
                f"{r.cooling_mwh:,.0f}",
            )
            for r in rows
        ],
        numbers=headers[2:],
    )


def _celsius(text: str) -> float:
    """Return degrees of `45` or `W45`."""
    if text.upper() in WATER_CLASSES_C:
        return WATER_CLASSES_C[text.upper()]
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 5.0 <= value <= 60.0:
        raise ValueError(f"--supply is {text!r}, must be 5 to 60 °C or one of {', '.join(WATER_CLASSES_C)}")
    return value
