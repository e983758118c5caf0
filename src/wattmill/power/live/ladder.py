"""Which meters of power can be read on this machine: the rungs of the ladder, from device counters down.

Looks only: nothing is sampled, no driver is changed, nothing is loaded but the vendor's own library.
"""

from __future__ import annotations

import ctypes
import dataclasses
import glob
import os

RAPL_GLOB = "/sys/class/powercap/*/energy_uj"
HWMON_GLOB = "/sys/class/hwmon/hwmon*/power*_average"
BATTERY_GLOB = "/sys/class/power_supply/BAT*/power_now"


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One kind of meter. `found` names what there is; None: nothing of this kind."""

    name: str
    found: str | None
    readable: bool
    reason: str  # why it cannot be read; empty where it can


def ladder() -> tuple[Rung, ...]:
    """Return every kind of meter that is looked for, best first."""
    return (
        _files(
            "CPU energy counter (RAPL)", RAPL_GLOB, "grant read access to energy_uj (root only by default)"
        ),
        _nvml(),
        _files("board power sensor (hwmon)", HWMON_GLOB, "grant read access to the sensor"),
        _files("battery gauge", BATTERY_GLOB, "grant read access to the gauge"),
    )


def _files(name: str, pattern: str, way_out: str) -> Rung:
    paths = sorted(glob.glob(pattern))
    if not paths:
        return Rung(name, None, False, "this machine shows none (a virtual machine usually does not)")
    readable = [path for path in paths if _reads(path)]
    found = f"{len(paths)} at {os.path.dirname(paths[0])}"
    return Rung(name, found, bool(readable), "" if readable else way_out)


def _reads(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            int(file.read().strip())
    except (OSError, ValueError):
        return False
    return True


def _nvml() -> Rung:
    """Ask NVIDIA's library whether its devices have an energy counter."""
    name = "GPU energy counter (NVML)"
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Rung(name, None, False, "no NVIDIA driver")
    if nvml.nvmlInit_v2() != 0:
        return Rung(name, None, False, "the driver's library is there, no device answers")
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        names = [_device(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()
    if not names:
        return Rung(name, None, False, "the driver counts no device")
    readable = [device for device, counts in names if counts]
    found = ", ".join(device for device, _ in names)
    return Rung(name, found, bool(readable), "" if readable else "the device has no energy counter")


def _device(nvml: ctypes.CDLL, index: int) -> tuple[str, bool]:
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return f"device {index}", False
    name = ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetName(handle, name, len(name))
    energy_mj = ctypes.c_ulonglong()
    counts = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy_mj)) == 0
    return name.value.decode("utf-8", "replace") or f"device {index}", counts
