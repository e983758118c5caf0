"""Golden vectors of Messages and Responses: streamed and not, one identical row; and the same row as a chat.

They are written by hand in the shape in which the providers' own client libraries (anthropic 2.11, openai
3.52) define the objects; each is validated against those libraries' models in `test_doors_speak_truly`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.assemble import Assembler
from wattmill.models.engines.messages_dialect import MessagesDialect
from wattmill.models.engines.responses_dialect import ResponsesDialect
from wattmill.models.engines.speech import Dialect
from wattmill.models.engines.tally import Tally, read_answer
from wattmill.models.engines.usage import (
    OpenAIUsage,
    from_openai,
    to_anthropic,
    to_openai,
    to_responses,
)
from wattmill.vocab.usage import Usage

FOLDER = Path(__file__).parent / "fixtures" / "usage"

VECTORS: dict[str, tuple[type[Dialect], str, Usage]] = {
    "anthropic_cache": (
        MessagesDialect,
        "anthropic",
        Usage(21 + 188_086 + 1_024, 12, cached_tok=1_024, cache_write_tok=188_086),
    ),
    "anthropic_thinking_tool": (MessagesDialect, "anthropic", Usage(472, 109, reasoning_tok=20)),
    "openai_responses_cached": (ResponsesDialect, "openai", Usage(1117, 46, cached_tok=1024)),
    "openai_responses_reasoning_tool": (
        ResponsesDialect,
        "openai",
        Usage(75, 1186, cache_write_tok=64, reasoning_tok=1024),
    ),
}


def events_of(name: str) -> list[bytes]:
    return [e for e in (FOLDER / f"{name}.sse").read_bytes().split(b"\n\n") if e]


def read_stream(name: str, *, most: int | None = None) -> tuple[Tally, list[bytes]]:
    made, adapter, _ = VECTORS[name]
    dialect = made()
    tally = Tally(ADAPTERS[adapter], "chat", show_usage=True)
    sent = []
    for event in events_of(name)[:most]:
        for chat in dialect.feed(event):
            if (out := tally.feed(chat)) is not None:
                sent.append(out)
    return tally, sent


@pytest.mark.parametrize("name", VECTORS)
def test_streamed_and_not_streamed_give_the_identical_usage_and_answer(name: str) -> None:
    made, adapter, expected = VECTORS[name]
    tally, sent = read_stream(name)
    assert tally.failure is None and tally.done
    assert tally.reading() == (expected, "measured")
    whole = made().whole((FOLDER / f"{name}.json").read_bytes())
    reading = read_answer(ADAPTERS[adapter], "chat", whole)
    assert (reading.usage, reading.source, reading.failure) == (expected, "measured", None)
    assert reading.finish_reason == tally.finish_reason is not None
    assert reading.engine_id == tally.engine_id
    assembler = Assembler("chat")
    for event in sent:
        assembler.add(event)
    assert _message(assembler.answer()) == _message(whole)


def _message(answer: bytes) -> dict[str, Any]:
    message = json.loads(answer)["choices"][0]["message"]
    return {name: value for name, value in message.items() if value not in (None, "")}


def test_an_aborted_stream_of_messages_has_its_input_and_what_was_seen_to_come() -> None:
    tally, _ = read_stream("anthropic_cache", most=4)  # two pieces of text have not come yet
    usage, source = tally.reading(prompt_tok=999_999)
    assert source == "estimated"
    assert usage == Usage(189_131, 1, cached_tok=1_024, cache_write_tok=188_086)


def test_an_aborted_stream_of_responses_was_not_counted_by_anybody() -> None:
    tally, _ = read_stream("openai_responses_cached", most=6)
    assert tally.reading(prompt_tok=300) == (Usage(300, 2), "estimated")
    assert tally.reading() == (None, "unmetered")


@pytest.mark.parametrize(
    ("made", "event", "says"),
    [
        (
            MessagesDialect,
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            "Over",
        ),
        (ResponsesDialect, {"type": "error", "code": "x", "message": "no luck", "param": None}, "no luck"),
        (
            ResponsesDialect,
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "fell"}}},
            "fell",
        ),
        (MessagesDialect, {"no": "type"}, "no event of Messages"),
    ],
)
def test_an_error_in_mid_stream_is_a_failure_with_its_words(
    made: type[Dialect], event: dict[str, Any], says: str
) -> None:
    tally = Tally(ADAPTERS["openai"], "chat", show_usage=True)
    for chat in made().feed(b"event: error\ndata: " + json.dumps(event).encode()):
        tally.feed(chat)
    assert tally.failure is not None and says in tally.failure


@pytest.mark.parametrize(
    ("adapter", "made", "body", "says"),
    [
        (
            "anthropic",
            MessagesDialect,
            {"id": "m", "content": [], "usage": {"input_tokens": -4, "output_tokens": 1}},
            "input_tokens is -4",
        ),
        (
            "openai",
            ResponsesDialect,
            {
                "id": "r",
                "status": "completed",
                "output": [],
                "usage": {
                    "input_tokens": 3,
                    "output_tokens": 1,
                    "total_tokens": 4,
                    "input_tokens_details": {"cached_tokens": 5},
                },
            },
            "cannot exceed prompt_tok 3",
        ),
        (
            "openai",
            ResponsesDialect,
            {"id": "r", "output": [], "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 9}},
            "total_tokens 9 is not input_tokens 3",
        ),
    ],
)
def test_impossible_usage_is_an_error_with_its_numbers(
    adapter: str, made: type[Dialect], body: dict[str, Any], says: str
) -> None:
    reading = read_answer(ADAPTERS[adapter], "chat", made().whole(json.dumps(body).encode()))
    assert reading.failure is not None and says in reading.failure


@pytest.mark.parametrize("name", VECTORS)
def test_usage_goes_into_each_protocols_words_and_back(name: str) -> None:
    import msgspec

    usage = VECTORS[name][2]
    assert from_openai(msgspec.convert(to_openai(usage), OpenAIUsage)) == usage
    told = json.loads((FOLDER / f"{name}.json").read_bytes())["usage"]
    mine = to_anthropic(usage) if name.startswith("anthropic") else to_responses(usage)
    assert {field: told[field] for field in mine} == mine
