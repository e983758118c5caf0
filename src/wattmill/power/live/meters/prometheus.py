"""Figures that others measure: an exporter's text (DCGM, Kepler, any), or a query to a Prometheus server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from wattmill.power.live.meters.web import fetched
from wattmill.power.spec import MeterConfig
from wattmill.units import J_PER_KWH, MW_PER_W, UJ_PER_J
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_LINE = re.compile(
    r"([a-zA-Z_:][\w:]*)(?:\{((?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})?\s+(\S+)(?:\s+\S+)?\s*(?:#.*)?"
)
_LABEL = re.compile(r"([a-zA-Z_]\w*)\s*(=~|!=|!~|=)\s*\"((?:[^\"\\]|\\.)*)\"")
_SERIES = re.compile(r"\s*([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s*")

_TO_UJ = {"J": UJ_PER_J, "mJ": 1_000, "uJ": 1, "kWh": J_PER_KWH * UJ_PER_J}
_TO_W = {"W": 1.0, "mW": 1 / MW_PER_W}

PRESETS = {
    "dcgm": ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "mJ"),
    "dcgm-power": ("DCGM_FI_DEV_POWER_USAGE", "W"),
    "kepler": ('kepler_node_cpu_joules_total{zone="package"}', "J"),
}
"""What `query = "dcgm"` and the like stand for."""


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Exporter:
    """`at` is the page of an exporter (…/metrics); `query` a preset or a series, perhaps with labels; `unit`
    J, mJ, uJ or kWh of a counter, W or mW of a gauge. Each series that fits is a counter of its own."""

    def __init__(self, config: MeterConfig) -> None:
        series, unit = PRESETS.get(config.query, (config.query, config.unit))
        self._config, self._unit = config, unit
        self._name, self._wanted = _wanted(series, config.name)
        _known_unit(unit, config.name)
        self.spec: MeterSpec = config.spec(f"{series} of {config.at}")
        self.read(t_s=0.0)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        c = self._config
        text = fetched(c.at, c).decode("utf-8", "replace")
        found = [
            _reading(c.name, _counter(sample.labels), sample.value, self._unit, t_s)
            for sample in samples(text)
            if sample.name == self._name and all(_fits(sample.labels, *want) for want in self._wanted)
        ]
        if not found:
            raise MeterError(
                f"meter {c.name!r}: {c.at} has no series {c.query!r} now; look for names with "
                f"`curl -s {c.at} | grep -i -e energy -e joules -e power`"
            )
        return found


class Query:
    """`at` is a Prometheus server (http://host:9090), `query` any PromQL of an instant vector or scalar."""

    def __init__(self, config: MeterConfig) -> None:
        self._config = config
        _known_unit(config.unit, config.name)
        self.spec: MeterSpec = config.spec(f"{config.query} at {config.at}")
        self.read(t_s=0.0)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        c = self._config
        url = f"{c.at.rstrip('/')}/api/v1/query?query={quote(c.query)}"
        body = fetched(url, c)
        try:
            said = msgspec.json.decode(body, type=_Answer)
        except msgspec.DecodeError as error:
            raise MeterError(
                f"meter {c.name!r}: {c.at} answers something else than a query's: {error}"
            ) from None
        if said.status != "success" or said.data is None:
            raise MeterError(f"meter {c.name!r}: {c.at} refuses {c.query!r}: {said.error}")
        result = said.data.result
        if said.data.resultType not in ("scalar", "vector"):
            raise MeterError(
                f"meter {c.name!r}: {c.query!r} gives a {said.data.resultType}, must give one value of each "
                "series at one instant: leave the range ([5m]) out, or put rate() around it"
            )
        if said.data.resultType == "scalar":
            return [_reading(c.name, "", float(result[1]), c.unit, t_s)]
        found = [
            _reading(c.name, _counter(one.get("metric") or {}), float(one["value"][1]), c.unit, t_s)
            for one in result
        ]
        if not found:
            raise MeterError(f"meter {c.name!r}: {c.query!r} has no value now at {c.at}")
        return found


class _Data(msgspec.Struct):
    resultType: str  # noqa: N815 - the server's word
    result: list  # type: ignore[type-arg]  # of vectors or of a scalar


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


def samples(text: str) -> Iterator[Sample]:
    """Read the text format of Prometheus (0.0.4) and OpenMetrics: one sample a line, comments left out."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        yield Sample(name, {k: _plain(v) for k, _, v in _LABEL.findall(labels or "")}, number)


def open_exporter(config: MeterConfig) -> Exporter:
    return Exporter(config)


def open_query(config: MeterConfig) -> Query:
    return Query(config)


def _wanted(series: str, meter: str) -> tuple[str, list[tuple[str, str, str]]]:
    match = _SERIES.fullmatch(series)
    if match is None:
        raise MeterError(
            f"meter {meter!r}: query is {series!r}, must be a series such as node_energy_joules_total"
            '{zone="package"}, or one of ' + ", ".join(PRESETS)
        )
    return match.group(1), [(k, op, _plain(v)) for k, op, v in _LABEL.findall(match.group(2) or "")]


def _fits(labels: dict[str, str], name: str, op: str, value: str) -> bool:
    has = labels.get(name, "")
    if op in ("=", "!="):
        return (has == value) == (op == "=")
    return bool(re.fullmatch(value, has)) == (op == "=~")


def _plain(text: str) -> str:
    return text.replace("\\\\", "\0").replace('\\"', '"').replace("\\n", "\n").replace("\0", "\\")


def _counter(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={labels[name]}" for name in sorted(labels) if name != "__name__")


def _known_unit(unit: str, meter: str) -> None:
    if unit not in _TO_UJ and unit not in _TO_W:
        raise MeterError(f"meter {meter!r}: unit is {unit!r}, must be one of {', '.join([*_TO_UJ, *_TO_W])}")


def _reading(meter: str, counter: str, value: float, unit: str, t_s: float) -> Reading:
    if not math.isfinite(value):
        raise MeterError(f"meter {meter!r}: {counter or 'it'} says {value}")
    if unit in _TO_UJ:
        return Reading(meter=meter, counter=counter, t_s=t_s, energy_uj=round(value * _TO_UJ[unit]))
    return Reading(meter=meter, counter=counter, t_s=t_s, power_w=value * _TO_W[unit])
