"""What people see of runs, and what they do about them: admin API, board, story of a request."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from admin_rig import AdminRig, serving

from board_factory import MODEL, BoardFactory
from wattmill.app.runs.bodies import NewRun
from wattmill.app.runs.opening import Opened, Terms, open_run
from wattmill.app.seeing.explain import explain
from wattmill.app.seeing.figures import figures
from wattmill.cli.explain import lines
from wattmill.vocab.fact import End, Intent, RunawaySeen
from wattmill.vocab.ids import Epoch, request_id
from wattmill.vocab.usage import Usage


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("runs"), requests=4, busy_s=10.0)
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture
def admin(rig: AdminRig) -> Iterator[httpx.Client]:
    with rig.client() as client:
        yield client


def opened(factory: BoardFactory, **asked: object) -> Opened:
    made = open_run(factory.control, factory.script.id, NewRun(**asked), None, Terms())  # type: ignore[arg-type]
    assert isinstance(made, Opened)
    return made


def test_a_run_is_listed_paused_topped_up_resumed_and_stopped(rig: AdminRig, admin: httpx.Client) -> None:
    run = opened(rig.factory, budget="0.01 USD", label="night watch")
    node = run.run.node
    (listed,) = admin.get("/api/runs").json()["runs"]
    assert listed["node"] == node and listed["label"] == "night watch" and listed["state"] == "open"
    assert run.id not in admin.get("/api/runs").text  # nobody but its client has the id
    paused = admin.post(f"/api/runs/{node}/pause", json={"reason": "lunch"}).json()
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    more = admin.post(f"/api/runs/{node}/top-up", json={"amount": "1 USD"}).json()
    assert more["state"] == "open" and more["budget"]["cap_nusd"] == 1_010_000_000
    for amount in ("1 token", "lots", "0 USD"):
        assert admin.post(f"/api/runs/{node}/top-up", json={"amount": amount}).status_code == 400
    assert admin.post(f"/api/runs/{node}/resume", json={}).json()["state"] == "open"
    assert admin.post(f"/api/runs/{node}/stop", json={}).json()["state"] == "stopped"
    assert admin.post(f"/api/runs/{node}/resume", json={}).status_code == 400
    assert admin.get("/api/runs").json()["runs"] == []
    assert [r["state"] for r in admin.get("/api/runs?all=1").json()["runs"]] == ["stopped"]
    assert admin.get("/api/runs/999999").status_code == 404


def test_the_board_shows_open_runs_and_keeps_them_out_of_the_tenants(
    rig: AdminRig, admin: httpx.Client
) -> None:
    run = opened(rig.factory, budget="0.01 USD")
    while not (board := admin.get("/api/figures").json())["runs"]:
        pass  # a reading is kept for half a second
    (shown,) = board["runs"]
    assert shown["node"] == run.run.node and shown["cap"]["value"] == 10_000_000
    assert {s["kind"] for s in board["spenders"]} == {"org", "team", "key"}


def test_a_request_in_a_run_is_its_keys_in_the_books_and_its_story_names_the_run(rig: AdminRig) -> None:
    factory = rig.factory
    run = opened(factory, budget="0.01 USD").run
    charged = sum(
        s.today.value or 0 for s in figures(factory.home, factory.now_us).spenders if s.kind == "key"
    )
    factory.seq += 1
    seq, at_us = factory.seq, factory.now_us - 1_000_000
    cost, charge = factory.prices["edge"]
    factory.gateway.append_intent(
        Intent(seq, seq, 0, at_us, run.path, "edge", MODEL, "chat", True, 900, 256, 900_000, cost.id,
               charge.id, below=1)
    )  # fmt: skip
    reason = "3 calls in a row end as one shortly before did"
    factory.gateway.append_note(
        RunawaySeen(seq, at_us, run.path, "near_identical", "repeats", 3, "warn", reason, 1)
    )
    factory.gateway.append_end(
        End(seq, at_us + 500_000, "finished", Usage(100, 10), "measured", 700, 1_000, started_us=at_us)
    )
    factory.book()
    id = request_id(Epoch(factory.gateway.epoch), seq)
    story = explain(factory.home, id)
    assert story.spender == "demo/load/script"
    assert story.runaway == (f"near_identical (repeats): {reason}; warn",)
    told = dict(lines(story))
    assert reason in told["runaway"]
    assert any(f"/{run.name} " in words for words in story.budget)
    now = figures(factory.home, factory.now_us)
    assert sum(s.today.value or 0 for s in now.spenders if s.kind == "key") == charged + 1_000
