"""Opening the declared meters of a factory."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from wattmill.app.declared.meter_settings import configs
from wattmill.app.declared.settings import Settings
from wattmill.app.running.polled_meter import PolledMeter
from wattmill.ports import Clock, Meter
from wattmill.power.live.bank import MeterBank, open_bank
from wattmill.power.live.meters.registry import open_meter
from wattmill.power.spec import MeterConfig

log = logging.getLogger(__name__)


def open_meters(settings: Settings, env: Mapping[str, str], clock: Clock) -> MeterBank | None:
    """Return the declared meters that can be read here, or None where none is declared.

    One that cannot be opened is told and left out: its joules are then those of its parent, or nobody's.
    """
    if not settings.meters:
        return None

    def opened(config: MeterConfig) -> Meter:
        meter = open_meter(config)
        return PolledMeter(meter, clock) if settings.meters[config.name].is_remote else meter

    bank, troubles = open_bank(configs(settings.meters, env), opened)
    for trouble in troubles.values():
        log.error("%s", trouble)
    return bank
