"""Laws of the circuit breaker and of the retry budget, over any history."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wattmill.distribution.breaker import LONGEST_REST_S, Breaker, BreakerRules
from wattmill.distribution.retry_budget import RetryBudget, RetryRules

RULES = BreakerRules(
    failures=3, share=0.5, window=6, first_open_s=1.0, longest_open_s=8.0, good_trials=2, trial_s=3.0
)


class BreakerMachine(RuleBasedStateMachine):
    """Anything may happen in any order: a breaker never sends to an open place, and always finds back."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(RULES)
        self.now_s = 100.0
        self.trials_out = 0

    @rule(by_s=st.floats(0.0, 20.0))
    def time_passes(self, by_s: float) -> None:
        self.now_s += by_s
        before = self.breaker.state
        self.breaker.tick(self.now_s)
        assert before == self.breaker.state or before == "resting"  # time alone never closes an open one

    @precondition(lambda self: self.breaker.healthy)
    @rule()
    def a_request_goes(self) -> None:
        state = self.breaker.state
        assert state in ("closed", "half_open")
        self.breaker.sent(self.now_s)
        if state == "half_open":
            assert not self.breaker.healthy  # one at a time

    @rule()
    def content_comes(self) -> None:
        state = self.breaker.state
        self.breaker.gave_content()
        assert self.breaker.state == state  # it takes a whole answer to close it

    @rule()
    def one_is_good(self) -> None:
        state = self.breaker.state
        self.breaker.good()
        assert self.breaker.healthy or state == "resting"

    @rule(surely=st.booleans())
    def one_is_bad(self, surely: bool) -> None:
        state = self.breaker.state
        self.breaker.bad(self.now_s, surely_down=surely)
        if surely or state != "closed":
            assert not self.breaker.healthy
            assert self.breaker.state in ("open", "resting")

    @precondition(lambda self: self.breaker.probe_due(self.now_s))
    @rule(good=st.booleans(), surely=st.booleans())
    def the_probe_is_answered(self, good: bool, surely: bool) -> None:
        if good:
            self.breaker.probe_good()
            assert self.breaker.state == "half_open"
        else:
            self.breaker.probe_bad(self.now_s, surely_down=surely)
            assert self.breaker.state == "open"

    @rule(wait_s=st.floats(0.0, 1_000.0))
    def it_asks_for_rest(self, wait_s: float) -> None:
        self.breaker.rest(self.now_s, wait_s)
        if wait_s > 0:
            assert not self.breaker.healthy
            assert self.breaker.rest_left_s(self.now_s) <= LONGEST_REST_S + 1e-6

    @invariant()
    def nothing_goes_to_an_open_place(self) -> None:
        if self.breaker.state in ("open", "resting"):
            assert not self.breaker.healthy
        if self.breaker.state == "closed":
            assert self.breaker.healthy

    @invariant()
    def an_open_place_is_probed_within_the_longest_wait(self) -> None:
        if self.breaker.state == "open":
            assert self.breaker.probe_at_s <= self.now_s + RULES.longest_open_s

    @invariant()
    def it_always_finds_back(self) -> None:
        """From wherever it is, a place that is well again is closed after bounded time and requests."""
        breaker, now_s = _copy(self.breaker), self.now_s
        for _ in range(2 * RULES.good_trials + 4):
            now_s += max(LONGEST_REST_S, RULES.longest_open_s, RULES.trial_s)
            breaker.tick(now_s)
            if breaker.probe_due(now_s):
                breaker.probe_good()
            if breaker.healthy:
                breaker.sent(now_s)
                breaker.good()
        assert breaker.state == "closed"


