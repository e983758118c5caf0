"""What an hour of one accelerator costs: `data/gpu_prices.csv`, and what each kind of price contains.

A price means nothing without what it pays for: a planner that adds a tariff to a rent pays for the energy
twice. `Contains` says it; where the source does not, it is our reading and labelled `declared`.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from wattmill.units import W_PER_KW

PriceKind = Literal["tco_hyperscaler", "tco_neocloud", "rental", "on_demand_list"]


class Contains(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of price pays for."""

    capital: bool  # device, server, network: depreciation and the cost of money
    hosting: bool  # space, cooling, hands
    energy: bool  # electricity, overhead of the site included
    margin: bool  # the seller's
    per_use: bool  # paid by the hour without a commitment; otherwise every hour is paid, used or not
    provenance: Literal["declared"] = "declared"


CONTAINS: dict[PriceKind, Contains] = {
    # An owner's cost of a GPU-hour by the publisher's model. Its name says total cost of ownership; that the
    # electricity is inside is our reading of it.
    "tco_hyperscaler": Contains(capital=True, hosting=True, energy=True, margin=False, per_use=False),
    "tco_neocloud": Contains(capital=True, hosting=True, energy=True, margin=False, per_use=False),
    # A customer's rent under a contract: everything above, and the seller's margin.
    "rental": Contains(capital=True, hosting=True, energy=True, margin=True, per_use=False),
    # The price list of a cloud: the same, by the hour.
    "on_demand_list": Contains(capital=True, hosting=True, energy=True, margin=True, per_use=True),
}


class GpuPrice(msgspec.Struct, frozen=True, kw_only=True):
    """One published price of an hour of one device, in dollars (an estimate, not book money)."""

    gpu: str  # the source's words
    accelerator: str | None  # our catalogue's name; None: the part is not in it
    gpus_rented: int | None  # size of the offer; None: not stated
    kind: PriceKind
    provider: str
    usd_per_gpu_h: float
    all_in_w_per_gpu: float | None  # the source's share of the facility's power; None: not given
    source: str
    as_of: str | None  # ISO date of the source; None: not established
    note: str

    @property
    def contains(self) -> Contains:
        """Return what the price pays for."""
        return CONTAINS[self.kind]

    def usd_per_gpu_h_without_energy(self, *, usd_per_kwh: float, mean_load: float = 1.0) -> float:
        """Return the price less the electricity inside it, so that adding a tariff does not pay twice.

        price - all_in_kw x mean_load x usd_per_kwh. `mean_load` is drawn over provisioned power (0..1); the
        tariff is the one the price was made with (the seller's), which no source states: declare it.

        Raises:
            ValueError: the price holds no energy, its power is unknown, or the energy exceeds the price.
        """
        if not self.contains.energy:
            raise ValueError(f"the {self.kind} price of {self.gpu} contains no energy; add the tariff to it")
        if self.all_in_w_per_gpu is None:
            raise ValueError(
                f"the {self.kind} price of {self.gpu} ({self.provider}) states no power; "
                "declare all_in_w_per_gpu, or plan with the price as it is and no tariff"
            )
        if not 0.0 <= mean_load <= 1.0 or usd_per_kwh < 0.0:
            raise ValueError(
                f"mean_load must be 0..1 and usd_per_kwh >= 0, got {mean_load} and {usd_per_kwh}"
            )
        left = self.usd_per_gpu_h - self.all_in_w_per_gpu / W_PER_KW * mean_load * usd_per_kwh
        if left < 0.0:
            raise ValueError(
                f"at {usd_per_kwh} USD/kWh the energy alone exceeds {self.usd_per_gpu_h} USD/h; "
                "lower the tariff"
            )
        return left


@cache
def gpu_prices() -> tuple[GpuPrice, ...]:
    """Return every price of the table, in its order."""
    text = (files("wattmill") / "data" / "gpu_prices.csv").read_text(encoding="utf-8")
    return tuple(_price(row) for row in csv.DictReader(text.splitlines()))


def prices_of(accelerator: str, kind: PriceKind | None = None) -> tuple[GpuPrice, ...]:
    """Return the prices of a part of the catalogue, the cheapest first; ties keep the table's order.

    Sources disagree (an H100 on demand is listed at 2.40 to 3.99 USD); all are returned, none is averaged.
    """
    found = [p for p in gpu_prices() if p.accelerator == accelerator and kind in (None, p.kind)]
    return tuple(sorted(found, key=lambda p: p.usd_per_gpu_h))


def _price(row: dict[str, str]) -> GpuPrice:
    if row["kind"] not in CONTAINS:
        raise ValueError(f"unknown kind of price {row['kind']!r}; known: {', '.join(CONTAINS)}")
    return GpuPrice(
        gpu=row["gpu"],
        accelerator=row["accelerator"] or None,
        gpus_rented=int(row["gpus_rented"]) if row["gpus_rented"] else None,
        kind=row["kind"],
        provider=row["provider"],
        usd_per_gpu_h=float(row["usd_per_gpu_h"]),
        all_in_w_per_gpu=float(row["all_in_kw_per_gpu"]) * W_PER_KW if row["all_in_kw_per_gpu"] else None,
        source=row["source"],
        as_of=row["as_of"] or None,
        note=row["note"],
    )
