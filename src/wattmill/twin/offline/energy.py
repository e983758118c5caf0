"""Wall power and energy of servers under full load: the device's power law, and the node around it.

Declared, not fitted: idle and the logistic of `compute.model`, and the node's host, fans and supplies.
Fitted: one number, the share of its limit at which a run under an unpublished cap ("MaxQ") holds its devices.
"""

from __future__ import annotations

from functools import cache
from math import ceil, exp, log
from typing import Any

import msgspec
import numpy as np

from wattmill.compute.model import Node, curve_of, power_w, under_cap, wall_w
from wattmill.compute.spec import Accelerator
from wattmill.models.step_time import TERMS
from wattmill.twin.law.rows import MEASURED, measured_rows
from wattmill.twin.offline.law import Solved
from wattmill.twin.offline.rows import OfflineRow, offline_row

ENERGY = ("system_wall_power", "wall_energy_per_output_token")

HOST_W = 1_000.0
"""Processors, memory, network and drives of a server of eight, under load: declared (two sockets of 350 W, 32
modules, nine network cards)."""
FAN_SHARE = 0.10
SUPPLY_EFFICIENCY = 0.95
_TDP_UNKNOWN_W = 500.0
_ASSUMED_CAP_SHARE = 0.75

_PREFILL = [TERMS.index("prefill_flop"), TERMS.index("attention")]
_CLOCKED = [*_PREFILL, TERMS.index("decode_flop"), TERMS.index("latent")]


class Walls(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of energy: the cap's share, and held-out ln(measured / predicted) bounds of 80 %."""

    cap_share: float
    runs: int  # distinct ones behind the bounds
    power: tuple[float, float]
    energy: tuple[float, float]


UNKNOWN = Walls(cap_share=_ASSUMED_CAP_SHARE, runs=0, power=(-0.25, 0.25), energy=(-0.5, 0.5))


GUESSED = 2.0
"""Of a part that nobody knows, or whose limit nobody published, half or twice the watts are no surprise, nor
is half or twice the throughput: declared."""


@cache
def metered() -> frozenset[str]:
    """Return the accelerators whose servers were measured at the wall in the shipped tables."""
    rows = [row for table in MEASURED for row in measured_rows(table) if row["metric"] in ENERGY]
    return frozenset(offline_row(row).accelerator.name for row in rows)


def wall_bounds(
    walls: Walls, row: OfflineRow, *, tdp_known: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return ln bounds of 80 % of a row's wall watts and of its joules, beside what its throughput may do.

    What was learned holds for the parts that were metered, two of them. Of others nothing was measured: the
    declared bounds of `UNKNOWN`, wider where the part or its limit is a guess.
    """
    if row.accelerator.name in metered():
        return walls.power, walls.energy
    more = 0.0 if tdp_known and "gpu" not in row.missing else log(GUESSED)
    power, energy = (
        (min(learned[0], declared[0]) - more, max(learned[1], declared[1]) + more)
        for learned, declared in ((walls.power, UNKNOWN.power), (walls.energy, UNKNOWN.energy))
    )
    return power, energy


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """What a row's system draws."""

    wall_w: float
    slowdown: float  # by the cap, >= 1
    tdp_known: bool


def node_of(part: Accelerator, gpus: int) -> tuple[Node, float]:
    """Return a server for `part`, and how many of it hold `gpus`; the host of a smaller one is smaller."""
    size = min(part.gpus_per_node, max(gpus, 1))
    node = Node(
        gpus=size, host_w=HOST_W * size / 8.0, fan_share=FAN_SHARE, supply_efficiency=SUPPLY_EFFICIENCY
    )
    return node, ceil(gpus / size)


def draw(row: OfflineRow, solved: Solved, at: int, *, cap_share: float) -> Draw:
    """Return the watts at the wall of row `at` of `solved`, by its batch and its shares of time."""
    part = row.accelerator
    known = part.tdp_w is not None
    if not known:
        part = msgspec.structs.replace(part, tdp_w=_TDP_UNKNOWN_W)
    curve = curve_of(part)
    shares = solved.shares[at]
    free = power_w(
        curve, exp(float(solved.log_batch[at])), prefill_share=min(float(shares[_PREFILL].sum()), 1.0)
    )
    gpu_w, slowdown = free, 1.0
    if row.capped:
        capped = under_cap(
            free_w=free,
            idle_w=curve.idle_w,
            cap_w=cap_share * curve.limit_w,
            compute_share=min(float(shares[_CLOCKED].sum()), 1.0),
        )
        gpu_w, slowdown = capped.power_w, capped.slowdown
    node, nodes = node_of(part, row.gpus)
    return Draw(wall_w=wall_w(node, gpu_w) * nodes, slowdown=slowdown, tdp_known=known)


def cap_share_of(rows: list[tuple[OfflineRow, float]]) -> float:
    """Return the share of their limit at which the capped runs among `rows` (with their wall watts) hold
    their devices: the node's law turned round, geometric mean; 0.75 where there is none."""
    found = []
    for row, measured_w in rows:
        if not row.capped or row.accelerator.tdp_w is None:
            continue
        node, nodes = node_of(row.accelerator, row.gpus)
        of_node = measured_w / nodes * node.supply_efficiency / (1.0 + node.fan_share)
        found.append(log((of_node - node.host_w) / node.gpus / row.accelerator.tdp_w))
    return exp(float(np.mean(found))) if found else _ASSUMED_CAP_SHARE


def constant_w(rows: list[tuple[OfflineRow, float]], asked: OfflineRow) -> float:
    """Return the rival's watts: devices x limit x the mean of wall power over that in `rows`; one number."""
    shares = [w / (row.gpus * (row.accelerator.tdp_w or _TDP_UNKNOWN_W)) for row, w in rows]
    return float(np.mean(shares)) * asked.gpus * (asked.accelerator.tdp_w or _TDP_UNKNOWN_W)


def slowdowns(rows: list[OfflineRow], solved: Solved, *, cap_share: float) -> Any:
    """Return what the cap costs each row in time: 1 where there is none."""
    return np.array(
        [
            draw(row, solved, at, cap_share=cap_share).slowdown if row.capped else 1.0
            for at, row in enumerate(rows)
        ]
    )
