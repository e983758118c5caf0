"""How much a host draws, and whose work it was."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wattmill.power.spec import HostPower
from wattmill.units import UJ_PER_J


class Split(msgspec.Struct, frozen=True):
    """One window's energy in whole microjoules; total = idle + sum(shares) + other, exactly."""

    total_uj: int
    idle_uj: int
    shares_uj: dict[str, int]
    other_uj: int


def host_power_w(host: HostPower, utilization: float) -> float:
    """Return the power a host draws at `utilization` (0..1, clipped) of its cores, in watts.

    Fan, Weber, Barroso, "Power provisioning for a warehouse-sized computer", ISCA 2007, equation in
    section 5: a linear or power law in CPU utilisation. Good to some 10 % for servers at alpha fitted per
    machine; with undeclared parameters it is an order of magnitude, which is why it says `modelled`.
    """
    u = min(max(utilization, 0.0), 1.0)
    return host.idle_w + (host.max_w - host.idle_w) * float(u**host.alpha)


def split_window(
    host: HostPower, *, seconds: float, busy_cpu_s: float, cpu_s_by_owner: Mapping[str, float]
) -> Split:
    """Split the energy of one window over its owners by CPU time.

    Args:
        seconds: length of the window, > 0.
        busy_cpu_s: CPU seconds that all processes of the host used in it.
        cpu_s_by_owner: CPU seconds of the owners that get a share; the rest of `busy_cpu_s` is `other`.

    Owners may report a little more than `busy_cpu_s` (the two are read at slightly different instants); the
    larger of the two is then taken as busy, so that no share is negative.
    """
    owned_s = sum(cpu_s_by_owner.values())
    busy_s = max(busy_cpu_s, owned_s)
    utilization = busy_s / (seconds * host.cores)
    total_uj = round(host_power_w(host, utilization) * seconds * UJ_PER_J)
    idle_uj = min(round(host.idle_w * seconds * UJ_PER_J), total_uj)
    dynamic_uj = total_uj - idle_uj
    shares = {
        owner: int(dynamic_uj * cpu_s / busy_s) if busy_s > 0 else 0
        for owner, cpu_s in cpu_s_by_owner.items()
    }
    return Split(total_uj, idle_uj, shares, dynamic_uj - sum(shares.values()))
