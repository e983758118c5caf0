"""The tally reads any stream that a server may send, and says what is wrong with what is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.tally import Tally, read_answer
from wattmill.vocab.usage import Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def tally_for(adapter: str = "openai-compatible", *, show_usage: bool = False, **more: Any) -> Tally:
    return Tally(ADAPTERS[adapter], "chat", show_usage=show_usage, **more)


def chunk(text: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": None}
    return b"data: " + msgspec.json.encode({"id": "c1", "choices": [choice], **more})


@pytest.mark.parametrize(
    "event",
    [
        b": keep-alive",
        b'event: message\ndata: {"choices":[]}',
        b'data:{"choices":[]}',
        b'data: {"choices":\ndata: []}',
        b'id: 7\nretry: 100\ndata: {"choices":[]}\r',
        b'data: {"choices":[],"prompt_filter_results":[]}',
    ],
)
def test_what_the_standard_allows_is_no_failure(event: bytes) -> None:
    tally = tally_for()
    tally.feed(event)
    assert tally.failure is None


@pytest.mark.parametrize(
    "event",
    [
        b"data: {",
        b"data: [1,2]",
        b'data: {"choices":{}}',
        b"HTTP/1.1 200 OK",
        b"<html>",
        b'data: {"choices":[]} trailing',
        b"data: \xff\xfe",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}',
        b'data: {"usage":{"prompt_tokens":"many"}}',
        b'data: {"usage":{"prompt_tokens":-3,"completion_tokens":1}}',
        b'data: {"usage":{"prompt_tokens":3,"completion_tokens":99999999999999999}}',
        b'data: {"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":3}}',
        b'error: {"message":"out of memory"}',
        b'event: error\ndata: {"error":{"message":"out of memory"}}',
    ],
)
def test_what_is_no_answer_is_a_failure_that_says_why(event: bytes) -> None:
    tally = tally_for()
    assert tally.feed(event) is None
    assert tally.failure
    assert tally.feed(chunk("more")) is None, "nothing is sent on after a failure"


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_no_bytes_make_it_raise(events: list[bytes]) -> None:
    tally = tally_for("llama.cpp")
    for event in events:
        tally.feed(b"data: {" + event)
        tally.feed(event)
    tally.reading()
    read_answer(ADAPTERS["openai"], "chat", b"".join(events))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["id", "choices", "usage", "timings", "error", "x"]), JSON))
def test_no_json_makes_it_raise(event: dict[str, Any]) -> None:
    tally = tally_for("vllm")
    tally.feed(b"data: " + msgspec.json.encode(event))
    tally.reading()


@given(st.text(max_size=30), st.booleans())
def test_text_that_looks_like_our_fields_reaches_the_client(text: str, show: bool) -> None:
    """The fields are cut out of bytes: what a model says must never be mistaken for them."""
    timings = {"cache_n": 0, "prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 1, "predicted_ms": 0.1}
    said = text + ',"timings":{"a":1}}' + ',"usage":null' + ',"usage":{"prompt_tokens":1}'
    tally = tally_for("llama.cpp", show_usage=show)
    out = tally.feed(chunk(said, timings=timings))
    assert out is not None
    assert json.loads(out[6:]) == json.loads(chunk(said)[6:])
    tally = tally_for("vllm", show_usage=show)
    out = tally.feed(chunk(said, usage=USAGE))
    assert out is not None
    assert json.loads(out[6:]) == json.loads(chunk(said)[6:])


def test_fields_that_are_not_last_are_cut_out_too() -> None:
    timings = {"predicted_n": 1, "more": {"nested": True}}
    tally = tally_for("llama.cpp")
    out = tally.feed(b"data: " + msgspec.json.encode({"timings": timings, "choices": [], "id": "x"}))
    assert out == b'data: {"choices":[],"id":"x"}\n\n'


def test_timings_stay_for_who_asked() -> None:
    event = chunk("a", timings={"predicted_n": 1})
    assert tally_for("llama.cpp", show_timings=True).feed(event) == event + b"\n\n"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"},
        {"reasoning_content": "a"},
        {"reasoning": "a"},
        {"refusal": "a"},
        {"tool_calls": [{"index": 0}]},
        {"function_call": {"name": "f"}},
        {"audio": {"data": "UklG"}},
    ],
)
def test_anything_produced_is_content(delta: dict[str, Any]) -> None:
    tally = tally_for()
    tally.feed(b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}))
    assert not tally.has_content
    tally.feed(b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": delta}]}))
    assert tally.has_content and tally.output_tok_so_far == 1


def counted(index: int, prompt: int, output: int, finish: str | None = None) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    choice = {"index": index, "delta": {"content": "a"}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"choices": [choice], "usage": usage})


def test_a_count_beside_content_takes_nothing_back_of_what_came() -> None:
    """Else an engine that says 1 with each chunk would never reach its clamp."""
    tally = tally_for()
    for _ in range(30):
        tally.feed(counted(0, 5, 1))
    assert tally.output_tok_so_far == 30
    tally.feed(counted(0, 5, 1, "stop"))
    assert tally.reading() == (Usage(5, 1), "measured")


def test_choices_that_an_engine_counts_one_by_one_are_added_up() -> None:
    """vLLM tells with each chunk what that choice has; nothing but its last usage is about all."""
    tally = tally_for("vllm", n=2)
    for event in (counted(0, 5, 1), counted(1, 5, 1), counted(0, 5, 2, "stop"), counted(1, 5, 2)):
        tally.feed(event)
    assert tally.reading() == (Usage(5, 4), "estimated")
    assert tally.output_tok_so_far == 4
    tally.feed(counted(1, 5, 3, "stop"))
    assert tally.reading() == (Usage(5, 5), "estimated")
    last = {
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    tally.feed(b"data: " + msgspec.json.encode({"choices": [], "usage": last}))
    assert tally.reading() == (Usage(5, 5, cached_tok=4), "measured")


def test_prompts_are_counted_once_for_all_their_choices() -> None:
    tally = Tally(ADAPTERS["vllm"], "completions", show_usage=False, n=2, prompts=2)
    for index, prompt in ((0, 5), (1, 5), (2, 7), (3, 7)):
        tally.feed(counted(index, prompt, 2))
    assert tally.reading() == (Usage(12, 8), "estimated")


def test_one_finished_choice_of_two_does_not_make_partial_usage_final() -> None:
    tally = tally_for("openai-compatible", n=2)
    for index, finish in ((0, None), (1, None), (0, "stop")):
        tally.feed(counted(index, 5, 2, finish))
    assert tally.reading() == (Usage(5, 3), "estimated")  # three chunks came
    tally.feed(counted(1, 5, 4, "stop"))
    assert tally.reading() == (Usage(5, 4), "measured")


def test_a_usage_of_nothing_after_content_is_a_lie() -> None:
    tally = tally_for()
    tally.feed(chunk("a"))
    tally.feed(
        b"data: "
        + msgspec.json.encode({"choices": [], "usage": {**USAGE, "completion_tokens": 0, "total_tokens": 5}})
    )
    assert tally.failure is not None and "0 output tokens after 1 chunks" in tally.failure


def test_usage_that_comes_before_the_content_is_not_the_last_word() -> None:
    first = {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    tally = tally_for()
    tally.feed(b"data: " + msgspec.json.encode({"choices": [], "usage": first}))
    tally.feed(chunk("a"))
    tally.feed(chunk("b"))
    assert tally.reading() == (Usage(5, 2), "estimated")


def test_usage_that_is_told_twice_takes_nothing_back() -> None:
    def told(*outputs: int) -> Usage | None:
        tally = tally_for()
        tally.feed(chunk("hi"))
        for output in outputs:
            usage = USAGE | {"completion_tokens": output, "total_tokens": 5 + output}
            tally.feed(b"data: " + msgspec.json.encode({"id": "c1", "choices": [], "usage": usage}))
        usage_now, source = tally.reading()
        assert source == "measured"
        return usage_now

    assert told(40, 2) == told(40) == told(2, 40) == told(2, 40, 3) == Usage(5, 40)


def test_an_attempt_that_produced_nothing_reads_none() -> None:
    assert tally_for().reading() == (None, "none")
    assert tally_for().reading(prompt_tok=9) == (Usage(9, 0), "estimated")


def test_done_ends_it() -> None:
    tally = tally_for()
    assert tally.feed(b"data: [DONE]") == b"data: [DONE]\n\n" and tally.done
    assert tally.feed(chunk("late")) is None and not tally.has_content
