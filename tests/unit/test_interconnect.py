"""Links: reach, watts, seconds and failures by hand; the meter closes; less for optics is more for tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from wattmill.site.interconnect.media import media
from wattmill.site.interconnect.model import (
    answered,
    chosen,
    copper_reach_m,
    delay_s,
    exchange_s,
    failures_of,
    hand_over_s,
    port_w,
    with_the_same_watts,
)
from wattmill.site.interconnect.spec import Accelerator, Exchange, Fabric, HandOver, Question, Tier

KNOWN = media()
PLUGGABLE, PACKAGED = KNOWN["pluggable"], KNOWN["co-packaged"]
FABRIC = Fabric(gbps=800.0, tiers=(Tier(name="leaf", length_m=20.0), Tier(name="spine", length_m=100.0)))
QUESTION = Question(
    name="q",
    mw=10.0,
    site="",
    fabric=FABRIC,
    accelerator=Accelerator(name="a", w=1700.0, compute_s=0.02, tok_per_step=100.0),
    exchange=Exchange(collective="all-to-all", bytes_each=1e9, group=64, times=100),
)


def test_a_port_of_1600_gbps_takes_30_watts_pluggable_and_9_co_packaged() -> None:
    assert port_w(PLUGGABLE, 1600) == pytest.approx(30.0)
    assert port_w(PACKAGED, 1600) == pytest.approx(9.0)


def test_copper_reaches_two_metres_at_106_gbps_a_lane_and_less_than_one_and_a_half_at_224() -> None:
    assert copper_reach_m(106.24) == pytest.approx(2.0)
    assert copper_reach_m(224.0) == pytest.approx(2.0 * (26.56 / 56.0) ** 0.5)
    assert 1.0 < copper_reach_m(224.0) < 1.5  # the standard asks for 1 m


def test_copper_is_taken_where_it_reaches_and_optics_elsewhere() -> None:
    assert chosen(Tier(name="t", length_m=0.9), PLUGGABLE, KNOWN).name == "copper"
    assert chosen(Tier(name="t", length_m=2.0), PLUGGABLE, KNOWN).name == "active copper"
    assert chosen(Tier(name="t", length_m=3.0), PLUGGABLE, KNOWN).name == "pluggable"
    with pytest.raises(ValueError, match="tier t: pluggable reaches 500 m of 600 m"):
        chosen(Tier(name="t", length_m=600.0), PLUGGABLE, KNOWN)


def test_a_ring_sends_nearly_twice_its_bytes_and_an_all_to_all_nearly_once() -> None:
    # 1 GB over 800 Gb/s is 10 ms; eight members: 2 x 7/8 and 7/8 of it, and 14 messages or one.
    ring = Exchange(collective="all-reduce", bytes_each=1e9, group=8)
    everyone = Exchange(collective="all-to-all", bytes_each=1e9, group=8)
    assert exchange_s(ring, gbps=800, message_s=1e-6) == pytest.approx(0.0175 + 14e-6)
    assert exchange_s(everyone, gbps=800, message_s=1e-6) == pytest.approx(0.00875 + 1e-6)
    hidden = replace(everyone, hidden=0.5, times=2)
    assert exchange_s(hidden, gbps=800, message_s=1e-6) == pytest.approx((0.00875 + 2e-6) / 2)


def test_keys_and_values_of_a_prompt_take_their_bits_over_the_rate() -> None:
    over = HandOver(prompt_tok=8000, bytes_per_tok=70272.0, ways=8)
    assert hand_over_s(over, gbps=800, message_s=0) == pytest.approx(8000 * 70272 * 8 / 6.4e12)


def test_an_empty_message_takes_light_and_chips_up_and_down() -> None:
    # Links 2 x (20 m x 4.9 ns + 150) + 2 x (100 m x 4.9 + 150) = 1,776 ns; then three switches of 500.
    assert delay_s(FABRIC, [PLUGGABLE, PLUGGABLE]) == pytest.approx(3276e-9)


def test_the_meter_closes_and_the_watts_that_optics_leave_make_tokens() -> None:
    # Two tiers, four ports of 15 W or 4.5 W, two passes of a switch at 4 W; 10 MW at 1.1: by hand.
    first, second = (answered(QUESTION, kind, KNOWN, overhead=1.1) for kind in (PLUGGABLE, PACKAGED))
    assert first.network_w_each == pytest.approx(4 * 15 + 2 * 4)
    assert second.network_w_each == pytest.approx(4 * 4.5 + 2 * 4)
    assert first.accelerators == int(10e6 / ((1700 + 68) * 1.1))
    assert first.gap < 1e-12 and second.gap < 1e-12
    assert second.tok_per_s > first.tok_per_s
    assert second.j_per_tok == pytest.approx(first.j_per_tok * 1726 / 1768, rel=2e-3)


def test_the_same_watts_carry_more_bits_over_co_packaged_optics() -> None:
    # (2 x 2 x 18.75 + 2 x 5) / (2 x 2 x 5.625 + 2 x 5) = 85 / 32.5.
    rate = with_the_same_watts(QUESTION, PACKAGED, PLUGGABLE, KNOWN)
    assert rate == pytest.approx(800 * 85 / 32.5)
    way = answered(QUESTION, PACKAGED, KNOWN, overhead=1.1, gbps=rate)
    assert way.network_w_each == pytest.approx(68.0)


def test_a_link_needs_both_of_its_ports() -> None:
    """100 accelerators with a link each: 200 ports that fail once a year, each 10 h of an accelerator."""
    medium = replace(PLUGGABLE, mtbf_h=8760.0, repair_h=10.0, ports_per_failure=1)
    assert failures_of([(2.0, medium)], 100) == (pytest.approx(200.0), pytest.approx(2000.0))


def test_fewer_failures_may_still_cost_more_hours_where_a_failure_takes_more_with_it() -> None:
    first, second = (answered(QUESTION, kind, KNOWN, overhead=1.1) for kind in (PLUGGABLE, PACKAGED))
    assert second.failures_per_year < first.failures_per_year
    assert second.lost_accelerator_h_per_year > first.lost_accelerator_h_per_year


@given(st.floats(100, 3200), st.floats(1, 100), st.floats(1.0, 1.6), st.sampled_from([PLUGGABLE, PACKAGED]))
def test_nothing_is_lost_between_meter_and_chip(
    gbps: float, mw: float, overhead: float, kind: object
) -> None:
    way = answered(replace(QUESTION, mw=mw), kind, KNOWN, overhead=overhead, gbps=gbps)  # type: ignore[arg-type]
    assert way.gap < 1e-9
    assert way.meter_w <= mw * 1e6
    assert way.j_per_tok * way.tok_per_s == pytest.approx(way.meter_w)
