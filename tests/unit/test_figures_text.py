"""How a figure reads: unit always, three digits, money exact enough, absent is a dash."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from wattmill.app.seeing.figure import DASH, UNITS, figure, significant


def test_figures_read_like_this() -> None:
    values = (
        (49.312, "w"), (1234, "w"), (0, "w"), (0.034, "s"), (1.2345, "s"), (400, "s"), (0.0412, "ratio"),
        (0.923, "ratio"), (93.14, "tok_per_s"), (9_876, "tok_per_s"), (123_456, "tok_per_s"),
        (0.3829, "j_per_tok"), (41_700_000, "uj"), (0, "count"),
    )  # fmt: skip
    assert [figure(value, unit).text for value, unit in values] == snapshot(
        [
            "49.3 W", "1.23 kW", "0 W", "34.0 ms", "1.23 s", "6.67 min", "4.1 %", "92 %",
            "93.1 tok/s", "9,876 tok/s", "123 ktok/s", "0.383 J/tok", "41.7 J", "0",
        ]
    )  # fmt: skip


def test_money_shows_three_digits_that_matter_and_cents_from_a_dollar_on() -> None:
    amounts = (0, 1, 31_000, 35_700_000, 999_999_999, 12_345_678_901_234, -42_000)
    assert [figure(nusd, "nusd").text for nusd in amounts] == snapshot(
        ["$0", "$0.000000001", "$0.0000310", "$0.0357", "$1.00", "$12,345.68", "−$0.0000420"]
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash_and_never_a_zero(unit: str, absent: float | None) -> None:
    f = figure(absent, unit, provenance="measured")
    assert f.value is None and f.text == DASH and f.provenance == "unknown"


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_text_is_within_half_a_percent_of_its_value(value: float) -> None:
    assert float(significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@given(st.sampled_from(sorted(UNITS)), st.floats(min_value=0, max_value=1e15))
def test_every_figure_has_a_text_with_a_digit(unit: str, value: float) -> None:
    text = figure(value, unit).text
    assert any(c.isdigit() for c in text) and "e+" not in text and "nan" not in text
