"""Power limits over the admin API: a door for events in three formats, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from admin_rig import AdminRig, serving

from board_factory import BoardFactory
from wattmill.app.flexing.shelf import EventReport, Shelf
from wattmill.power.signal.spec import PowerEvent


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("power"), requests=2, busy_s=5.0)
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture
def admin(rig: AdminRig) -> Iterator[httpx.Client]:
    with rig.client() as client:
        yield client


def test_nobody_without_the_admin_token_may_take_power_away(rig: AdminRig) -> None:
    with httpx.Client(base_url=rig.url, trust_env=False) as stranger:
        assert stranger.post("/api/power/events", json={"limit_w": 1, "duration_s": 9}).status_code == 401
        assert stranger.get("/api/power").status_code == 401


def test_an_event_is_answered_with_its_id_and_whether_it_can_be_met(
    rig: AdminRig, admin: httpx.Client
) -> None:
    answer = admin.post(
        "/api/power/events",
        content=b'{"limit_w": 1, "duration_s": 60, "notice_s": 30}',
        headers={"content-type": "application/cloudevents+json"},  # what senders of DSX Flex say
    )
    assert answer.status_code == 202
    (event,) = answer.json()["events"]
    assert event["feasible"] is False and event["least_w"] > 1
    (message,) = Shelf(rig.factory.home).waiting()
    assert event["id"].encode() in message.read_bytes()
    message.unlink()


def test_a_message_that_is_wrong_is_refused_with_the_reason_and_lies_nowhere(
    rig: AdminRig, admin: httpx.Client
) -> None:
    answer = admin.post("/api/power/events", json={"reduce": 3, "duration_s": 60})
    assert answer.status_code == 400 and "at most 1" in answer.json()["error"]["message"]
    assert admin.post("/api/power/events", json={"id": "x" * 70_000}).status_code == 413
    assert Shelf(rig.factory.home).waiting() == []


def test_events_are_listed_shown_and_lifted(rig: AdminRig, admin: httpx.Client) -> None:
    shelf = Shelf(rig.factory.home)
    shelf.make()
    event = PowerEvent(id="e 1", told_s=2e9, start_s=2e9, end_s=2e9 + 60, limit_w=40.0)
    shelf.keep(EventReport(event=event, state="noticed", at_s=2e9, limit_w=40.0))
    found = admin.get("/api/power").json()
    assert [one["event"]["id"] for one in found["events"]] == ["e 1"]
    assert admin.get("/api/power/events/e 1").json()["limit_w"] == 40.0
    assert admin.get("/api/power/events/none").status_code == 404
    lifted = admin.delete("/api/power/events/e 1", headers={"content-type": "application/json"})
    assert lifted.status_code == 202
    (message,) = shelf.waiting()
    assert b'"lift":true' in message.read_bytes()
    message.unlink()


def test_the_power_state_is_told_as_dsx_flex(admin: httpx.Client) -> None:
    answer = admin.get("/api/power/dsx-flex")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/cloudevents+json"
    told = answer.json()
    assert told["type"] == "grid.powerstate.status.v1"
    assert told["data"]["feeds"]["factory"]["calculated_load"]["unit"] == "watt"
