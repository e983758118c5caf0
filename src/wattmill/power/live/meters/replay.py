"""A recorded meter played again: a CSV file of times with joules or watts, as loggers and tests write it."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Sequence

from wattmill.power.spec import MeterConfig
from wattmill.units import UJ_PER_J
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_COLUMNS = ("energy_uj", "energy_j", "power_w")


class Replay:
    """`at` is a CSV file with the columns `t_s` (seconds from its beginning, rising) and one of `energy_uj`,
    `energy_j` (both cumulative) and `power_w`. It plays from the first reading on; a row with an empty value
    is a time at which the meter was silent; after the last row it stays silent.
    """

    def __init__(self, config: MeterConfig) -> None:
        self._at_s, self._values, self._column = _rows(config)
        self._began_s: float | None = None
        self.spec: MeterSpec = config.spec(f"replay of {config.at}", provenance="measured")

    def read(self, *, t_s: float) -> Sequence[Reading]:
        if self._began_s is None:
            self._began_s = t_s
        played_s = t_s - self._began_s + self._at_s[0]
        place = bisect_right(self._at_s, played_s + 1e-9) - 1
        value = self._values[place]
        if value is None or (place == len(self._at_s) - 1 and played_s > self._at_s[-1] + 1e-9):
            raise MeterError(f"meter {self.spec.name!r}: silent at {played_s:.3f} s of its recording")
        if self._column == "power_w":
            return [Reading(meter=self.spec.name, t_s=t_s, power_w=value)]
        exact_s = self._began_s + self._at_s[place] - self._at_s[0]
        scale = UJ_PER_J if self._column == "energy_j" else 1
        return [Reading(meter=self.spec.name, t_s=exact_s, energy_uj=round(value * scale))]


def open_meter(config: MeterConfig) -> Replay:
    return Replay(config)


def _rows(config: MeterConfig) -> tuple[list[float], list[float | None], str]:
    where = f"meter {config.name!r}: {config.at}"
    try:
        with open(config.at, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise MeterError(f"{where}: {error.strerror}") from None
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if column is None or "t_s" not in rows[0]:
        raise MeterError(f"{where} must have rows, a column t_s and one of {', '.join(_COLUMNS)}")
    times: list[float] = []
    values: list[float | None] = []
    for number, row in enumerate(rows, 2):
        try:
            times.append(float(row["t_s"]))
            values.append(float(row[column]) if row[column] else None)
        except (TypeError, ValueError):
            raise MeterError(f"{where}:{number}: t_s={row['t_s']!r}, {column}={row[column]!r}") from None
        if len(times) > 1 and times[-1] <= times[-2]:
            raise MeterError(f"{where}:{number}: t_s is {times[-1]}, must rise; before it is {times[-2]}")
    return times, values, column
