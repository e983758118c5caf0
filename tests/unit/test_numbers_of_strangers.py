"""Numbers that people and clients write: digits that are none, and more of them than a database holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.app.runs.minding import find_run
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import NoSuch
from wattmill.units import whole_from
from wattmill.vocab.ids import request_id, split_request_id

LARGEST = 2**63 - 1  # of SQLite's integers


@given(st.text() | st.from_regex(r"\s*[-+]?\d+\s*"))
def test_whatever_is_written_is_a_number_that_a_database_holds_or_none(text: str) -> None:
    number = whole_from(text)
    assert number is None or (0 <= number <= LARGEST and text.isascii() and text.isdigit())


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_plain_numbers_are_read(text: str, number: int) -> None:
    assert whole_from(text) == number


@given(st.from_regex("[0-9a-f]{12}", fullmatch=True), st.integers(0, 2**60 - 1))
def test_an_id_is_read_as_it_was_made(epoch: str, seq: int) -> None:
    assert split_request_id(f" {request_id(epoch, seq)}\n") == (epoch, seq)


@pytest.mark.parametrize(
    "text",
    [
        "req_ffffffffffff_-1",
        "req_ffffffffffff_0x1f",
        "req_ffffffffffff_" + "f" * 16,
        "req_fffffffffff\u0661_1",
    ],
)
def test_what_no_gateway_made_is_no_id(text: str) -> None:
    assert split_request_id(text) is None


@pytest.mark.parametrize("text", ["9" * 20, "\u00b2", "\uff11"])
def test_a_run_of_an_odd_number_is_not_there(tmp_path: Path, text: str) -> None:
    with Control(tmp_path / "control.db") as control, pytest.raises(NoSuch, match=f"no run '{text}'"):
        find_run(control, text)
