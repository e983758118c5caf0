"""Who used the CPU between two readings: engines by pool, the factory's own processes, everybody else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from wattmill.power.live.proc import host_busy_s, process_cpu_s


class Processes(NamedTuple):
    """The factory's processes now."""

    pools: Mapping[str, int]  # pid of the engine whose joules go to a pool's requests
    services: tuple[int, ...] = ()  # gateway, ledger, admin, supervisor
    ended: Mapping[int, float] = {}  # CPU seconds that a process had used in all when it ended


class CpuUse(NamedTuple):
    """CPU seconds of one window."""

    busy_s: float  # of all programs of the host
    by_pool: dict[str, float]
    service_s: float
    rest_known: bool  # False: one of ours ended and nobody counted its last moments


class CpuWatch:
    """Closes a window each time it is asked. One that ended in between keeps what it used: the system counts
    it when it is reaped."""

    def __init__(self) -> None:
        self._busy_s: float | None = None
        self._seen: dict[int, tuple[str, float]] = {}  # pid -> (pool or "" for a service, CPU seconds)

    def read(self, processes: Processes) -> CpuUse | None:
        """Return what was used since the last call; None on the first, or where /proc is not Linux's."""
        busy_s = host_busy_s()
        if busy_s is None:
            return None
        before_s, seen = self._busy_s, self._seen
        now: dict[int, tuple[str, float]] = {}
        for pid, owner in _owners(processes):
            cpu_s = process_cpu_s(pid)
            if cpu_s is not None:
                now[pid] = (owner, cpu_s)
        self._busy_s, self._seen = busy_s, now
        if before_s is None:
            return None
        used = dict.fromkeys(processes.pools, 0.0)
        service_s, rest_known = 0.0, True
        for pid, (owner, cpu_s) in now.items():
            more = max(0.0, cpu_s - seen.get(pid, ("", 0.0))[1])  # a new one's time is all of this window
            if owner:
                used[owner] += more
            else:
                service_s += more
        for pid, (owner, cpu_s) in seen.items():
            if pid in now:
                continue
            last_s = processes.ended.get(pid)
            if last_s is None:
                rest_known = False
            elif owner:
                used[owner] = used.get(owner, 0.0) + max(0.0, last_s - cpu_s)
            else:
                service_s += max(0.0, last_s - cpu_s)
        return CpuUse(max(0.0, busy_s - before_s), used, service_s, rest_known)


def _owners(processes: Processes) -> Iterable[tuple[int, str]]:
    yield from ((pid, pool) for pool, pid in processes.pools.items())
    yield from ((pid, "") for pid in processes.services)
