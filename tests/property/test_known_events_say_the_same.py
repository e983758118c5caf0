"""Law: a stream whose events are recognised by the bytes around their text is counted, ended and sent on
exactly as one that was read event by event, whatever the engine sends in between."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.tally import Tally

texts = st.one_of(
    st.sampled_from(
        ["", "a", " watt", "é", "\n", '"', "\\", "\u2028", "😀", "assistant", ',"usage":null', "\x7f"]
    ),
    st.text(alphabet='aé"\\\n\t{}:,/\x00\u2028😀', max_size=5),
)
fields = st.sampled_from(["content", "content", "content", "reasoning_content", "refusal", "tool_calls"])
beside = st.sampled_from(
    [{}, {}, {}, {"usage": None}, {"usage": {"prompt_tokens": 3, "completion_tokens": 9}}, {"timings": {}},
     {"timings": {"predicted_n": 4, "prompt_n": 2}}, {"error": "no"}, {"obfuscation": "x1"}]
)  # fmt: skip
spacing = st.sampled_from([(",", ":"), (", ", ": ")])
wild = st.sampled_from(
    [
        *(
            b'x","content":"y',
            b'x"},"finish_reason":"stop"}],"usage":null,"z":[{"a":{"b":"',
            b"\xff",
            b"\xc3",
        ),
        *(
            b"a\\",
            b"\\u00e9",
            b"\\x",
            b"a\nb",
            b"a\n\ndata: [DONE]\n\n",
            b"a\r\n",
            b"\x01",
            b"",
            b"\\ud800",
            b"ok",
        ),
    ]
)


def event(
    text: Any, field: str, more: dict[str, Any], index: int, finish: str | None, separators: tuple[str, str]
) -> bytes:
    delta = {"role": "assistant", field: [text] if field == "tool_calls" else text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    said = {"id": "c1", "choices": [choice], **more}
    return b"data: " + json.dumps(said, separators=separators, ensure_ascii=False).encode()


events = st.builds(
    event,
    texts,
    fields,
    beside,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([None] * 6 + ["stop"]),
    spacing,
)


def seen(tally: Tally) -> tuple[Any, ...]:
    names = [name for name in Tally.__slots__ if name not in ("_like", "_unlike", "_adapter")]
    return tuple(repr(getattr(tally, name)) for name in names)


def told_alike(stream: list[bytes], adapter: str, *, show_usage: bool, n: int = 1) -> int:
    """Feed one tally event by event, the other by what it recognises; return how many it did."""
    slow, fast = (Tally(ADAPTERS[adapter], "chat", show_usage=show_usage, n=n) for _ in range(2))
    recognised = 0
    for one in stream:
        parts = [part for part in one.split(b"\n\n") if part]
        out = fast.again(one + b"\n\n")
        if out is not None:
            assert len(parts) == 1
            recognised += 1
            assert slow.feed(one) == out
        else:
            for part in parts:
                assert slow.feed(part) == fast.feed(part)
        assert seen(slow) == seen(fast)
    return recognised


adapters = st.sampled_from(sorted(ADAPTERS))


@given(st.lists(events, min_size=3, max_size=10), adapters, st.booleans(), st.integers(1, 2))
@settings(max_examples=300)
def test_any_stream(stream: list[bytes], adapter: str, show_usage: bool, n: int) -> None:
    told_alike(stream, adapter, show_usage=show_usage, n=n)


@given(
    fields, beside, spacing, st.lists(texts, min_size=2, max_size=6), st.lists(wild, min_size=1, max_size=3),
    adapters, st.booleans(),
)  # fmt: skip
@settings(max_examples=300)
def test_any_bytes_in_the_place_of_the_text(
    field: str,
    more: dict[str, Any],
    separators: tuple[str, str],
    said: list[str],
    odd: list[bytes],
    adapter: str,
    show_usage: bool,
) -> None:
    stream = [event(text, field, more, 0, None, separators) for text in said]
    like = event("HERE", field, more, 0, None, separators)
    told_alike(
        [*stream, like, *(like.replace(b"HERE", raw) for raw in odd), like], adapter, show_usage=show_usage
    )


def plain(text: str, **more: Any) -> bytes:
    return event(text, "content", more, 0, None, (",", ":"))


def test_an_ordinary_stream_is_recognised_from_its_third_event_on() -> None:
    words = [plain(word) for word in ("a", " b", "c", "é,", 'say \\"so\\"', "\n\n")]
    assert told_alike(words, "openai-compatible", show_usage=False) == len(words) - 2


def test_a_field_that_is_hidden_from_the_client_stays_hidden() -> None:
    words = [plain(word, usage=None) for word in ("a", "b", "c", "d")]
    assert told_alike(words, "openai", show_usage=False) == 2
    assert told_alike(words, "openai", show_usage=True) == 2


def test_an_end_an_empty_text_and_a_second_choice_are_read_in_full() -> None:
    odd = [
        plain(""),
        event("x", "content", {}, 0, "stop", (",", ":")),
        event("x", "content", {}, 1, None, (",", ":")),
    ]
    assert told_alike([plain("a"), plain("b"), *odd], "openai-compatible", show_usage=False) == 0


def test_a_text_is_not_looked_for_in_another_field() -> None:
    """The first text is written by its numbers, and stands as it is in another field."""
    odd = [
        b'data: {"id":"c1","name":"%b","choices":[{"delta":{"content":"\\u0061%b"}}]}' % (text, text[1:])
        for text in (b"abc", b"abd", b"abe")
    ]
    plain_id = [one.replace(b"\\u0061", b"x") for one in odd]
    assert told_alike([*odd, *plain_id], "openai-compatible", show_usage=False) == 0
