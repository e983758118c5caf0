"""How much a host draws, and whose work it was."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wattmill.power.spec import HostPower
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.shares import largest_remainder


class Split(msgspec.Struct, frozen=True):
    """One window's energy in whole microjoules; total = idle + sum(shares) + service + foreign + other,
    exactly."""

    total_uj: int
    idle_uj: int
    shares_uj: dict[str, int]
    service_uj: int
    foreign_uj: int
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
    host: HostPower,
    *,
    seconds: float,
    busy_cpu_s: float,
    cpu_s_by_owner: Mapping[str, float],
    service_cpu_s: float = 0.0,
    rest_known: bool = True,
) -> Split:
    """Split the energy of one window, by the host's model, over the processes that used the CPU.

    Args:
        seconds: length of the window, > 0.
        busy_cpu_s: CPU seconds that all processes of the host used in it.
        cpu_s_by_owner: CPU seconds of the owners that get a share.
        service_cpu_s: those of the factory's own processes beside its engines.
        rest_known: the rest of `busy_cpu_s` is foreign, used by programs that are not the factory's. False
            where one of ours died and left no count: then it is `other`.
    """
    ours_s = sum(cpu_s_by_owner.values()) + service_cpu_s
    utilization = max(busy_cpu_s, ours_s) / (seconds * host.cores)
    total_uj = round(host_power_w(host, utilization) * seconds * UJ_PER_J)
    idle_uj = min(round(host.idle_w * seconds * UJ_PER_J), total_uj)
    return split_by_cpu(
        total_uj,
        idle_uj,
        busy_cpu_s=busy_cpu_s,
        cpu_s_by_owner=cpu_s_by_owner,
        service_cpu_s=service_cpu_s,
        rest_known=rest_known,
    )


def split_by_cpu(
    total_uj: int,
    idle_uj: int,
    *,
    busy_cpu_s: float,
    cpu_s_by_owner: Mapping[str, float],
    service_cpu_s: float = 0.0,
    rest_known: bool = True,
) -> Split:
    """Split a window's energy above idle by CPU time, whole microjoules by largest remainder.

    Owners may report a little more than `busy_cpu_s` (the two are read at slightly different instants); the
    larger of the two is then taken as busy, so that no share is negative. Where nobody was busy, dynamic
    energy is `other`.
    """
    parts_s = [*cpu_s_by_owner.values(), service_cpu_s]
    parts_s.append(max(0.0, busy_cpu_s - sum(parts_s)))
    whole_us = [round(part * US_PER_S) for part in parts_s]
    dynamic_uj = total_uj - idle_uj
    if not any(whole_us):
        return Split(total_uj, idle_uj, dict.fromkeys(cpu_s_by_owner, 0), 0, 0, dynamic_uj)
    *shares, service, rest = largest_remainder(dynamic_uj, whole_us)
    by_owner = dict(zip(cpu_s_by_owner, shares, strict=True))
    foreign, other = (rest, 0) if rest_known else (0, rest)
    return Split(total_uj, idle_uj, by_owner, service, foreign, other)