def _copy(breaker: Breaker) -> Breaker:
    other = Breaker(breaker.rules)
    for name in Breaker.__slots__:
        value = getattr(breaker, name)
        setattr(other, name, list(value) if isinstance(value, list) else value)
    return other


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_three_bad_answers_in_a_row_open_it_and_two_do_not() -> None:
    breaker = Breaker(RULES)
    for good in (False, False, True, False, False):
        breaker.good() if good else breaker.bad(0.0)
        assert breaker.healthy
    breaker.bad(0.0)
    assert (breaker.state, breaker.healthy, breaker.probe_at_s) == ("open", False, 1.0)


def test_a_place_that_fails_every_other_time_is_opened_by_its_share() -> None:
    breaker = Breaker(RULES)
    for _ in range(10):
        breaker.bad(0.0)
        if breaker.state == "open":
            break
        breaker.good()
    assert breaker.state == "open"


def test_a_place_that_fails_now_and_then_stays_closed() -> None:
    breaker = Breaker(RULES)
    for at in range(600):
        breaker.bad(0.0) if at % 3 == 0 else breaker.good()
        assert breaker.healthy


def test_each_failed_trial_doubles_the_wait_up_to_the_longest() -> None:
    breaker = Breaker(RULES)
    breaker.bad(0.0, surely_down=True)
    now_s, waits = 0.0, []
    for _ in range(6):
        waits.append(breaker.probe_at_s - now_s)
        now_s = breaker.probe_at_s
        breaker.probe_good()
        breaker.sent(now_s)
        breaker.bad(now_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_silent_trial_is_followed_by_another_one() -> None:
    breaker = Breaker(RULES)
    breaker.bad(0.0, surely_down=True)
    breaker.probe_good()
    breaker.sent(1.0)
    breaker.tick(3.9)
    assert not breaker.healthy
    breaker.tick(4.0)
    assert breaker.healthy


def test_a_place_that_rests_comes_back_as_it_was() -> None:
    breaker = Breaker(RULES)
    breaker.rest(0.0, 7.0)
    breaker.tick(6.9)
    assert (breaker.state, breaker.healthy) == ("resting", False)
    assert breaker.rest_left_s(5.0) == 2.0
    breaker.tick(7.0)
    assert (breaker.state, breaker.healthy) == ("closed", True)
    breaker.rest(7.0, 1.0)
    breaker.bad(7.5)
    breaker.tick(8.0)
    assert breaker.state == "open"


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "again"]), st.sampled_from("ab"), st.integers(1, 2), st.floats(0, 2)),
    max_size=200,
)


@given(STEPS, st.floats(0, 2), st.floats(0, 5), st.integers(1, 10))
def test_further_attempts_never_exceed_the_declared_share(
    steps: list[tuple[str, str, int, float]], share: float, per_s: float, burst: int
) -> None:
    budget = RetryBudget(RetryRules(share=share, per_s=per_s, burst=burst))
    now_s = 50.0
    asked = {"a": 0, "b": 0, 1: 0, 2: 0}
    again: dict[str | int, int] = {"a": 0, "b": 0, 1: 0, 2: 0}
    for what, pool, key, by_s in steps:
        now_s += by_s
        if what == "ask":
            budget.asked(pool, key)
            asked[pool] += 1
            asked[key] += 1
        elif budget.take(pool, key, now_s) is None:
            again[pool] += 1
            again[key] += 1
        for whose in asked:
            assert again[whose] <= burst + share * asked[whose] + per_s * (now_s - 50.0) + 1e-6


def test_one_keys_retries_do_not_eat_anothers() -> None:
    budget = RetryBudget(RetryRules(share=0.0, per_s=0.0, burst=2))
    assert [budget.take(pool, 1, 0.0) for pool in "abc"] == [None, None, "key"]
    assert budget.take("c", 2, 0.0) is None


def test_a_place_without_tokens_costs_the_key_none() -> None:
    budget = RetryBudget(RetryRules(share=0.0, per_s=0.0, burst=1))
    assert budget.take("a", 1, 0.0) is None
    assert [budget.take("a", 2, 0.0) for _ in range(5)] == ["pool"] * 5
    assert budget.take("b", 2, 0.0) is None
