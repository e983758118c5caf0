"""What the offline law has to beat on the same folds: a look-up table, and plain gradient boosting."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np

from wattmill.twin.law.rivals import boost
from wattmill.twin.offline.rows import OfflineRow


def looked_up(train: Sequence[OfflineRow], measured: Any, asked: Sequence[OfflineRow]) -> Any:
    """Return ln(tokens/s and device) of the nearest training row: another model, accelerator, engine or
    scenario counts 4, 3, 2 and 2, a factor of e in a length, split or device count 1."""
    names, sizes = _columns(train)
    weights = np.array([4.0, 3.0, 2.0, 2.0])
    found = np.empty(len(asked))
    for at, (name, size) in enumerate(zip(*_columns(asked), strict=True)):
        distance = (names != name).astype(float) @ weights + np.abs(sizes - size).sum(axis=1)
        found[at] = measured[int(np.argmin(distance))]
    return found


def boosted(train: Sequence[OfflineRow], measured: Any, asked: Sequence[OfflineRow]) -> Any:
    """Return ln(tokens/s and device) by gradient boosting on recorded columns and datasheet figures."""
    known = [sorted(set(column)) for column in _columns(train)[0].T]
    return boost(_design(train, known), np.asarray(measured), _design(asked, known))


def _columns(rows: Sequence[OfflineRow]) -> tuple[Any, Any]:
    names, sizes = [], []
    for row in rows:
        split = row.splits[0]
        names.append([row.architecture.name, row.accelerator.name, row.engine, row.scenario])
        sizes.append([log(n) for n in (row.isl, row.osl, row.gpus, split.tp, split.pp, split.attn_dp)])
    return np.array(names), np.array(sizes)


def _design(rows: Sequence[OfflineRow], known: Sequence[Sequence[str]]) -> Any:
    names, sizes = _columns(rows)
    one_hot = [names[:, at] == name for at, column in enumerate(known) for name in column]
    datasheet = [
        [
            log(row.accelerator.flop_per_s(row.weight_bits)),
            log(row.accelerator.bandwidth_bytes_per_s),
            log(row.accelerator.memory_bytes),
            log(row.architecture.params),
            log(row.architecture.active_params),
            log(max(row.architecture.kv_elements(1024.0), 1.0)),
            row.weight_bits,
        ]
        for row in rows
    ]
    return np.column_stack([sizes, datasheet, *one_hot]).astype(float)
