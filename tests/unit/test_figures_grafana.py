"""The Grafana dashboard asks only for series that /metrics has, with labels that they carry."""

from __future__ import annotations

import importlib.resources
import json
import re

import pytest

from wattmill.app.seeing.factory_metrics import FACTORY_METRICS
from wattmill.distribution.metrics import METRICS

DASHBOARD = json.loads((importlib.resources.files("wattmill") / "data" / "grafana.json").read_text())
QUERIES = [(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p["targets"]]
SERIES = {m.name: m for m in (*METRICS, *FACTORY_METRICS)}
SERIES |= {
    f"{m.name}_{part}": m for m in METRICS if m.kind == "histogram" for part in ("bucket", "sum", "count")
}


@pytest.mark.parametrize(("panel", "expr"), QUERIES)
def test_a_query_names_a_series_and_labels_that_exist(panel: str, expr: str) -> None:
    names = re.findall(r"wattmill_\w+", expr)
    assert names, panel
    for name in names:
        assert name in SERIES, f"{panel}: {name} is not in the metric table"
        labels = (*SERIES[name].labels, "le") if name.endswith("_bucket") else SERIES[name].labels
        asked = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expr)
        grouped = [
            label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")
        ]
        for label in (*asked, *grouped):
            assert label in labels, f"{panel}: {name} has no label {label}"


def test_a_rate_is_of_a_counter_or_a_histogram() -> None:
    for panel, expr in QUERIES:
        for name in re.findall(r"(?:rate|increase)\((wattmill_\w+)", expr):
            assert SERIES[name].kind in ("counter", "histogram"), f"{panel}: {name}"


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
