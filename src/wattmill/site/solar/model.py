"""Power of a photovoltaic plant from the weather, by pvlib (the extra `site`).

Sun's position in the middle of each hour; beam and diffuse light from the global radiation by Erbs, Klein and
Duffie (Solar Energy 28, 1982); on the tilted plane by Hay and Davies; cells by Faiman's heat balance
(Progress in Photovoltaics 16, 2008); direct current and inverter by PVWatts version 5 (Dobos,
NREL/TP-6A20-62641, 2014). Where the weather has clouds instead of radiation: clear sky by Haurwitz (1945), of
which a covered sky lets 35 % through, linear in between (Larson et al., Renewable Energy 91, 2016). That is a
model of a model: in Virginia it gives 15 % less than radiation in a typical year, and a single hour of it
says little. Valid between the polar circles.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from wattmill.site.climate.spec import Hours, Weather
from wattmill.site.solar.spec import Panels
from wattmill.units import W_PER_MW

_THROUGH_CLOUDS = 0.35
_USUAL_DC_TO_AC = 1.2
_WIND_M_S = 2.0  # where the weather has none: cells are then some 2 K off
_INVERTER = 0.96  # of PVWatts


def panels_w(
    panels: Panels, weather: Weather, *, start: datetime, latitude_deg: float, longitude_deg: float
) -> Hours:
    """Return alternating current of a plant, watts in the mean of each hour.

    Args:
        start: the first hour, aware. The sun stands where it stood in that year.

    Raises `ValueError` where the weather has neither radiation nor clouds.
    """
    import pvlib  # isort: skip  # missing, it is to be named first: pandas only comes along
    import pandas as pd

    middle = [start + timedelta(hours=at + 0.5) for at in range(len(weather.dry_bulb_c))]
    times = pd.DatetimeIndex(middle)
    sun = pvlib.solarposition.get_solarposition(times, latitude_deg, longitude_deg)
    if weather.sun_w_m2 is not None:
        global_w_m2 = weather.sun_w_m2
    elif weather.cloud is not None:
        clear = pvlib.clearsky.haurwitz(sun["apparent_zenith"])["ghi"].to_numpy()
        global_w_m2 = clear * (_THROUGH_CLOUDS + (1.0 - _THROUGH_CLOUDS) * (1.0 - weather.cloud))
    else:
        raise ValueError(f"the weather of {weather.place} has neither radiation nor clouds: no sun is known")
    day = np.array([at.timetuple().tm_yday for at in middle])
    parts = pvlib.irradiance.erbs(global_w_m2, sun["zenith"], day)
    plane = pvlib.irradiance.get_total_irradiance(
        panels.tilt_deg,
        panels.azimuth_deg,
        sun["apparent_zenith"],
        sun["azimuth"],
        parts["dni"],
        global_w_m2,
        parts["dhi"],
        dni_extra=pvlib.irradiance.get_extra_radiation(day),
        model="haydavies",
    )["poa_global"].fillna(0.0)
    cells_c = pvlib.temperature.faiman(plane, weather.dry_bulb_c, _WIND_M_S)
    peak_w = panels.peak_mw * W_PER_MW
    direct_w = pvlib.pvsystem.pvwatts_dc(plane, cells_c, peak_w, panels.per_kelvin)
    inverter_w = (panels.inverter_mw or panels.peak_mw / _USUAL_DC_TO_AC) * W_PER_MW
    # pvwatts takes the inverter's rating on its direct side.
    out_w = pvlib.inverter.pvwatts(direct_w * (1.0 - panels.loss), inverter_w / _INVERTER)
    return np.asarray(np.nan_to_num(np.asarray(out_w, dtype=float)).clip(0.0, inverter_w))
