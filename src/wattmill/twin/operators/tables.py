"""Times of single operators on one accelerator, under one engine: looked up, interpolated, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import msgspec
import numpy as np

from wattmill.compute.spec import Accelerator
from wattmill.twin.operators.grid import Grid, OffGrid
from wattmill.twin.operators.sources import ENGINES, KINDS, LATENCY, SYSTEMS, VERSION, Wheel, table, version
from wattmill.twin.operators.walk import Operator
from wattmill.units import MS_PER_S

_AXIS_SHIFT = {"step": 1.0}  # cached tokens before the one that is decoded


class Found(msgspec.Struct, frozen=True):
    """One grid, and whose measurements it holds."""

    grid: Grid
    engine: str


class Tables:
    """What a wheel holds; each table is read once, each grid made once."""

    def __init__(self, wheel: Wheel):
        self._wheel = wheel
        self._columns: dict[str, Mapping[str, Any] | None] = {}
        self._grids: dict[tuple[Any, ...], Found | str] = {}

    def seconds(self, accelerator: Accelerator, engine: str, operator: Operator) -> float:
        """Return the time of one operator, all its repeats.

        Raises:
            OffGrid: the tables do not hold it; the message says what is missing.
        """
        found = self.found(accelerator, engine, operator)
        sizes = {name: size - _AXIS_SHIFT.get(name, 0.0) for name, size in operator.sizes}
        try:
            return operator.times * found.grid.seconds(sizes)
        except OffGrid as error:
            raise OffGrid(f"{operator.kind} of {accelerator.name} {found.engine}: {error}") from None

    def found(self, accelerator: Accelerator, engine: str, operator: Operator) -> Found:
        """Return the grid of an operator: of the engine itself, else of the first other one that has it."""
        system = SYSTEMS.get(accelerator.name)
        if system is None:
            raise OffGrid(f"there are no operator tables of {accelerator.name}")
        if engine not in ENGINES:
            raise OffGrid(f"there are no operator tables of {engine}")
        key = (system, engine, operator.kind, operator.choice)
        if key not in self._grids:
            self._grids[key] = self._search(system, engine, operator)
        found = self._grids[key]
        if isinstance(found, str):
            raise OffGrid(f"{accelerator.name}: {found}")
        return found

    def _search(self, system: str, engine: str, operator: Operator) -> Found | str:
        for name in dict.fromkeys((engine, *ENGINES)):
            path = table(operator.kind, system, name)
            columns = self._read(path, operator.kind) if path else None
            if columns is None:
                continue
            kept = _chosen(columns, operator.choice)
            if kept is not None:
                kind = KINDS[operator.kind]
                axes = [columns[axis][kept] for axis in kind.axes]
                return Found(Grid(kind.axes, axes, columns[LATENCY][kept] / MS_PER_S, parts=kind.parts), name)
        asked = ", ".join(f"{name} {_either(value)}" for name, value in operator.choice)
        return f"no table of {operator.kind} has {asked}"

    def _read(self, path: str, kind: str) -> Mapping[str, Any] | None:
        if path not in self._columns:
            names = (*KINDS[kind].choices, *KINDS[kind].axes, LATENCY)
            self._columns[path] = self._wheel.columns(path, names)
        return self._columns[path]


def basis(accelerator: Accelerator, engine: str, borrowed: Iterable[tuple[str, str]] = ()) -> str:
    """Return whose measurements stand behind a sum, in words; `borrowed`: (kind of table, whose it is)."""
    known = (
        f"operator tables {VERSION}, {accelerator.name} {engine} {version(SYSTEMS[accelerator.name], engine)}"
    )
    others = ", ".join(f"{kind} of {other}" for kind, other in sorted(borrowed))
    return f"{known} ({others})" if others else known


def _chosen(columns: Mapping[str, Any], choice: Sequence[tuple[str, Any]]) -> Any | None:
    """Return the rows of the first combination of alternatives that has any."""
    for values in product(*(value if isinstance(value, tuple) else (value,) for _, value in choice)):
        kept = columns[LATENCY] > 0.0
        for (name, _), value in zip(choice, values, strict=True):
            anyway = isinstance(value, frozenset)
            kept = kept & (np.isin(columns[name], sorted(value)) if anyway else columns[name] == value)
        if kept.any():
            return np.flatnonzero(kept)
    return None


def _either(value: Any) -> str:
    return " or ".join(map(str, sorted(value))) if isinstance(value, tuple | frozenset) else str(value)
