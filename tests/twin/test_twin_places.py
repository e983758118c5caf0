"""The twin's places: a second simulator agrees to the picosecond, and the laws of a queue hold."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_place import walked
from tiny_places import MODEL, MS_PS, batch, pool, stream, works

from wattmill.twin.factory import Fixed, Run, simulate
from wattmill.twin.model import alone_ps, decode_ps, prompt_ps, steps_ps, steps_until
from wattmill.twin.spec import Place, Served, StepLaw, StreamLaw, Work
from wattmill.units import PS_PER_US


class Scatter:
    """Sends work anywhere, refuses some, and writes down the order in which it was told things."""

    def __init__(self, places: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._places = places
        self.told: list[tuple[str, int]] = []

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        self.told.append(("asked", index))
        return self._rng.choice([*range(self._places), "no"])

    def answered(self, index: int, place: int) -> None:
        self.told.append(("answered", index))

    def ended(self, served: Served, work: Work) -> None:
        self.told.append(("ended", served.work))

    def refresh(self, now_us: int) -> None:
        pass


@settings(deadline=None, max_examples=60)
@given(
    works(prefixes=True),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 3, 50]),
    st.sampled_from([4_300, 6_000, 9_000]),
    st.sampled_from([5, 64, 512]),
    st.sampled_from([0, 3 * MS_PS]),
)
def test_the_slow_simulator_agrees_to_the_picosecond(
    trace: list[Work], slots: int, blocks: int, kv_tok: int, budget_tok: int, overhead_ps: int
) -> None:
    place = batch(
        slots=slots, cache_blocks=blocks, kv_tok=kv_tok, budget_tok=budget_tok, overhead_ps=overhead_ps
    )
    run = simulate(trace, [place], Fixed([0] * len(trace)))
    slow = walked(place, trace)
    assert [(s.begun_ps, s.first_ps, s.end_ps, s.cached_tok) for s in run.served] == [
        (g.begun_ps, g.first_ps, g.end_ps, g.cached_tok) for g in slow.guests
    ]
    assert run.busy_ps == [slow.busy_ps]
    assert slow.most_running <= slots and slow.most_held_tok <= kv_tok
    assert not slow.idle_while_somebody_waited


@settings(deadline=None, max_examples=60)
@given(works(most=30), st.integers(0, 2**32))
def test_every_request_is_served_once_or_refused_and_nothing_happens_before_its_time(
    trace: list[Work], seed: int
) -> None:
    places = [batch("a"), batch("b", slots=1, overhead_ps=5 * MS_PS), stream()]
    told = Scatter(len(places), seed)
    run = simulate(trace, places, told)
    assert sorted([s.work for s in run.served] + [r.work for r in run.refused]) == list(range(len(trace)))
    for one in run.served:
        assert one.at_ps == trace[one.work].at_us * PS_PER_US
        assert one.at_ps + places[one.place].overhead_ps <= one.begun_ps < one.first_ps <= one.end_ps
    for one in run.served:
        steps = [what for what, index in told.told if index == one.work]
        assert steps == ["asked", "answered", "ended"]


@settings(deadline=None, max_examples=60)
@given(works(most=30), st.integers(0, 2**32))
def test_one_seed_gives_one_run(trace: list[Work], seed: int) -> None:
    places = [batch("a"), batch("b", slots=1, cache_blocks=4), stream()]

    def once() -> Run:
        return simulate(trace, places, Scatter(len(places), seed))

    assert once() == once()


@settings(deadline=None, max_examples=60)
@given(works(most=25))
def test_a_place_does_exactly_the_work_that_it_was_given(trace: list[Work]) -> None:
    """Busy time is what the steps and what all work adds to them: nothing is lost in jumps or done twice."""
    place = batch()
    law = place.law
    assert isinstance(law, StepLaw)
    run = simulate(trace, [place], Fixed([0] * len(trace)), log=True)
    added = sum(
        prompt_ps(law, 0, work.input_tok) + decode_ps(law, work.input_tok + 1, work.output_tok - 1)
        for work in trace
    )
    assert run.busy_ps[0] == run.steps[0] * law.step_ps + added
    # Work conservation: from the arrival of anything to its end, steps run without a gap.
    log = sorted(run.logs[0])
    for one in run.served:
        covered = sum(max(0, min(to, one.end_ps) - max(start, one.at_ps)) for start, to, _ in log)
        assert covered == one.end_ps - one.at_ps


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 20_000), st.integers(0, 300), st.integers(0, 10**12))
def test_jumps_are_sums_of_steps(decoding: int, context_tok: int, steps: int, ps: int) -> None:
    law = batch().law
    assert isinstance(law, StepLaw)
    walk = [steps_ps(law, decoding, context_tok + i * decoding, 1) for i in range(steps)]
    assert steps_ps(law, decoding, context_tok, steps) == sum(walk)
    fewest = steps_until(law, decoding, context_tok, ps)
    assert steps_ps(law, decoding, context_tok, fewest) >= ps
    assert fewest == 0 or steps_ps(law, decoding, context_tok, fewest - 1) < ps


@settings(deadline=None, max_examples=60)
@given(works(most=1), st.booleans())
def test_alone_a_request_takes_what_the_closed_form_says(trace: list[Work], bought: bool) -> None:
    place = stream() if bought else batch(overhead_ps=7 * MS_PS)
    run = simulate(trace, [place], Fixed([0]))
    assert run.served[0].end_ps - run.served[0].at_ps == alone_ps(place, trace[0])


def test_a_hand_calculated_batch() -> None:
    """Prompts of 4 tokens, answers of 2 and 3; a step costs 10 ms, 1 ms a decoder, 2 ms a prompt token, and
    takes 6 tokens: 4 + 2 at first (22 ms), the rest beside a decoder (10 + 1 + 4), then alone (10 + 1)."""
    law = StepLaw(
        step_ps=10 * MS_PS, decode_ps=MS_PS, prefill_ps_per_tok=2 * MS_PS, budget_tok=6, kv_tok=4_096
    )
    place = Place(pool=pool("hand"), law=law)
    trace = [Work(at_us=0, input_tok=4, output_tok=n, max_output_tok=8) for n in (2, 3)]
    run = simulate(trace, [place], Fixed([0, 0]))
    assert [(s.first_ps // MS_PS, s.end_ps // MS_PS) for s in run.served] == [(22, 37), (37, 59)]


def test_a_bought_place_works_on_its_slots_and_queues_the_rest() -> None:
    law = StreamLaw(prefill_ps_per_tok=MS_PS, decode_ps=10 * MS_PS)
    place = Place(pool=pool("bought", slots=1), law=law)
    trace = [Work(at_us=0, input_tok=5, output_tok=3, max_output_tok=3) for _ in range(2)]
    run = simulate(trace, [place], Fixed([0, 0]))
    assert [(s.first_ps // MS_PS, s.end_ps // MS_PS) for s in run.served] == [(5, 25), (30, 50)]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (batch(budget_tok=4), "budget_tok of place 'batch' is 4, must be > its 4 slots"),
        (batch(kv_tok=100), "kv_tok of place 'batch' is 100, must be >= its context of 4096 tokens"),
        (batch(step_ps=0), "step_ps of place 'batch' is 0, must be >= 1"),
        (batch(slots=0), "slots of place 'batch' are 0, must be >= 1"),
    ],
)
def test_a_place_that_could_never_work_is_refused_with_a_reason(place: Place, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        simulate([], [place], Fixed([]))


def test_the_model_of_the_tests_is_served_everywhere() -> None:
    assert all(MODEL in place.pool.models for place in (batch(), stream()))
