"""The tower and the sentence: shares that add up, flows that conserve, moods that follow the facts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from board_fixture import NOW_US, a_busy_factory, cell
from wattmill.app.seeing.figures import assemble
from wattmill.app.seeing.health import health
from wattmill.app.seeing.readings import Readings, Window, WorkerReading
from wattmill.web.live import delta

cells = st.lists(
    st.builds(
        cell,
        st.sampled_from(["edge", "local", "cloud", "new"]),
        st.sampled_from([4, 5, 99]),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.integers(0, 10**9),
        st.integers(0, 10**9),
        status=st.sampled_from(["finished", "aborted", "failed", "cut", "in_doubt"]),
    ),
    max_size=12,
)


def with_minute(made: list[Any]) -> Readings:
    r = a_busy_factory()
    assert r.books is not None
    return replace(r, books=replace(r.books, last_60s=Window(seconds=60, cells=made)))


@given(cells)
def test_parts_of_a_floor_are_the_whole_of_it(made: list[Any]) -> None:
    for floor in assemble(with_minute(made)).floors:
        assert bool(floor.parts) != bool(floor.missing), "a floor has parts or says what is missing"
        if floor.parts and floor.id != "power":
            assert sum(p.share for p in floor.parts) == pytest.approx(1)
            assert sum(p.figure.value or 0 for p in floor.parts) == pytest.approx(floor.total.value or 0)


@given(cells)
def test_ribbons_carry_what_leaves_a_part_and_no_more(made: list[Any]) -> None:
    f = assemble(with_minute(made))
    share = {p.id: p.share for floor in f.floors for p in floor.parts}
    out: dict[str, float] = {}
    into: dict[str, float] = {}
    for flow in f.flows:
        out[flow.source] = out.get(flow.source, 0) + flow.source_share
        into[flow.target] = into.get(flow.target, 0) + flow.target_share
    for part in share:
        floor = part.split("/")[0]
        if floor in ("models", "distribution"):
            assert out[part] == pytest.approx(share[part])
        if floor in ("distribution", "scheduling"):
            assert into[part] == pytest.approx(share[part])
        assert out.get(part, 0) <= share[part] + 1e-9 and into.get(part, 0) <= share[part] + 1e-9


def test_a_factory_that_never_ran_shows_dashes_and_the_command_that_helps() -> None:
    r = Readings(now_us=NOW_US, running=False, state=None, workers=[], nodes={}, budgets=[], books=None)
    f = assemble(r)
    assert f.health.mood == "unknown" and f.health.help == "wattmill up"
    assert all(item.figure.value is None for item in f.line)
    assert all(floor.missing for floor in f.floors)


def test_joules_that_a_provider_would_not_tell_stay_unknown() -> None:
    places = {p.pool: p for p in assemble(a_busy_factory()).places}
    assert places["cloud"].stand_in and places["cloud"].power.value is None
    assert (
        places["cloud"].energy_per_token.value is None and places["edge"].energy_per_token.value is not None
    )
    assert places["edge"].power.provenance == "modelled"


def without_the_near_cap(r: Readings) -> Readings:
    return replace(r, budgets=[b for b in r.budgets if b.name != "demo/load"])


def test_the_sentence_says_what_must_be_done_first() -> None:
    r = a_busy_factory()
    assert r.books is not None and r.state is not None
    assert health(r).sentence == "demo/load is at 92 % of its cap."
    calm = without_the_near_cap(r)
    assert health(calm).sentence == "All promises kept. Three places up, books balanced."
    books = r.books

    def told(**more: Any) -> tuple[str, str]:
        h = health(replace(calm, books=replace(books, **more)))
        return h.mood, h.sentence

    assert told(difference={"nusd": 5}) == ("act", "The books do not balance: nusd is off by 5.")
    assert told(in_doubt=2) == ("watch", "Two in doubt.")
    assert told(unmetered=1) == ("watch", "One unmetered.")
    assert told(lag_s=95.0)[0] == "watch"
    silent = replace(calm, workers=[WorkerReading(number=0, status=None)])
    assert health(silent).mood == "act" and "No gateway worker" in health(silent).sentence
    down = [{"pool": "edge", "healthy": False}, {"pool": "local", "healthy": True}]
    half = replace(calm, workers=[WorkerReading(number=0, status={"fleet": down})])
    assert (health(half).mood, health(half).sentence) == ("watch", "edge is down.")
    dead = replace(calm, workers=[WorkerReading(number=0, status={"fleet": down[:1]})])
    assert health(dead).mood == "act"
    late = replace(calm, now_us=r.state.at_us + 6_000_000)
    assert "silent" in health(late).sentence
    full = replace(calm, free_bytes=3_000_000)
    assert (health(full).mood, health(full).help) == ("act", "wattmill doctor")
    assert health(full).sentence == "The disk is full (3 MB left): what cannot be booked is refused."
    refused = replace(calm, state=replace(r.state, problem="wattmill.toml: pools.edge: no such key"))
    assert health(refused).mood == "act"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


def patched(state: Any, change: list[Any]) -> Any:
    path = change[0]
    if not path:
        return change[1]
    copy = list(state) if isinstance(state, list) else dict(state)
    if len(path) == 1 and len(change) == 1:
        del copy[path[0]]
    elif len(path) == 1:
        copy[path[0]] = change[1]
    else:
        copy[path[0]] = patched(copy[path[0]], [path[1:], *change[1:]])
    return copy


@given(json_values, json_values)
def test_a_state_and_its_delta_are_the_next_state(old: Any, new: Any) -> None:
    state = old
    for change in delta(old, new):
        state = patched(state, change)
    assert json.dumps(state) == json.dumps(new) or json.loads(json.dumps(state)) == json.loads(
        json.dumps(new)
    )
    assert delta(new, new) == []


def test_the_figures_fit_in_one_message() -> None:
    assert len(msgspec.json.encode(assemble(a_busy_factory()))) < 80_000
