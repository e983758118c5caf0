"""What is asked of the law, and what it answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.models.deployment import Deployment

Class = Literal["interpolated", "extrapolated", "inputs missing"]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and the bounds between which four of five measurements are expected."""

    value: float
    low: float
    high: float


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked beyond what was measured."""

    what: str  # "output tokens", or what no measured row has at all
    asked: float | None = None  # None: it is not a quantity
    least: float | None = None  # measured, on the same model and engine
    most: float | None = None
    room: float = 1.0  # by this factor it may pass what was measured and still count as inside

    def __str__(self) -> str:
        if self.asked is None or self.least is None or self.most is None:
            return self.what
        below = self.asked < self.least
        times = self.least / self.asked if below else self.asked / self.most
        measured = (
            f"{self.least:,.0f}" if self.least == self.most else f"{self.least:,.0f} to {self.most:,.0f}"
        )
        return (
            f"{self.what} {self.asked:,.0f}, measured {measured}: {times:.1f} times "
            f"{'below' if below else 'above'}, {self.room:g} times is let pass"
        )


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the requests of a closed loop at fixed concurrency. Modelled, not measured."""

    ttft_s: Interval
    tpot_s: Interval
    output_tok_per_s: Interval  # of the whole deployment
    klass: Class
    nearest: str | None  # the calibration group whose measurements are most like it; None: there is none
    outside: tuple[Outside, ...] = ()  # why it is not interpolated
    tpot_if_interpolated_s: Interval | None = None  # the interval that would then stand; None: it does stand


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens drafted per step, and the probability that one is accepted if those before it were."""

    drafted: int
    acceptance: float


class Disaggregation(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill on workers of its own. The deployment that is predicted is then one decode worker."""

    prefill: Deployment
    prefill_workers: int = 1
    decode_workers: int = 1
