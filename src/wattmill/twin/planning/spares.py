"""N + k: how many nodes too many are needed so that enough are up nearly always.

Nodes fail alone and are repaired one by one without waiting: each is down for a share q of the time, and the
number that is down is binomial. One switch that takes a row of racks along is not in it.
"""

from __future__ import annotations

import math

from wattmill.units import H_PER_YEAR


def down_share(*, failures_per_gpu_year: float, gpus_per_node: int, repair_h: float) -> float:
    """Return the share of time in which a node is down: repair / (time between failures + repair).

    Hand check: 0.173 failures a GPU-year x 8 = one in 6,329 h; with 24 h of repair 24 / 6,353 = 0.378 %.
    """
    failures = failures_per_gpu_year * gpus_per_node
    if failures == 0.0:
        return 0.0
    return repair_h / (H_PER_YEAR / failures + repair_h)


def enough_up(nodes: int, spare: int, down: float) -> float:
    """Return how probable it is that of `nodes` + `spare` at most `spare` are down."""
    if down <= 0.0:
        return 1.0
    total = nodes + spare
    log_down, log_up = math.log(down), math.log1p(-down)
    whole = math.lgamma(total + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                whole - math.lgamma(k + 1) - math.lgamma(total - k + 1) + k * log_down + (total - k) * log_up
            )
            for k in range(spare + 1)
        ),
    )


def carried(spare: int, down: float, target: float, most: int) -> int:
    """Return the most nodes at work that `spare` nodes too many keep up to `target`, at most `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if enough_up(middle, spare, down) >= target:
            low = middle
        else:
            high = middle - 1
    return low


def carried_by_spares(*, down: float, target: float, most: int) -> list[int]:
    """Return how many nodes at work 0, 1, 2 ... spares keep up, until `most` are reached."""
    steps = [carried(0, down, target, most)]
    while steps[-1] < most:
        steps.append(carried(len(steps), down, target, most))
    return steps
