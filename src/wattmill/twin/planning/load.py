"""How much is asked: a rate, a trace, a forecast, or users. All end as one `Asked`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from wattmill.twin.planning.given import Given

Positive = Annotated[float, Meta(gt=0)]


class _Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="from"):
    utilisation: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Part of the capacity that the peak may fill; the rest absorbs what comes unevenly. "
            "Never 1: a full queue has no bound.",
        ),
    ]
    growth: Annotated[
        Given | None, Meta(description="Factor on the whole demand, with its interval. Absent: 1, and known.")
    ] = None


class Rate(_Load, frozen=True, kw_only=True, tag="rate"):
    """A mean rate and mean lengths. Without a rate: as much of this mix as the limits carry."""

    requests_per_s: Annotated[
        Positive | None, Meta(description="Mean requests per second. Absent: as many as the limits carry.")
    ] = None
    input_tok: Annotated[float, Meta(gt=0, description="Mean input tokens of a request.")]
    output_tok: Annotated[float, Meta(gt=1, description="Mean output tokens of a request.")]
    peak_to_mean: Annotated[float, Meta(ge=1, description="Rate in the peak over the mean rate.")]


class Trace(_Load, frozen=True, kw_only=True, tag="trace"):
    """Recorded requests: their lengths and their peak, and their rate unless another is given."""

    file: Annotated[
        str,
        Meta(
            min_length=1,
            description="CSV (also .gz) with t_s, in_tokens, out_tokens; a path from the demand file.",
        ),
    ]
    source: Annotated[str, Meta(min_length=1, description="Where it comes from, with its licence.")]
    requests_per_s: Annotated[
        Positive | None, Meta(description="Mean requests per second, if not as recorded.")
    ] = None
    as_many_as_fit: Annotated[
        bool, Meta(description="Take lengths and peak only, and as many requests as the limits carry.")
    ] = False
    window_s: Annotated[float, Meta(gt=0, description="Length of the window in which the peak is read.")] = (
        300.0
    )
    peak_to_mean: Annotated[
        Annotated[float, Meta(ge=1)] | None,
        Meta(description="Peak over mean, where the trace is too short to hold it (a day, a week)."),
    ] = None


class Forecast(_Load, frozen=True, kw_only=True, tag="forecast"):
    """A typical day, hour by hour, that grows."""

    hourly_requests_per_s: Annotated[
        tuple[Annotated[float, Meta(ge=0)], ...],
        Meta(min_length=24, max_length=24, description="Mean rate in each of the 24 hours of a day."),
    ]
    growth_per_year: Annotated[
        float, Meta(gt=0, description="Factor on the rate in a year; 1: no growth.")
    ] = 1.0
    years: Annotated[float, Meta(ge=0, description="Plan for the demand in so many years.")] = 0.0
    input_tok: Annotated[float, Meta(gt=0, description="Mean input tokens of a request.")]
    output_tok: Annotated[float, Meta(gt=1, description="Mean output tokens of a request.")]


class Users(_Load, frozen=True, kw_only=True, tag="users"):
    """People: each tier says how many users it has and what one of them asks in a day."""

    input_tok: Annotated[float, Meta(gt=0, description="Mean input tokens of a request.")]
    output_tok: Annotated[float, Meta(gt=1, description="Mean output tokens of a request.")]
    peak_to_mean: Annotated[float, Meta(ge=1, description="Rate in the peak over the mean rate.")]


Load = Rate | Trace | Forecast | Users


class Recorded(NamedTuple):
    """What a trace says of itself."""

    requests_per_s: float
    input_tok: float
    output_tok: float
    peak_to_mean: float
    window_s: float
    requests: int


class Asked(NamedTuple):
    """The demand as the planner sees it. `requests_per_s` None: as many as the limits carry."""

    requests_per_s: float | None
    peak_to_mean: float
    input_tok: float
    output_tok: float
    how: str  # where these figures come from, for people


def recorded(
    at_s: Sequence[float], input_tok: Sequence[float], output_tok: Sequence[float], *, window_s: float
) -> Recorded:
    """Return what a trace says. The peak is the busiest whole window over the mean of whole windows.

    Raises ValueError if it is shorter than two windows, for then it has no peak.
    """
    begin_s = min(at_s)
    length_s = max(at_s) - begin_s
    windows = int(length_s / window_s)
    if windows < 2:
        raise ValueError(
            f"the trace lasts {length_s:.0f} s, two windows of {window_s:g} s at least are needed"
        )
    counts = [0] * windows
    for at in at_s:
        window = int((at - begin_s) / window_s)
        if window < windows:
            counts[window] += 1
    return Recorded(
        requests_per_s=len(at_s) / length_s,
        input_tok=sum(input_tok) / len(at_s),
        output_tok=sum(output_tok) / len(at_s),
        peak_to_mean=max(counts) / (sum(counts) / windows),
        window_s=window_s,
        requests=len(at_s),
    )


def asked(load: Load, trace: Recorded | None, users_per_s: float | None) -> Asked:
    """Return what is asked. `trace` for a `Trace`, `users_per_s` (requests of all users) for `Users`."""
    match load:
        case Rate():
            return Asked(
                load.requests_per_s, load.peak_to_mean, load.input_tok, load.output_tok, "as declared"
            )
        case Trace():
            assert trace is not None
            rate = None if load.as_many_as_fit else load.requests_per_s or trace.requests_per_s
            peak = load.peak_to_mean or trace.peak_to_mean
            how = f"{trace.requests:,} recorded requests; peak over mean " + (
                "as declared" if load.peak_to_mean else f"in windows of {trace.window_s:g} s"
            )
            return Asked(rate, peak, trace.input_tok, trace.output_tok, how)
        case Forecast():
            day = load.hourly_requests_per_s
            grown = load.growth_per_year**load.years
            mean = sum(day) / len(day)
            how = f"a day of 24 hours, grown x {grown:.3g} over {load.years:g} years"
            return Asked(mean * grown, max(day) / mean, load.input_tok, load.output_tok, how)
        case Users():
            return Asked(
                users_per_s, load.peak_to_mean, load.input_tok, load.output_tok, "users x requests a day"
            )
