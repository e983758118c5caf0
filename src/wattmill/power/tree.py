"""Meters as a tree: a meter sees what the meters below it see, and something more.

Overlapping meters are never added: of a meter that has others below it, only the rest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, get_args

from wattmill.power.spec import MeterConfig
from wattmill.units import UJ_PER_J
from wattmill.vocab.meter import Level

_HEIGHT = {level: height for height, level in enumerate(get_args(Level))}


class Part(NamedTuple):
    """A meter's own part of a window: what no meter below it saw."""

    total_uj: int
    idle_uj: int
    carry_uj: int  # <= 0: what the meters below it saw beyond it, to be taken from its next windows


def faults(meters: Iterable[MeterConfig]) -> list[tuple[str, str, str]]:
    """Return (meter, field, rule) of everything that makes no tree. Empty: it is one, or several."""
    by_name = {meter.name: meter for meter in meters}
    found = []
    for meter in by_name.values():
        if meter.parent is None:
            continue
        above = by_name.get(meter.parent)
        if above is None:
            found.append((meter.name, "parent", f"must be a declared meter: {', '.join(sorted(by_name))}"))
        elif _HEIGHT[above.level] <= _HEIGHT[meter.level]:
            rule = f"{meter.parent!r} is of level {above.level}, must be above {meter.level}"
            found.append((meter.name, "parent", rule))
    below = {meter.parent for meter in by_name.values()}
    for meter in by_name.values():
        if meter.level in ("rack", "site") and meter.name not in below:
            rule = "a rack or site needs a meter below it: what no node or chip saw is conversion and cooling"
            found.append((meter.name, "level", rule))
    seen: dict[str, str] = {}
    for meter in by_name.values():
        for pool in meter.pools:
            if pool in seen and not _related(by_name, meter.name, seen[pool]):
                # Two chips of one pool are read by one meter: `query` names both.
                found.append((meter.name, "pools", f"{pool!r} is fed by {seen[pool]!r} already"))
            seen.setdefault(pool, meter.name)
    return found


def children(meters: Iterable[MeterConfig]) -> dict[str, list[str]]:
    """Return the names right below each meter."""
    found: dict[str, list[str]] = {meter.name: [] for meter in meters}
    for meter in meters:
        if meter.parent is not None:
            found[meter.parent].append(meter.name)
    return found


def pools_below(meters: Mapping[str, MeterConfig], name: str) -> tuple[str, ...]:
    """Return the pools that a meter and those below it feed, each once, in the order of declaration."""
    below = [meter for meter in meters.values() if name in _path(meters, meter.name)]
    return tuple(dict.fromkeys(pool for meter in below for pool in meter.pools))


def own_part(
    total_uj: int, below_uj: Sequence[int], *, idle_w: float, below_idle_w: Sequence[float], seconds: float,
    carry_uj: int = 0,
) -> Part:  # fmt: skip
    """Return what a meter saw in a window beyond the meters right below it, and how much of it is idle.

    Args:
        total_uj: its own reading.
        below_uj: readings of the meters right below it, over the same time.
        idle_w: what it shows at rest, all below it included; `below_idle_w` what those show.
        carry_uj: what an earlier window owed (readings of different meters are not of quite the same time).
    """
    rest_uj = total_uj - sum(below_uj) + carry_uj
    own_uj = max(0, rest_uj)
    own_idle_w = max(0.0, idle_w - sum(below_idle_w))
    return Part(own_uj, min(own_uj, round(own_idle_w * seconds * UJ_PER_J)), min(0, rest_uj))


def _path(meters: Mapping[str, MeterConfig], name: str) -> list[str]:
    """Return a meter and those above it."""
    path: list[str] = []
    at: str | None = name
    while at is not None and at not in path and at in meters:
        path.append(at)
        at = meters[at].parent
    return path


def _related(meters: Mapping[str, MeterConfig], one: str, other: str) -> bool:
    return one in _path(meters, other) or other in _path(meters, one)
