"""A demand whose place is a site of its own: PUE, price and carbon are those of the site's year.

What a demand file declares stays as it is. A mean PUE carries the energy of a year and the PUE of the highest
hour what is provisioned: a meter that may show 10 MW must hold on the hottest full afternoon.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from wattmill.site.yearly.answer import YearAnswer
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.given import Given
from wattmill.units import G_PER_T, J_PER_KWH, J_PER_MWH

PUE_OFF = 0.02
"""The furthest that the site's equations were off at the four published figures that they had not seen
(`wattmill site pue`, docs/lab/watts.md): taken as the 80 % interval of a PUE, since four say no more."""


def with_site(demand: Demand, year: YearAnswer, *, import_mw: float | None) -> Demand:
    """Return the demand with what its file leaves open from the `year` of its site.

    If no limit of power is declared it is what the site was built for: `import_mw`, its interconnection, or
    all of its equipment at work in its highest hour, whichever is less.
    """
    site, limits = demand.site, demand.limits
    source = f"year {year.year} of {year.name}, weather of {year.place} (wattmill site year)"
    if site.pue is None:
        ratios = year.ratios
        # A site at half of its load has more overhead for each watt than at its highest hour.
        most = max(ratios.peak_pue, ratios.pue)
        peak = site.peak_pue or Given(value=most, source=f"{source}: highest hour")
        site = replace(site, pue=_pue(ratios.pue, source), peak_pue=peak)
    if site.usd_per_mwh is None:
        usd = year.money.usd + year.money.heat_usd  # heat that is sold is income, not a price of electricity
        months = [b.usd / (b.energy_kwh * J_PER_KWH / J_PER_MWH) for b in year.money.months if b.energy_kwh]
        site = replace(site, usd_per_mwh=_between(usd / year.energy.in_mwh, months, source))
    if site.g_per_kwh is None and year.carbon.location_t is not None:
        kwh = year.energy.in_mwh * J_PER_MWH / J_PER_KWH
        grams = year.carbon.location_t * G_PER_T / kwh
        site = replace(site, g_per_kwh=_between(grams, year.carbon.months_g_per_kwh, source))
    if limits.power_mw is None:
        built_mw = year.equipment_mw * (site.peak_pue or site.overhead).value
        limits = replace(limits, power_mw=built_mw if import_mw is None else min(import_mw, built_mw))
    return replace(demand, site=site, limits=limits)


def _pue(value: float, source: str) -> Given:
    return Given(
        value=value,
        low=max(1.0, value - PUE_OFF),
        high=value + PUE_OFF,
        source=f"{source}; ±{PUE_OFF} as against published figures",
    )


def _between(value: float, months: list[float] | tuple[float, ...], source: str) -> Given:
    """Return a mean with the 10th and 90th percentile of its months as interval."""
    if not months:
        return Given(value=value, source=source)
    low, high = (float(v) for v in np.quantile(months, (0.1, 0.9)))
    note = "; interval: its monthly means, 10th to 90th percentile"
    return Given(value=value, low=min(low, value), high=max(high, value), source=source + note)
