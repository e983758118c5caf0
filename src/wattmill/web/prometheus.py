"""/metrics: Prometheus text, summed over workers; what dead workers counted stays in the sums."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from typing import Any

import msgspec

from wattmill.app.home import Home
from wattmill.app.seeing.board import Figures
from wattmill.app.seeing.factory_metrics import FACTORY_METRICS
from wattmill.app.seeing.readings import WorkerReading
from wattmill.app.seeing.tower import REST
from wattmill.distribution.metrics import METRICS, Metric, merge

NODES_MAX = 1_000

Snapshot = dict[str, Any]


class Memory:
    """The last word of each worker's life, kept in a file: sums only grow over restarts of any process."""

    def __init__(self, home: Home) -> None:
        self._path = home.run / "metrics.json"
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, Any]])
            self._dead: Snapshot = kept["dead"]
            self._last: dict[str, Snapshot] = kept["last"]
        except (OSError, msgspec.DecodeError, KeyError):
            self._dead, self._last = {}, {}

    def sum(self, workers: Iterable[WorkerReading], alive: Container[str]) -> Snapshot:
        """Return the sums of all lives of all workers; gauges only of those that answer now.

        Args:
            workers: who was asked, with or without an answer.
            alive: epochs whose writer lives. The others are folded into one sum.
        """
        answered = {str(w.metrics["epoch"]): w.metrics["metrics"] for w in workers if w.metrics}
        self._last |= answered
        over = [epoch for epoch in self._last if epoch not in answered and epoch not in alive]
        self._dead = merge([self._dead, *(_counters(self._last.pop(epoch)) for epoch in over)])
        if answered or over:
            self._keep()
        silent = [snapshot for epoch, snapshot in self._last.items() if epoch not in answered]
        return merge([self._dead, *answered.values(), *map(_counters, silent)])

    def _keep(self) -> None:
        draft = self._path.with_suffix(".tmp")
        try:
            draft.write_bytes(msgspec.json.encode({"dead": self._dead, "last": self._last}))
            os.replace(draft, self._path)
        except OSError:
            pass  # a full disk must not take the metrics away; sums restart with this app then


_KIND = {metric.name: metric.kind for metric in METRICS}


def _counters(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without its gauges: a dead worker holds nothing any more."""
    return {name: rows for name, rows in snapshot.items() if _KIND.get(name) != "gauge"}


def text(summed: Snapshot, figures: Figures) -> bytes:
    """Return the page in Prometheus' text format."""
    out: list[str] = []
    for metric in METRICS:
        _head(out, metric)
        for labels, value in summed.get(metric.name, ()):
            if isinstance(value, list):
                _histogram(out, metric, labels, value)
            else:
                out.append(f"{metric.name}{_labels(metric.labels, labels)} {_number(value)}")
    values = factory_values(figures)
    for metric in FACTORY_METRICS:
        _head(out, metric)
        for labels, value in values.get(metric.name, ()):
            out.append(f"{metric.name}{_labels(metric.labels, labels)} {_number(value)}")
    return ("\n".join(out) + "\n").encode()


def factory_values(f: Figures) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Return the values of `FACTORY_METRICS`; what is unknown has no sample, never a zero."""
    power = [(name, f.power[name]) for name in ("host", "idle", *REST)]
    power += [(place.pool, place.power) for place in f.places]
    tokens = next(item.figure for item in f.line if item.id == "tok_per_s")
    names: dict[int, str] = {}
    for s in f.spenders:
        names[s.id] = f"{names[s.parent]}/{s.name}" if s.parent in names else s.name
    found: dict[str, Sequence[tuple[tuple[str, ...], float | None]]] = {
        "wattmill_power_watts": [((name, fig.provenance), fig.value) for name, fig in power],
        "wattmill_tokens_per_second": [((), tokens.value)],
        "wattmill_ledger_difference": [((), f.books["difference"].value)],
        "wattmill_ledger_lag_seconds": [((), f.books["lag"].value)],
        "wattmill_in_doubt": [((), f.books["in_doubt"].value)],
        "wattmill_cap_used_ratio": [
            ((names[s.id],), s.cap_used.value) for s in f.spenders if s.kind != "key"
        ][:NODES_MAX],
        "wattmill_process_up": [((p.role,), float(p.state == "up")) for p in f.processes],
        "wattmill_process_restarts_total": [((p.role,), float(p.restarts)) for p in f.processes],
    }
    return {
        name: [(labels, value) for labels, value in rows if value is not None] for name, rows in found.items()
    }


def _head(out: list[str], metric: Metric) -> None:
    out += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]


def _histogram(out: list[str], metric: Metric, labels: list[str], value: list[float]) -> None:
    *counts, total = value
    running = 0.0
    for bound, count in zip((*map(str, metric.buckets), "+Inf"), counts, strict=True):
        running += count
        out.append(
            f"{metric.name}_bucket{_labels((*metric.labels, 'le'), [*labels, bound])} {_number(running)}"
        )
    out.append(f"{metric.name}_sum{_labels(metric.labels, labels)} {_number(total)}")
    out.append(f"{metric.name}_count{_labels(metric.labels, labels)} {_number(running)}")


def _labels(names: tuple[str, ...], values: Iterable[str]) -> str:
    pairs = [f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True)]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
