"""What came out of a site's year."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.power.tariff.spec import MonthBill
from wattmill.site.availability.spec import Up
from wattmill.site.embodied.spec import Score
from wattmill.site.racks.spec import Fill
from wattmill.vocab.usage import Provenance

Boundary = Literal["in", "computing", "conversion", "cooling", "other", "out"]


class EnergyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One place where energy comes in, is used, or goes out."""

    name: str
    boundary: Boundary
    mwh: float
    provenance: Provenance


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    rows: tuple[EnergyRow, ...]
    in_mwh: float
    out_mwh: float  # everything used, lost, stored or given away

    @property
    def gap(self) -> float:
        """Return what does not close, as a share of what came in."""
        return abs(self.in_mwh - self.out_mwh) / self.in_mwh


class Ratios(msgspec.Struct, frozen=True, kw_only=True):
    pue: float  # ISO/IEC 30134-2: the site over the equipment at its inlets
    peak_pue: float  # the site's highest hour over the equipment's highest: what a feed must carry
    tue: float  # the site over the chips' rails: Patterson et al., ISC 2013
    wue_l_per_kwh: float  # ISO/IEC 30134-9, on the site; upper bound where coolers are wet
    ere: float  # The Green Grid, 2010: heat that left with somebody is taken off
    chain_efficiency: float  # grid to chip, the chain alone


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars of the year: a model's, not the books'."""

    energy_usd: float
    demand_usd: float
    minimum_usd: float
    export_usd: float
    sun_usd: float
    heat_usd: float  # earned
    months: tuple[MonthBill, ...]

    @property
    def usd(self) -> float:
        bill_usd = self.energy_usd + self.demand_usd + self.minimum_usd - self.export_usd
        return bill_usd + self.sun_usd - self.heat_usd


class Carbon(msgspec.Struct, frozen=True, kw_only=True):
    """Tonnes of CO2 equivalent. Average intensity of the grid, not marginal: GHG Protocol, Scope 2, 2015."""

    location_t: float | None  # None: the grid's intensity is not known
    market_t: float | None  # None: no contract is declared
    mean_g_per_kwh: float | None  # of the energy that was bought, by the hours in which it was
    months_g_per_kwh: tuple[float, ...] = ()  # the same of each month in which some was bought


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    limit: str
    unit: str
    used: float
    allowed: float
    hours: int  # at the limit
    worth_usd: float | None  # a year, for one more unit; None: not an amount that the programme prices

    @property
    def binds(self) -> bool:
        return self.hours > 0


class Dispatched(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, against not deciding and against knowing everything. Dollars of energy and demand."""

    as_it_comes_usd: float  # no battery, nothing waits
    lived_usd: float  # planned each day for 48 hours, prices of the day known: the year that is shown
    foresight_usd: float
    as_it_comes_t: float | None
    lived_t: float | None
    foresight_t: float | None
    curtailed_mwh: float
    deferred_mwh: float  # work done later than it came, at the meter's watts
    linear_error: float  # of the programme's meter against the one worked out again: mean, share of import
    import_worth_usd: float  # a year, for one megawatt more of interconnection, by foresight's programme
    load_worth_usd: float  # the same for one megawatt more of equipment to do waiting work with

    @property
    def regret(self) -> float:
        """Return what not knowing cost, as a share of foresight's bill."""
        return self.lived_usd / self.foresight_usd - 1.0 if self.foresight_usd else 0.0


class PerToken(msgspec.Struct, frozen=True, kw_only=True):
    tok: float
    j_per_tok: float  # at the meter
    chip_j_per_tok: float
    usd_per_mtok: float  # of power alone
    g_per_mtok: float | None


class YearAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    place: str
    climate: str
    year: int | str
    hours: int
    filled_hours: int  # of the weather, that its file had not
    units: int
    equipment_mw: float
    busy: float
    energy: Energy
    ratios: Ratios
    money: Money
    carbon: Carbon
    peak_mw: float
    chiller_hours: int
    air_chiller_hours: int
    too_warm_hours: int
    heat_sold_mwh: float
    heat_pump_cop: float | None
    water_m3: float
    binding: tuple[Binding, ...]
    dispatch: Dispatched | None  # None: there was nothing to decide
    per_token: PerToken | None
    hall: Fill | None
    up: Up | None  # None: no parts are declared
    sci: Score | None  # None: nothing embodied is declared
    notes: tuple[str, ...]
