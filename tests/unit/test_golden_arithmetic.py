"""The sums that every planner must get right, to the last printed digit, each with its boundary named."""

from __future__ import annotations

import pytest

from wattmill.twin.planning.arithmetic import (
    Boundary,
    cost_usd_per_mtok,
    energy_per_token_j,
    fleet_under,
    mean_price,
    per_output_token,
    price_usd_per_mtok,
    yearly_usd,
)
from wattmill.units import W_PER_GW, W_PER_KW, W_PER_MW

# gpt-oss-120b at 90 tok/s per user, 1k in, 8k out: all-in kW and $ an hour of a GPU, and its input + output
# tokens per second (InferenceX, 2026-04-03).
H100 = (1.73, 1.30, 1557)
B200 = (2.17, 1.95, 6076)


@pytest.mark.parametrize(
    ("part", "both_j", "output_j", "usd"),
    [(H100, "1.111", "1.25", "0.232"), (B200, "0.357", "0.40", "0.089")],
)
def test_joules_and_dollars_of_a_token_say_which_tokens_they_count(
    part: tuple[float, float, float], both_j: str, output_j: str, usd: str
) -> None:
    kw, usd_per_h, tok_per_s = part
    joules = energy_per_token_j(power_w=kw * W_PER_KW, tok_per_s=tok_per_s)
    assert f"{joules:.3f}" == both_j
    assert f"{per_output_token(joules, input_tok=1_000, output_tok=8_000):.2f}" == output_j
    assert f"{cost_usd_per_mtok(usd_per_h=usd_per_h, tok_per_s=tok_per_s):.3f}" == usd


def test_a_boundary_has_a_name() -> None:
    boundary = Boundary("input + output", "all-in provisioned")
    assert str(boundary) == "input + output tokens, all-in provisioned power"


def test_a_gigawatt_carries_whole_accelerators_nodes_and_racks() -> None:
    h100 = fleet_under(W_PER_GW, accelerator_w=1_730, per_node=8, nodes_per_rack=4)
    b200 = fleet_under(W_PER_GW, accelerator_w=2_170, per_node=8, nodes_per_rack=4)
    assert (h100.accelerators, b200.accelerators) == (578_034, 460_829)
    assert h100 == (578_034, 72_254, 578_032, 18_063, 578_016)
    assert b200 == (460_829, 57_603, 460_824, 14_400, 460_800)


def test_a_limit_that_is_a_whole_multiple_loses_no_accelerator_to_binary_fractions() -> None:
    for count in (3, 49, 4_000, 460_829):
        assert fleet_under(count * 0.1, accelerator_w=0.1, per_node=1, nodes_per_rack=1).accelerators == count
    assert fleet_under(3.999, accelerator_w=1.0, per_node=1, nodes_per_rack=1).accelerators == 3


def test_a_dollar_a_second_and_megawatt_is_31_5_billion_a_gigawatt_year() -> None:
    usd = yearly_usd(usd_per_s_per_mw=1.0, power_w=1_000 * W_PER_MW)
    assert f"{usd / 1e9:.3f}" == "31.536"
    assert f"{usd / 1e9:.1f}" == "31.5"


def test_four_tiers_of_equal_shares_bring_13_50() -> None:
    prices = {"free": 0.0, "low": 3.0, "middle": 6.0, "premium": 45.0}
    assert f"{mean_price(prices, dict.fromkeys(prices, 0.25)):.2f}" == "13.50"
    with pytest.raises(ValueError, match="sum to 1"):
        mean_price(prices, dict.fromkeys(prices, 0.3))


def test_150_billion_a_year_at_700_million_tokens_a_second_is_6_79() -> None:
    assert f"{price_usd_per_mtok(usd_per_year=150e9, tok_per_s=700e6):.2f}" == "6.79"


def test_nothing_is_divided_by_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="tok_per_s is 0"):
        energy_per_token_j(power_w=1.0, tok_per_s=0)
