"""A sweep as it was asked and seen, its figures, and a fitted engine as it is kept."""

from __future__ import annotations

import msgspec

from wattmill.twin.engine.spec import EngineLimits, StepCost

FORMAT = 1


class Ask(msgspec.Struct, frozen=True):
    """One request of a sweep: words of prompt, tokens of answer, and when."""

    words: int
    output_tok: int
    at_s: float | None = None  # since the beginning; None: when a place of the closed loop is free


class Seen(msgspec.Struct, frozen=True):
    """What a client saw of one request. Seconds since the sweep began; tokens as the engine counted them."""

    at_s: float
    first_s: float
    end_s: float
    prompt_tok: int
    output_tok: int
    cached_tok: int = 0


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One load, asked and seen. `concurrency` 0: open loop, at the times of the trace."""

    name: str
    concurrency: int
    seen: tuple[Seen, ...]  # in the order of the trace
    others_cores: float | None  # CPU that neither the engine nor the client took; None: not known here
    engine_cpu_s: float | None = None  # CPU that the engine took; None: its process is not of this machine


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep comes to. `j_per_tok` is modelled on declared watts, `usd_per_mtok` on a declared hour."""

    output_tok_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    j_per_tok: float | None = None
    usd_per_mtok: float | None = None


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted engine: what it is, on what it was fitted, and how far off it was there and on other loads."""

    format: int = FORMAT
    model: str
    engine: str  # as the engine says it is
    at_us: int  # UTC
    cost: StepCost
    limits: EngineLimits
    rows: int  # requests that it was fitted on
    fit_error: float  # median of |predicted / measured - 1| over the figures of the fit's own sweeps
    check_error: float | None = None  # the same over the figures of the last check; None: never checked
    checked_us: int | None = None
