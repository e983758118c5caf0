"""Training and tuning that take part of the power: how many FLOPs, and how long they may take."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from wattmill.twin.planning.given import Given
from wattmill.units import S_PER_DAY, S_PER_YEAR

FLOP_PER_PARAM_TOK = 6.0
"""Forward 2 and backward 4 FLOPs for each parameter and token (Kaplan et al., 2020, section 2.1)."""


class _Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    days: Annotated[float, Meta(gt=0, description="Days that it may take.")]
    runs_per_year: Annotated[float, Meta(gt=0, description="How often a year it is done.")] = 1.0
    mfu: Annotated[
        Given, Meta(description="Model FLOP utilisation: useful FLOPs over the datasheet's dense peak.")
    ]
    precision: Annotated[str, Meta(pattern="^(bf16|fp8|fp4)$", description="Width of its products.")] = "bf16"
    tasks: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Tasks that one run pays for, to state its dollars per task."),
    ] = None
    usd_value: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="What one run brings. Absent: it has to be done, whatever it displaces."),
    ] = None


class Training(_Job, frozen=True, kw_only=True, tag="training"):
    """Pre-training or fine-tuning: 6 x parameters x tokens."""

    params: Annotated[float, Meta(gt=0, description="Parameters that a token uses.")]
    tokens: Annotated[float, Meta(gt=0, description="Tokens seen, epochs counted.")]


class Multiple(_Job, frozen=True, kw_only=True, tag="multiple"):
    """Work stated as a multiple of another job: post-training as 30 x the pre-training, as is claimed."""

    of: Annotated[str, Meta(min_length=1, description="Name of the other job.")]
    times: Annotated[Given, Meta(description="The multiple: a claim, with its interval.")]


Job = Training | Multiple


def runs_at_once(job: Job) -> float:
    """Return how many runs of a job overlap, in the mean of a year: 1 where they can follow each other.

    Hand check: 24 runs a year of 30 days each are 720 days of work, 1.97 at once.
    """
    return max(1.0, job.days * S_PER_DAY * job.runs_per_year / S_PER_YEAR)


class Flops(NamedTuple):
    """FLOPs of one run of a job, and the limits that its claimed multiples leave."""

    value: float
    low: float
    high: float
    law: str


def flops(name: str, jobs: dict[str, Job]) -> Flops:
    """Return the FLOPs of one run. Raises ValueError for a multiple of nothing or of itself."""
    seen: list[str] = []
    value = low = high = 1.0
    law = ""
    while True:
        if name not in jobs or name in seen:
            raise ValueError(f"job {name!r} is a multiple of {'itself' if name in seen else 'no job'}")
        seen.append(name)
        job = jobs[name]
        if isinstance(job, Training):
            base = FLOP_PER_PARAM_TOK * job.params * job.tokens
            text = f"6 x {job.params:.3g} x {job.tokens:.3g}"
            return Flops(value * base, low * base, high * base, law + text)
        times = job.times
        value *= times.value
        low *= times.value if times.low is None else times.low
        high *= times.value if times.high is None else times.high
        law += f"{times.value:g} x "
        name = job.of
