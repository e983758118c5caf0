"""What is learned of prompts: the true line is found, its limits hold, nothing seen moves nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.models.prompts import believed, fitted, seen


@pytest.mark.parametrize(("per_tok_s", "share"), [(4e-5, 1.0), (2e-4, 0.4), (1e-3, 0.0)])
def test_the_true_speed_and_share_are_found(per_tok_s: float, share: float) -> None:
    rng = random.Random(5)
    pace = believed(0.5 / per_tok_s)  # declared at half the true speed
    for _ in range(400):
        own, ahead = rng.uniform(100, 8_000), rng.choice((0.0, rng.uniform(0, 40_000)))
        seconds = per_tok_s * (own + share * ahead) * rng.uniform(0.9, 1.1)
        pace = seen(pace, own_tok=own, ahead_tok=ahead, seconds=seconds)
    assert pace.own_s == pytest.approx(per_tok_s, rel=0.15)
    assert pace.ahead_share == pytest.approx(share, abs=0.15)


def test_where_nothing_was_ever_ahead_nobody_is_thought_to_wait() -> None:
    pace = believed(1_000.0)
    for _ in range(500):
        pace = seen(pace, own_tok=3_000, ahead_tok=0, seconds=3.0)
    assert pace.ahead_share == 0.0
    assert pace.own_s == pytest.approx(0.001)


def test_one_stall_teaches_little() -> None:
    pace = believed(1_000.0)
    for _ in range(100):
        pace = seen(pace, own_tok=1_000, ahead_tok=0, seconds=1.0)
    stalled = seen(pace, own_tok=1_000, ahead_tok=0, seconds=600.0)
    assert stalled.own_s < 1.15 * pace.own_s


@given(
    st.floats(1.0, 1e6),
    st.lists(st.tuples(st.floats(1, 2e5), st.floats(0, 1e6), st.floats(1e-4, 600.0)), max_size=60),
)
def test_whatever_is_seen_the_line_stays_in_its_limits(
    tok_per_s: float, rows: list[tuple[float, float, float]]
) -> None:
    pace = believed(tok_per_s)
    for own, ahead, seconds in rows:
        pace = seen(pace, own_tok=own, ahead_tok=ahead, seconds=seconds)
        own_s, ahead_s = fitted(pace)
        assert 0.0999 / tok_per_s <= own_s <= 10.001 / tok_per_s
        assert 0.0 <= ahead_s <= own_s
