"""Two requests share a cached answer exactly when nothing that decides an answer, or binds it, differs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.app.gates.cache_key import cache_key, is_deterministic, may_be_stored, wishes
from wattmill.vocab.caller import Caller
from wattmill.vocab.request import Body, Request

ASK = Request(
    id="req_1", endpoint="chat", model="m", pool=None, stream=False, input_bound_tok=10, max_output_tok=5
)
CALLER = Caller(key=3, name="demo/search/k", path=(1, 2, 3))
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5}

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def body(fields: dict[str, Any]) -> Body:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def key(
    fields: dict[str, Any] = CHAT, *, caller: Caller = CALLER, show_usage: bool = False, **ask: Any
) -> str:
    return cache_key(msgspec.structs.replace(ASK, **ask), caller, body(fields), show_usage=show_usage)


def shuffled(value: Any, rng: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: shuffled(value[name], rng) for name in names}
    return [shuffled(one, rng) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(texts, values, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_makes_no_difference(fields: dict[str, Any], rng: Any) -> None:
    spaced = {name: msgspec.Raw(json.dumps(value, indent=2).encode()) for name, value in fields.items()}
    assert key(fields) == key(shuffled(fields, rng))
    assert key(fields) == cache_key(ASK, CALLER, spaced, show_usage=False)


@given(st.dictionaries(texts, values, max_size=4), st.dictionaries(texts, values, max_size=4))
def test_other_contents_have_other_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    ignored = {"user", "metadata", "store", "stream", "stream_options", "model"}
    said = [
        json.dumps({k: v for k, v in f.items() if k not in ignored}, sort_keys=True) for f in (one, other)
    ]
    assert (key(one) == key(other)) == (said[0] == said[1])


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "completions"},
        {"model": "n"},
        {"pool": "edge"},
        {"stream": True},
        {"privacy": "private"},
        {"tier": "high"},
        {"residency": frozenset({"eu"})},
        {"operators": frozenset({"us"})},
        {"show_usage": True},
        {"caller": msgspec.structs.replace(CALLER, pools=frozenset({"edge"}))},
    ],
)
def test_what_binds_an_answer_separates_it(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_an_answer_that_passed_other_rules_is_another_one() -> None:
    asked = {"ask": ASK, "caller": CALLER, "body": body(CHAT), "show_usage": False}
    assert cache_key(**asked, guarded_by=b"a") != cache_key(**asked, guarded_by=b"b")  # type: ignore[arg-type]


def test_who_asks_and_how_much_was_counted_makes_no_difference() -> None:
    other = msgspec.structs.replace(CALLER, key=4, name="demo/search/other", path=(1, 2, 4))
    assert key(caller=other) == key(id="req_9", input_bound_tok=99)
    assert key(CHAT | {"user": "u1", "metadata": {"a": 1}}) == key()


def test_a_very_long_text_is_compared_by_its_bytes() -> None:
    long = CHAT | {"messages": [{"role": "user", "content": "x" * 100_000}]}
    assert key(long) == key(dict(long)) != key()


@pytest.mark.parametrize(
    "fields, so",
    [
        ({"temperature": 0}, True), ({"temperature": 0.0}, True), ({"temperature": 0.1}, False),
        ({"temperature": None}, False), ({"temperature": False}, False), ({}, False),
        ({"seed": 7}, True), ({"seed": None}, False), ({"seed": 7, "temperature": 1}, True),
        ({"temperature": "0"}, False),
    ],
)  # fmt: skip
def test_only_who_asks_for_the_same_answer_each_time_is_deterministic(
    fields: dict[str, Any], so: bool
) -> None:
    assert is_deterministic(ASK, body(fields)) == so
    assert is_deterministic(msgspec.structs.replace(ASK, endpoint="embeddings"), body(fields))


@pytest.mark.parametrize(
    "header, said",
    [
        (None, set()), (b"no-store", {"no-store"}), (b"No-Cache", {"no-cache"}), (b"max-age=0", {"no-cache"}),
        (b"private, no-store , no-cache", {"no-store", "no-cache"}), (b"max-age=60", set()),
        (b"x-no-store", set()),
    ],
)  # fmt: skip
def test_a_client_may_say_that_nothing_is_stored_or_nothing_old_is_wanted(
    header: bytes | None, said: set[str]
) -> None:
    assert wishes(header) == said


def test_nothing_is_stored_where_the_client_or_the_data_forbid_it() -> None:
    assert may_be_stored(ASK, body(CHAT))
    assert may_be_stored(ASK, body(CHAT | {"store": True}))
    assert not may_be_stored(ASK, body(CHAT | {"store": False}))
    assert not may_be_stored(msgspec.structs.replace(ASK, keep=False), body(CHAT))


MESSAGES = {
    "model": "m",
    "max_tokens": 5,
    "temperature": 0,
    "system": [{"type": "text", "text": "be short"}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"system": [{"type": "text", "text": "be short", "cache_control": {"type": "ephemeral"}}]},
        {"system": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]},
        {"cache_control": {"type": "ephemeral"}},
        {"output_config": {"effort": "low"}},
    ],
)
def test_what_stands_beside_the_chat_separates_answers_where_an_engine_is_sent_it(
    change: dict[str, Any],
) -> None:
    def of(native: dict[str, Any] | None, door: str = "messages") -> str:
        at = None if native is None else body(native)
        return cache_key(ASK, CALLER, body(CHAT), show_usage=False, door=door, native=at)

    assert of(MESSAGES) != of(MESSAGES | change)
    assert of(MESSAGES) == of(MESSAGES | {"metadata": {"user_id": "a"}, "stream": True})
    assert of(MESSAGES) != of(None) == of(None, "chat"), "translated, it is the chat that decides"
    assert of(MESSAGES) != of(MESSAGES, "responses")
