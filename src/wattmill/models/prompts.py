"""How long a prompt takes until the first token, alone and behind others: learned as a place serves.

    ttft = own_s x its tokens + ahead_s x the prompt tokens that were sent before it and had no answer yet

A batch works prompts off one after another, so there ahead_s is about own_s; a provider with many machines
has ahead_s near 0. Both are fitted by least squares that forget (an observation counts 0.97 of the one after
it), with 0 <= ahead_s <= own_s. What is believed before anything was seen (a speed, and that nobody waits for
anybody) keeps a little weight for ever, so that a direction of which nothing is seen stays where it was. No
observation counts for more than four times, or less than a quarter, of what was expected.
"""

from __future__ import annotations

import msgspec

KEEP = 0.99
FIRST_TOK = 2_000.0  # before anything was seen, the belief weighs as one prompt of so many tokens
FOREVER = 0.003  # and this part of that at every observation
WILDEST = 4.0
MOST_OFF = 10.0  # no learned speed is further from the declared one


class PromptPace(msgspec.Struct, frozen=True, gc=False):
    """Running sums over own tokens x, tokens ahead z and seconds y."""

    believed_s: float  # per token, alone
    xx: float
    xz: float
    zz: float
    xy: float
    zy: float

    @property
    def own_s(self) -> float:
        """Return the seconds of one prompt token with nothing ahead."""
        return fitted(self)[0]

    @property
    def ahead_share(self) -> float:
        """Return how much of the time of the tokens ahead a prompt waits: 0 nothing, 1 all of it."""
        own_s, ahead_s = fitted(self)
        return ahead_s / own_s


def believed(tok_per_s: float) -> PromptPace:
    """Return what is known before anything was seen."""
    weight = FIRST_TOK
    return PromptPace(1.0 / tok_per_s, weight, 0.0, weight, weight / tok_per_s, 0.0)


def fitted(pace: PromptPace) -> tuple[float, float]:
    """Return (own_s, ahead_s)."""
    xx, xz, zz, xy, zy = pace.xx, pace.xz, pace.zz, pace.xy, pace.zy
    det = xx * zz - xz * xz
    own_s, ahead_s = (xy * zz - zy * xz) / det, (zy * xx - xy * xz) / det
    if ahead_s < 0.0:
        own_s, ahead_s = xy / xx, 0.0
    elif ahead_s > own_s:
        own_s = ahead_s = (xy + zy) / (xx + 2.0 * xz + zz)
    least_s, most_s = pace.believed_s / MOST_OFF, pace.believed_s * MOST_OFF
    own_s = least_s if own_s < least_s else most_s if own_s > most_s else own_s
    return own_s, ahead_s if ahead_s < own_s else own_s


def seen(
    pace: PromptPace,
    *,
    own_tok: float,
    ahead_tok: float,
    seconds: float,
    fit: tuple[float, float] | None = None,
) -> PromptPace:
    """Return `pace` after one more first token, `seconds` after its request left. `fit`: what `fitted` says
    of `pace`, where that is known already."""
    own_s, ahead_s = fitted(pace) if fit is None else fit
    expected_s = own_s * own_tok + ahead_s * ahead_tok
    least_s, most_s = expected_s / WILDEST, expected_s * WILDEST
    y = least_s if seconds < least_s else most_s if seconds > most_s else seconds
    # What stands in line longer is off by more seconds: each counts by the inverse of its tokens.
    part = 1.0 / (own_tok + ahead_tok)
    weight = FOREVER * FIRST_TOK
    return PromptPace(
        pace.believed_s,
        KEEP * pace.xx + part * own_tok * own_tok + weight,
        KEEP * pace.xz + part * own_tok * ahead_tok,
        KEEP * pace.zz + part * ahead_tok * ahead_tok + weight,
        KEEP * pace.xy + part * own_tok * y + weight * pace.believed_s,
        KEEP * pace.zy + part * ahead_tok * y,
    )
