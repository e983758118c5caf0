"""What can be dispatched, under which prices, and what came out of it."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Series = NDArray[np.float64]


class Battery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    capacity_j: Annotated[float, Meta(ge=0)]
    charge_w: Annotated[float, Meta(ge=0)]
    discharge_w: Annotated[float, Meta(ge=0)]
    charge_efficiency: Annotated[float, Meta(gt=0, le=1)] = 0.95
    discharge_efficiency: Annotated[float, Meta(gt=0, le=1)] = 0.95
    least_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # of the capacity that is never used


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What binds a site. None: nothing does."""

    import_w: Annotated[float, Meta(ge=0)] | None = None  # interconnection
    export_w: Annotated[float, Meta(ge=0)] = 0.0
    ramp_w_per_step: Annotated[float, Meta(gt=0)] | None = None  # of what is taken from the grid
    load_w: Annotated[float, Meta(gt=0)] | None = None  # of all work together: the nameplate
    battery: Battery | None = None
    deadline_steps: Annotated[int, Meta(ge=0)] = (
        0  # deferrable work is done so many steps after it came, at the latest
    )


class Horizon(NamedTuple):
    """The hours that are planned, all series of one length. Watts are means over a step of `step_s`.

    Work and the meter may be counted in different watts: `base_w` is then what the meter sees of work that
    cannot wait, `base_work_w` what counts of it against the nameplate, and a watt of deferrable work is
    `draw_w_per_w` watts at the meter (cooling and conversion of that hour inside). None: the same watts.
    """

    step_s: int
    base_w: Series  # work that cannot wait
    deferrable_w: Series  # arrivals of work that can
    solar_w: Series
    import_usd_per_kwh: Series
    export_usd_per_kwh: Series
    carbon_g_per_kwh: Series
    month: NDArray[np.int64]  # index of the billing month of each step
    demand_usd_per_kw: float = 0.0
    usd_per_kg: float = 0.0  # what a kilogram of CO2 counts beside dollars
    base_work_w: Series | None = None
    draw_w_per_w: Series | None = None

    @property
    def work_w(self) -> Series:
        """Return what cannot wait, in the watts that the nameplate limits."""
        return self.base_w if self.base_work_w is None else self.base_work_w

    @property
    def draw(self) -> Series:
        """Return watts at the meter for each watt of deferrable work."""
        return np.ones_like(self.base_w) if self.draw_w_per_w is None else self.draw_w_per_w


class State(NamedTuple):
    """What a plan begins with."""

    stored_j: float = 0.0
    waiting: tuple[
        float, ...
    ] = ()  # joules of deferrable work, oldest first: its arrivals of the last deadline_steps
    peak_w: float = 0.0  # of the month that runs
    import_w: float | None = None  # in the step before, for the ramp


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, or what was carried out of several. Watts per step."""

    import_w: Series
    export_w: Series
    charge_w: Series
    discharge_w: Series
    stored_j: Series  # at the end of each step
    deferred_w: Series  # deferrable work that was done
    waiting_j: Series
    curtailed_w: Series
    objective_usd: float | None  # None: joined from several plans
    # Dollars that one more watt would have saved over the horizon; None: joined from several plans.
    import_worth_usd_per_w: float | None = None
    load_worth_usd_per_w: float | None = None
