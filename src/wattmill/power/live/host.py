"""The host model as a meter: the last step of the ladder, where no counter can be read."""

from __future__ import annotations

from wattmill.power.live.cpu import CpuUse
from wattmill.power.model import split_window
from wattmill.power.spec import HostPower
from wattmill.vocab.fact import MeterWindow

NAME = "host"


class HostMeter:
    """Turns the CPU time of a window into joules, by declared parameters."""

    def __init__(self, host: HostPower) -> None:
        self._host = host
        self._opened: tuple[float, int] | None = None

    @property
    def source(self) -> str:
        host = self._host
        return (
            f"host model idle={host.idle_w:g}W max={host.max_w:g}W alpha={host.alpha:g} "
            f"on {host.cores} cores, by CPU time"
        )

    def window(self, use: CpuUse | None, *, now_s: float, wall_us: int) -> MeterWindow | None:
        """Close the window that the last call opened; None on the first call, or without CPU times.

        Args:
            use: CPU time since the last call.
            now_s: monotonic seconds; `wall_us` the wall clock at the same moment.
        """
        opened, self._opened = self._opened, (now_s, wall_us)
        if use is None or opened is None or now_s <= opened[0]:
            return None
        split = split_window(
            self._host,
            seconds=now_s - opened[0],
            busy_cpu_s=use.busy_s,
            cpu_s_by_owner=use.by_pool,
            service_cpu_s=use.service_s,
            rest_known=use.rest_known,
        )
        return MeterWindow(
            meter=NAME,
            start_us=opened[1],
            end_us=max(wall_us, opened[1]),
            total_uj=split.total_uj,
            idle_uj=split.idle_uj,
            shares_uj=split.shares_uj,
            other_uj=split.other_uj,
            provenance="modelled",
            source=self.source,
            service_uj=split.service_uj,
            foreign_uj=split.foreign_uj,
        )
