"""From readings to energy: what a counter or a gauge says of the time between two of its readings."""

from __future__ import annotations

from typing import NamedTuple

from wattmill.units import UJ_PER_J
from wattmill.vocab.meter import Reading

GAP_PERIODS = 3.5
"""More than so many periods without a reading are a gap."""


class Span(NamedTuple):
    """Energy between two readings of one counter. None: not known, and never guessed."""

    uj: int | None
    event: str  # "", "wrap", "reset", "gap", "gap+wrap", "gap+reset"


def span(
    before: Reading, after: Reading, *, period_s: float, max_w: float | None, still_s: float = 0.0
) -> Span:
    """Return the energy from `before` to `after`, two readings of one counter, the older one first.

    A counter that went back has run over where it says at what it does and the power that follows is
    believable (at most `max_w`); otherwise it began again, and what it had counted before is not known: what
    it says since is kept, less is not. One that went on by more than is believable says nothing either. A
    counter's joules are whole over a gap; a gauge says nothing of it.

    Args:
        still_s: how long the counter had not moved before `before`: a coarse one's step is of that time too.
    """
    seconds = after.t_s - before.t_s
    gap = "gap" if seconds > GAP_PERIODS * period_s else ""
    if after.power_w is not None and before.power_w is not None:
        if gap or (max_w is not None and max(before.power_w, after.power_w) > max_w):
            return Span(None, "gap")
        return Span(round((before.power_w + after.power_w) / 2 * seconds * UJ_PER_J), "")
    if after.energy_uj is None or before.energy_uj is None:
        return Span(None, "reset")  # it changed from joules to watts, or back
    uj = after.energy_uj - before.energy_uj
    most_uj = None if max_w is None else max_w * (seconds + still_s) * UJ_PER_J
    if uj >= 0:
        if most_uj is not None and uj > most_uj:
            return Span(None, _both(gap, "reset"))
        return Span(uj, gap)
    if after.wraps_at_uj is not None:
        over = uj + after.wraps_at_uj
        if over >= 0 and (most_uj is None or over <= most_uj):
            return Span(over, _both(gap, "wrap"))
    since_uj = after.energy_uj
    if most_uj is not None and since_uj > most_uj:
        return Span(None, _both(gap, "reset"))
    return Span(since_uj, _both(gap, "reset"))


def _both(gap: str, event: str) -> str:
    return f"{gap}+{event}" if gap else event
