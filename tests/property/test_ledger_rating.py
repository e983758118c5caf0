"""The rating rule and its bounds, for any price and any usage."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wattmill.ledger.rating import UNBOUNDED_TOK, Unpriced, output_affordable, rate, worst_case_nusd
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Usage, checked


@st.composite
def price_versions(draw: st.DrawFn) -> Price:
    # 500,000 is the rate at which one token is half a nano-dollar and rounds up in every class.
    top = draw(st.sampled_from([500_000, 10**11]))
    rate = st.one_of(st.just(top), st.none(), st.integers(0, top))
    return Price(
        id=1,
        book="b",
        model="m",
        rates_nusd_per_mtok=tuple(draw(st.lists(rate, min_size=7, max_size=7))),
        request_nusd=draw(st.integers(0, 10**6)),
    )


prices = price_versions()


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    most = draw(st.sampled_from([1, 10**6]))
    ins = [draw(st.integers(0, most)) for _ in range(4)]
    outs = [draw(st.integers(0, most)) for _ in range(3)]
    return checked(Usage(sum(ins), sum(outs), ins[1], ins[2], ins[3], outs[1], outs[2]))


def by_hand(price: Price, usage: Usage) -> int:
    total = price.request_nusd
    for tokens, per_mtok in zip(usage.by_class(), price.rates_nusd_per_mtok, strict=True):
        if tokens:
            if per_mtok is None:
                raise Unpriced
            total += (tokens * per_mtok + 500_000) // 1_000_000
    return total


@given(prices, usages())
def test_the_fast_rule_is_the_written_rule(price: Price, usage: Usage) -> None:
    try:
        expected = by_hand(price, usage)
    except Unpriced:
        with pytest.raises(Unpriced):
            rate(price, usage)
        return
    assert rate(price, usage) == expected


HALVES = Price(id=1, book="b", model="m", rates_nusd_per_mtok=(500_000,) * 7)


@settings(max_examples=400)
@example(HALVES, Usage(4, 0, 1, 1, 1), 0, 0)  # one token in each class: every class rounds up
@example(HALVES, Usage(0, 3, reasoning_tok=1, audio_out_tok=1), 0, 0)
@given(prices, usages(), st.sampled_from([0, 7]), st.sampled_from([0, 7]))
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    price: Price, usage: Usage, spare_in: int, spare_out: int
) -> None:
    try:
        charge = rate(price, usage)
        bound = worst_case_nusd(price, usage.prompt_tok + spare_in, usage.output_tok + spare_out)
    except Unpriced:
        return
    assert charge <= bound


@given(prices, st.integers(0, 10**6), st.integers(0, 10**12))
def test_the_affordable_output_is_the_largest_that_fits(price: Price, input_tok: int, nusd: int) -> None:
    try:
        most = output_affordable(price, nusd, input_tok)
    except Unpriced:
        return
    if most < 0:
        assert worst_case_nusd(price, input_tok, 0) > nusd
        return
    if all(r is None for r in price.rates_nusd_per_mtok[4:]):
        assert most == 0
        return
    assert worst_case_nusd(price, input_tok, most) <= nusd
    if most != UNBOUNDED_TOK:
        assert worst_case_nusd(price, input_tok, most + 1) > nusd


def test_a_token_class_without_a_rate_is_never_free_and_the_message_names_it() -> None:
    price = Price(
        id=7, book="standard", model="m", rates_nusd_per_mtok=(10, None, None, None, 10, None, None)
    )
    with pytest.raises(Unpriced, match="no rate for 3 reasoning tokens"):
        rate(price, Usage(5, 5, reasoning_tok=3))
