"""What an event was worth and what it cost, from one sample a second and the gate's counters."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from wattmill.power.signal.spec import Phase

GRACE_S = 10.0
"""From the start until the limit must be met."""

_MEAN_S = 10.0  # compliance is of means over so long: one second of a meter is no demand


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One look. `lower_work_per_s`: None where nothing was held back."""

    at_s: float
    phase: Phase
    power_w: float
    target_w: float | None
    lower_work_per_s: float | None
    engine_share: float


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """What power did, against what was asked. Joules and watts are those of the meter that was used."""

    baseline_w: float | None
    limit_w: float
    met_after_s: float | None  # from the start; None: never
    over_s: float  # seconds above the limit once GRACE_S had passed, by means over 10 s
    mean_w: float
    highest_w: float  # highest 10-second mean once GRACE_S had passed
    joules_not_used: float | None  # against the baseline over the event; None without a baseline
    rebound_j: float | None  # above the baseline afterwards
    peak_before_w: float | None  # highest 10-second mean of the time before
    peak_after_w: float | None  # and of the time after: a new demand peak if above

    @property
    def met(self) -> bool:
        return self.met_after_s is not None and self.met_after_s <= GRACE_S and self.over_s == 0.0


def reached(
    samples: Sequence[Sample], *, start_s: float, end_s: float, limit_w: float, baseline_w: float | None
) -> Reached | None:
    """Return what power did over an event, None before there is a sample of it.

    `samples` are in order, about a second apart or the means of some seconds (`merged`); those before
    `start_s` and after `end_s` are the time before and after.
    """
    during = [one for one in samples if start_s <= one.at_s < end_s]
    if not during:
        return None
    means = _means(samples)
    within = {one.at_s: mean for one, mean in zip(samples, means, strict=True)}
    late = [one for one in during if one.at_s >= start_s + GRACE_S]
    met = next((one.at_s - start_s for one in during if one.power_w <= limit_w), None)
    before = [mean for one, mean in zip(samples, means, strict=True) if one.at_s < start_s]
    after = [mean for one, mean in zip(samples, means, strict=True) if one.at_s >= end_s + _MEAN_S]
    pieces = _pieces(during, end_s)
    joules = sum(power * length for power, length in pieces)
    lasted_s = sum(length for _, length in pieces)
    lasts_s = {one.at_s: length for one, (_, length) in zip(during, pieces, strict=True)}
    rest = [one for one in samples if one.at_s >= end_s]
    # Over by mean, and only where the mean has forgotten the time before the grace.
    judged = [one for one in late if one.at_s >= start_s + GRACE_S + _MEAN_S]
    return Reached(
        baseline_w=baseline_w,
        limit_w=limit_w,
        met_after_s=met,
        over_s=sum(lasts_s[one.at_s] for one in judged if within[one.at_s] > limit_w),
        mean_w=joules / lasted_s if lasted_s > 0 else during[-1].power_w,
        highest_w=max((within[one.at_s] for one in judged), default=during[-1].power_w),
        joules_not_used=None if baseline_w is None else baseline_w * lasted_s - joules,
        rebound_j=None
        if baseline_w is None or not rest
        else sum(max(0.0, power - baseline_w) * length for power, length in _pieces(rest, rest[-1].at_s)),
        peak_before_w=max(before, default=None),
        peak_after_w=max(after, default=None),
    )


def _means(samples: Sequence[Sample]) -> list[float]:
    """Return the mean of the last ten seconds at each sample."""
    out: list[float] = []
    first = 0
    total = 0.0
    for number, one in enumerate(samples):
        total += one.power_w
        while samples[first].at_s <= one.at_s - _MEAN_S:
            total -= samples[first].power_w
            first += 1
        out.append(total / (number - first + 1))
    return out


def _pieces(samples: Sequence[Sample], end_s: float) -> list[tuple[float, float]]:
    """Return (watts, seconds) of the stretches between samples."""
    ends = [one.at_s for one in samples[1:]] + [end_s]
    return [
        (one.power_w, max(0.0, min(end, end_s) - one.at_s)) for one, end in zip(samples, ends, strict=True)
    ]


def merged(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Return at most about `most` samples: neighbours of one phase become their mean, which stands at the
    first's instant, as often as that is needed. No joule is lost, and no phase begins at another time."""
    kept = list(samples)
    while len(kept) > most:
        fewer = _halved(kept)
        if len(fewer) == len(kept):
            break  # phases change at each of them
        kept = fewer
    return kept


def _halved(samples: list[Sample]) -> list[Sample]:
    ends = [one.at_s for one in samples[1:]]
    out: list[Sample] = []
    at = 0
    while at < len(samples):
        one = samples[at]
        pair = samples[at + 1] if at + 2 < len(samples) else None  # the last one's length is not known yet
        if pair is None or pair.phase != one.phase:
            out.append(one)
            at += 1
            continue
        first_s, second_s = ends[at] - one.at_s, ends[at + 1] - pair.at_s
        whole_s = first_s + second_s
        watts = (one.power_w * first_s + pair.power_w * second_s) / whole_s if whole_s > 0.0 else one.power_w
        out.append(replace(one, power_w=watts))
        at += 2
    return out
