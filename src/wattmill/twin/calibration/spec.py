"""A sweep as it was asked and seen, its figures, and a fitted engine as it is kept."""

from __future__ import annotations

import msgspec

from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.vocab.usage import Provenance

FORMAT = 1
GOAL = 0.10
"""How far a figure may be off, as a share of what was measured."""


class Ask(msgspec.Struct, frozen=True):
    """One request of a sweep: words of prompt, tokens of answer, and when."""

    words: int
    output_tok: int
    at_s: float | None = None  # since the beginning; None: when a place of the closed loop is free


class Seen(msgspec.Struct, frozen=True):
    """What a client saw of one request. Seconds since the sweep began; tokens as the engine counted them."""

    at_s: float
    first_s: float | None  # None: not streamed, so that nobody saw it
    end_s: float
    prompt_tok: int
    output_tok: int
    cached_tok: int = 0
    company: bool = False  # it kept the engine busy, and says nothing of how good a prediction is


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
    ttft_p50_s: float | None  # None: no answer was streamed
    ttft_p95_s: float | None
    tpot_p50_s: float | None  # None: no streamed answer had more than one token
    tpot_p95_s: float | None
    j_per_tok: float | None = None
    usd_per_mtok: float | None = None
    served_tok_per_s: float | None = None  # output tokens by second in which anything was in flight


class Covers(msgspec.Struct, frozen=True, kw_only=True):
    """What a fit has seen: fewest and most tokens, and the most requests at once. Beyond twice that, a
    prediction extrapolates."""

    prompt_tok: tuple[int, int]  # computed ones
    output_tok: tuple[int, int]
    at_once: int

    def outside(self, prompt_tok: int, output_tok: int) -> bool:
        """Return whether a request is beyond a factor of two of what was seen."""
        return not (
            self.prompt_tok[0] <= 2 * prompt_tok <= 4 * self.prompt_tok[1]
            and self.output_tok[0] <= 2 * output_tok <= 4 * self.output_tok[1]
        )


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """Watts that the books put on requests while a step ran: their joules over the simulated busy time."""

    busy_w: float
    provenance: Provenance  # of these joules


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
    covers: Covers | None = None  # None: fitted by a version that did not say
    period_us: tuple[int, int] | None = None  # of the ledger, on which it was fitted; None: a sweep
    drawn: Drawn | None = None  # None: the books put no joules on its requests, or it was a sweep
