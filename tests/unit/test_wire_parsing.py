from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.distribution.wire import Draft, parse
from wattmill.vocab.refusal import Refusal

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def read(more: dict[str, Any] | None = None, endpoint: str = "chat", **kwargs: Any) -> Draft | Refusal:
    return parse(endpoint, json.dumps(CHAT | (more or {}), **kwargs).encode())  # type: ignore[arg-type]


def refusal(data: bytes, endpoint: str = "chat") -> Refusal:
    answer = parse(endpoint, data)  # type: ignore[arg-type]
    assert isinstance(answer, Refusal), answer
    return answer


def test_a_plain_chat_is_read() -> None:
    draft = read({"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 7, "n": 2})
    assert isinstance(draft, Draft)
    assert (draft.model, draft.stream, draft.show_usage, draft.max_output_tok) == ("m", True, True, 7)
    assert (draft.n, draft.choices, draft.needs) == (2, 2, frozenset({"n"}))


def test_the_smaller_of_the_two_limits_counts() -> None:
    for a, b in ((3, 9), (9, 3)):
        draft = read({"max_tokens": a, "max_completion_tokens": b})
        assert isinstance(draft, Draft) and draft.max_output_tok == 3
    draft = read({"max_tokens": None, "max_completion_tokens": 4})
    assert isinstance(draft, Draft) and draft.max_output_tok == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "5", True, [], {}, 10**30, 2**31])
def test_a_limit_that_is_no_positive_whole_number_is_refused_with_its_value(name: str, value: object) -> None:
    answer = read({name: value})
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.param) == ("bad_value", name)
    assert json.dumps(value)[:60] in answer.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("model", ""),
        ("model", 7),
        ("model", "x" * 300),
        ("model", "a\nb"),
        ("stream", "true"),
        ("stream", 1),
        ("messages", None),
        ("messages", "hi"),
        ("messages", {}),
        ("response_format", "json"),
    ],
)
def test_wrong_types_name_the_field(field: str, value: object) -> None:
    answer = read({field: value})
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.param) == ("bad_value", field)


def test_stream_options_must_be_an_object_with_a_flag() -> None:
    for value in ("x", [], {"include_usage": 1}):
        answer = read({"stream": True, "stream_options": value})
        assert isinstance(answer, Refusal) and answer.param == "stream_options"


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "empty"),
        (b"  ", "empty"),
        (b"[1]", "one JSON object"),
        (b'"x"', "one JSON object"),
        (b'{"model":', "ends too early, at byte 9"),
        (b'{"model":"m",}', "byte 13"),
        (b'{"model":NaN}', "byte 9"),
        (b'{"model":tru}', "invalid character (byte 10)"),
        (b'{"model":"m"} x', "byte 15"),
        (b'\xef\xbb\xbf{"model":"m"}', "byte 0"),
        (b'{"model":"\xff"}', "not UTF-8: invalid start byte at byte 10"),
        (b'{"model":"\\ud800x"}', "lone surrogate \\ud800 at byte 10"),
        (b'{"a":"\\ud83d\\ude00","model":"\\udc00"}', "lone surrogate \\udc00 at byte 29"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_json_object_says_where(data: bytes, part: str) -> None:
    answer = refusal(data)
    assert answer.code == "bad_json"
    assert part in answer.message


def test_numbers_that_no_machine_holds_are_refused_where_they_govern_and_passed_elsewhere() -> None:
    huge = b"9" * 5_000
    head = b'{"model":"m","messages":[],"%s":%s}'
    assert refusal(head % (b"max_tokens", huge)).code == "bad_value"
    assert refusal(head % (b"n", b"1e999")).code == "bad_value"
    assert isinstance(parse("chat", head % (b"x", huge)), Draft)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m","messages":[],"max_tokens":1,"max_tokens":99}',
        b'{"model":"m","messages":[],"max_tokens":1,"max_\\u0074okens":99}',
        b'{ "model" : "m" , "messages":[], "n":1, "n":2 }',
        b'{"n":1,"model":"m","messages":[],"n":1}',
        b'{"model":"m","messages":[],"x":1,"x":' + b"9" * 5_000 + b"}",
    ],
)
def test_a_field_given_twice_is_refused_however_it_is_written(data: bytes) -> None:
    assert refusal(data).code == "duplicate_field"


def test_a_repeated_field_cannot_hide_in_the_white_space_it_replaces() -> None:
    # The dropped member is exactly as long as the spaces that a compact print drops.
    data = b'{"model":"m","messages":[],"n":1,"n":2}'
    padded = b'{"model":"m","messages":[],       "n":2}'
    assert len(data) <= len(padded)
    assert refusal(data).code == "duplicate_field"
    assert isinstance(parse("chat", padded), Draft)


