"""Chips that the `zeus` package reads: NVIDIA, AMD, Apple. The extra `meters` brings it; imported here only.

In a machine without any, zeus gives an empty measurement and no error: here that is an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from wattmill.power.spec import MeterConfig
from wattmill.units import MW_PER_W
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_UJ_PER_MJ = 1_000
_PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "dram_mj", "ane_mj")  # they do not overlap


class ZeusChips:
    """All chips, or those that `query` names by index; on Apple silicon the parts of the one chip."""

    def __init__(self, config: MeterConfig) -> None:
        device = _zeus(config)
        self._read: Callable[[float], list[Reading]]
        try:
            gpus = device.get_gpus()
            chips = [int(i) for i in config.query.split(",")] if config.query else list(range(len(gpus)))
        except Exception as gpu_error:  # noqa: BLE001 - zeus raises its own kinds, another one per maker
            try:
                soc = device.get_soc()
                parts = [p for p in _PARTS if p in soc.get_available_metrics()]
            except Exception as soc_error:  # noqa: BLE001
                raise MeterError(
                    f"meter {config.name!r}: zeus finds no chip: {gpu_error}; {soc_error}"
                ) from None
            if not parts:
                raise MeterError(f"meter {config.name!r}: zeus reads nothing of this chip") from None
            self._read = lambda t_s: self._of_soc(soc, parts, t_s)
            said = f"zeus {type(soc).__name__}: {', '.join(parts)}"
        else:
            if not chips:
                raise MeterError(f"meter {config.name!r}: zeus counts no chip")
            counting = {i: bool(gpus.supports_get_total_energy_consumption(i)) for i in chips}
            self._read = lambda t_s: self._of_gpus(gpus, counting, t_s)
            said = f"zeus {', '.join(f'{i} {gpus.get_name(i)}' for i in chips)}"
        self.spec: MeterSpec = config.spec(said, resolution_uj=_UJ_PER_MJ)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        try:
            return self._read(t_s)
        except Exception as error:
            raise MeterError(f"meter {self.spec.name!r}: {type(error).__name__}: {error}") from error

    def _of_gpus(self, gpus: Any, counting: dict[int, bool], t_s: float) -> list[Reading]:
        return [
            Reading(
                meter=self.spec.name,
                counter=str(i),
                t_s=t_s,
                energy_uj=int(gpus.get_total_energy_consumption(i)) * _UJ_PER_MJ if counts else None,
                power_w=None if counts else gpus.get_instant_power_usage(i) / MW_PER_W,
            )
            for i, counts in counting.items()
        ]

    def _of_soc(self, soc: Any, parts: list[str], t_s: float) -> list[Reading]:
        said = soc.get_total_energy_consumption()
        found = [(part, getattr(said, part)) for part in parts]
        return [
            Reading(meter=self.spec.name, counter=part, t_s=t_s, energy_uj=int(mj) * _UJ_PER_MJ)
            for part, mj in found
            if mj is not None
        ]


def open_meter(config: MeterConfig) -> ZeusChips:
    return ZeusChips(config)


def _zeus(config: MeterConfig) -> Any:
    try:
        return importlib.import_module("zeus.device")
    except ImportError as error:
        raise MeterError(
            f"meter {config.name!r}: zeus is not there ({error}): pip install 'wattmill[meters]'"
        ) from None
