"""What commands show where there is little room, and what names they survive."""

from __future__ import annotations

import time

import msgspec
import pytest

from wattmill.app.home import Home
from wattmill.app.running import load
from wattmill.app.seeing.board import Figures, Place, Spender
from wattmill.app.seeing.figure import Figure
from wattmill.app.seeing.figures import figures
from wattmill.cli import status
from wattmill.cli.control_door import columns_that_fit, points_in_line
from wattmill.cli.live_line import told
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import LimitState

HEADERS = ["key", "state", "models", "places"]
ROWS = [["demo/first-light/console", "active", "all", "all"], ["demo/load/load", "revoked", "all", "all"]]
LINE = {
    "host_w": "~64.9 W", "useful": "~4.5 %", "tok_per_s": "13.0 tok/s", "usd_per_mtok": "$0.0724 /Mtok",
    "j_per_tok": "~2.41 J/tok", "spend": "$0.0000718", "difference": "0",
}  # fmt: skip


@pytest.fixture
def f(tmp_path) -> Figures:
    home = Home(tmp_path)
    home.create()
    Control(home.control_db).close()
    found = figures(home, time.time_ns() // 1_000)
    line = [
        msgspec.structs.replace(
            item,
            figure=Figure(value=1.0, unit="", text=LINE[item.id].lstrip("~"), provenance="modelled")
            if item.id in LINE
            else item.figure,
        )
        for item in found.line
    ]
    return msgspec.structs.replace(found, line=line)


def test_the_live_line_is_whole_where_there_is_room(f):
    assert told(f) == told(f, 200)
    assert told(f).startswith("~64.9 W → useful ~4.5 % → ~13.0 tok/s → ")


@pytest.mark.parametrize("width", range(45, 120))
def test_a_narrow_live_line_fits_cuts_no_figure_and_keeps_money_and_books(f, width):
    text = told(f, width)
    assert len(text) <= width
    assert "spent ~$0.0000718" in text
    assert text.endswith("difference ~0")
    assert set(text.replace("ledger ", "").split(" → ")) <= set(told(f).replace("ledger ", "").split(" → "))


def test_a_table_that_fits_shows_every_column():
    assert columns_that_fit(HEADERS, ROWS, 80) == ([0, 1, 2, 3], [])


def test_a_table_that_does_not_fit_gives_up_only_columns_that_say_the_same_in_every_row():
    assert columns_that_fit(HEADERS, ROWS, 46) == ([0, 1, 2], [3])
    assert columns_that_fit(HEADERS, ROWS, 10) == ([0, 1], [2, 3])
    assert columns_that_fit(HEADERS, ROWS, 10, always=["models"]) == ([0, 1, 2], [3])
    assert columns_that_fit(HEADERS, ROWS[:1], 10) == ([0, 1, 2, 3], []), "one row is all there is to see"


def test_names_that_look_like_markup_are_shown_as_they_are(f, capsys):
    status._print(msgspec.structs.replace(f, name="a [/] b [red]c"))
    assert "a [/] b [red]c" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 119, 140])
def test_a_table_of_limits_is_whole_at_every_width(f, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    unit = [("requests", "minute", 60), ("total_tok", "day", 1_000_000), ("energy_uj", "life", 10**15)]
    limits = tuple(
        LimitState(
            id=n, node=2, unit=u, period=p, zone="UTC", amount=a, used=a // 3, reserved=7, idle=0,
            left=a - a // 3 - 7, resets_us=None if p == "life" else 1_795_910_400_000_000,
        )
        for n, (u, p, a) in enumerate(unit, 1)
    )  # fmt: skip
    nothing = Figure(value=None, unit="", text="–", provenance="unknown")
    spender = Spender(
        id=2, parent=1, depth=1, kind="team", name="demo/search", tone="a", today=nothing,
        tokens_today=nothing, used=nothing, cap=nothing, cap_used=nothing, limits=limits,
    )  # fmt: skip
    status._print(msgspec.structs.replace(f, spenders=[spender]))
    said = capsys.readouterr().out
    table = said[said.index("limit of") : said.index("process")]
    assert max(map(len, said.splitlines())) <= width and "…" not in table
    for text in ("60 requests per minute", "1000000 tokens per day", "333333", "20", "666660", "33"):
        assert text in table


@pytest.mark.parametrize("width", [60, 80, 99, 100, 119])
def test_no_word_of_the_table_of_places_is_folded_in_the_middle(f, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    told = {"tokens_out": "36.1 tok/s", "ttft_p50": "79.9 ms", "ttft_p95": "523 ms", "charge": "$0.0000461"}
    figures = {
        name: Figure(value=1.0, unit="", text=text, provenance="measured") for name, text in told.items()
    }
    busy = Figure(value=0, unit="", text="0", provenance="measured")
    nothing = Figure(value=None, unit="", text="–", provenance="unknown")
    fields = dict.fromkeys(Place.__struct_fields__, nothing) | figures | {"busy": busy, "healthy": True}
    names = {"place": "OpenAI", "pool": "cloud", "engine": "llama.cpp, smollm2-135m-instruct.q4_1"}
    place = Place(**(fields | names | {"stand_in": True, "breaker": None}))
    status._print(msgspec.structs.replace(f, places=[place]))
    said = capsys.readouterr().out
    for word in ("OpenAI", "(stand-in)", "cloud", "36.1 tok/s", "$0.0000461"):
        assert word in said
    assert ("llama.cpp" in said) == (width >= 100)


def test_the_scripted_work_visits_every_place_first(monkeypatch):
    sent = []
    monkeypatch.setattr(load, "send", lambda _url, _key, shape, _prompt: sent.append(shape.model))
    load.drive("", "", load.shapes("m", ["edge", "local", "cloud"]), seconds=0.2, rate_per_s=200, seed=1)
    assert set(sent[:3]) == {"edge/m", "local/m", "cloud/m"}
    assert "m" in sent[3:]


def test_amounts_of_a_column_have_their_points_below_each_other():
    rows = [["a", "5.000000"], ["b", "0.000004691"], ["c", "none"]]
    assert [row[1] for row in points_in_line(["who", "USD"], rows, ["USD"])] == [
        "5.000000   ", "0.000004691", "none"
    ]  # fmt: skip
