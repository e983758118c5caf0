"""A pool as a fluid: sequences in flight, not one by one, advanced second by second.

With N sequences in a pool whose replicas are filled one after another to `batch` each, ceil(N / batch)
replicas work and the rest idle. A sequence stays S(b) = ttft(b) + tpot(b) (output - 1) seconds, so N / S of
them end each second (Little's law). Valid for pools of many replicas, where single requests do not show: the
noise of arrivals is kept, that of lengths is not.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import ceil

from wattmill.compute.model import under_cap
from wattmill.twin.rehearsal.spec import At, NodesOff, SitePool, TierFlow


class FluidPool:
    """One pool's state. `speed` is 1 without a cap."""

    def __init__(self, spec: SitePool, tiers: dict[str, TierFlow]) -> None:
        self.spec = spec
        self._tiers = tiers
        self.inside = dict.fromkeys(spec.tiers, 0.0)
        self.slowdown = 1.0
        self.off = 0  # replicas
        self._off: NodesOff | None = None
        self._idle: deque[tuple[float, int]] = deque()  # (when, replicas that were idle then)
        self._waking: deque[tuple[float, int]] = deque()  # (when they are up, how many)

    @property
    def total(self) -> float:
        return sum(self.inside.values())

    @property
    def working(self) -> int:
        """Replicas that have work."""
        return min(self.spec.replicas, ceil(self.total / self.spec.batch - 1e-9))

    @property
    def room(self) -> float:
        return max(0.0, float((self.spec.replicas - self.off) * self.spec.batch) - self.total)

    @property
    def idle_w(self) -> float:
        """What the pool would draw without any work, as much of it as is on."""
        share = self._off.draw_share if self._off is not None else 1.0
        return (self.spec.replicas - self.off + self.off * share) * self.spec.gpus * self.spec.idle_w

    def switch(self, now_s: float, *, short: bool, off: NodesOff | None) -> None:
        """Switch off what has been idle for long while power is short; wake it up when it is needed, or when
        power is no longer short. What wakes up draws idle power at once and works later."""
        if off is None:
            return
        self._off = off
        while self._waking and self._waking[0][0] <= now_s:
            self.off -= self._waking.popleft()[1]
        idle = self.spec.replicas - self.off - self.working - ceil(self.spec.replicas * off.ready_share)
        waking = sum(count for _, count in self._waking)
        if short and idle > 0:
            while self._idle and self._idle[-1][1] >= idle:
                self._idle.pop()  # the least of the time is what has been idle all along
            self._idle.append((now_s, idle))
            while len(self._idle) > 1 and self._idle[1][0] <= now_s - off.off_after_s:
                self._idle.popleft()
            if self._idle[0][0] <= now_s - off.off_after_s:
                self.off += self._idle[0][1]
                self._idle.clear()
            return
        self._idle.clear()
        wanted = self.off if not short else min(self.off, 1 + -idle)
        if wanted > waking:
            self._waking.append((now_s + off.wake_s, wanted - waking))

    def at(self) -> At:
        """Return what a working replica does now."""
        working = self.working
        return interpolated(self.spec.points, self.total / working if working else 0.0)

    def stay_s(self, tier: str, at: At) -> float:
        return (at.ttft_s + at.tpot_s * (self._tiers[tier].output_tok - 1.0)) * self.slowdown

    def advance(self, dt_s: float) -> dict[str, float]:
        """Let sequences end for `dt_s`; return how many of each tier did."""
        at, ended = self.at(), {}
        for tier, inside in self.inside.items():
            done = min(inside, inside / self.stay_s(tier, at) * dt_s) if inside > 0.0 else 0.0
            self.inside[tier] = inside - done
            ended[tier] = done
        return ended

    def watts(self, engine_share: float) -> float:
        """Return what the pool draws, its accelerators held to `engine_share` of what they draw above idle.

        A cap below what the law of capped devices holds for takes replicas out in its stead: then their
        sequences go slower by the same factor.
        """
        spec, working = self.spec, self.working
        waking = sum(count for _, count in self._waking)
        idle_w = self.idle_w - working * spec.gpus * spec.idle_w
        if self._off is not None:
            idle_w += waking * (1.0 - self._off.draw_share) * spec.gpus * spec.idle_w
        if not working:
            self.slowdown = 1.0
            return idle_w
        free_w = self.at().gpu_w
        if engine_share >= 1.0 or free_w <= spec.idle_w:
            self.slowdown = 1.0
            return idle_w + working * spec.gpus * free_w
        cap_w = spec.idle_w + (free_w - spec.idle_w) * engine_share
        try:
            capped = under_cap(
                free_w=free_w, idle_w=spec.idle_w, cap_w=cap_w, compute_share=spec.compute_share
            )
            self.slowdown = capped.slowdown
        except ValueError:
            self.slowdown = 1.0 / engine_share
        return idle_w + working * spec.gpus * cap_w

    def keeps(self, tier: str) -> bool:
        """Return whether a stream of a tier has the speed that it was promised."""
        promise = self._tiers[tier]
        return self.at().tpot_s * self.slowdown <= 1.0 / promise.tok_per_s * (1.0 + 1e-9)


def interpolated(points: tuple[At, ...], batch: float) -> At:
    """Return the figures at a batch: straight lines between points, the ends beyond them."""
    if batch <= points[0].batch:
        return points[0]
    for before, after in pairwise(points):
        if batch <= after.batch:
            part = (batch - before.batch) / (after.batch - before.batch)
            return At(*(a + part * (b - a) for a, b in zip(before, after, strict=True)))
    return points[-1]
