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


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the requests of a closed loop at fixed concurrency. Modelled, not measured."""

    ttft_s: Interval
    tpot_s: Interval
    output_tok_per_s: Interval  # of the whole deployment
    klass: Class
    nearest: str | None  # the calibration group whose measurements are most like it; None: there is none


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens drafted per step, and the probability that one is accepted if those before it were."""

    drafted: int
    acceptance: float


class Disaggregation(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill on workers of its own. The deployment that is predicted is then one decode worker."""

    prefill: Deployment
    prefill_workers: int = 1
    decode_workers: int = 1
