"""Which meters of power can be read on this machine: the rungs of the ladder, from device counters down.

Looks only: nothing is sampled, no driver is changed, nothing is loaded but the vendor's own library.
"""

from __future__ import annotations

import ctypes
import dataclasses
import glob
import importlib.util
import os
import shutil

IPMI_DEVICES = ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")
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
    source: str | None = None  # what to declare under `[meters.NAME]` to read it; None: nothing reads it yet
    gives: str = ""


def ladder() -> tuple[Rung, ...]:
    """Return every kind of meter that is looked for, best first."""
    return (
        _dcmi(),
        _nvml(),
        _zeus(),
        _files(
            "CPU energy counter (RAPL)",
            RAPL_GLOB,
            "root alone may read it; as root, after each start: `chmod o+r /sys/class/powercap/*/energy_uj` "
            "(for good: a udev rule or systemd-tmpfiles)",
            source="rapl",
            gives="microjoules of each CPU package and its memory",
        ),
        _files(
            "board power sensor (hwmon)", HWMON_GLOB, "grant read access to the sensor", gives="microwatts"
        ),
        _files("battery gauge", BATTERY_GLOB, "grant read access to the gauge", gives="microwatts"),
    )


def _files(name: str, pattern: str, way_out: str, *, source: str | None = None, gives: str = "") -> Rung:
    paths = sorted(glob.glob(pattern))
    if not paths:
        return Rung(name, None, False, "this machine shows none (a virtual machine usually does not)")
    readable = [path for path in paths if _reads(path)]
    found = f"{len(paths)} at {os.path.dirname(paths[0])}"
    return Rung(name, found, bool(readable), "" if readable else way_out, source, gives)


def _dcmi() -> Rung:
    name = "board controller (IPMI/DCMI)"
    device = next((path for path in IPMI_DEVICES if os.path.exists(path)), None)
    if device is None:
        reason = "no /dev/ipmi0: no controller here, or the kernel's modules ipmi_si and ipmi_devintf are out"
        return Rung(name, None, False, reason)
    program = shutil.which("ipmitool")
    if program is None:
        return Rung(name, device, False, "install ipmitool (Debian: apt install ipmitool)", "dcmi", "watts")
    if not os.access(device, os.R_OK | os.W_OK):
        reason = f"root alone may ask it; give the factory's user a group that owns {device} (udev rule)"
        return Rung(name, device, False, reason, "dcmi", "watts")
    return Rung(name, f"{device} by {program}", True, "", "dcmi", "watts of the whole machine")


def _zeus() -> Rung:
    name = "AMD, Apple and NVIDIA chips (zeus)"
    if importlib.util.find_spec("zeus") is None:
        return Rung(name, None, False, "the package is not installed (pip install 'wattmill[meters]')")
    return Rung(name, "the package", True, "", "zeus", "millijoules or milliwatts, where it finds a chip")


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
    reason = "" if readable else "the chip has no energy counter; the source `nvml` then reads its power"
    return Rung(name, found, bool(readable), reason, "nvml", "millijoules of each chip since driver load")


def _device(nvml: ctypes.CDLL, index: int) -> tuple[str, bool]:
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return f"device {index}", False
    name = ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetName(handle, name, len(name))
    energy_mj = ctypes.c_ulonglong()
    counts = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy_mj)) == 0
    return name.value.decode("utf-8", "replace") or f"device {index}", counts
