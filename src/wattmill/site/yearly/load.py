"""How busy a site is, hour by hour, and what of that may wait."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wattmill.site.climate.spec import Hours, Weather
from wattmill.site.yearly.spec import Site
from wattmill.units import S_PER_H

_DAY_H = 24


class Load(NamedTuple):
    """Shares of all work that could be done, 0 to 1, as it comes."""

    base: Hours
    deferrable: Hours

    def power_share(self, idle_share: float) -> Hours:
        """Return the share of full power that is drawn if everything is done when it comes."""
        return np.asarray(idle_share + (1.0 - idle_share) * (self.base + self.deferrable))


def load_of(site: Site, weather: Weather) -> Load:
    """Return the load of each hour. Raises `ValueError` where it does not fit into what is there."""
    work = site.work
    if work.tok_per_s is not None:
        assert work.tok_per_s_full is not None, "the declaration was checked"
        mean = work.tok_per_s / work.tok_per_s_full
    else:
        assert work.busy is not None, "the declaration was checked"
        mean = work.busy
    weight = np.ones(len(weather.hour))
    if work.day:
        day = np.asarray(work.day) * _DAY_H / sum(work.day)
        shift = site.place.utc_offset_h if weather.clock == "utc" else 0.0
        weight = day[(weather.hour + round(shift)) % _DAY_H]
    busy = mean * weight
    if float(busy.max()) > 1.0 + 1e-9:
        raise ValueError(
            f"the busiest hour asks {busy.max():.3f} of what can be done (mean {mean:.3f}): lower "
            "work.busy or "
            "work.tok_per_s, or flatten work.day"
        )
    return Load(base=busy * (1.0 - work.deferrable), deferrable=busy * work.deferrable)


def tokens(site: Site, hours: int) -> float | None:
    """Return the tokens of all hours; None where no demand in tokens is declared."""
    return None if site.work.tok_per_s is None else site.work.tok_per_s * hours * S_PER_H
