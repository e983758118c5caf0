"""A server's management controller by Redfish (DMTF DSP2046): the power of a whole node, with its fans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from wattmill.power.live.meters.web import fetched
from wattmill.power.spec import MeterConfig
from wattmill.units import J_PER_KWH, UJ_PER_J
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_CHASSIS = "/redfish/v1/Chassis"


class Redfish:
    """`at` is a chassis (`https://bmc/redfish/v1/Chassis/1`) or the controller itself (then its first one).

    Newer controllers have EnvironmentMetrics: `EnergykWh`, a counter, where it is fine enough to be one
    (a tenth of a watt-hour), and `PowerWatts`; older ones `Power#/PowerControl/0/PowerConsumedWatts`.
    """

    def __init__(self, config: MeterConfig) -> None:
        self._config = config
        parts = urlsplit(config.at)
        path = parts.path.rstrip("/")
        if path in ("", "/redfish", "/redfish/v1"):
            path = self._first_chassis(urlunsplit(parts._replace(path=_CHASSIS)))
        self._chassis = urlunsplit(parts._replace(path=path))
        told = self._object(self._chassis)
        metrics = told.get("EnvironmentMetrics")
        power = told.get("Power")
        link = metrics if isinstance(metrics, dict) else power if isinstance(power, dict) else None
        if link is None or not isinstance(link.get("@odata.id"), str):
            raise MeterError(
                f"meter {config.name!r}: {self._chassis} has neither EnvironmentMetrics nor Power"
            )
        self._url = urlunsplit(parts._replace(path=link["@odata.id"]))
        self._new = link is metrics
        model = " ".join(str(told[key]) for key in ("Manufacturer", "Model") if told.get(key))
        self.spec: MeterSpec = config.spec(f"Redfish {model} {self._url}".replace("  ", " "))
        self.read(t_s=0.0)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        said = self._object(self._url)
        if self._new:
            energy_kwh = _number(said.get("EnergykWh"))
            watts = _number(said.get("PowerWatts"))
            if watts is None and energy_kwh is not None:
                uj = round(energy_kwh * J_PER_KWH * UJ_PER_J)
                return [Reading(meter=self.spec.name, t_s=t_s, energy_uj=uj)]
        else:
            controls = said.get("PowerControl")
            first = controls[0] if isinstance(controls, list) and controls else {}
            watts = _number(first.get("PowerConsumedWatts")) if isinstance(first, dict) else None
        if watts is None:
            raise MeterError(f"meter {self.spec.name!r}: {self._url} tells no power now")
        return [Reading(meter=self.spec.name, t_s=t_s, power_w=watts)]

    def _first_chassis(self, url: str) -> str:
        members = self._object(url).get("Members")
        if not isinstance(members, list) or not members:
            raise MeterError(f"meter {self._config.name!r}: {url} has no chassis")
        return str(members[0].get("@odata.id"))

    def _object(self, url: str) -> dict[str, Any]:
        body = fetched(url, self._config)
        try:
            said = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise MeterError(f"meter {self._config.name!r}: {url} answers no JSON: {error}") from None
        if not isinstance(said, dict):
            raise MeterError(f"meter {self._config.name!r}: {url} answers no object")
        return said


def open_meter(config: MeterConfig) -> Redfish:
    return Redfish(config)


def _number(value: object) -> float | None:
    """A sensor is a number, or an excerpt with one as its `Reading`; null while the controller starts."""
    if isinstance(value, dict):
        value = value.get("Reading")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
