from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.distribution.backend_state import BackendState
from wattmill.distribution.metrics import METRICS, Metrics, merge
from wattmill.distribution.recent import Recent
from wattmill.distribution.sse import MAX_EVENT_BYTES, EventTooLongError, Splitter
from wattmill.vocab.usage import Usage


def test_three_failures_in_a_row_take_a_pool_down_and_good_answers_bring_it_back() -> None:
    state = BackendState("p")
    for _ in range(2):
        state.failed("status 500", now_s=1.0)
        assert state.healthy
    state.failed("status 500", now_s=1.0)
    assert not state.healthy and state.probe_at_s > 1.0
    assert state.last_error == "status 500"
    state.probe_good()
    assert state.healthy and state.state == "half_open"
    for _ in range(2):
        state.took(2.0)
        assert not state.healthy
        state.good()
        state.gave_back()
    assert state.healthy and state.state == "closed" and state.failures == 0


def test_a_refused_connection_leaves_no_doubt() -> None:
    state = BackendState("p")
    state.failed("refused", now_s=0.0, surely_down=True)
    assert not state.healthy


def test_probes_wait_longer_each_time_up_to_five_seconds() -> None:
    state = BackendState("p")
    state.failed("refused", now_s=0.0, surely_down=True)
    waits = []
    for _ in range(8):
        state.probe_failed("refused", now_s=0.0, surely_down=True)
        waits.append(state.probe_at_s)
    assert waits == sorted(waits) and waits[-1] == 5.0


def test_speeds_prefer_the_engines_own_times() -> None:
    state = BackendState("p")
    state.observe(
        computed_tok=100, output_tok=21, ttft_s=1.0, decode_s=1.0, prefill_us=500_000, decode_us=None
    )
    assert state.prefill_tok_per_s == pytest.approx(200.0)
    assert state.decode_tok_per_s == pytest.approx(20.0)
    assert state.overhead_s == pytest.approx(0.5)
    state.observe(
        computed_tok=100, output_tok=21, ttft_s=1.0, decode_s=1.0, prefill_us=250_000, decode_us=2_000_000
    )
    assert state.prefill_tok_per_s == pytest.approx(240.0)
    # 0.05 s a token, then 0.1 s: the newer one counts a little more than half
    assert state.decode_tok_per_s == pytest.approx(1 / (0.05 + 0.05 / 1.97), rel=1e-3)


def test_a_percentile_of_the_last_times_needs_some_of_them_and_follows_the_newest() -> None:
    recent = Recent()
    for _ in range(19):
        recent.took(0.1)
        assert recent.quantile_s(0.95) is None
    recent.took(0.9)
    assert recent.quantile_s(0.95) == 0.9
    assert recent.quantile_s(0.5) == 0.1
    for _ in range(256):
        recent.took(0.3)
    assert recent.quantile_s(0.95) == 0.3


def test_a_few_tokens_say_nothing_about_speed() -> None:
    state = BackendState("p")
    state.observe(computed_tok=3, output_tok=2, ttft_s=1.0, decode_s=1.0, prefill_us=None, decode_us=None)
    assert state.prefill_tok_per_s is None and state.decode_tok_per_s is None


def test_an_aborted_slot_is_busy_until_it_is_freed() -> None:
    state = BackendState("p")
    state.took(0.0)
    state.took(0.0)
    state.lingers()
    assert (state.busy, state.serving, state.lingering) == (2, 1, 1)
    state.gave_back()
    state.lingers_no_more(1)
    assert (state.busy, state.serving, state.lingering) == (0, 0, 0)


EVENTS = [b"data: a", b"event: x\ndata: b", b": comment", b"data: {}"]


@given(st.lists(st.sampled_from(EVENTS), max_size=6), st.booleans(), st.lists(st.integers(0, 80), max_size=6))
def test_events_are_the_same_however_their_bytes_are_cut(
    events: list[bytes], crlf: bool, cuts: list[int]
) -> None:
    data = b"".join(event + b"\n\n" for event in events)
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    splitter = Splitter()
    found: list[bytes] = []
    at = 0
    for cut in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        found += splitter.feed(data[at:cut])
        at = cut
    assert [e for e in found if e] == events
    assert not splitter.rest


def test_an_endless_event_is_refused() -> None:
    splitter = Splitter()
    with pytest.raises(EventTooLongError):
        splitter.feed(b"x" * (MAX_EVENT_BYTES + 1))


def test_snapshots_of_two_workers_add_up() -> None:
    one, two = Metrics(), Metrics()
    for metrics, times in ((one, 2), (two, 3)):
        for _ in range(times):
            metrics.answered("chat", "p", "2xx")
            metrics.pool("p").used(Usage(10, 5, cached_tok=4), 7, 9)
            metrics.pool("p").took(0.02, 0.5)
    both = merge([one.snapshot(), two.snapshot({"wattmill_in_flight": [((), 4)]})])
    assert both["wattmill_requests_total"] == [[["chat", "p", "2xx"], 5]]
    assert sorted(both["wattmill_tokens_total"]) == [
        [["p", "cached_input"], 20],
        [["p", "input"], 30],
        [["p", "output"], 25],
    ]
    assert both["wattmill_charge_nusd_total"] == [[["p"], 45]]
    assert both["wattmill_in_flight"] == [[[], 4]]
    labels, series = both["wattmill_ttft_seconds"][0]
    assert labels == ["p"] and sum(series[:-1]) == 5 and series[-1] == pytest.approx(0.1)


def test_every_metric_says_what_it_counts_and_is_in_each_snapshot() -> None:
    snapshot = Metrics().snapshot()
    for metric in METRICS:
        assert metric.help.endswith(".") and metric.name in snapshot
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind == "histogram")
