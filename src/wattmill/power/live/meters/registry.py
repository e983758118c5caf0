"""Which sources of readings there are: ours, and those that other packages bring by entry point."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from wattmill.ports import Meter
from wattmill.power.spec import MeterConfig
from wattmill.vocab.meter import MeterError, Reading

GROUP = "wattmill.meters"

_HERE = "wattmill.power.live.meters"
BUILT_IN = {
    "rapl": f"{_HERE}.rapl:open_meter",
    "nvml": f"{_HERE}.nvml:open_meter",
    "zeus": f"{_HERE}.zeus_devices:open_meter",
    "redfish": f"{_HERE}.redfish:open_meter",
    "dcmi": f"{_HERE}.ipmi:open_meter",
    "exporter": f"{_HERE}.prometheus:open_exporter",
    "promql": f"{_HERE}.prometheus:open_query",
    "replay": f"{_HERE}.replay:open_meter",
}
"""The entry points of this package, so that a source tree without an installation has them too."""


def sources() -> list[str]:
    """Return the names that `source` of a declared meter may have."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def open_meter(config: MeterConfig) -> Meter:
    """Open one declared meter and read it once. Raises `MeterError` with the way out."""
    if "@" in urlsplit(config.at).netloc or "-P" in config.query.split():
        raise MeterError(
            f"meter {config.name!r}: a password stands in `at` or `query`, which the books tell: name a "
            "header from the environment, or IPMI_PASSWORD with -E"
        )
    if config.source in BUILT_IN:
        module, _, function = BUILT_IN[config.source].partition(":")
        found = getattr(importlib.import_module(module), function)
    else:
        points = entry_points(group=GROUP, name=config.source)
        if not points:
            raise MeterError(
                f"meter {config.name!r}: source is {config.source!r}, must be one of {', '.join(sources())}, "
                f"or the name of an installed package's entry point in the group {GROUP!r}"
            )
        found = next(iter(points)).load()
    try:
        meter: Meter = found(config)
    except MeterError:
        raise
    except Exception as error:
        # The boundary to what others wrote, and to what a declaration may say of a chip or a pattern.
        raise MeterError(f"meter {config.name!r}: {type(error).__name__}: {error}") from error
    return meter


def read_now(meter: Meter, *, t_s: float) -> Sequence[Reading]:
    """Read an open meter once. Raises `MeterError`, whatever went wrong in it."""
    try:
        return meter.read(t_s=t_s)
    except MeterError:
        raise
    except Exception as error:
        raise MeterError(f"meter {meter.spec.name!r}: {type(error).__name__}: {error}") from error
