"""How often accelerators fail: `data/gpu_reliability.csv`, counted over a fleet's GPU-years."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from math import sqrt

import msgspec

from wattmill.units import S_PER_H

_DAYS_PER_YEAR = 365.25


class FailureRate(msgspec.Struct, frozen=True, kw_only=True):
    """Failures per GPU-year, with the bounds of an 80 % interval that the count alone allows."""

    per_gpu_year: float
    low: float
    high: float
    count: int
    gpu_years: float
    source: str


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet that was watched. H100 SXM in training: a serving fleet idles more and fails less often."""

    gpus: int
    days: float

    @property
    def gpu_years(self) -> float:
        """Return how long one device would have to run to see as much."""
        return self.gpus * self.days / _DAYS_PER_YEAR


LLAMA3_FLEET = Fleet(gpus=16_384, days=54.0)


@cache
def failures(*layers: str) -> FailureRate:
    """Return the measured rate of failures whose cause lies in `layers`; all of them if none is named.

    Layers of the table: device, host, network, software, other. Poisson: the interval is
    count +- 1.2816 sqrt(count). The source prints 30.1 % for 148 faulty GPUs of 419 interruptions, which are
    35.3 %: the counts are used, the shares only kept.

    Raises:
        ValueError: a layer is not in the table.
    """
    text = (files("wattmill") / "data" / "gpu_reliability.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    known = {row["layer"] for row in rows}
    if unknown := set(layers) - known:
        raise ValueError(
            f"no failures are recorded for {', '.join(sorted(unknown))}; layers: {', '.join(sorted(known))}"
        )
    count = sum(int(row["count"]) for row in rows if not layers or row["layer"] in layers)
    years = LLAMA3_FLEET.gpu_years
    spread = 1.2816 * sqrt(count)
    return FailureRate(
        per_gpu_year=count / years,
        low=max(count - spread, 0.0) / years,
        high=(count + spread) / years,
        count=count,
        gpu_years=years,
        source=rows[0]["source"],
    )


def unavailable_share(rate_per_gpu_year: float, *, gpus: int, repair_s: float) -> float:
    """Return the expected share of time in which a replica of `gpus` devices is down; any one stops it.

    Steady state of failures that come alone: m / (1 + m), with m the replica's failures in one repair time.
    """
    if rate_per_gpu_year < 0.0 or gpus < 1 or repair_s < 0.0:
        raise ValueError(
            f"rate and repair_s must be >= 0 and gpus >= 1, got {rate_per_gpu_year}, {repair_s}, {gpus}"
        )
    mean = rate_per_gpu_year * gpus * repair_s / (_DAYS_PER_YEAR * 24 * S_PER_H)
    return mean / (1.0 + mean)
