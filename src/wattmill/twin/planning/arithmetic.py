"""The few laws that a plan rests on, each with the boundary that it is true for.

Two factories can only be compared on one boundary. `Boundary` names it: which tokens are counted, and where
the watts are read. Published figures differ by both (1.111 J and 1.25 J are one measurement).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from wattmill.units import S_PER_H, S_PER_YEAR, TOK_PER_MTOK, W_PER_MW

Tokens = Literal["input + output", "output"]
Power = Literal["accelerator", "server", "all-in provisioned", "utility meter"]


class Boundary(NamedTuple):
    """What a figure per token or per watt counts."""

    tokens: Tokens
    power: Power

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.power} power"


def energy_per_token_j(*, power_w: float, tok_per_s: float) -> float:
    """Return J per token: watts over tokens per second, both on the caller's boundary. Both must be > 0."""
    return _positive("power_w", power_w) / _positive("tok_per_s", tok_per_s)


def per_output_token(per_token: float, *, input_tok: float, output_tok: float) -> float:
    """Return a figure per *output* token from one per input + output token, at these mean lengths.

    The work is the same, only fewer tokens carry it: x (input + output) / output.
    """
    return per_token * (input_tok + output_tok) / _positive("output_tok", output_tok)


def cost_usd_per_mtok(*, usd_per_h: float, tok_per_s: float) -> float:
    """Return dollars per million tokens of something that costs `usd_per_h` and makes `tok_per_s`."""
    return usd_per_h / S_PER_H / _positive("tok_per_s", tok_per_s) * TOK_PER_MTOK


def yearly_usd(*, usd_per_s_per_mw: float, power_w: float) -> float:
    """Return dollars in 365 days, of a rate per second and MW."""
    return usd_per_s_per_mw * power_w / W_PER_MW * S_PER_YEAR


def price_usd_per_mtok(*, usd_per_year: float, tok_per_s: float) -> float:
    """Return what a million tokens must bring so that `tok_per_s`, all year, bring `usd_per_year`."""
    return usd_per_year / S_PER_YEAR / _positive("tok_per_s", tok_per_s) * TOK_PER_MTOK


def mean_price(prices: dict[str, float], shares: dict[str, float]) -> float:
    """Return the mean price over tiers by their share of tokens. Raises ValueError unless shares sum to 1."""
    if set(prices) != set(shares) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        raise ValueError(
            f"shares are {shares}, must name the tiers of prices ({', '.join(prices)}) and sum to 1"
        )
    return sum(prices[tier] * shares[tier] for tier in prices)


class Fleet(NamedTuple):
    """How many accelerators fit under a limit of power: bare, in whole nodes, in whole racks."""

    accelerators: int
    nodes: int
    accelerators_in_nodes: int
    racks: int
    accelerators_in_racks: int


def fleet_under(
    limit_w: float, *, accelerator_w: float, per_node: int, nodes_per_rack: int, slack: float = 1e-9
) -> Fleet:
    """Return the largest fleet whose all-in power stays within `limit_w`.

    `accelerator_w` is one accelerator's share of everything behind the meter. `slack` is the relative error
    of binary fractions that a quotient meant to be whole may have (10 MW of 2.5 kW are 4,000, not 3,999).
    """
    fit = math.floor(limit_w / _positive("accelerator_w", accelerator_w) * (1.0 + slack))
    nodes = fit // per_node
    racks = nodes // nodes_per_rack
    return Fleet(fit, nodes, nodes * per_node, racks, racks * nodes_per_rack * per_node)


def _positive(name: str, value: float) -> float:
    if not value > 0.0 or math.isinf(value):
        raise ValueError(
            f"{name} is {value}, must be finite and > 0: nothing is divided by what is not there"
        )
    return value
