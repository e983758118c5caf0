"""What starting a replica takes, and what owning one costs."""

from __future__ import annotations

from wattmill.twin.fleet.spec import ColdStart, Hours
from wattmill.units import J_PER_KWH, PS_PER_S, S_PER_H, UJ_PER_J


def cold_start_s(start: ColdStart) -> float:
    """Return the seconds from the decision to the first request that a new replica serves.

        provisioning + image / image bandwidth + weights / storage bandwidth + compile + warm-up

    The parts follow each other: an engine that loads while it compiles is declared with the longer of the
    two. Bytes and bytes per second.
    """
    return (
        start.provisioning_s
        + start.image_bytes / start.image_bytes_per_s
        + start.weight_bytes / start.storage_bytes_per_s
        + start.compile_s
        + start.warm_up_s
    )


def hours_nusd(hours: Hours, on_ps: int, energy_uj: int) -> int:
    """Return what replica hours and their energy cost, in whole nano-dollars, rounded half up each."""
    rent = (hours.nusd_per_h * on_ps + S_PER_H * PS_PER_S // 2) // (S_PER_H * PS_PER_S)
    per_kwh = J_PER_KWH * UJ_PER_J
    return rent + (hours.nusd_per_kwh * energy_uj + per_kwh // 2) // per_kwh
