"""Whether an attempt kept what its tier promised: the one rule of the books and of the board."""

from __future__ import annotations

from typing import NamedTuple

from wattmill.ledger.book import Opened
from wattmill.units import US_PER_S
from wattmill.vocab.fact import End

FEWEST_TOK = 8
"""An answer of fewer tokens says nothing about a speed."""

NO_PLACE = ("overloaded", "queue_timeout", "power_limit")
"""Refusals that break a promise: the caller did nothing wrong, and was not served."""


class Kept(NamedTuple):
    """None: there was nothing to judge (no promise, too short an answer, or the client left before)."""

    ttft: bool | None
    speed: bool | None
    whole: bool | None  # both, and it ended well; None: the client left before anything could be seen


def kept(start: Opened, end: End) -> Kept:
    """Judge one attempt by the promise that its intent recorded.

    A streamed answer is held against the time to its first token, and the tokens after it against the speed.
    A whole one is in time if it took no longer than both together allow. An attempt that failed or was cut
    kept nothing: if another one of its request serves it, that one counts.
    """
    if end.status in ("failed", "cut"):
        return Kept(None, None, False)
    output_tok = 0 if end.usage is None else end.usage.output_tok
    ttft_s, tok_per_s = start.promise_ttft_s, start.promise_tok_per_s
    if not start.stream:
        if end.status == "aborted":
            return Kept(None, None, None)
        allowed_s = None if ttft_s is None else ttft_s + (output_tok / tok_per_s if tok_per_s else 0.0)
        in_time = None if allowed_s is None else end.duration_us <= allowed_s * US_PER_S
        return Kept(in_time, None, in_time is not False)
    if end.ttft_us is None:
        late = ttft_s is not None and end.duration_us > ttft_s * US_PER_S
        if end.status == "aborted" and not late:
            return Kept(None, None, None)
        return Kept(not late if ttft_s is not None else None, None, not late)
    ttft = None if ttft_s is None else end.ttft_us <= ttft_s * US_PER_S
    speed = None
    decode_us = end.duration_us - end.ttft_us
    if tok_per_s is not None and output_tok >= FEWEST_TOK and decode_us > 0:
        speed = (output_tok - 1) * US_PER_S >= tok_per_s * decode_us
    return Kept(ttft, speed, ttft is not False and speed is not False)
