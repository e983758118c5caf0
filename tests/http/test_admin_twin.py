"""The twin's results over HTTP: behind the token, as they were kept, with rows to take away."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from admin_rig import AdminRig, serving

from board_factory import BoardFactory
from twin_results import fill


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("twin"), requests=4, busy_s=10.0)
    with serving(factory) as rig:
        yield rig
    factory.close()


def test_an_empty_room_says_which_command_fills_it(rig: AdminRig) -> None:
    with rig.client() as client:
        told = client.get("/api/twin").json()
        assert told["calibrations"] == [] and told["results"] == []
        assert {kind for kind, _, _ in told["commands"]} == {"check", "simulate", "plan"}
        figure = client.get("/api/figures").json()["twin"]
        assert figure["value"] is None and "wattmill twin calibrate" in figure["note"]


def test_results_are_listed_told_and_taken_away(rig: AdminRig) -> None:
    ids = fill(rig.factory.home.root, rig.factory.now_us)
    with rig.client() as client:
        told = client.get("/api/twin").json()
        assert [r["kind"] for r in told["results"]] == ["plan", "simulate", "check"]
        assert told["calibrations"][0]["check"] == ids["check"]
        sheet = client.get(f"/api/twin/results/{ids['simulate']}").json()
        assert [c["id"] for c in sheet["charts"]] == ["batch", "queue", "power"]
        x, y = sheet["charts"][0]["sides"]
        assert x["low"] <= 0.0 and x["high"] >= 599.0 and y["ticks"][0] == [0.0, "0"]
        assert all(c["x"]["provenance"] == "modelled" for c in sheet["charts"])
        rows = client.get(f"/api/twin/results/{ids['check']}/figures").json()
        assert len(rows["rows"]) == 10 and rows["next"] is None
        taken = client.get(f"/api/twin/results/{ids['check']}/speed?format=csv")
        assert taken.headers["content-disposition"].endswith('"wattmill-check-speed.csv"')
        assert (
            taken.text.splitlines()[0]
            == 'series,point,"measured, tok/s (measured)","predicted, tok/s (modelled)"'
        )


@pytest.mark.parametrize(
    "path", ["/api/twin/results/20270115T080000.000000-plan", "/api/twin/results/..%2f..%2fadmin.token"]
)
def test_what_is_not_there_is_named(rig: AdminRig, path: str) -> None:
    with rig.client() as client:
        assert client.get(path).status_code == 404


def test_nobody_reads_results_without_the_token(rig: AdminRig) -> None:
    for path in ("/api/twin", "/api/twin/results/20270115T080000.000000-plan"):
        assert httpx.get(rig.url + path, trust_env=False).status_code == 401
