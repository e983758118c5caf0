"""What moving work in time and between places saves, on the hourly prices and carbon of 2024 (15 zones).

`make shifting`: 30 % of the tokens may wait 24 hours, places are 80 % loaded, nothing runs above nameplate.
"""

from __future__ import annotations

import csv
import gzip
import platform
import time
from pathlib import Path

import numpy as np

from wattmill.power.dispatch.shifting import by_place, by_time

SERIES = Path(__file__).parent / "data" / "energy_2024_hourly.csv.gz"
LOAD, DEFERRABLE, DEADLINE_H = 0.8, 0.3, 24


Zone = tuple[np.ndarray | None, np.ndarray | None]


def series() -> dict[str, Zone]:
    """Return (dollars per kWh, grams per kWh) of each zone, 8,784 hours of UTC; None: the source has none."""
    with gzip.open(SERIES, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))

    def column(name: str, divisor: float) -> np.ndarray | None:
        return np.array([float(row[name]) for row in rows]) / divisor if name in rows[0] else None

    zones = sorted({name.split(":")[0] for name in rows[0] if ":" in name})
    return {zone: (column(f"{zone}:usd_per_mwh", 1_000), column(f"{zone}:g_per_kwh", 1)) for zone in zones}


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def row(zone: str, price: np.ndarray | None, carbon: np.ndarray | None) -> str:
    """One zone's line: what only one series can say is a dash on the other side."""
    unknown = np.zeros(len(price if price is not None else carbon if carbon is not None else ()))
    said: list[str] = []
    work = {"load": LOAD, "deferrable": DEFERRABLE, "deadline_h": DEADLINE_H}
    if price is None:
        said += [percent(None)] * 3
    else:
        money = by_time(price, unknown if carbon is None else carbon, **work)
        grams_then = None if carbon is None else money.forecast.grams
        said += [percent(money.foresight.usd), percent(money.forecast.usd), percent(grams_then)]
    if carbon is None:
        said += [percent(None)] * 4
    else:
        grams = by_time(unknown if price is None else price, carbon, usd_per_kg=None, **work)
        usd_then = None if price is None else grams.forecast.usd
        said += [percent(grams.foresight.grams), percent(grams.forecast.grams), percent(usd_then)]
        said.append(percent(grams.forecast_error))
    return f"| {zone} | " + " | ".join(said) + " |"


def main() -> None:
    zones = series()
    print(f"machine: {platform.machine()}, python {platform.python_version()}")
    print(f"load {LOAD:.0%} of nameplate, {DEFERRABLE:.0%} deferrable, deadline {DEADLINE_H} h, 2024 (UTC)\n")
    print(
        "| zone | for dollars: USD saved, foresight | forecast | g saved then "
        "| for grams: g saved, foresight | forecast | USD saved then | error of the forecast of grams |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    began = time.process_time()
    for zone, (price, carbon) in zones.items():
        print(row(zone, price, carbon), flush=True)
    both = [zone for zone in zones.values() if zone[0] is not None and zone[1] is not None]
    prices, carbons = (np.array([zone[at] for zone in both]) for at in (0, 1))
    print(f"\nbetween the {len(both)} places that have both, in the same hour:")
    for grams_first in (False, True):
        saved = by_place(prices, carbons, load=LOAD, deferrable=DEFERRABLE, grams=grams_first)
        print(f"for {'grams' if grams_first else 'dollars'}: {saved.usd:.1%} USD, {saved.grams:.1%} g")
    print(f"\nCPU {time.process_time() - began:.1f} s")


if __name__ == "__main__":
    main()
