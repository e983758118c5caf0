"""How the factory was at regular instants: occupancy, queues, replicas, watts; and when it was resized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wattmill.twin.fleet.pool import RunningPool
from wattmill.twin.fleet.timers import Clock
from wattmill.units import PS_PER_S, UJ_PER_J


class Moment(NamedTuple):
    """One pool at one instant; `busy` and `watts` are means since the instant before."""

    at_s: float
    pool: str
    in_flight: int
    slots: int  # of all replicas that serve
    ready: int
    starting: int
    busy: float | None  # share of the replicas' time in which a step ran; None: nobody knows
    watts: float | None
    waiting: int  # at the gateway, for any place


class Resized(NamedTuple):
    at_s: float
    pool: str
    replicas: int
    reason: str


class Timeline:
    """Looks at all pools every `every_s` seconds of the simulation."""

    def __init__(
        self, clock: Clock, pools: Sequence[RunningPool], waiting: Callable[[], int], *, every_s: float
    ) -> None:
        self.every_s = every_s
        self.moments: list[Moment] = []
        self.resizes: list[Resized] = []
        self._clock = clock
        self._pools = pools
        self._waiting = waiting
        self._busy_ps = [0] * len(pools)
        self._uj = [0] * len(pools)
        self._at_ps = 0

    def look(self) -> None:
        """Take down how things are now."""
        now_ps, waiting = self._clock.now_ps, self._waiting()
        span_ps = now_ps - self._at_ps
        for i, pool in enumerate(self._pools):
            load = pool.load(0)
            busy_ps, uj = pool.busy_ps, pool.drawn_uj
            machines = max(1, len(pool.replicas))
            busy = (busy_ps - self._busy_ps[i]) / span_ps / machines if span_ps and pool.spec.owned else None
            watts = None
            if pool.spec.power is not None and span_ps:
                watts = (uj - self._uj[i]) / UJ_PER_J / (span_ps / PS_PER_S)
            self.moments.append(
                Moment(
                    now_ps / PS_PER_S, pool.name, load.in_flight, load.slots * load.ready, load.ready,
                    load.starting, busy, watts, waiting,
                )
            )  # fmt: skip
            self._busy_ps[i], self._uj[i] = busy_ps, uj
        self._at_ps = now_ps

    def scaled(self, pool: str, replicas: int, reason: str) -> None:
        self.resizes.append(Resized(self._clock.now_ps / PS_PER_S, pool, replicas, reason))
