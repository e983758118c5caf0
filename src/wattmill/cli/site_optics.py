"""`wattmill site optics`: what kinds of optics do to the watts, the tokens and the failures of one site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.site_file import Asked, load_question
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json, show_table
from wattmill.site.interconnect.media import media
from wattmill.site.interconnect.model import answered, copper_reach_m, with_the_same_watts
from wattmill.site.interconnect.spec import Way
from wattmill.units import MS_PER_S, USD_PER_MUSD, W_PER_MW


def optics(
    file: Annotated[Path, typer.Argument(help="A question; examples/optics-10mw.toml.")],
    json: JsonOption = False,
) -> None:
    """Compare optics under one meter: accelerators that fit, tokens per second, joules per token,
    failures."""
    asked = load_question(file)
    if not isinstance(asked, Asked):
        refuse(asked)
    from wattmill.site.yearly.climates import worst_overhead

    question, known = asked.question, media()
    try:
        overhead = worst_overhead(asked.standing.site, asked.standing.weather)
        kinds = [known[name] for name in question.optics]
        ways = [answered(question, kind, known, overhead=overhead) for kind in kinds]
        for kind in kinds[1:]:
            rate = with_the_same_watts(question, kind, kinds[0], known)
            ways.append(answered(question, kind, known, overhead=overhead, gbps=rate))
    except ValueError as error:
        fail(str(error))
    reach_m = copper_reach_m(question.fabric.lane_gbps)
    if json:
        rows = [{**msgspec.to_builtins(way), "gap": way.gap} for way in ways]
        show_json({"overhead": overhead, "copper_reach_m": reach_m, "ways": rows})
        return
    typer.echo(
        f"{question.name}: {question.mw:g} MW at the meter, {overhead:.4f} W there for each at the "
        "equipment in the "
        f"worst hour; copper reaches {reach_m:.2f} m at {question.fabric.lane_gbps:g} Gb/s a lane at most"
    )
    _show(ways)


def _show(ways: list[Way]) -> None:
    first = ways[0]
    rows: list[tuple[str, list[str]]] = [
        ("Gb/s of an accelerator", [f"{w.gbps:,.0f}" for w in ways]),
        ("media, tier by tier", [", ".join(w.media) for w in ways]),
        ("accelerators", [f"{w.accelerators:,}" for w in ways]),
        ("MW computing", [_mw(w.compute_w) for w in ways]),
        ("MW ports", [_mw(w.ports_w) for w in ways]),
        ("MW switches", [_mw(w.switches_w) for w in ways]),
        ("MW conversion, cooling", [_mw(w.overhead_w) for w in ways]),
        ("MW at the meter", [_mw(w.meter_w) for w in ways]),
        ("open, of the meter", [f"{w.gap:.1e}" if w.gap else "0" for w in ways]),
        ("network W an accelerator", [f"{w.network_w_each:.1f}" for w in ways]),
        ("exchange ms a step", [f"{w.exchange_s * MS_PER_S:.3f}" for w in ways]),
        ("step ms", [f"{w.step_s * MS_PER_S:.3f}" for w in ways]),
        ("tok/s", [f"{w.tok_per_s:,.0f}" for w in ways]),
        ("against the first", [f"{w.tok_per_s / first.tok_per_s - 1:+.2%}" for w in ways]),
        ("J/tok at the meter", [f"{w.j_per_tok:.4f}" for w in ways]),
        ("ports M$", [f"{w.ports_usd / USD_PER_MUSD:.2f}" for w in ways]),
        ("failures a year", [f"{w.failures_per_year:,.0f}" for w in ways]),
        ("accelerator-hours lost a year", [f"{w.lost_accelerator_h_per_year:,.0f}" for w in ways]),
    ]
    if first.hand_over_s is not None:
        times = [f"{(w.hand_over_s or 0.0) * MS_PER_S:.3f}" for w in ways]
        rows.append(("hand-over of a prompt, ms", times))
    names = [
        way.optics if way.gbps == first.gbps else f"{way.optics}, the watts of {first.optics}" for way in ways
    ]
    show_table(("", *names), [(name, *cells) for name, cells in rows], numbers=names)


def _mw(watts: float) -> str:
    return f"{watts / W_PER_MW:.4f}"
