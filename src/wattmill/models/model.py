"""How fast a model answers: time of one token against the number of requests at work, learned as it serves.

A batch shares the weights that it reads, so a token of one request takes `alone_s`, and longer for each
further request at work: t(n) = alone_s * (1 + slowdown * (n - 1)). Where prompts hold up a batch in
proportion to the requests that come, that line is what a batch in balance does (docs/design.md, "Routing").

What a token takes alone belongs to the place: it is fitted by least squares that forget slowly (0.997 for
each answer) and are held at the declared speed, since the load of a busy place hardly varies and a line
through one heap of points may point anywhere. The slope is taken from there to the mean of the last answers
(0.97), so that at the load of now the line says what was seen just now. No observation counts for more than
2.5 times, or less than that part, of what was expected: one stall teaches little, many teach fast.
"""

from __future__ import annotations

import msgspec

KEEP = 0.97  # weight of an observation against the one after it
KEEP_LONG = 0.997  # the same for the slope, which belongs to the place and hardly changes
FEW_OTHERS = 4.0  # the square of how many others are hardly any
ALONE_GAIN = 0.1  # by which an answer that was alone moves what is thought of a token alone
ANCHOR = 100.0  # weight of what a token is thought to take alone against one observation, for ever
PRIOR = 0.25  # weight of the declared speed against one observation
WILDEST = 2.5  # no single observation counts for more than this factor off
RIDGE = 1.0  # pulls the slope to zero until the load was seen to vary
LEAST_ALONE = 0.05  # of the mean: a line never says that a token alone takes nothing
TTFT_GAIN = 0.1  # share of a seen deviation, in the logarithm, by which an expectation is corrected
TTFT_MOST = 10.0


class Pace(msgspec.Struct, frozen=True, gc=False):
    """Running sums of (others at work, seconds per output token): short ones for the level, long ones for the
    slope."""

    weight: float
    others: float  # mean
    s_per_tok: float  # mean
    long_weight: float = 0.0
    long_others: float = 0.0
    long_s: float = 0.0
    sxx: float = 0.0
    sxy: float = 0.0
    anchor_s: float | None = None  # declared seconds of a token alone

    @property
    def line_s(self) -> tuple[float, float]:
        """Return (alone, for each further request), in seconds: alone by the long sums and the anchor, the
        slope from there to what was seen lately."""
        weight, x, y, sxx, sxy = self.long_weight, self.long_others, self.long_s, self.sxx, self.sxy
        if self.anchor_s is not None and weight:
            part = ANCHOR * weight / (ANCHOR + weight)
            sxx += part * x * x
            sxy += part * x * (y - self.anchor_s)
            y += (self.anchor_s - y) * ANCHOR / (ANCHOR + weight)
            x *= weight / (ANCHOR + weight)
        slope = sxy / (sxx + RIDGE)
        if slope < 0.0:
            slope = 0.0
        mean, others = self.s_per_tok, self.others
        alone = y - slope * x if weight else mean
        # Where the last answers had hardly anyone beside them, they say it better than all before them.
        few = FEW_OTHERS / (FEW_OTHERS + others * others)
        alone += few * (mean - slope * others - alone)
        least = LEAST_ALONE * mean
        alone = least if alone < least else mean if alone > mean else alone
        return alone, (mean - alone + slope) / (others + 1.0)

    @property
    def slope_s(self) -> float:
        """Return how much longer a token takes for each further request at work, in seconds."""
        return self.line_s[1]

    @property
    def alone_s(self) -> float:
        """Return the seconds of one token when nothing else is at work."""
        return self.line_s[0]

    @property
    def slowdown(self) -> float:
        alone, slope = self.line_s
        return slope / alone


def declared(tok_per_s: float) -> Pace:
    """Return what is known before anything was seen."""
    return Pace(PRIOR, 0.0, 1.0 / tok_per_s)


def first(others: float, s_per_tok: float, *, anchor_s: float | None) -> Pace:
    """Return what one answer says of a place of which nothing was seen."""
    return Pace(1.0, others, s_per_tok, 1.0, others, s_per_tok, anchor_s=anchor_s)


def seen(pace: Pace, *, others: float, s_per_tok: float, line_s: tuple[float, float] | None = None) -> Pace:
    """Return `pace` after one more answer, made at `s_per_tok` beside `others` (mean) at the same place.
    `line_s`: that of `pace`, where it is known already."""
    alone, slope = pace.line_s if line_s is None else line_s
    expected = alone + slope * others
    least, most = expected / WILDEST, expected * WILDEST
    y = least if s_per_tok < least else most if s_per_tok > most else s_per_tok
    weight = KEEP * pace.weight + 1.0
    long_weight = KEEP_LONG * pace.long_weight + 1.0
    dx, dy = others - pace.long_others, y - pace.long_s
    long_x, long_y = pace.long_others + dx / long_weight, pace.long_s + dy / long_weight
    if not pace.long_weight:
        long_x, long_y, dx, dy = others, y, 0.0, 0.0
    return Pace(
        weight,
        pace.others + (others - pace.others) / weight,
        pace.s_per_tok + (y - pace.s_per_tok) / weight,
        long_weight,
        long_x,
        long_y,
        KEEP_LONG * pace.sxx + dx * (others - long_x),
        KEEP_LONG * pace.sxy + dx * (y - long_y),
        _anchored(pace.anchor_s, others, y),
    )


def _anchored(anchor_s: float | None, others: float, s_per_tok: float) -> float | None:
    """Return the anchor after an answer: one that was at work alone says better than a declaration."""
    if anchor_s is None or others >= 0.5:
        return anchor_s
    return anchor_s + ALONE_GAIN * (s_per_tok - anchor_s)


def corrected(factor: float, *, expected_s: float, observed_s: float) -> float:
    """Return the factor on expected times to first token, moved a tenth (in the logarithm) towards what was
    seen; `expected_s` has the old factor in it. Stays within ten times up and down."""
    if expected_s <= 0.0 or observed_s <= 0.0:
        return factor
    off = min(max(observed_s / expected_s, 1.0 / WILDEST), WILDEST)
    moved: float = factor * off**TTFT_GAIN
    return min(max(moved, 1.0 / TTFT_MOST), TTFT_MOST)
