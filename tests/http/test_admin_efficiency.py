"""Efficiency over HTTP and on the command line: one page, and rows behind each of its figures."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import msgspec
import pytest
from admin_rig import AdminRig, serving
from typer.testing import CliRunner

from board_factory import BoardFactory
from efficiency_facts import Life, write
from wattmill.cli.efficiency import efficiency_app


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("efficiency"), requests=80, busy_s=120.0)
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture(scope="module")
def page(rig: AdminRig) -> dict:
    with rig.client() as client:
        return client.get("/api/efficiency?back=15m").json()


def test_the_page_tells_both_chains_and_their_product(page: dict) -> None:
    capacity, watts = page["chains"]
    known = [stage["factor"]["value"] for stage in capacity["stages"] if stage["factor"]["value"] is not None]
    product = 1.0
    for factor in known:
        product *= factor
    assert capacity["factor"]["value"] == pytest.approx(product)
    assert capacity["unknown"] == ["availability", "SLO goodput", "accepted"]  # no view, no tier, no word
    assert {stage["factor"]["provenance"] for stage in watts["stages"]} == {"unknown", "modelled"}
    # 20 W idle of 49.1 W, 6.2 W of nobody, and the rest on requests but for what nobody worked in.
    shares = {stage["name"]: stage["factor"]["value"] for stage in watts["stages"]}
    assert shares["idle"] == pytest.approx(29.1 / 49.1, abs=1e-6)


def test_every_figure_leads_to_rows_that_can_be_taken_away(rig: AdminRig, page: dict) -> None:
    links = set()

    def look(part: object) -> None:
        if isinstance(part, dict):
            if {"value", "unit", "provenance"} <= set(part):
                assert part["rows"], part
                links.add(part["rows"])
            for inner in part.values():
                look(inner)
        elif isinstance(part, list):
            for inner in part:
                look(inner)

    look(page)
    assert len(links) > 12
    with rig.client() as client:
        for link in sorted(links):
            told = client.get(link)
            assert told.status_code == 200, link
            assert set(told.json()) >= {"kind", "title", "note", "columns", "rows"}, link
        retried = next(link for link in links if "/retried" in link)
        rows = client.get(retried).json()["rows"]
        assert rows and {row["lost_to"] for row in rows} == {"retried"}
        taken = client.get(retried + "&format=csv")
        assert taken.headers["content-type"].startswith("text/csv")
        assert len(taken.text.splitlines()) == len(rows) + 1


def test_what_cannot_be_answered_is_refused_in_words(rig: AdminRig) -> None:
    with rig.client() as client:
        for path, status in (
            ("/api/efficiency?back=soon", 400),
            ("/api/efficiency?back=40d", 400),
            ("/api/efficiency/rows/luck?since=0&until=1", 404),
            ("/api/efficiency/rows/idle?since=5&until=1", 400),
            ("/api/efficiency/rows/idle", 400),
        ):
            answered = client.get(path)
            assert answered.status_code == status and answered.json()["error"]["message"], path
    assert httpx.get(rig.url + "/api/efficiency", trust_env=False).status_code == 401


def test_the_command_prints_what_the_board_shows(rig: AdminRig, page: dict) -> None:
    home = str(rig.factory.home.root)
    told = CliRunner().invoke(efficiency_app, ["--home", home, "--since", "15m", "--json"])
    assert told.exit_code == 0, told.output
    own = msgspec.json.decode(told.stdout)
    assert [c["id"] for c in own["chains"]] == ["capacity", "watts"]
    assert [f["label"] for f in own["facts"]] == [f["label"] for f in page["facts"]]
    shown = CliRunner().invoke(efficiency_app, ["--home", home, "--since", "15m"])
    assert "Watts: from the grid to useful joules" in shown.stdout and "What would help most" in shown.stdout
    rows = CliRunner().invoke(efficiency_app, ["--home", home, "--since", "15m", "--rows", "retried"])
    assert rows.exit_code == 0 and "Attempts lost to: retried" in rows.stdout
    for wrong in (["--since", "soon"], ["--rows", "luck"], ["--home", home + "/none"]):
        refused = CliRunner().invoke(efficiency_app, ["--home", home, *wrong])
        assert refused.exit_code == 1 and refused.stderr.startswith("wattmill: ")


def test_a_factory_that_stands_still_is_judged_by_the_time_that_it_ran(tmp_path) -> None:
    write(tmp_path, Life())
    told = CliRunner().invoke(efficiency_app, ["--home", str(tmp_path), "--since", "31d", "--json"])
    assert told.exit_code == 0, told.output
    # Its facts are of another day: nothing of it lies in the last month.
    assert msgspec.json.decode(told.stdout)["chains"][0]["factor"]["value"] is None
