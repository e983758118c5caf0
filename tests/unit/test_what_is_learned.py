"""The pace of a place against its load, the correction of first tokens, and the signs of a poor answer."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.models.model import Pace, corrected, declared, seen
from wattmill.scheduling.cascade import Signals, escalates, fault_of
from wattmill.scheduling.lengths import Lengths, two_digits


def served(pace: Pace, *, alone_s: float, slowdown: float, answers: int, seed: int = 7) -> Pace:
    """Serve answers beside 0 to 7 others: each time is off by up to a tenth, and one in twenty by tenfold."""
    rng = random.Random(seed)
    for _ in range(answers):
        others = rng.randrange(8)
        y = alone_s * (1 + slowdown * others) * rng.uniform(0.9, 1.1) * (10 if rng.random() < 0.05 else 1)
        pace = seen(pace, others=others, s_per_tok=y)
    return pace


@pytest.mark.parametrize("declared_tok_per_s", [10.0, 100.0, 1_000.0])
@pytest.mark.parametrize("slowdown", [0.0, 0.05, 0.3])
def test_the_pace_under_load_is_found_whatever_was_declared(
    declared_tok_per_s: float, slowdown: float
) -> None:
    errors = []
    for seed in range(20):
        pace = served(declared(declared_tok_per_s), alone_s=0.01, slowdown=slowdown, answers=200, seed=seed)
        for others in (0, 3, 7):
            true = 0.01 * (1 + slowdown * others)
            errors.append(abs((pace.alone_s + pace.slope_s * others) / true - 1))
    errors.sort()
    assert errors[len(errors) // 2] < 0.15 and errors[-1] < 0.6


@given(
    st.floats(0.1, 1e5),
    st.lists(st.tuples(st.floats(0, 64), st.floats(1e-6, 1e3)), max_size=40),
)
def test_a_pace_is_always_a_speed(tok_per_s: float, answers: list[tuple[float, float]]) -> None:
    pace = declared(tok_per_s)
    for others, s_per_tok in answers:
        pace = seen(pace, others=others, s_per_tok=s_per_tok)
        assert pace.alone_s > 0 and pace.slope_s >= 0 and pace.slowdown >= 0


def test_one_stall_teaches_little_and_many_teach_fast() -> None:
    pace = served(declared(100.0), alone_s=0.01, slowdown=0.0, answers=100)
    once = seen(pace, others=0.0, s_per_tok=60.0)
    assert once.s_per_tok < 1.3 * pace.s_per_tok
    many = pace
    for _ in range(60):
        many = seen(many, others=0.0, s_per_tok=0.1)
    assert many.alone_s > 0.06


def test_an_expectation_moves_a_tenth_towards_what_is_seen_and_stays_in_bounds() -> None:
    assert corrected(1.0, expected_s=1.0, observed_s=2.0) == pytest.approx(2**0.1)
    assert corrected(1.0, expected_s=1.0, observed_s=1e9) == corrected(1.0, expected_s=1.0, observed_s=2.5)
    assert corrected(1.5, expected_s=0.0, observed_s=1.0) == 1.5
    factor = 1.0
    for _ in range(100):
        factor = corrected(factor, expected_s=0.2 * factor, observed_s=0.6)
    assert factor == pytest.approx(3.0, rel=0.01)
    for _ in range(1_000):
        factor = corrected(factor, expected_s=1e-9, observed_s=1.0)
    assert factor == 10.0


def test_lengths_are_told_to_two_digits() -> None:
    assert [two_digits(x) for x in (0.0, 7.4, 99.4, 104.0, 105.0, 1_234.0)] == [1, 7, 99, 100, 110, 1_200]


def test_short_and_long_prompts_of_one_key_have_answers_of_their_own() -> None:
    lengths = Lengths(expected_tok=128)
    for _ in range(100):
        lengths.learn("m", 1, 1_600, 100)
        lengths.learn("m", 1, 4_000, 400)
    assert lengths.expected_tok("m", 1, 1_500) == 100
    assert lengths.expected_tok("m", 1, 3_500) == 400
    # A size that never came is expected as the key's answers are, another key as the model's.
    assert 200 <= (lengths.expected_tok("m", 1, 90_000) or 0) <= 300
    assert 200 <= (lengths.expected_tok("m", 2, 1_600) or 0) <= 300


def answer(**choice: object) -> bytes:
    base: dict[str, object] = {"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}
    return msgspec.json.encode({"object": "chat.completion", "choices": [{**base, **choice}]})


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "schema": {
            "type": "object",
            "properties": {
                "age": {"type": "integer"},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
            },
            "required": ["age"],
            "additionalProperties": False,
        }
    },
}


def content(text: str) -> bytes:
    return answer(message={"content": text})


@pytest.mark.parametrize(
    ("body", "schema", "why"),
    [
        (answer(), None, None),
        (answer(finish_reason="length"), None, "length: the answer was cut"),
        (answer(message={"content": None, "refusal": "I cannot"}), None, "refusal: the model gave no answer"),
        (answer(message={"content": "  "}), None, "refusal: the model gave no answer"),
        (answer(finish_reason="content_filter"), None, "refusal: the model gave no answer"),
        (answer(message={"content": None, "tool_calls": [{}]}, finish_reason="tool_calls"), None, None),
        (content("age 3"), {"type": "json_object"}, "schema: the answer is no JSON"),
        (content("[]"), {"type": "json_object"}, "schema: the answer is no object"),
        (content("{}"), {"type": "json_object"}, None),
        (content("{}"), {"type": "text"}, None),
        (content("{}"), SCHEMA, "schema: answer lacks 'age'"),
        (content('{"age": 3.0, "tags": ["a"]}'), SCHEMA, None),
        (content('{"age": "3"}'), SCHEMA, "schema: answer.age is no integer"),
        (content('{"age": true}'), SCHEMA, "schema: answer.age is no integer"),
        (content('{"age": 3, "x": 1}'), SCHEMA, "schema: answer has 'x', which its schema does not know"),
        (
            content('{"age": 3, "tags": ["a", "c"]}'),
            SCHEMA,
            "schema: answer.tags[1] is none of the values allowed",
        ),
        (b"no json", None, None),
        (
            answer(logprobs={"content": [{"logprob": -3.0}, {"logprob": -0.5}]}),
            None,
            "logprob: -1.75 in the mean, below -1",
        ),
        (answer(logprobs={"content": [{"logprob": -0.5}]}), None, None),
    ],
)
def test_a_poor_answer_is_known_by_its_signs(body: bytes, schema: object, why: str | None) -> None:
    assert escalates(Signals(least_mean_logprob=-1.0), body, schema=schema) == why


def test_each_sign_can_be_switched_off() -> None:
    off = Signals(length=False, refusal=False, schema=False)
    for body in (answer(finish_reason="length"), answer(message={"content": ""}), content("{")):
        assert escalates(off, body, schema={"type": "json_object"}) is None


def test_an_answer_that_was_cut_where_its_client_wanted_is_not_poor() -> None:
    body = answer(finish_reason="length")
    assert escalates(Signals(), body, clamp_tok=50, asked_tok=50) is None
    assert escalates(Signals(), body, clamp_tok=20, asked_tok=50) is not None


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=5)
)
def test_a_schema_that_says_nothing_finds_no_fault(value: object) -> None:
    for schema in ({}, {"type": "unheard-of"}, {"enum": "x"}, {"properties": [1]}, {"minimum": 3}, None, 3):
        assert fault_of(value, schema) is None
