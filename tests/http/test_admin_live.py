"""What flows: server-sent deltas that add up to the figures, and metrics that never go backwards."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from admin_rig import AdminRig, serving
from msgspec.structs import replace

from board_factory import BoardFactory
from board_fixture import a_busy_factory
from wattmill.app.declared.tier_settings import PRESETS
from wattmill.app.home import Home
from wattmill.app.seeing.factory_metrics import FACTORY_METRICS
from wattmill.app.seeing.figures import assemble
from wattmill.app.seeing.readings import WorkerReading
from wattmill.distribution.metrics import BY_NAME, METRICS
from wattmill.distribution.privacy.patterns import BUILT_IN
from wattmill.ledger.stores.control_records import Node
from wattmill.vocab.refusal import CODES
from wattmill.vocab.request import ENTRIES
from wattmill.vocab.usage import TOKEN_CLASSES
from wattmill.web.prometheus import Memory, text


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("live"), requests=40, busy_s=60)
    with serving(factory) as rig:
        yield rig
    factory.close()


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for row in answer.iter_lines():
        if row.startswith("event: "):
            name = row[7:]
        elif row.startswith("data: "):
            yield name, json.loads(row[6:])


def patched(state: Any, change: list[Any]) -> Any:
    path = change[0]
    if not path:
        return change[1]
    copy = list(state) if isinstance(state, list) else dict(state)
    if len(path) == 1 and len(change) == 1:
        del copy[path[0]]
    else:
        inner = copy[path[0]] if not isinstance(copy, dict) or path[0] in copy else {}
        copy[path[0]] = patched(inner, [path[1:], *change[1:]])
    return copy


def test_a_full_state_and_its_deltas_are_the_figures(rig: AdminRig) -> None:
    with rig.client() as admin, admin.stream("GET", "/api/live", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer)
        name, first = next(told)
        assert name == "full" and set(first) == {"figures", "trends"}
        state = first["figures"]
        assert set(first["trends"]) == {item["id"] for item in state["line"]}
        rig.factory.write_state(host_w=61.5)
        for name, changes in told:
            if name == "delta":
                for change in changes:
                    state = patched(state, change)
                if state["power"]["host"]["value"] == 61.5:
                    break
        with rig.client() as other:
            now = other.get("/api/figures").json()
    state["recent"], now["recent"] = [], []
    assert {**state, "at_us": 0, "processes": []} == {**now, "at_us": 0, "processes": []}


def test_many_watchers_share_one_reading(rig: AdminRig) -> None:
    firsts: list[int] = []

    def watch() -> None:
        with rig.client() as admin, admin.stream("GET", "/api/live", timeout=10) as answer:
            told = events(answer)
            firsts.append(next(told)[1]["figures"]["at_us"])

    threads = [threading.Thread(target=watch) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert len(firsts) == 8 and len(set(firsts)) <= 3


def samples(page: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for row in page.splitlines():
        if row and not row.startswith("#"):
            name, _, value = row.rpartition(" ")
            assert name not in out, f"{name} stands twice"
            out[name] = float(value)
    return out


def test_the_metrics_page_is_what_the_workers_count(rig: AdminRig) -> None:
    page = httpx.get(f"{rig.url}/metrics", trust_env=False).text
    found = samples(page)
    ended = {k: v for k, v in found.items() if k.startswith("wattmill_attempts_total")}
    assert sum(ended.values()) == sum(
        v for (name, *_), v in rig.factory.counted.items() if name == "wattmill_attempts_total"
    )
    assert found["wattmill_ledger_difference"] == 0
    assert (
        found['wattmill_ttft_seconds_bucket{pool="edge",le="+Inf"}']
        == found['wattmill_ttft_seconds_count{pool="edge"}']
    )
    names = {m.name: m for m in (*BY_NAME.values(), *FACTORY_METRICS)}
    for name in found:
        base, _, labels = name.partition("{")
        metric = names.get(base) or names[re.sub(r"_(bucket|sum|count)$", "", base)]
        given = re.findall(r'(\w+)="', labels)
        assert tuple(g for g in given if g != "le") == metric.labels
    assert page.count("# TYPE ") == len(names)


def told(epoch: str, refused: int) -> WorkerReading:
    metrics = {"wattmill_refusals_total": [[["privacy"], refused]], "wattmill_in_flight": [[[], 3]]}
    return WorkerReading(number=0, status={}, metrics={"epoch": epoch, "metrics": metrics})


def refusals(snapshot: dict[str, Any]) -> float:
    return sum(value for _, value in snapshot["wattmill_refusals_total"])


def test_what_a_dead_worker_counted_stays_in_the_sum(home: Home) -> None:
    memory = Memory(home)
    assert refusals(memory.sum([told("a" * 12, 5)], {"a" * 12})) == 5
    silent = WorkerReading(number=0, status=None)
    assert refusals(memory.sum([silent], {"a" * 12})) == 5, "slow is not dead"
    assert refusals(memory.sum([silent], set())) == 5, "dead is not forgotten"
    summed = memory.sum([told("b" * 12, 2)], {"b" * 12})
    assert refusals(summed) == 7
    assert summed["wattmill_in_flight"] == [[[], 3]], "a dead worker has nothing in flight"
    reborn = Memory(home)
    assert refusals(reborn.sum([told("b" * 12, 2)], {"b" * 12})) == 7, "the admin app died in between"


def test_the_page_stays_small_with_many_places_and_tenants() -> None:
    r = a_busy_factory()
    assert r.state is not None
    closed = {
        "endpoint": ENTRIES,
        "status": ("2xx", "4xx", "5xx", "gone"),
        "class": TOKEN_CLASSES,
        "code": CODES,
        "kind": ("near_identical", "context_growth", "fan_out", "retry_storm"),
        "action": ("warn", "slow", "pause", "stop", "redact", "raise"),
        "outcome": ("started", "refused", "won", "lost", "admitted", "full", "timeout", "gone"),
        "tier": (*PRESETS, "batch"),
        "pattern": (*BUILT_IN, *(f"own-{n}" for n in range(50))),
    }
    closed["pool"] = [f"place-{n}" for n in range(100)]
    snapshot = {
        m.name: [
            [list(labels), [1.0] * (len(m.buckets) + 2) if m.buckets else 1.0]
            for labels in itertools.product(*(closed[label] for label in m.labels))
        ]
        for m in METRICS
    }
    nodes = {
        id: Node(id=id, parent=1, kind="team", name=f"team-{id}", cap_nusd=9, created_us=0)
        for id in range(2, 5_000)
    }
    page = text(snapshot, assemble(replace(r, nodes={**nodes, 1: r.nodes[1]})))
    assert len(page) < 1_000_000
