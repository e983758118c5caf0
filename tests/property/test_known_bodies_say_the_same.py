"""Law: a chat that is recognised by the bytes around its messages is understood, bounded, checked and
rendered exactly as if it had been read field by field; what would be refused is never recognised."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.distribution.known_body import KnownBody, learn
from wattmill.distribution.wire import Draft, parse
from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal

BOUND = TokenizerBound(per_image_tok=765)

texts = st.text(alphabet='aé"\\\n[]{}:, \u2028😀', max_size=6)
contents = st.one_of(
    texts,
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2),
    st.none(),
)
options = st.sampled_from(
    [None, {}, {"include_usage": True}, {"include_usage": False}, {"include_usage": None},
     {"include_usage": 1}, {"include_usage": True, "more": [1]}, "text", []]
)  # fmt: skip
messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "x", "tool_calls"]), contents, max_size=3),
    max_size=3,
)
fields = st.dictionaries(
    st.sampled_from(
        [
            "max_tokens",
            "max_completion_tokens",
            "stream",
            "temperature",
            "user",
            "n",
            "stop",
            "foo",
            "n_predict",
            "best_of",
            "tools",
        ]
    ),
    st.one_of(st.integers(-1, 99), st.booleans(), texts, st.just([]), st.none()),
    max_size=4,
)
models = st.sampled_from(["mock", "place/mock", "[]", 'messages":[]'])
spacing = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])
wild = st.sampled_from(
    [
        *(b"[]", b"[{}]", b"[1]", b"[", b"]", b"null", b"{}", b"", b" [{}]", b'[{"content":"a"}] '),
        *(b'[{"content":"a"}],"n":2', b'[{"content":"a"}],"max_tokens":9,"max_tokens":8'),
        *(b'[{"content":"\xff"}]', b'[{"content":"a\\u00e9"}]', b'[{"content":7}]'),
        *(b'[{"content":"a"}]}', b'[{"content":"unclosed}]', b'[{"content":"a",}]'),
    ]
)


def written(body: dict[str, Any], order: list[str], separators: tuple[str, str]) -> bytes:
    return json.dumps(
        {name: body[name] for name in order}, separators=separators, ensure_ascii=False
    ).encode()


def known(data: bytes) -> KnownBody | None:
    draft = parse("chat", data)
    return learn(data, draft) if isinstance(draft, Draft) else None


def slowly(data: bytes) -> tuple[Draft, int] | None:
    draft = parse("chat", data)
    if isinstance(draft, Refusal):
        return None
    try:
        bound = input_bound_tok("chat", draft.body, BOUND)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if isinstance(bound, Refusal) else (draft, bound)


def says_the_same(like: KnownBody, data: bytes) -> bool:
    read = like.read(data, BOUND)
    if read is None:
        return False
    told = slowly(data)
    assert told is not None
    assert read == told
    assert list(read[0].body) == list(told[0].body)
    for adapter in ADAPTERS.values():
        try:
            refusal = adapter.check("chat", told[0].body)
        except (msgspec.MsgspecError, RecursionError):
            continue
        if adapter.name in like.passed_by:
            assert refusal is None
        if refusal is not None:
            continue
        like.passed(adapter)
        for stream in (False, True):
            one = like.render(adapter, read[0], "up", stream, 7)
            two = adapter.render(
                "chat", told[0].body, model="up", stream=stream, max_output_tok=7, choices=told[0].n
            )
            assert one == two
    return True


@given(st.data(), messages, messages, fields, models, spacing)
@settings(max_examples=300)
def test_other_messages_between_the_same_bytes(
    data: st.DataObject,
    first: Any,
    second: Any,
    other: dict[str, Any],
    model: str,
    separators: tuple[str, str],
) -> None:
    body = {"model": model, **other, "messages": first}
    if data.draw(st.booleans()):
        body |= {"stream": True, "stream_options": data.draw(options)}
    order = data.draw(st.permutations(list(body)))
    like = known(written(body, order, separators))
    if like is not None:
        says_the_same(like, written({**body, "messages": second}, order, separators))
        says_the_same(like, written({**body, "model": "other"}, order, separators))


@given(st.data(), messages, fields, spacing, wild)
@settings(max_examples=300)
def test_any_bytes_between_the_same_bytes(
    data: st.DataObject, first: Any, other: dict[str, Any], separators: tuple[str, str], odd: bytes
) -> None:
    body = {"model": "mock", **other, "messages": first}
    if data.draw(st.booleans()):
        body |= {"stream": True, "stream_options": data.draw(options)}
    order = data.draw(st.permutations(list(body)))
    whole = written(body, order, separators)
    like = known(whole)
    if like is not None:
        raw = json.dumps(first, separators=separators, ensure_ascii=False).encode()
        says_the_same(like, whole.replace(raw, odd, 1))


def test_an_ordinary_chat_is_recognised() -> None:
    first = b'{"model":"mock","max_tokens":9,"messages":[{"role":"user","content":"a"}],"user":"[]"}'
    like = known(first)
    assert like is not None
    assert says_the_same(like, first.replace(b'"a"', '"é, "'.encode()))
    assert not says_the_same(like, first.replace(b'"a"', b'"a","n":3,"content":"[]"'))


def test_the_newer_name_of_the_limit_is_recognised_and_the_lower_of_two_holds() -> None:
    first = b'{"model":"mock","max_completion_tokens":9,"max_tokens":12,"messages":[{"content":"a"}]}'
    like = known(first)
    assert like is not None and says_the_same(like, first.replace(b'"a"', b'"b, c"'))
    read = like.read(first, BOUND)
    assert read is not None and read[0].max_output_tok == 9


def test_a_stream_that_wants_its_usage_is_recognised() -> None:
    first = (
        b'{"model":"mock","stream":true,"stream_options":{"include_usage":true},"messages":[{"content":"a"}]}'
    )
    like = known(first)
    assert like is not None and says_the_same(like, first.replace(b'"a"', b'"b, c"'))
    read = like.read(first, BOUND)
    assert read is not None and read[0].stream and read[0].show_usage


def test_messages_that_stand_elsewhere_too_are_not_mistaken() -> None:
    """The same bytes in a text before: what stands around the first of them is no place for a value."""
    twice = b'{"model":"mock","user":"[{}]","messages":[{}]}'
    assert known(twice) is None
    other_value = b'{"model":"mock","temperature":[],"messages":[]}'
    assert known(other_value) is None
