"""A meter that answers slowly, read by a thread of its own: a management controller may take seconds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from wattmill.ports import Clock, Meter
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_MOST_PAUSE_S = 60.0


class PolledMeter(threading.Thread):
    """Asks `meter` every period (less often while it fails) and tells its last readings with their time."""

    def __init__(self, meter: Meter, clock: Clock) -> None:
        super().__init__(name=f"meter {meter.spec.name}", daemon=True)
        self._meter, self._clock = meter, clock
        self._ending = threading.Event()
        self._said: Sequence[Reading] | MeterError = MeterError(f"meter {meter.spec.name!r}: not asked yet")
        self.start()

    @property
    def spec(self) -> MeterSpec:
        return self._meter.spec

    def run(self) -> None:
        pause_s = period_s = self._meter.spec.period_s
        while True:
            began_s = self._clock.now()
            try:
                readings = self._meter.read(t_s=began_s)
                # It was measured somewhere between the question and the answer.
                middle_s = (began_s + self._clock.now()) / 2
                self._said = [
                    msgspec.structs.replace(one, t_s=middle_s) if one.t_s == began_s else one
                    for one in readings
                ]
                pause_s = period_s
            except Exception as error:  # noqa: BLE001 - the boundary to what others wrote: it must not end the thread
                told = error if isinstance(error, MeterError) else None
                self._said = told or MeterError(f"meter {self.spec.name!r}: {type(error).__name__}: {error}")
                pause_s = min(2 * pause_s, max(period_s, _MOST_PAUSE_S))
            if self._ending.wait(max(0.0, pause_s - (self._clock.now() - began_s))):
                return

    def read(self, *, t_s: float) -> Sequence[Reading]:
        if isinstance(self._said, MeterError):
            raise self._said
        return self._said

    def end(self) -> None:
        self._ending.set()
