"""What is asked of the law, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from wattmill.models.deployment import Deployment

if TYPE_CHECKING:
    from wattmill.twin.law.calibration import Calibration
    from wattmill.twin.law.rows import Configuration

Metric = Literal["ttft_mean", "tpot_mean"]
METRICS: tuple[Metric, ...] = ("ttft_mean", "tpot_mean")

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
    basis: str | None = None  # whose measurements stand behind it beside the law's; None: the law alone


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """A time that is not the law's alone, seconds, with its 80 % interval, and what else it rests on."""

    value_s: float
    low_s: float
    high_s: float
    basis: str | None  # None: the law alone


class Prior(Protocol):
    """What knows something of models or accelerators of which no whole run was measured."""

    def mixed(
        self,
        law: Calibration,
        c: Configuration,
        metric: Metric,
        law_s: float,
        *,
        first_wave: bool = True,
        was_run: bool = True,
    ) -> Mixed | str:
        """Return the time to take in the place of the law's `law_s`; or why the law stands alone."""
        ...


def with_prior(
    prior: Prior | None,
    law: Calibration,
    c: Configuration,
    metric: Metric,
    law_s: float,
    *,
    klass: Class,
    first_wave: bool = True,
    was_run: bool = True,
) -> Mixed:
    """Return a time and its interval: of both where the prior knows something, else of the law, whose basis
    is None."""
    if prior is not None:
        found = prior.mixed(law, c, metric, law_s, first_wave=first_wave, was_run=was_run)
        if not isinstance(found, str):
            return found
    low, high = law.bounds(metric, klass, c, law_s)
    return Mixed(value_s=law_s, low_s=low, high_s=high, basis=None)


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens drafted per step, and the probability that one is accepted if those before it were."""

    drafted: int
    acceptance: float


class Disaggregation(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill on workers of its own. The deployment that is predicted is then one decode worker."""

    prefill: Deployment
    prefill_workers: int = 1
    decode_workers: int = 1
    link_bytes_per_s: float | None = None  # of a prefill device, for caches; None: they take no time
    latency_s: float = 0.0  # of each hand-over, whatever its size
