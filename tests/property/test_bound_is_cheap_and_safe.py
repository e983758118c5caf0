"""The bound of a prompt is never below its bytes, and no spelling of the same JSON hides anything from it.

That it is never below the tokens of the real tokenizer is shown in `tests/engines/test_bound_tokenizer.py`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.models.bound import input_bound_tok
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal

BOUND = TokenizerBound()
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": st.text(max_size=50)}),
    max_size=6,
)


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def bound_of(body: dict[str, Any], bound: TokenizerBound = BOUND, endpoint: Any = "chat") -> int | Refusal:
    return input_bound_tok(
        endpoint, {k: raw(json.dumps(v, ensure_ascii=False)) for k, v in body.items()}, bound
    )


def number(told: int | Refusal) -> int:
    assert isinstance(told, int), told
    return told


@given(MESSAGES)
def test_the_bound_covers_every_byte_and_every_message(messages: list[dict[str, str]]) -> None:
    told = number(bound_of({"messages": messages}))
    text_bytes = sum(len(m["content"].encode()) + len(m["role"]) for m in messages)
    assert told >= BOUND.per_request_tok + BOUND.per_message_tok * len(messages) + text_bytes


@given(MESSAGES)
def test_escapes_and_spaces_never_lower_the_bound(messages: list[dict[str, str]]) -> None:
    plain = json.dumps(messages, ensure_ascii=False, separators=(",", ":"))
    escaped = "".join(f"\\u{ord(c):04x}" for c in "role").join(plain.split("role"))
    for spelled in (escaped, json.dumps(messages, ensure_ascii=True), json.dumps(messages, indent=3)):
        least = number(input_bound_tok("chat", {"messages": raw(plain)}, BOUND))
        assert number(input_bound_tok("chat", {"messages": raw(spelled)}, BOUND)) >= least


@given(MESSAGES, st.text(max_size=40))
def test_more_to_say_never_lowers_the_bound(messages: list[dict[str, str]], more: str) -> None:
    longer = [*messages, {"role": "user", "content": more}]
    assert number(bound_of({"messages": longer})) > number(bound_of({"messages": messages}))
    assert number(bound_of({"messages": messages, "documents": [{"text": more}]})) > number(
        bound_of({"messages": messages})
    )


@given(st.floats(1.0, 20.0), MESSAGES)
def test_a_normaliser_that_expands_raises_it(expansion: float, messages: list[dict[str, str]]) -> None:
    wider = TokenizerBound(expansion=expansion)
    assert number(bound_of({"messages": messages}, wider)) >= number(bound_of({"messages": messages}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.lists(JSON.map(lambda v: {"type": "function", "function": {"name": "f", "parameters": v}}), max_size=3)
)
def test_tools_are_bounded_as_widely_as_a_template_prints_them(tools: list[Any]) -> None:
    told = number(bound_of({"messages": [], "tools": tools}))
    printed = json.dumps(tools, indent=4, ensure_ascii=False)
    without = number(bound_of({"messages": []}))
    assert told >= without + (len(printed.encode()) if tools else 0)


@given(st.binary(max_size=60), st.sampled_from(["chat", "completions", "embeddings"]))
def test_no_bytes_make_it_raise(junk: bytes, endpoint: Any) -> None:
    fields = {
        name: msgspec.Raw(junk or b"0")
        for name in ("messages", "prompt", "input", "tools", "response_format")
    }
    assert isinstance(input_bound_tok(endpoint, fields, BOUND), int | Refusal)


IMAGE = '{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}'


@pytest.mark.parametrize(
    "part",
    [
        IMAGE,
        IMAGE.replace("image_url", "\\u0069mage_url"),
        IMAGE.replace('"type"', '"\\u0074ype"'),
        '{"image_url":{"url":"https://example.org/x.png"}}',
        '{"type":"input_audio","input_audio":{"data":"AA","format":"wav"}}',
        '{"type":"video_url","video_url":{"url":"https://example.org/x.mp4"}}',
        '{"type":"file","file":{"file_id":"f"}}',
    ],
)
def test_what_cannot_be_bounded_is_refused_however_it_is_spelled(part: str) -> None:
    content = f'[{{"role":"user","content":[{{"type":"text","text":"see"}},{part}]}}]'
    told = input_bound_tok("chat", {"messages": raw(content)}, BOUND)
    assert isinstance(told, Refusal) and told.code == "no_capability"


def test_an_image_counts_at_its_declared_ceiling_not_by_its_bytes() -> None:
    content = f'[{{"role":"user","content":[{IMAGE.replace("AAAA", "A" * 100_000)}]}}]'
    told = input_bound_tok("chat", {"messages": raw(content)}, TokenizerBound(per_image_tok=1_500))
    assert isinstance(told, int) and 1_500 < told < 2_000


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {}),
        ("chat", {"messages": "hello"}),
        ("chat", {"messages": [1]}),
        ("completions", {"prompt": None}),
        ("completions", {"prompt": {"prompt_string": "x", "multimodal_data": ["AAAA"]}}),
        ("completions", {"prompt": [{"prompt_string": "x"}]}),
        ("embeddings", {"input": [None]}),
        ("embeddings", {}),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_name(endpoint: Any, body: dict[str, Any]) -> None:
    told = bound_of(body, endpoint=endpoint)
    assert isinstance(told, Refusal) and told.code == "bad_value"
    assert told.param in ("messages", "prompt", "input") and told.param in told.message


def test_deep_nesting_is_refused_or_bounded_and_quick() -> None:
    deep = "[" * 50_000 + "]" * 50_000
    told = input_bound_tok("chat", {"messages": raw("[]"), "tools": raw(f"[{deep}]")}, BOUND)
    assert isinstance(told, Refusal)
    wide = "[" + ",".join(["[[[[{}]]]]"] * 20_000) + "]"
    told = input_bound_tok("chat", {"messages": raw("[]"), "tools": raw(wide)}, BOUND)
    assert isinstance(told, int) and told > len(wide)
