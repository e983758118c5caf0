"""`wattmill site shift`: what work that may wait, or go elsewhere, saves on a year's prices and carbon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.power.dispatch.shifting import Moved, Saving, Shift, by_place, by_time
from wattmill.site.yearly.series import Zone, zones


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One zone by time. None: the source has no such series of it."""

    zone: str
    for_usd: Shift | None
    for_g: Shift | None


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The zones that have both series, by place."""

    zones: tuple[str, ...]
    for_usd: Moved
    for_g: Moved


def shift(
    file: Annotated[Path, typer.Argument(help="Hourly ZONE:usd_per_mwh and ZONE:g_per_kwh of one year.")],
    zone: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    load: Annotated[float, typer.Option(help="Mean work, share of nameplate.", min=0.01, max=1.0)] = 0.8,
    deferrable: Annotated[float, typer.Option(help="Share of work that may wait.", min=0.0, max=1.0)] = 0.3,
    deadline: Annotated[int, typer.Option(help="Hours that it may wait.", min=1, max=168)] = 24,
    json: JsonOption = False,
) -> None:
    """Move work in time at each place, and between places, under its nameplate: dollars and grams saved.

    Foresight knows the year. Forecast plans 48 hours each day: the day's prices are known, as the market has
    closed; everything else, and all carbon, is the mean of the same hour on the seven days before.
    """
    try:
        known = zones(file)
    except (OSError, ValueError) as error:
        fail(f"{file}: {error}")
    unknown = [name for name in zone or () if name not in known]
    if unknown:
        fail(f"no zone {unknown[0]!r} in {file}: it has {', '.join(known)}")
    chosen = [known[name] for name in zone] if zone else list(known.values())
    rows = list(_watched(chosen, load, deferrable, deadline, quiet=json))
    places = _places(chosen, load, deferrable)
    if json:
        show_json(msgspec.to_builtins({"zones": [_plain(row) for row in rows], "places": _plain_of(places)}))
        return
    typer.echo(
        f"load {load:.0%} of nameplate, {deferrable:.0%} of it may wait {deadline} h, never above nameplate; "
        "carbon is average intensity, not marginal"
    )
    _show(rows)
    if places is not None:
        _show_places(places)


def _watched(
    chosen: list[Zone], load: float, deferrable: float, deadline_h: int, *, quiet: bool
) -> Iterator[Row]:
    """Work each zone out, with a bar on a terminal: a year takes seconds."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hide = quiet or not console.is_terminal
    for zone in track(chosen, "shifting", total=len(chosen), console=console, disable=hide):
        yield row_of(zone, load=load, deferrable=deferrable, deadline_h=deadline_h)


def row_of(zone: Zone, *, load: float, deferrable: float, deadline_h: int) -> Row:
    """Return what one zone saves, for dollars and for grams."""
    price, carbon = zone.usd_per_kwh, zone.g_per_kwh
    money: Shift | None = None
    grams: Shift | None = None
    if price is not None:
        other = np.zeros_like(price) if carbon is None else carbon
        money = by_time(price, other, load=load, deferrable=deferrable, deadline_h=deadline_h)
    if carbon is not None:
        other = np.zeros_like(carbon) if price is None else price
        grams = by_time(
            other, carbon, load=load, deferrable=deferrable, deadline_h=deadline_h, usd_per_kg=None
        )
    return Row(
        zone=zone.name,
        for_usd=_without(money, grams=carbon is None, usd=False),
        for_g=_without(grams, grams=False, usd=price is None),
    )


def _without(shift: Shift | None, *, grams: bool, usd: bool) -> Shift | None:
    """Return `shift` with nan for what no series says: a saving of zero would be a claim."""
    if shift is None:
        return None

    def known(saving: Saving) -> Saving:
        return Saving(usd=float("nan") if usd else saving.usd, grams=float("nan") if grams else saving.grams)

    return shift._replace(foresight=known(shift.foresight), forecast=known(shift.forecast))


def _places(chosen: list[Zone], load: float, deferrable: float) -> Places | None:
    both = [(z, z.usd_per_kwh, z.g_per_kwh) for z in chosen]
    full = [(z.name, price, carbon) for z, price, carbon in both if price is not None and carbon is not None]
    if len(full) < 2:
        return None
    prices, carbons = np.array([p for _, p, _ in full]), np.array([c for _, _, c in full])
    for_usd, for_g = (
        by_place(prices, carbons, load=load, deferrable=deferrable, grams=grams) for grams in (False, True)
    )
    return Places(zones=tuple(name for name, _, _ in full), for_usd=for_usd, for_g=for_g)


def _show(rows: list[Row]) -> None:
    headers = (
        "zone",
        "for $: $ foresight",
        "$ forecast",
        "g then",
        "error of $",
        "for g: g foresight",
        "g forecast",
        "$ then",
        "error of g",
    )
    table = [(r.zone, *_half(r.for_usd, grams=False), *_half(r.for_g, grams=True)) for r in rows]
    show_table(headers, table, numbers=headers[1:])
    typer.echo(
        "error: mean of the absolute error of a day's forecast, over the mean; of dollars the day "
        "after the one "
        "that is known, of grams the day itself"
    )


def _half(shift: Shift | None, *, grams: bool) -> tuple[str, ...]:
    if shift is None:
        return ("-",) * 4
    first, then = ("grams", "usd") if grams else ("usd", "grams")
    return (
        _percent(getattr(shift.foresight, first)),
        _percent(getattr(shift.forecast, first)),
        _percent(getattr(shift.forecast, then)),
        _percent(shift.forecast_error),
    )


def _show_places(places: Places) -> None:
    typer.echo(f"\nbetween the {len(places.zones)} places that have both series, in the same hour:")
    for name, moved in (("dollars", places.for_usd), ("grams", places.for_g)):
        typer.echo(f"for {name}: {moved.saving.usd:.1%} $, {moved.saving.grams:.1%} g saved")
    headers = ("place", "for $: $", "g then", "load then", "for g: g", "$ then", "load of g then")
    show_table(
        headers,
        [
            (
                name,
                _percent(places.for_usd.of_place[at].usd),
                _percent(places.for_usd.of_place[at].grams),
                f"{places.for_usd.mean_load[at]:.0%}",
                _percent(places.for_g.of_place[at].grams),
                _percent(places.for_g.of_place[at].usd),
                f"{places.for_g.mean_load[at]:.0%}",
            )
            for at, name in enumerate(places.zones)
        ],
        numbers=headers[1:],
    )


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"


def _plain(row: Row) -> dict[str, object]:
    return {"zone": row.zone, "for_usd": _plain_shift(row.for_usd), "for_g": _plain_shift(row.for_g)}


def _plain_shift(shift: Shift | None) -> dict[str, object] | None:
    if shift is None:
        return None
    return {
        "foresight": _plain_saving(shift.foresight),
        "forecast": _plain_saving(shift.forecast),
        "forecast_error": shift.forecast_error,
    }


def _plain_saving(saving: Saving) -> dict[str, float | None]:
    return {
        "usd": None if np.isnan(saving.usd) else saving.usd,
        "grams": None if np.isnan(saving.grams) else saving.grams,
    }


def _plain_of(places: Places | None) -> dict[str, object] | None:
    if places is None:
        return None
    return {
        name: {
            "saving": _plain_saving(moved.saving),
            "of_place": {
                zone: _plain_saving(saving) for zone, saving in zip(places.zones, moved.of_place, strict=True)
            },
            "mean_load": dict(zip(places.zones, moved.mean_load.tolist(), strict=True)),
        }
        for name, moved in (("for_usd", places.for_usd), ("for_g", places.for_g))
    }
