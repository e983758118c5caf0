"""Steady-state availability of repaired parts.

One unit: A = MTBF / (MTBF + repair) (Barlow and Proschan, Statistical Theory of Reliability, 1975). Needed k
of n that fail and are repaired independently, each by its own crew: sum over i >= k of C(n, i) A^i (1 - A)^(n
- i). A site needs all of its parts: the product. Valid where failures are independent: a common cause (water,
fire, one operator's mistake) is none of this, and is what takes most sites down; declare it as a part of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, prod

from wattmill.site.availability.spec import Part, PartUp, Up
from wattmill.units import H_PER_YEAR


def unit_up(part: Part) -> float:
    """Return the share of time in which one unit is up."""
    return part.mtbf_h / (part.mtbf_h + part.repair_h)


def enough_up(part: Part) -> float:
    """Return the share of time in which at least `needed` of `built` units are up.

    Raises `ValueError` where more are needed than were built.
    """
    if part.needed > part.built:
        raise ValueError(f"part {part.name}: {part.needed} are needed, {part.built} are built")
    up = unit_up(part)
    # Summed over what is missing: near 1 the sum over what is up would lose its last digits.
    short = sum(comb(part.built, i) * up**i * (1.0 - up) ** (part.built - i) for i in range(part.needed))
    return max(0.0, 1.0 - short)  # the sum may round to a little more than 1


def site_up(parts: Sequence[Part]) -> Up:
    """Return how often all of `parts` have enough units."""
    each = [(part, enough_up(part)) for part in parts]
    whole = prod(up for _, up in each)
    rows = tuple(
        PartUp(
            name=part.name,
            down_h_per_year=(1.0 - up) * H_PER_YEAR,
            failures_per_year=part.built * H_PER_YEAR / (part.mtbf_h + part.repair_h),
        )
        for part, up in each
    )
    return Up(
        availability=whole,
        down_h_per_year=(1.0 - whole) * H_PER_YEAR,
        parts=rows,
        worst=max(rows, key=lambda row: row.down_h_per_year).name if rows else None,
    )


def at_least(sites_up: Sequence[float], shares: Sequence[float], need: float) -> float:
    """Return how often sites with `shares` of the capacity (summing to 1) carry at least `need` of it; each
    is up for its own share of time, independently of the others. All subsets are looked at: a dozen sites at
    most."""
    if len(sites_up) > 12:
        raise ValueError(f"{len(sites_up)} sites: the subsets of more than 12 are too many")
    total = 0.0
    for subset in range(1 << len(sites_up)):
        there = [bool(subset >> at & 1) for at in range(len(sites_up))]
        if sum(share for share, up in zip(shares, there, strict=True) if up) >= need - 1e-12:
            total += prod(a if up else 1.0 - a for a, up in zip(sites_up, there, strict=True))
    return total
