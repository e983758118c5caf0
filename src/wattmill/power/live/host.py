"""The host meter: windows of modelled energy, split over the processes that used the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.power.live.proc import host_busy_s, process_cpu_s
from wattmill.power.model import split_window
from wattmill.power.spec import HostPower
from wattmill.vocab.fact import MeterWindow


class HostMeter:
    """Reads CPU times and closes a window each time it is asked.

    A process that was replaced within a window keeps what the two readings of its successor show; what the
    dead one used after its last reading stays in `other_uj` (unattributed), never lost.
    """

    def __init__(self, host: HostPower) -> None:
        self._host = host
        self._busy_s: float | None = None
        self._cpu_s: dict[str, tuple[int, float]] = {}
        self._opened_s = 0.0
        self._opened_us = 0

    @property
    def source(self) -> str:
        host = self._host
        return (
            f"host model idle={host.idle_w:g}W max={host.max_w:g}W alpha={host.alpha:g} "
            f"on {host.cores} cores, by CPU time"
        )

    def window(self, pids: Mapping[str, int], *, now_s: float, wall_us: int) -> MeterWindow | None:
        """Close the window that the last call opened; None on the first call, or where /proc is missing.

        Args:
            pids: the process of each pool whose energy goes to its requests.
            now_s: monotonic seconds; `wall_us` the wall clock at the same moment.
        """
        busy_s = host_busy_s()
        if busy_s is None:
            return None
        used: dict[str, float] = {}
        readings: dict[str, tuple[int, float]] = {}
        for pool, pid in pids.items():
            cpu_s = process_cpu_s(pid)
            if cpu_s is None:
                continue
            readings[pool] = (pid, cpu_s)
            before = self._cpu_s.get(pool)
            if before is not None and before[0] == pid:
                used[pool] = max(0.0, cpu_s - before[1])
        opened_s, opened_us, busy_before_s = self._opened_s, self._opened_us, self._busy_s
        self._opened_s, self._opened_us, self._busy_s, self._cpu_s = now_s, wall_us, busy_s, readings
        if busy_before_s is None or now_s <= opened_s:
            return None
        split = split_window(
            self._host,
            seconds=now_s - opened_s,
            busy_cpu_s=max(0.0, busy_s - busy_before_s),
            cpu_s_by_owner=used,
        )
        return MeterWindow(
            meter="host",
            start_us=opened_us,
            end_us=max(wall_us, opened_us),
            total_uj=split.total_uj,
            idle_uj=split.idle_uj,
            shares_uj=split.shares_uj,
            other_uj=split.other_uj,
            provenance="modelled",
            source=self.source,
        )
