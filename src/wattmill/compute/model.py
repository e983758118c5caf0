"""What an accelerator draws at a batch, what a capped one does, and what the node around it adds.

Decode draws near full power at small batches (76 % of the limit at batch 8 was measured for a 14 B model on
a B200), so a law linear in utilisation is wrong. The law here is logistic in the logarithm of the batch:

    decode_w(b) = idle_w + (limit_w - idle_w) s,   s = b^k / (b^k + half^k)

which is 1 / (1 + exp(-k (ln b - ln half))), between idle and the limit, and half way at `half_batch`.
"""

from __future__ import annotations

from math import isfinite

import msgspec

from wattmill.compute.spec import Accelerator

IDLE_SHARE = 0.14
"""Idle over limit, declared: B200 and H100 boards idle near 140 W of 1,000 and 70-100 W of 700."""

HALF_BATCH, STEEPNESS = 0.5, 0.34
"""Declared, from two published points: 76 % of the limit at batch 8 (14 B, B200), and 2.64 J a token of a 7 B
model at batch 1 on an H100, which at 160 tokens/s (7.24 B x 2 bytes at 70 % of the bandwidth) is 60 %."""

CLOCK_EXPONENT = 2.0
"""Dynamic power over clock, declared: voltage falls with the clock, so the exponent lies between 1 and 3.
MLPerf's capped and free H200 runs imply 1.8 where the free one is taken to draw its limit."""

LEAST_CLOCK = 0.5
"""Share of the full clock below which the exponent is not claimed: voltage no longer falls there."""


