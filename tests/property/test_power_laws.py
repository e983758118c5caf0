"""The power law of accelerators: near full power at small batches, never beyond its limits, invertible."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.compute.catalogue import accelerator
from wattmill.compute.model import (
    LEAST_CLOCK,
    Node,
    PowerCurve,
    cap_for,
    curve_of,
    power_w,
    under_cap,
    wall_w,
)

batches = st.floats(0.0, 4096.0)
shares = st.floats(0.0, 1.0)


@dataclass(frozen=True)
class Draw:
    idle_w: float
    free_w: float


draws = st.builds(lambda idle, more: Draw(idle, idle + more), st.floats(0.0, 300.0), st.floats(50.0, 1500.0))


def test_decode_of_eight_sequences_draws_three_quarters_of_a_b200():
    # s = 1 / (1 + (0.5 / 8)^0.34) = 1 / (1 + 0.3896) = 0.7196; 140 + 860 x 0.7196 = 758.9 W of 1,000
    assert power_w(curve_of(accelerator("B200")), 8) == pytest.approx(758.9, abs=0.1)


def test_prompt_work_draws_the_limit_and_no_work_draws_idle():
    curve = curve_of(accelerator("H100"))
    assert power_w(curve, 0) == pytest.approx(98.0)
    assert power_w(curve, 1, prefill_share=1.0) == 700.0
    # half of the time each: (700 + decode) / 2
    assert power_w(curve, 8, prefill_share=0.5) == pytest.approx((700.0 + power_w(curve, 8)) / 2)


def test_a_node_adds_its_host_fans_and_supply():
    # (8 x 1000 + 800) x 1.10 / 0.94
    node = Node(gpus=8, host_w=800.0, fan_share=0.10, supply_efficiency=0.94)
    assert wall_w(node, 1000.0) == pytest.approx(10297.9, abs=0.1)


def test_a_cap_slows_only_what_the_clock_runs():
    # clock^2 = (424 - 100) / (1000 - 100) = 0.36; clock 0.6; 1 - 0.6 + 0.6 / 0.6 = 1.4
    capped = under_cap(free_w=1000.0, idle_w=100.0, cap_w=424.0, compute_share=0.6)
    assert capped.clock == pytest.approx(0.6)
    assert capped.slowdown == pytest.approx(1.4)
    assert capped.power_w == 424.0


def test_a_cap_below_the_laws_range_is_refused_with_the_least_one():
    with pytest.raises(ValueError, match="at least 325 W"):
        under_cap(free_w=1000.0, idle_w=100.0, cap_w=300.0, compute_share=0.6)


@given(batches, batches, shares)
def test_more_sequences_never_draw_less_and_stay_within_the_limits(few, many, share):
    curve = PowerCurve(idle_w=140.0, limit_w=900.0, prefill_w=880.0)
    low, high = sorted((few, many))
    first, second = (power_w(curve, b, prefill_share=share) for b in (low, high))
    assert curve.idle_w - 1e-9 <= first <= second + 1e-9 <= curve.limit_w + 2e-9


@given(draws, shares, st.floats(0.3, 1.2))
def test_a_cap_is_never_exceeded_and_never_speeds_up(draw, compute, part):
    cap = draw.idle_w + (draw.free_w - draw.idle_w) * part
    capped = under_cap(free_w=draw.free_w, idle_w=draw.idle_w, cap_w=cap, compute_share=compute)
    assert capped.power_w <= max(cap, 0.0) + 1e-9
    assert capped.slowdown >= 1.0
    assert LEAST_CLOCK <= capped.clock <= 1.0


@given(draws, st.floats(0.05, 1.0), st.floats(1.0, 1.04))
def test_the_cap_for_a_slowdown_gives_that_slowdown(draw, compute, slowdown):
    cap = cap_for(free_w=draw.free_w, idle_w=draw.idle_w, slowdown=slowdown, compute_share=compute)
    again = under_cap(free_w=draw.free_w, idle_w=draw.idle_w, cap_w=cap, compute_share=compute)
    assert again.slowdown <= slowdown + 1e-6
    if again.clock > LEAST_CLOCK + 1e-6:
        assert again.slowdown == pytest.approx(slowdown, abs=1e-6)


def test_a_curve_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="idle_w < limit_w"):
        PowerCurve(idle_w=800.0, limit_w=700.0, prefill_w=700.0)
    with pytest.raises(ValueError, match="no published power limit"):
        curve_of(accelerator("TPU-v5e"))
    with pytest.raises(ValueError, match="at or below"):
        curve_of(accelerator("H100"), cap_w=90.0)
