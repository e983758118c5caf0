"""What a site is, as somebody writes it down."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wattmill.power.dispatch.spec import Battery
from wattmill.power.tariff.spec import Tariff
from wattmill.site.availability.spec import Part
from wattmill.site.conversion.spec import Redundancy
from wattmill.site.cooling.spec import Buyer, Plant
from wattmill.site.embodied.spec import Built
from wattmill.site.racks.spec import Hall
from wattmill.site.solar.spec import Panels
from wattmill.units import J_PER_MWH, W_PER_MW

Share = Annotated[float, Meta(ge=0, le=1)]
Watts = Annotated[float, Meta(ge=0)]


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it stands, and whose weather it has."""

    weather: str  # file, meant from the folder of the declaration
    name: str  # of the place in that file, or a part of it that no other has
    latitude_deg: Annotated[float, Meta(ge=-66, le=66)] | None = None  # asked for by [solar]
    longitude_deg: Annotated[float, Meta(ge=-180, le=180)] | None = None
    utc_offset_h: Annotated[float, Meta(ge=-12, le=14)] = 0.0  # standard time


class Chain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the grid to the chip: a shipped chain, and how it is built twice."""

    preset: str  # `wattmill site chain` lists them
    redundancy: Redundancy | None = None  # None: as the preset has it
    units_needed: Annotated[int, Meta(ge=1)] = 4  # of which N+1 has one more
    # The cooling plant is fed past UPS and racks: its transformer and drives lose this share.
    plant_feed_loss: Annotated[float, Meta(ge=0, lt=0.2)] = 0.02


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What computes. The load is a share of `mw`, or tokens of `tok_per_s_full`."""

    mw: Annotated[float, Meta(gt=0)]  # at the equipment's inlets with everything at work
    unit_kw: Annotated[float, Meta(gt=0)] | None = None  # of what the chain's load is, at its rails, full
    idle_share: Share = 0.3  # of full power, that equipment draws when it does nothing
    busy: Share | None = None  # mean share of the work that it could do
    day: tuple[Annotated[float, Meta(ge=0)], ...] = ()  # 24 weights of the day, standard time; mean 1 is made
    tok_per_s: Annotated[float, Meta(ge=0)] | None = None  # instead of `busy`: the mean demand
    tok_per_s_full: Annotated[float, Meta(gt=0)] | None = None  # what the whole of it can do
    deferrable: Share = 0.0  # of the work, that may wait
    deadline_h: Annotated[int, Meta(ge=0, le=168)] = 0


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: its limits, its prices, its carbon."""

    tariff: Tariff
    series: str | None = None  # file of hourly prices and carbon of one year; meant from the folder
    zone: str | None = None  # of that file
    import_mw: Annotated[float, Meta(gt=0)] | None = None
    export_mw: Annotated[float, Meta(ge=0)] = 0.0
    ramp_mw_per_h: Annotated[float, Meta(gt=0)] | None = None
    g_per_kwh: Annotated[float, Meta(ge=0)] | None = None  # all year; instead of a series
    carbon_source: str = ""
    usd_per_kg: Annotated[float, Meta(ge=0)] = 0.0  # what a kilogram counts in the dispatch beside dollars
    # Market based (GHG Protocol, Scope 2 Guidance, 2015): contracts cover so much of the energy at their
    # factor, the rest has the residual mix's. None: no contract is declared, so there is no such figure.
    contract_share: Share | None = None
    contract_g_per_kwh: Annotated[float, Meta(ge=0)] = 0.0
    residual_g_per_kwh: Annotated[float, Meta(ge=0)] | None = None  # None: the location's own


class Store(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A battery, in the units of its data sheet."""

    mwh: Annotated[float, Meta(gt=0)]
    mw: Annotated[float, Meta(gt=0)]
    charge_efficiency: Annotated[float, Meta(gt=0, le=1)] = 0.95
    discharge_efficiency: Annotated[float, Meta(gt=0, le=1)] = 0.95
    least_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def battery(self) -> Battery:
        """Return it in joules and watts."""
        return Battery(
            capacity_j=self.mwh * J_PER_MWH,
            charge_w=self.mw * W_PER_MW,
            discharge_w=self.mw * W_PER_MW,
            charge_efficiency=self.charge_efficiency,
            discharge_efficiency=self.discharge_efficiency,
            least_share=self.least_share,
        )


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site. Powers are electric, in the units that the names say."""

    name: str
    place: Place
    chain: Chain
    work: Work
    cooling: Plant
    grid: Grid
    fixed_kw: Annotated[float, Meta(ge=0)] = 0.0  # light, controls, offices
    solar: Panels | None = None
    battery: Store | None = None
    heat: Buyer | None = None
    racks: Hall | None = None
    parts: tuple[Part, ...] = ()  # what can fail
    embodied: tuple[Built, ...] = ()  # what it is built of
