"""How fast a model answers: time of one token against the number of requests at work, learned as it serves.

A batch shares the weights that it reads, so a token of one request takes `alone_s`, and a little longer for
each further request at work: t(n) = alone_s * (1 + slowdown * (n - 1)). The line is fitted by least squares
that forget (an observation counts 0.97 of the one after it), starts from the declared speed, and takes no
observation for more than 2.5 times, or less than that part, of what it expected: one stall teaches little,
many teach fast.
"""

from __future__ import annotations

import msgspec

KEEP = 0.97  # weight of an observation against the one after it
PRIOR = 0.25  # weight of the declared speed against one observation
WILDEST = 2.5  # no single observation counts for more than this factor off
RIDGE = 1.0  # pulls the slope to zero until the load was seen to vary
LEAST_ALONE = 0.05  # of the mean: a line never says that a token alone takes nothing
TTFT_GAIN = 0.1  # share of a seen deviation, in the logarithm, by which an expectation is corrected
TTFT_MOST = 10.0


class Pace(msgspec.Struct, frozen=True, gc=False):
    """Running sums of (others at work, seconds per output token)."""

    weight: float
    others: float  # mean
    s_per_tok: float  # mean
    sxx: float = 0.0
    sxy: float = 0.0

    @property
    def slope_s(self) -> float:
        """Return how much longer a token takes for each further request at work, in seconds."""
        if self.sxy <= 0.0 or self.others <= 0.0:
            return 0.0
        return min(self.sxy / (self.sxx + RIDGE), (1.0 - LEAST_ALONE) * self.s_per_tok / self.others)

    @property
    def alone_s(self) -> float:
        """Return the seconds of one token when nothing else is at work."""
        return self.s_per_tok - self.slope_s * self.others

    @property
    def slowdown(self) -> float:
        return self.slope_s / self.alone_s


def declared(tok_per_s: float) -> Pace:
    """Return what is known before anything was seen."""
    return Pace(PRIOR, 0.0, 1.0 / tok_per_s)


def seen(pace: Pace, *, others: float, s_per_tok: float) -> Pace:
    """Return `pace` after one more answer, made at `s_per_tok` beside `others` (mean) at the same place."""
    expected = pace.s_per_tok + pace.slope_s * (others - pace.others)
    # Below the least load that was seen, the line may point to less than nothing.
    expected = max(expected, LEAST_ALONE * pace.s_per_tok)
    y = min(max(s_per_tok, expected / WILDEST), expected * WILDEST)
    weight = KEEP * pace.weight + 1.0
    dx, dy = others - pace.others, y - pace.s_per_tok
    mean_x, mean_y = pace.others + dx / weight, pace.s_per_tok + dy / weight
    return Pace(
        weight,
        mean_x,
        mean_y,
        KEEP * pace.sxx + dx * (others - mean_x),
        KEEP * pace.sxy + dx * (y - mean_y),
    )


def corrected(factor: float, *, expected_s: float, observed_s: float) -> float:
    """Return the factor on expected times to first token, moved a tenth (in the logarithm) towards what was
    seen; `expected_s` has the old factor in it. Stays within ten times up and down."""
    if expected_s <= 0.0 or observed_s <= 0.0:
        return factor
    off = min(max(observed_s / expected_s, 1.0 / WILDEST), WILDEST)
    moved: float = factor * off**TTFT_GAIN
    return min(max(moved, 1.0 / TTFT_MOST), TTFT_MOST)