SEPARATORS = [(",", ":"), (", ", ": "), (" ,\n", " :\t")]
keys = st.one_of(st.sampled_from(["model", "messages", "n", "max_tokens", "stream"]), st.text(max_size=4))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 99) | st.text(max_size=5), lambda v: st.lists(v, max_size=2)
)


@given(
    st.lists(st.tuples(keys, values), max_size=8),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
)
def test_duplicates_are_found_exactly_when_there_are_some(
    members: list[tuple[str, Any]], separators: tuple[str, str]
) -> None:
    comma, colon = separators
    ascii_only = len(members) % 2 == 0
    text = comma.join(json.dumps(k, ensure_ascii=ascii_only) + colon + json.dumps(v) for k, v in members)
    try:
        data = ("{" + text + "}").encode()
    except UnicodeEncodeError:
        return
    twice = len({k for k, _ in members}) < len(members)
    answer = parse("chat", data)
    said = isinstance(answer, Refusal) and answer.code == "duplicate_field"
    if not (isinstance(answer, Refusal) and answer.code == "bad_json"):  # lone surrogates
        assert said == twice


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123 modelnstrue', max_size=60).map(str.encode))
def test_any_bytes_give_a_draft_or_a_clear_refusal(data: bytes) -> None:
    for endpoint in ("chat", "completions", "embeddings"):
        answer = parse(endpoint, data)  # type: ignore[arg-type]
        assert isinstance(answer, Draft | Refusal)
        if isinstance(answer, Refusal):
            assert answer.status == 400 and answer.message


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"functions": [{}]}, {"tools"}),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_object"}}, {"json_schema"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, set()),
        ({"top_logprobs": 3, "logprobs": True}, {"logprobs"}),
        ({"modalities": ["text", "audio"]}, {"audio"}),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), {"vision"}),
        (user([{"type": "input_audio", "input_audio": {}}]), {"audio"}),
        (user([{"type": "text", "text": "an image_url [1]"}]), set()),
        (user('just "image_url" in [text]'), set()),
    ],
)
def test_what_a_request_needs_of_a_place(more: dict[str, Any], needs: set[str]) -> None:
    draft = read(more)
    assert isinstance(draft, Draft)
    assert draft.needs == needs


def test_a_part_written_with_escapes_is_seen() -> None:
    data = b'{"model":"m","messages":[{"content":[{"\\u0074ype":"im\\u0061ge_url","x":1}]}]}'
    draft = parse("chat", data)
    assert isinstance(draft, Draft) and draft.needs == {"vision"}


@pytest.mark.parametrize(
    ("prompt", "prompts"), [("hi", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)]
)
def test_each_prompt_of_a_completion_has_choices_of_its_own(prompt: Any, prompts: int) -> None:
    draft = parse("completions", json.dumps({"model": "m", "prompt": prompt, "n": 3}).encode())
    assert isinstance(draft, Draft)
    assert (draft.prompts, draft.choices) == (prompts, 3 * prompts)


def test_completions_need_a_prompt_and_embeddings_an_input_that_is_not_streamed() -> None:
    assert refusal(b'{"model":"m"}', "completions").param == "prompt"
    assert refusal(b'{"model":"m","prompt":[]}', "completions").param == "prompt"
    assert refusal(b'{"model":"m"}', "embeddings").param == "input"
    assert refusal(b'{"model":"m","input":"x","stream":true}', "embeddings").param == "stream"
    assert isinstance(parse("embeddings", b'{"model":"m","input":"x"}'), Draft)


plain_fields = {
    "model": st.sampled_from(["m", "p/m", "", "é", "x" * 300, 5, None]),
    "messages": st.sampled_from(
        [[], [{"role": "user", "content": "[x]"}], [{"content": []}], "no", None, {}]
    ),
    "stream": st.sampled_from([True, False, None, "yes"]),
    "max_tokens": st.sampled_from([1, 7, 0, -1, None, "4", 2.0, 2**31]),
    "n": st.sampled_from([1, 2, None]),
    "max_completion_tokens": st.sampled_from([3, 9, 0, None, "4", 2.0, 2**31]),
    "stream_options": st.sampled_from([{"include_usage": True}, None]),
    "tools": st.sampled_from([[], [{"type": "function"}], None]),
    "temperature": st.just(0.5),
}


@given(st.fixed_dictionaries({}, optional=plain_fields))
def test_the_quick_way_says_what_the_long_way_says(body: dict[str, Any]) -> None:
    short = json.dumps(body).encode()
    long = json.dumps(body | {"user": "x" * 9_000}).encode()
    one, other = parse("chat", short), parse("chat", long)
    if isinstance(one, Refusal):
        assert one == other
    else:
        assert isinstance(other, Draft)
        for name in ("model", "stream", "show_usage", "max_output_tok", "n", "prompts", "needs"):
            assert getattr(one, name) == getattr(other, name)
