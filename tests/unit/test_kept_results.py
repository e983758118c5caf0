"""What long commands found stays in the factory's folder, whole, bounded, and as it was told."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from twin_results import a_calibration, a_check, a_plan, a_report, a_simulation, fill, same
from wattmill.app.results.room import room
from wattmill.app.results.sheet import plain_rows
from wattmill.app.results.shelf import KEPT, Shelf
from wattmill.cli.simulate import show_report
from wattmill.twin.calibration.kept import keep, path_of
from wattmill.twin.plots.chart import MOST_POINTS, Axis, Chart, Series, picture, sides, thin

NOW = 1_800_000_000_000_000


def test_a_kept_sheet_comes_back_as_it_was(tmp_path: Path):
    shelf = Shelf(tmp_path)
    for make in (a_check, a_simulation, a_plan):
        sheet = make(NOW)
        found = shelf.sheet(shelf.keep(sheet))
        assert found is not None and same(found, sheet)
    assert {stat.S_IMODE(path.stat().st_mode) for path in shelf.folder.iterdir()} == {0o600}


def test_two_results_of_one_instant_are_both_kept(tmp_path: Path):
    shelf = Shelf(tmp_path)
    assert shelf.keep(a_plan(NOW)) != shelf.keep(a_plan(NOW))
    assert len(shelf.briefs()) == 2


def test_the_oldest_of_a_kind_go_and_other_kinds_stay(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf.keep(a_check(NOW - 1))
    for n in range(KEPT + 3):
        shelf.keep(a_plan(NOW + n))
    briefs = shelf.briefs()
    assert [b.kind for b in briefs].count("plan") == KEPT and briefs[-1].kind == "check"
    assert briefs[0].at_us == NOW + KEPT + 2 and briefs[-2].at_us == NOW + 3


@pytest.mark.parametrize("id", ["../outside", "20270115T080000.000000-plan/..", "", "x", "a" * 300])
def test_an_id_is_no_path(tmp_path: Path, id: str):
    shelf = Shelf(tmp_path)
    kept = shelf.folder / f"{shelf.keep(a_plan(NOW))}.json"
    (shelf.folder.parent / "outside.json").write_bytes(kept.read_bytes())
    assert shelf.sheet(id) is None


def test_a_spoilt_file_hides_nothing_else(tmp_path: Path):
    shelf = Shelf(tmp_path)
    kept, spoilt = shelf.keep(a_plan(NOW)), shelf.keep(a_plan(NOW + 5))
    (shelf.folder / f"{spoilt}.json").write_bytes(b"{half")
    assert [b.id for b in shelf.briefs()] == [kept] and shelf.sheet(spoilt) is None


def test_the_room_says_what_was_fitted_and_what_its_last_check_came_to(tmp_path: Path):
    ids = fill(tmp_path, NOW)
    told = room(tmp_path, Shelf(tmp_path))
    (one,) = told.calibrations
    assert one.check == ids["check"] and one.held is not None
    assert one.held.startswith("4 of 10 figures within max(10%, spread of the repeats); median error 16.7%")
    assert not one.stale and one.facts[0].figure.value == 0.167
    keep(tmp_path, a_calibration(NOW, checked_us=NOW - 10))
    assert room(tmp_path, Shelf(tmp_path)).calibrations[0].stale
    path_of(tmp_path, "broken").write_text("[]")
    assert len(room(tmp_path, Shelf(tmp_path)).calibrations) == 1


def test_rows_behind_a_chart_are_its_points_and_columns_say_units():
    sheet = a_check(NOW)
    title, columns, rows = plain_rows(sheet, "ttft") or ("", [], [])
    assert title == "Time to the first token"
    assert columns == ["series", "point", "measured, s (measured)", "predicted, s (modelled)"]
    assert rows[3] == dict(zip(columns, ("first token p95", "load 0.9", 3.2, 2.11), strict=True))
    _, columns, rows = plain_rows(a_simulation(NOW), "places") or ("", [], [])
    assert "requests, count" in columns and rows[0]["busy, ratio"] == 0.95 and rows[1]["busy, ratio"] is None
    assert plain_rows(sheet, "nothing") is None


def test_what_binds_is_the_place_without_time_and_the_most_frequent_refusal():
    says = a_simulation(NOW).says
    assert "own had no more time" in says and "cloud had" not in says and "context_too_long" in says


def test_what_engines_did_besides_serving_is_told_of_the_pools_that_did_it():
    own = [note for note in a_simulation(NOW).notes if note.startswith("own: ")]
    assert own == [
        "own: 2 failures took 280 tokens given and 12 J.",
        "own: prompts on 1 of its replicas: 450 hand-overs, 72.6 GB, 1.7 ms of waiting for a link, 2.8% "
        "busy.",
        "own: 3 tokens drafted, each accepted at 70%: 2.533 tokens a step by the law, 2.543 in 36,069 drawn "
        "steps.",
    ]
    assert not any(note.startswith("cloud: ") for note in a_simulation(NOW).notes)


def test_tokens_that_cost_more_than_the_hours_are_told_and_not_left_as_an_idle_below_nothing(capsys):
    report = a_report()
    own, cloud = report.pools
    show_report(report)
    assert "more than its hours" not in capsys.readouterr().out
    busy = msgspec.structs.replace(own, idle_usd=-0.25)
    show_report(msgspec.structs.replace(report, pools=(busy, cloud)))
    assert "own: its tokens cost 0.250000 USD more than its hours" in capsys.readouterr().out


def test_a_thinned_line_keeps_its_peaks_and_its_end():
    points = [(float(t), 100.0 if t == 7_777 else float(t % 3)) for t in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= MOST_POINTS and (7_777.0, 100.0) in thinned
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thin(points[:50]) == tuple(points[:50])


def test_both_axes_of_a_comparison_are_alike_and_begin_at_nothing():
    axis = Axis(label="x", unit="s", provenance="measured")
    chart = Chart(
        id="c", kind="scatter", title="t", says="s", x=axis, y=axis, diagonal=True,
        series=(Series(name="a", points=((2.0, 3.0), (4.0, 9.0))),),
    )  # fmt: skip
    x, y = sides(chart)
    assert x == y and x.low == 0.0 and x.high > 9.0
    drawn = picture(chart)
    assert "x, s (measured)" in drawn and drawn.count("<circle") == 2


def test_a_file_is_drawn_as_the_board_draws_it():
    """Names along an axis, room about the outermost points, millions in few signs."""
    chart = Chart(
        id="c", kind="scatter", title="t", says="s",
        x=Axis(label="cost", unit="$", provenance="modelled"),
        y=Axis(label="tier", unit="from below", provenance="declared", names=("free", "paid")),
        series=(Series(name="a", points=((2e6, 1.0), (4e6, 2.0))),),
    )  # fmt: skip
    drawn = picture(chart)
    assert all(f">{words}</text>" in drawn for words in ("free", "paid", "tier", "3 M"))
    places = [float(x) for x in re.findall(r'<circle cx="([0-9.]+)"', drawn)]
    left, right = 64.0, 610.0
    assert left + 10 < min(places) and max(places) < right - 10


def test_the_room_needs_no_numerics():
    """The admin process stays small: what is heavy ran elsewhere."""
    code = (
        "import sys, wattmill.web.admin; "
        "print(sorted({'numpy', 'numba', 'scipy', 'highspy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sheet_is_small():
    assert len(msgspec.json.encode(a_simulation(NOW))) < 100_000
