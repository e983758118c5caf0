"""What a power limit asks for, what is seen of the factory while it holds, and what it is told to do."""

from __future__ import annotations

from math import isfinite
from typing import Literal

import msgspec

Source = Literal["wattmill", "dsx-flex", "openadr3"]
_LAST_S = 253_370_764_800.0  # the beginning of 9999: calendars end with that year
_LONGEST_ID = 512

Phase = Literal["none", "noticed", "ramp", "active", "recovering"]
"""noticed: told, nothing changes yet. ramp: on the way down, so that the limit holds when it starts. active:
it holds. recovering: it has ended, and what was put off comes back without making a new peak."""


class PowerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One limit over one stretch of time. Seconds are of the wall clock (Unix time).

    Either `limit_w` (watts at the factory's boundary) or `keep` (share of the baseline: 0.75 is 25 % less).
    Neither: whatever was asked for this stretch before no longer holds.
    """

    id: str
    told_s: float  # when notice was given
    start_s: float
    end_s: float | None = None  # None: until something newer says otherwise
    limit_w: float | None = None
    keep: float | None = None
    best_effort: bool = True  # False: the sender wants to hear at once if it cannot be met
    source: Source = "wattmill"
    correlation: str | None = None  # the sender's own id, given back in answers

    def __post_init__(self) -> None:
        for name, at_s in (("start", self.start_s), ("end", self.end_s)):
            if at_s is not None and not 0.0 <= at_s <= _LAST_S:
                raise ValueError(
                    f"an event's {name} must lie between the years 1970 and 9999, got {at_s:.3g} s"
                )
        if not self.id or len(self.id) > _LONGEST_ID:
            raise ValueError(f"an event's id must have 1 to {_LONGEST_ID} characters, got {len(self.id)}")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"an event must end after its start, got {self.start_s:.0f} to {self.end_s:.0f}")
        if self.limit_w is not None and self.keep is not None:
            raise ValueError("an event takes either limit_w or keep, got both")
        if self.limit_w is not None and not (isfinite(self.limit_w) and self.limit_w >= 0):
            raise ValueError(f"limit_w must be a finite number of watts >= 0, got {self.limit_w}")
        if self.keep is not None and not 0.0 <= self.keep <= 1.0:
            raise ValueError(f"keep must be a share from 0 to 1, got {self.keep}")

    @property
    def lifts(self) -> bool:
        return self.limit_w is None and self.keep is None

    @property
    def ends_s(self) -> float:
        return float("inf") if self.end_s is None else self.end_s


class FlexRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the factory answers a limit."""

    baseline_s: float = 600.0  # the mean of so long before notice is what `keep` is a share of
    margin: float = 0.03  # aimed below the limit, as a share of it
    lead_s: float = 30.0  # the way down begins so long before the start, where notice allows
    ramp_up_s: float = 60.0  # the way back up after the end
    rebound_s: float = 900.0  # so long after the end power stays at or below the baseline, and for as long
    longest_rebound_s: float = 86_400.0  # as anybody waits who was put off, but no longer than this
    settle_s: float = 8.0  # how long work that was let in goes on drawing: the time of a typical answer
    least_engine_share: float = 0.4  # engines are slowed no further than to this share of their time


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The factory at one look. Work is expected output tokens, prompt tokens at their share of the effort."""

    now_s: float
    power_w: float
    idle_w: float  # what it draws without any work: no order reaches below
    lower_work_per_s: float | None = 0.0  # let in since it was last told, of tiers that may be held back
    all_work_per_s: float | None = 0.0  # None: it was not asked this time
    lower_waiting: int = 0  # requests of lower tiers that wait at the gate


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What holds from now on, until the next orders."""

    phase: Phase = "none"
    event: str | None = None
    baseline_w: float | None = None
    limit_w: float | None = None  # of the event
    target_w: float | None = None  # now: the limit, or a point on the way to it or back
    lower_work_per_s: float | None = None  # how much work lower tiers may begin; None: as much as comes
    batches: bool = True  # whether the batch lane may begin lines
    engine_share: float = 1.0  # share of the time that engines may run
    floor_w: float | None = None  # the event asks for less than this, which is the least that can be reached


FREE = Orders()
