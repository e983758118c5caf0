"""NVIDIA's energy counters, straight from the driver's library: no package is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from wattmill.power.spec import MeterConfig
from wattmill.units import MW_PER_W
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

LIBRARY = "libnvidia-ml.so.1"
_UJ_PER_MJ = 1_000  # the counter is in millijoules
_SUCCESS, _NOT_SUPPORTED, _NO_PERMISSION = 0, 3, 4


class Nvml:
    """The chips that `query` names by index ("0,2"; "" is all of them).

    `nvmlDeviceGetTotalEnergyConsumption` counts millijoules since the driver was loaded (Volta and later);
    an older chip has `nvmlDeviceGetPowerUsage` only, in milliwatts: then the meter is a gauge.
    """

    def __init__(self, config: MeterConfig) -> None:
        library = config.at or LIBRARY
        try:
            self._nvml = ctypes.CDLL(library)
        except OSError as error:
            raise MeterError(
                f"meter {config.name!r}: {library} cannot be loaded ({error}): no NVIDIA driver here"
            ) from None
        self._ask("nvmlInit_v2")
        count = ctypes.c_uint()
        self._ask("nvmlDeviceGetCount_v2", ctypes.byref(count))
        wanted = range(count.value) if not config.query else [int(i) for i in config.query.split(",")]
        self._chips: dict[str, tuple[ctypes.c_void_p, bool]] = {}
        for index in wanted:
            if not 0 <= index < count.value:
                raise MeterError(f"meter {config.name!r}: chip {index} of {count.value}; the first one is 0")
            handle = ctypes.c_void_p()
            self._ask("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            text = ctypes.create_string_buffer(96)
            self._nvml.nvmlDeviceGetName(handle, text, ctypes.c_uint(len(text)))
            counts = self._nvml.nvmlDeviceGetTotalEnergyConsumption(
                handle, ctypes.byref(ctypes.c_ulonglong())
            )
            if counts not in (_SUCCESS, _NOT_SUPPORTED):
                raise MeterError(f"meter {config.name!r}: chip {index}: {_reason(counts)}")
            self._chips[f"{index} {text.value.decode('utf-8', 'replace')}"] = (handle, counts == _SUCCESS)
        if not self._chips:
            raise MeterError(f"meter {config.name!r}: the driver counts no chip")
        self.spec: MeterSpec = config.spec(f"NVML {', '.join(self._chips)}", resolution_uj=_UJ_PER_MJ)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        readings = []
        for chip, (handle, counts) in self._chips.items():
            if counts:
                energy_mj = ctypes.c_ulonglong()
                self._ask("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(energy_mj))
                uj = energy_mj.value * _UJ_PER_MJ
                readings.append(Reading(meter=self.spec.name, counter=chip, t_s=t_s, energy_uj=uj))
            else:
                power_mw = ctypes.c_uint()
                self._ask("nvmlDeviceGetPowerUsage", handle, ctypes.byref(power_mw))
                watts = power_mw.value / MW_PER_W
                readings.append(Reading(meter=self.spec.name, counter=chip, t_s=t_s, power_w=watts))
        return readings

    def _ask(self, function: str, *args: object) -> None:
        code = getattr(self._nvml, function)(*args)
        if code != _SUCCESS:
            raise MeterError(f"{function}: {_reason(code)}")


def open_meter(config: MeterConfig) -> Nvml:
    return Nvml(config)


def _reason(code: int) -> str:
    known = {
        1: "the library is not initialised",
        _NOT_SUPPORTED: "this chip does not have it",
        _NO_PERMISSION: "no permission: the container needs the device and the driver's `utility` capability",
        9: "the driver is not loaded",
        15: "the chip fell off the bus: the machine must be restarted",
    }
    return f"{known.get(code, 'the driver refuses')} (NVML {code})"