class PowerCurve(msgspec.Struct, frozen=True, kw_only=True):
    """What one device draws. Watts; `half_batch` and `steepness` are the logistic's."""

    idle_w: float
    limit_w: float  # the part's own limit (TDP), or the cap in force
    prefill_w: float  # a phase bound by FLOPs: near the limit at any batch
    half_batch: float = HALF_BATCH
    steepness: float = STEEPNESS

    def __post_init__(self) -> None:
        if not 0.0 <= self.idle_w < self.limit_w or not isfinite(self.limit_w):
            raise ValueError(f"needs 0 <= idle_w < limit_w, got {self.idle_w} and {self.limit_w}")
        if self.half_batch <= 0.0 or self.steepness <= 0.0:
            raise ValueError(
                f"half_batch and steepness must be > 0, got {self.half_batch} and {self.steepness}"
            )
        if not self.idle_w <= self.prefill_w <= self.limit_w:
            raise ValueError(f"prefill_w must lie between idle_w and limit_w, got {self.prefill_w}")


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What stands around the devices of one server. `declared`: few are published."""

    gpus: int
    host_w: float  # processors, memory, network cards, drives, under load
    fan_share: float  # of the devices' and host's power
    supply_efficiency: float  # out over in, of the power supplies

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.host_w < 0.0 or self.fan_share < 0.0:
            raise ValueError(
                "gpus must be >= 1, host_w and fan_share >= 0, "
                f"got {self.gpus}, {self.host_w}, {self.fan_share}"
            )
        if not 0.5 <= self.supply_efficiency <= 1.0:
            raise ValueError(f"supply_efficiency must be 0.5 to 1, got {self.supply_efficiency}")


def curve_of(accelerator: Accelerator, *, cap_w: float | None = None) -> PowerCurve:
    """Return the declared curve of a part, under a cap if one is set.

    Raises:
        ValueError: the catalogue has no power limit for the part, or the cap is at or below idle.
    """
    if accelerator.tdp_w is None:
        raise ValueError(f"{accelerator.name} has no published power limit; declare a PowerCurve for it")
    idle = IDLE_SHARE * accelerator.tdp_w
    limit = min(cap_w, accelerator.tdp_w) if cap_w is not None else accelerator.tdp_w
    if limit <= idle:
        raise ValueError(
            f"a cap of {cap_w} W lies at or below the {idle:g} W that {accelerator.name} idles at"
        )
    return PowerCurve(idle_w=idle, limit_w=limit, prefill_w=limit)


def power_w(curve: PowerCurve, batch: float, *, prefill_share: float = 0.0) -> float:
    """Return the mean watts of a device whose steps decode `batch` sequences.

    Args:
        curve: the device's.
        batch: sequences in decode on this device's replica, >= 0; 0 draws idle.
        prefill_share: share of the time spent on prompt tokens, 0..1.

    Valid for a device that always has a step to run; a share of idle time is the caller's to mix in. Between
    the two points that it is declared from (batch 1 to 8) it is interpolated, above 8 extrapolated: the law
    cannot leave [idle, limit].
    """
    if batch < 0.0 or not 0.0 <= prefill_share <= 1.0:
        raise ValueError(f"batch must be >= 0 and prefill_share 0..1, got {batch} and {prefill_share}")
    if batch == 0.0:
        decode = curve.idle_w
    else:
        ratio = (curve.half_batch / batch) ** curve.steepness
        decode = curve.idle_w + (curve.limit_w - curve.idle_w) / (1.0 + ratio)
    return prefill_share * curve.prefill_w + (1.0 - prefill_share) * decode


def wall_w(node: Node, gpu_w: float) -> float:
    """Return the watts of a whole server at the plug whose devices each draw `gpu_w`.

    (gpus x gpu_w + host_w) x (1 + fan_share) / supply_efficiency
    """
    return (node.gpus * gpu_w + node.host_w) * (1.0 + node.fan_share) / node.supply_efficiency


class Capped(msgspec.Struct, frozen=True, kw_only=True):
    """What a device does under a cap."""

    clock: float  # share of the full clock, LEAST_CLOCK..1
    slowdown: float  # step time over the uncapped one, >= 1
    power_w: float


def under_cap(*, free_w: float, idle_w: float, cap_w: float, compute_share: float) -> Capped:
    """Return the clock, the step time and the watts of a device held at `cap_w`.

    The dynamic part falls as clock^2, the part of a step that waits for memory does not care about the clock:

        clock = ((cap_w - idle_w) / (free_w - idle_w))^(1/2)
        slowdown = 1 - compute_share + compute_share / clock

    Args:
        free_w: what the device draws without a cap, > idle_w.
        idle_w: what it draws without work.
        cap_w: the cap, > 0.
        compute_share: share of the uncapped step time that scales with the clock, 0..1.

    Raises:
        ValueError: an argument is out of range, or the cap needs a clock below LEAST_CLOCK.
    """
    if not 0.0 <= idle_w < free_w or not 0.0 <= compute_share <= 1.0:
        raise ValueError(
            f"needs 0 <= idle_w < free_w and compute_share 0..1, got {idle_w}, {free_w}, {compute_share}"
        )
    if cap_w >= free_w:
        return Capped(clock=1.0, slowdown=1.0, power_w=free_w)
    least_w = idle_w + (free_w - idle_w) * LEAST_CLOCK**CLOCK_EXPONENT
    if cap_w < least_w:
        raise ValueError(
            f"cap_w must be at least {least_w:.0f} W, got {cap_w}: the law holds down to {LEAST_CLOCK:.0%} "
            "of the clock. Take devices out of service instead of capping deeper"
        )
    clock = ((cap_w - idle_w) / (free_w - idle_w)) ** (1.0 / CLOCK_EXPONENT)
    return Capped(clock=clock, slowdown=1.0 - compute_share + compute_share / clock, power_w=cap_w)


def cap_for(*, free_w: float, idle_w: float, slowdown: float, compute_share: float) -> float:
    """Return the lowest cap under which steps take at most `slowdown` (>= 1) times as long.

    The inverse of `under_cap`; never below the cap that LEAST_CLOCK needs.
    """
    if slowdown < 1.0 or not 0.0 <= compute_share <= 1.0 or not 0.0 <= idle_w < free_w:
        raise ValueError(
            f"needs slowdown >= 1, compute_share 0..1 and 0 <= idle_w < free_w, "
            f"got {slowdown}, {compute_share}, {idle_w}, {free_w}"
        )
    stretched = slowdown - 1.0 + compute_share
    clock = LEAST_CLOCK if compute_share == 0.0 else max(compute_share / stretched, LEAST_CLOCK)
    dynamic: float = min(clock, 1.0) ** CLOCK_EXPONENT
    return idle_w + (free_w - idle_w) * dynamic
