"""Which meters of power this machine has, what each gives, and how to be allowed to read more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from wattmill.app.declared.meter_settings import configs
from wattmill.app.declared.settings import Settings
from wattmill.app.finding import Finding
from wattmill.ports import Meter
from wattmill.power.live.ladder import Rung, ladder
from wattmill.power.live.meters.registry import open_meter, read_now
from wattmill.units import UJ_PER_J
from wattmill.vocab.meter import MeterError, Reading


def meter_findings(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what there is (the ladder), then what is declared and what it says now."""
    for rung in ladder():
        yield _rung(rung)
    covered = False
    for config in configs(settings.meters, env):
        what = f"meter {config.name}"
        try:
            meter = open_meter(config)
            yield Finding(what=what, value=said(meter, read_now(meter, t_s=time.monotonic())), verdict="good")
            covered = covered or config.level != "chip" or not config.pools
        except MeterError as error:
            yield Finding(
                what=what,
                value=f"cannot be read: {error}",
                verdict="poor",
                way_out="Its joules will be its parent's, or unknown",
            )
    if not covered:
        host = settings.host
        yield Finding(
            what="joules",
            value=f"modelled: idle {host.idle_w:g} W, max {host.max_w:g} W, alpha {host.alpha:g}, "
            f"on {os.cpu_count() or 1} cores, by CPU time of each process",
            verdict="note",
            way_out="Declare a meter under [meters], or this machine under [host]: a plug-in meter, idle and "
            "busy, gives the figures",
        )


def said(meter: Meter, readings: list[Reading] | tuple[Reading, ...] | object) -> str:
    """Return one meter's words: source, what it says now, how it is known and how finely."""
    spec = meter.spec
    texts = [
        f"{one.power_w:.1f} W" if one.power_w is not None else f"{(one.energy_uj or 0) / UJ_PER_J:.3f} J"
        for one in (readings if isinstance(readings, list | tuple) else ())
    ]
    step = "" if spec.resolution_uj is None else f", steps of {spec.resolution_uj} uJ"
    under = "" if spec.parent is None else f", part of {spec.parent}"
    return f"{' + '.join(texts)} ({spec.source}); {spec.provenance}{step}, {spec.level}{under}"


def _rung(rung: Rung) -> Finding:
    if rung.found is None:
        return Finding(what=rung.name, value=f"none: {rung.reason}", verdict="note")
    gives = f", gives {rung.gives}" if rung.gives else ""
    if not rung.readable:
        return Finding(
            what=rung.name, value=f"{rung.found}{gives}, not readable", verdict="note", way_out=rung.reason
        )
    declare = (
        f'Declare it: [meters.NAME] source = "{rung.source}"' if rung.source else "No source reads it yet"
    )
    return Finding(what=rung.name, value=f"{rung.found}{gives}, readable", verdict="note", way_out=declare)
