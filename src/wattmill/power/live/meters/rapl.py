"""Intel's and AMD's energy counters of CPU packages, from the kernel's powercap files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

import msgspec

from wattmill.power.spec import MeterConfig
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

FOLDER = "/sys/class/powercap"
_STEP_UJ = 61
"""The usual unit of the counter, 2 ** -14 J (Intel SDM vol. 3, MSR_RAPL_POWER_UNIT); powercap tells none."""

_MOST_W = 3_000.0
"""More than any socket is sold for (the largest of 2026 about half of it): the most believed of a counter."""


class Rapl:
    """Each package's counter and, where it lies outside the package's, its memory's.

    `energy_uj` counts microjoules and begins again after `max_energy_range_uj`. A package's cores and its
    graphics are parts of its own counter and are left out; `psys` (the whole board) would contain them all.
    """

    def __init__(self, config: MeterConfig) -> None:
        folder = config.at or FOLDER
        self._zones = _zones(folder)
        if not self._zones:
            raise MeterError(
                f"meter {config.name!r}: no RAPL counter under {folder}: a virtual machine usually shows none"
            )
        for path, _ in self._zones.values():
            _whole(path, config.name)
        source = f"RAPL {', '.join(self._zones)} at {folder}"
        spec = config.spec(source, resolution_uj=_STEP_UJ)
        # Without a bound one that began again would be one that ran over, of up to a quarter megajoule.
        self.spec: MeterSpec = msgspec.structs.replace(spec, max_w=config.max_w or _MOST_W)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        return [
            Reading(
                meter=self.spec.name,
                counter=zone,
                t_s=t_s,
                energy_uj=_whole(path, self.spec.name),
                wraps_at_uj=wraps_at,
            )
            for zone, (path, wraps_at) in self._zones.items()
        ]


def open_meter(config: MeterConfig) -> Rapl:
    return Rapl(config)


def _zones(folder: str) -> dict[str, tuple[str, int | None]]:
    found: dict[str, tuple[str, int | None]] = {}
    for path in sorted(glob.glob(os.path.join(folder, "*", "energy_uj"))):
        zone = os.path.dirname(path)
        name = _text(os.path.join(zone, "name"))
        if not name.startswith(("package", "dram")):
            continue
        owner = os.path.basename(zone)  # "intel-rapl:0" is a package, "intel-rapl:0:2" a part of it
        most = _text(os.path.join(zone, "max_energy_range_uj"))
        found[f"{name} ({owner})"] = (path, int(most) + 1 if most.isdigit() else None)
    return found


def _whole(path: str, meter: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except PermissionError:
        raise MeterError(
            f"meter {meter!r}: {path} may not be read; the kernel lets root alone; as root, "
            f"after each start: `chmod o+r {os.path.dirname(os.path.dirname(path))}/*/energy_uj`"
        ) from None
    except (OSError, ValueError) as error:
        raise MeterError(f"meter {meter!r}: {path}: {error}") from None


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
