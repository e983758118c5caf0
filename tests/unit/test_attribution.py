"""Whose joules, against calculations by hand."""

from __future__ import annotations

from wattmill.ledger.attribution import DECLARED, Weights, Work, done_in, split
from wattmill.vocab.fact import MeterWindow

S = 1_000_000
ONE_TO_THREE = {"edge": Weights(1, 3, 0, 0, "by hand")}


def window(shares: dict[str, int], **more: int) -> MeterWindow:
    rest = sum(more.values())
    return MeterWindow(
        "m", 10 * S, 11 * S, sum(shares.values()) + rest, 0, shares, 0, "measured", "x", **more
    )


def work(id: int, start_s: float, first_s: float | None, end_s: float, prefill: int, decode: int) -> Work:
    first = None if first_s is None else round(first_s * S)
    return Work(id, id, "edge", "m", round(start_s * S), first, round(end_s * S), prefill, decode)


def test_a_prompt_and_an_answer_share_a_window_by_weighted_tokens():
    # One computes half of its 100 prompt tokens in the window: 50 x 1. The other decodes half of 100: 50 x 3.
    works = [work(1, 10.5, 11.5, 12.0, 100, 10), work(2, 8.0, 9.5, 11.5, 7, 100)]
    parts = split(window({"edge": 200}), works, weights=ONE_TO_THREE)
    assert parts.by_work == {1: 50, 2: 150} and parts.unattributed_uj == 0


def test_what_failed_aborted_or_was_hedged_keeps_its_joules():
    # It never gave a token: its prompt's work lies between its start and its end.
    works = [work(1, 10.0, None, 11.0, 90, 0), work(2, 10.0, 10.0, 11.0, 0, 10)]
    assert split(window({"edge": 120}), works, weights=ONE_TO_THREE).by_work == {1: 90, 2: 30}


def test_a_pool_where_nobody_worked_is_unattributed():
    parts = split(window({"edge": 11, "local": 9}), [work(1, 10.0, 10.5, 11.0, 1, 1)])
    assert parts.by_work == {1: 11} and parts.unattributed_uj == 9


def test_the_hosts_share_follows_the_requests_and_stays_the_factorys_without_any():
    works = [work(1, 10.0, 10.0, 11.0, 0, 10), work(2, 10.0, 10.0, 11.0, 0, 30)]
    parts = split(window({"edge": 40}, service_uj=8), works, weights=ONE_TO_THREE)
    assert (parts.by_work, parts.host, parts.service_uj) == ({1: 12, 2: 36}, {1: 2, 2: 6}, 0)
    alone = split(window({"edge": 0}, service_uj=8), [], weights=ONE_TO_THREE)
    assert (alone.by_work, alone.service_uj, alone.unattributed_uj) == ({}, 8, 0)


def test_a_decoded_token_weighs_what_it_reads():
    # 10 tokens over the second half of a prompt of 100 and an answer of 20: the middle stands at 100 + 15.
    done = done_in(Work(1, 1, "edge", "m", 0, 9 * S, 11 * S, 40, 20, 60), 10 * S, 11 * S)
    one = 1 << 20
    assert (done.decode, done.context, done.prefill, done.cached) == (10 * one, 10 * one * 115, 0, 0)


def test_tokens_from_a_cache_get_joules_of_their_own_and_less_than_computed_ones():
    cached = Work(1, 1, "edge", "m", 10 * S, 11 * S, 11 * S, 0, 0, 100)
    computed = Work(2, 2, "edge", "m", 10 * S, 11 * S, 11 * S, 100, 0, 0)
    parts = split(window({"edge": 51_000}), [cached, computed])
    assert DECLARED.prefill // DECLARED.cached == 50
    assert parts.by_work == {1: 1000, 2: 50_000}


def test_pools_that_one_meter_cannot_tell_apart_share_by_work():
    works = [work(1, 10.0, 10.0, 11.0, 0, 10), work(2, 10.0, 10.0, 11.0, 0, 30)._replace(pool="local")]
    parts = split(window({"edge|local": 40}), works, weights=ONE_TO_THREE)
    assert parts.unattributed_uj == 0 and parts.by_work == {1: 10, 2: 30}
