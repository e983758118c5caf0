"""A second place is asked while the first one is silent: the first content wins, the other is cancelled.

A hedge is an attempt like any other: it takes a token of the budget for further attempts, reserves its worst
case at every ancestor at once or does not start, has its own records, and is booked when it is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wattmill.units import MS_PER_S

if TYPE_CHECKING:
    from wattmill.distribution.attempt import Attempt
    from wattmill.distribution.exchange import Exchange


class Hedge:
    """Of one exchange; made only where hedges are declared."""

    __slots__ = ("_timer", "_x", "rival", "rival_expected_nusd")

    def __init__(self, x: Exchange) -> None:
        self._x = x
        self._timer: asyncio.TimerHandle | None = None
        self.rival: Attempt | None = None  # beside `x.attempt`, which left first
        self.rival_expected_nusd = 0

    def arm(self, first: Attempt) -> None:
        """Set the clock for `first`, which has just left, by its place's own times."""
        x = self._x
        rules = x.services.resilience
        delay_s = rules.hedge_s
        if delay_s is None:
            share = rules.hedge_quantile
            state = first.upstream.state
            times = state.ttft_s if first.streamed else state.whole_s
            delay_s = times.quantile_s(share) if share is not None else None
            if delay_s is None:
                return  # too few times to tell what is late
            delay_s = max(delay_s, rules.hedge_least_ms / MS_PER_S)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, x.guarded, self._due, first)

    def _due(self, first: Attempt) -> None:
        x = self._x
        self._timer = None
        if x.over or x.attempt is not first or first.first_s is not None or self.rival is not None:
            return
        x.try_rival(first)

    def won(self, winner: Attempt) -> None:
        """`winner` has content first: nothing else is waited for."""
        self._stop_clock()
        rival = self.rival
        if rival is None:
            return
        x = self._x
        self.rival = None
        loser = rival
        if winner is rival:
            assert x.attempt is not None
            loser, x.attempt = x.attempt, rival
            x.expected_nusd = self.rival_expected_nusd
            if x.slow and rival.handle is not None:
                rival.handle.pause()
        x.gateway.metrics.count("wattmill_hedges_total", rival.pool, "won" if winner is rival else "lost")
        loser.lose()

    def failed(self, attempt: Attempt) -> bool:
        """`attempt` failed before its first content; return whether the other one is still under way."""
        rival = self.rival
        if rival is None:
            self._stop_clock()
            return False
        if attempt is self._x.attempt:
            self._x.attempt = rival
            self._x.expected_nusd = self.rival_expected_nusd
        self.rival = None
        self._x.gateway.metrics.count(
            "wattmill_hedges_total", rival.pool, "failed" if attempt is rival else "won"
        )
        return True

    def over(self) -> None:
        """The exchange ends, whatever the reason."""
        self._stop_clock()
        rival, self.rival = self.rival, None
        if rival is not None:
            self._x.gateway.metrics.count("wattmill_hedges_total", rival.pool, "lost")
            rival.lose()

    def _stop_clock(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
