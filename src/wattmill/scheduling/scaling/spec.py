"""What scaling looks at, and what it is told to keep to."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta


class ScalingRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pool grows and shrinks with its load."""

    least: Annotated[int, Meta(ge=1, description="Replicas that are always there.")] = 1
    most: Annotated[int, Meta(ge=1, description="Replicas at most.")] = 1
    target: Annotated[
        float,
        Meta(
            gt=0, le=1, description="Share of the slots that should be taken; load beyond it adds replicas."
        ),
    ] = 0.7
    window_s: Annotated[
        float, Meta(gt=0, description="The load counts as its mean over about so many seconds.")
    ] = 60.0
    up_after_s: Annotated[
        float,
        Meta(
            ge=0, description="So long after a change nothing is added: what was just asked for comes first."
        ),
    ] = 30.0
    down_after_s: Annotated[
        float, Meta(ge=0, description="So long nothing may have been needed before replicas go.")
    ] = 300.0
    most_at_once: Annotated[int, Meta(ge=1, description="Replicas added or ended by one decision.")] = 4
    look_s: Annotated[float, Meta(gt=0, description="How often it is looked.")] = 10.0


class PoolLoad(NamedTuple):
    """One pool at one moment."""

    ready: int  # replicas that serve
    starting: int  # asked for, and not ready yet
    slots: int  # of one replica
    in_flight: int  # requests at work or waiting in the pool
    waiting: int  # requests that wait at the gateway for a place such as this


class ScalingMemory(NamedTuple):
    """What scaling remembers from one look to the next: it goes in and comes out."""

    load: float | None = None  # smoothed: slots that were wanted
    seen_s: float = 0.0
    changed_s: float = float("-inf")
    enough_since_s: float | None = None  # since when fewer replicas would have done


class Scaled(NamedTuple):
    """A decision: how many replicas there should be, and why."""

    replicas: int
    reason: str
    memory: ScalingMemory
