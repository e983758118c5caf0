"""What the doors tell, held against the providers' own client libraries: every event and every whole answer
must be one that those accept, and they must add up to the same words, calls and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic.types
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from wattmill.distribution.doors.messages_answer import MessageWriter
from wattmill.distribution.doors.responses_answer import ResponseWriter
from wattmill.models.engines.assemble import Assembler
from wattmill.models.engines.messages_dialect import MessagesDialect
from wattmill.models.engines.responses_dialect import ResponsesDialect
from wattmill.models.engines.speech import Dialect
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

RESPONSE_EVENT: TypeAdapter[BaseModel] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[BaseModel] = TypeAdapter(anthropic.types.RawMessageStreamEvent)
USAGE = Usage(120, 30, cached_tok=64, cache_write_tok=16, reasoning_tok=5)
ECHO: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "store": False,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
}


def chat_event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "e-1", "object": "chat.completion.chunk", "model": "up", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


words = st.text(min_size=1, max_size=12)
texts = st.lists(st.tuples(st.sampled_from(["content", "reasoning_content"]), words), max_size=8)
calls = st.lists(st.tuples(st.text("abc_", min_size=1, max_size=6), st.lists(words, max_size=4)), max_size=4)


@st.composite
def chats(draw: st.DrawFn) -> list[bytes]:
    """Chat streams as engines give them: thoughts and words, then calls, one by one or all mixed up."""
    events = [chat_event({"role": "assistant", "content": ""})]
    events += [chat_event({field: text}) for field, text in draw(texts)]
    made = draw(calls)
    pieces = []
    for index, (name, parts) in enumerate(made):
        function = {"name": name, "arguments": ""}
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        pieces.append([call, *({"index": index, "function": {"arguments": part}} for part in parts)])
    if draw(st.booleans()):
        while any(pieces):
            events.append(
                chat_event({"tool_calls": [draw(st.sampled_from([p for p in pieces if p])).pop(0)]})
            )
    else:
        events += [chat_event({"tool_calls": [piece]}) for call in pieces for piece in call]
    finish = "tool_calls" if made else draw(st.sampled_from(["stop", "length", "content_filter"]))
    return [*events, chat_event({}, finish)]


def assembled(events: list[bytes]) -> bytes:
    assembler = Assembler("chat")
    for event in events:
        assembler.add(event)
    return assembler.answer()


def said(answer: bytes) -> dict[str, Any]:
    choice = json.loads(answer)["choices"][0]
    message = choice["message"]
    return {
        "text": message.get("content") or "",
        "thought": message.get("reasoning_content") or "",
        "calls": sorted(
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ),
        "finish": choice["finish_reason"],
    }


def read_back(dialect: Dialect, told: list[bytes]) -> tuple[bytes, dict[str, Any]]:
    """Read what a door told as the chat that it stands for."""
    chat = [event for one in told for event in dialect.feed(one.rstrip(b"\n"))]
    assert chat[-1] == b"data: [DONE]"
    whole = assembled([event + b"\n\n" for event in chat[:-1]])
    return whole, json.loads(whole)["usage"]


def response_writer() -> ResponseWriter:
    return ResponseWriter(response_id="resp_1", model="m", created_s=1_700_000_000, echo=ECHO)


def message_writer() -> MessageWriter:
    return MessageWriter(message_id="msg_1", model="m")


def parsed(event: bytes) -> dict[str, Any]:
    name, _, data = event.decode().partition("\n")
    assert data.startswith("data: ") and data.endswith("\n\n")
    body: dict[str, Any] = json.loads(data[6:])
    assert name == f"event: {body['type']}"
    return body


@settings(max_examples=150, deadline=None)
@given(chats())
def test_every_event_of_a_response_is_one_that_its_client_knows_and_they_add_up(events: list[bytes]) -> None:
    writer = response_writer()
    told = [event for one in events for event in writer.take(one)] + writer.close(USAGE, now_s=1_700_000_009)
    bodies = [parsed(event) for event in told]
    for body in bodies:
        RESPONSE_EVENT.validate_python(body, strict=True)
    assert [body["sequence_number"] for body in bodies] == list(range(len(bodies)))
    assert [body["type"] for body in bodies[:2]] == ["response.created", "response.in_progress"]
    assert bodies[-1]["type"] in ("response.completed", "response.incomplete")
    final = bodies[-1]["response"]
    Response.model_validate(final, strict=True)
    assert final == json.loads(json.dumps(writer.response))
    _deltas_add_up(bodies, final)

    whole = response_writer().answer(assembled(events), USAGE, now_s=1_700_000_009)
    grouped = said(assembled(events))
    back, usage = read_back(ResponsesDialect(), told)
    assert said(back) == grouped
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 16 and usage["completion_tokens"] == 30
    assert said(ResponsesDialect().whole(whole)) == grouped
    # A whole chat answer has no order between its words and thoughts; all else is the same as streamed.
    assert {k: v for k, v in json.loads(whole).items() if k != "output"} == {
        k: v for k, v in final.items() if k != "output"
    }


def _deltas_add_up(bodies: list[dict[str, Any]], final: dict[str, Any]) -> None:
    grown: dict[tuple[str, int], str] = {}
    done: dict[tuple[str, int], str] = {}
    for body in bodies:
        kind = body["type"]
        key = (body.get("item_id", ""), body.get("content_index", -1))
        if kind.endswith(".delta"):
            grown[key] = grown.get(key, "") + body["delta"]
        elif kind.endswith(("_text.done", "arguments.done")):
            done[key] = body.get("text", body.get("arguments"))
    assert {key: text for key, text in done.items() if text} == grown
    ids = [item["id"] for item in final["output"]]
    assert len(set(ids)) == len(ids)
    by_index = {
        b["output_index"]: b["item"]["id"] for b in bodies if b["type"] == "response.output_item.added"
    }
    assert [by_index[n] for n in range(len(ids))] == ids
    for item in final["output"]:
        for place, part in enumerate(item.get("content") or ()):
            assert done[item["id"], place] == part["text"]


@settings(max_examples=150, deadline=None)
@given(chats())
def test_every_event_of_a_message_is_one_that_its_client_knows_and_they_add_up(events: list[bytes]) -> None:
    writer = message_writer()
    told = [event for one in events for event in writer.take(one)] + writer.close(USAGE, now_s=0)
    bodies = [parsed(event) for event in told]
    assert bodies[0]["type"] == "message_start" and bodies[1] == {"type": "ping"}
    assert [body["type"] for body in bodies[-2:]] == ["message_delta", "message_stop"]
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    open_block: int | None = None
    for body in bodies:
        if body["type"] == "ping":
            continue
        event = MESSAGE_EVENT.validate_python(body, strict=True)
        if body["type"] == "content_block_start":
            assert open_block is None, "blocks come one after the other"
            open_block = body["index"]
        elif body["type"] == "content_block_delta":
            assert body["index"] == open_block
        elif body["type"] == "content_block_stop":
            assert body["index"] == open_block
            open_block = None
        if body["type"] != "content_block_delta" or _is_json(bodies, body["index"]):
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)  # type: ignore[arg-type]
    message = json.loads(json.dumps(writer.message))
    anthropic.types.Message.model_validate(message, strict=True)
    assert snapshot.stop_reason == message["stop_reason"]
    assert snapshot.usage.cache_read_input_tokens == 64 and snapshot.usage.input_tokens == 120 - 64 - 16

    grouped = said(assembled(events))
    back, usage = read_back(MessagesDialect(), told)
    assert said(back) == grouped
    assert usage["prompt_tokens"] == 120 and usage["completion_tokens"] == 30
    whole = message_writer().answer(assembled(events), USAGE, now_s=0)
    told_whole = json.loads(whole)
    assert {k: v for k, v in told_whole.items() if k != "content"} == {
        k: v for k, v in message.items() if k != "content"
    }
    text = "".join(block["text"] for block in told_whole["content"] if block["type"] == "text")
    assert text == grouped["text"]


def _is_json(bodies: list[dict[str, Any]], index: int) -> bool:
    """The client's accumulator parses a call's pieces; random words are no JSON and would be its error."""
    pieces = [
        body["delta"]["partial_json"]
        for body in bodies
        if body["type"] == "content_block_delta"
        and body["index"] == index
        and body["delta"]["type"] == "input_json_delta"
    ]
    return not pieces


def test_a_response_that_breaks_off_keeps_what_was_said_and_says_why() -> None:
    writer = response_writer()
    told = [
        e for one in (chat_event({"content": "he"}), chat_event({"content": "l"})) for e in writer.take(one)
    ]
    told += writer.fail(Refusal(code="upstream_failed", message="pool 'p0': reset"), "req_1")
    last = parsed(told[-1])
    RESPONSE_EVENT.validate_python(last, strict=True)
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert last["response"]["error"]["message"].startswith("upstream_failed: pool 'p0': reset")
    (item,) = last["response"]["output"]
    assert item["status"] == "incomplete" and item["content"][0]["text"] == "hel"


def test_a_message_that_breaks_off_ends_with_an_error_event() -> None:
    writer = message_writer()
    writer.take(chat_event({"content": "he"}))
    (told,) = writer.fail(Refusal(code="overloaded", message="all full"), "req_1")
    assert parsed(told) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "all full", "code": "overloaded", "param": None},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("finish", "calls", "stop", "reason", "sequence"),
    [
        ("stop", False, None, "end_turn", None),
        ("stop", False, "\n\nHuman:", "stop_sequence", "\n\nHuman:"),  # vLLM tells which
        ("stop", True, None, "tool_use", None),
        ("length", False, None, "max_tokens", None),
        ("content_filter", False, None, "refusal", None),
    ],
)
def test_each_end_of_a_chat_has_its_stop_reason(
    finish: str, calls: bool, stop: str | None, reason: str, sequence: str | None
) -> None:
    writer = message_writer()
    if calls:
        function = {"name": "f", "arguments": "{}"}
        writer.take(chat_event({"tool_calls": [{"index": 0, "id": "c", "function": function}]}))
    event = json.loads(chat_event({}, finish)[6:])
    event["choices"][0]["stop_reason"] = stop
    writer.take(b"data: " + json.dumps(event).encode())
    writer.close(None, now_s=0)
    assert (writer.message["stop_reason"], writer.message["stop_sequence"]) == (reason, sequence)
    assert writer.message["usage"]["provenance"] == "unmetered"


def test_logprobs_are_told_in_the_words_of_responses() -> None:
    token = {"token": "hi", "logprob": -0.5, "bytes": [104], "top_logprobs": []}
    event = json.loads(chat_event({"content": "hi"})[6:])
    event["choices"][0]["logprobs"] = {"content": [token]}
    writer = response_writer()
    told = writer.take(b"data: " + json.dumps(event).encode()) + writer.close(USAGE, now_s=1)
    for one in told:
        RESPONSE_EVENT.validate_python(parsed(one), strict=True)
    assert writer.response["output"][0]["content"][0]["logprobs"] == [token]


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("openai_responses_cached", RESPONSE_EVENT),
        ("openai_responses_reasoning_tool", RESPONSE_EVENT),
        ("anthropic_cache", MESSAGE_EVENT),
        ("anthropic_thinking_tool", MESSAGE_EVENT),
    ],
)
def test_the_golden_vectors_are_what_the_providers_libraries_accept(
    name: str, adapter: TypeAdapter[BaseModel]
) -> None:
    path = Path(__file__).parent / "fixtures" / "usage" / name
    for event in path.with_suffix(".sse").read_bytes().split(b"\n\n"):
        if event and b'"type":"ping"' not in event:
            adapter.validate_python(parsed(event + b"\n\n"), strict=True)
    model: type[BaseModel] = Response if adapter is RESPONSE_EVENT else anthropic.types.Message
    model.model_validate(json.loads(path.with_suffix(".json").read_bytes()), strict=True)
