"""What a door makes of a request: the chat that stands for it, or a refusal that says what and why."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wattmill.distribution.doors.door import MESSAGES, RESPONSES, Door, MessagesVisit, ResponsesVisit
from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.anthropic_http import render_chat, render_native
from wattmill.models.engines.openai_http import render_responses
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body

TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def body_of(body: dict[str, Any]) -> Body:
    return msgspec.json.decode(json.dumps(body), type=dict[str, msgspec.Raw])


def visit(door: Door, body: dict[str, Any]) -> Any:
    made = door.read(body_of(body), suffix="1", now_s=5)
    assert not isinstance(made, Refusal), made
    return made


def chat_of(door: Door, body: dict[str, Any]) -> dict[str, Any]:
    return {name: json.loads(bytes(raw)) for name, raw in visit(door, body).chat.items()}


def refusal(door: Door, body: dict[str, Any]) -> Refusal:
    made = door.read(body_of(body), suffix="1", now_s=5)
    assert isinstance(made, Refusal), made
    return made


def test_a_response_of_text_is_a_chat_of_two_messages() -> None:
    asked = {"model": "m", "input": "hé", "instructions": "be brief", "max_output_tokens": 40, "stream": True}
    assert chat_of(RESPONSES, asked) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hé"}],
        "max_tokens": 40,
        "stream": True,
    }


def test_a_tool_conversation_of_items_is_a_chat_with_calls_and_results() -> None:
    items = [
        {"role": "developer", "content": "use tools"},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Oslo?"}, _image("data:image/png;base64,AA")],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 100},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "w", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call", "call_id": "c2", "name": "w", "arguments": '{"city":"Bergen"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    tools = [{"type": "function", "name": "w", "description": "d", "parameters": TOOL, "strict": True}]
    chat = chat_of(
        RESPONSES,
        {
            "model": "m",
            "input": items,
            "tools": tools,
            "tool_choice": {"type": "function", "name": "w"},
            "text": {"format": {"type": "json_schema", "name": "a", "schema": TOOL, "strict": True}},
            "reasoning": {"effort": "low", "summary": "auto"},
            "top_logprobs": 2,
            "include": ["message.output_text.logprobs"],
        },
    )
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}},
        {"id": "c2", "type": "function", "function": {"name": "w", "arguments": '{"city":"Bergen"}'}},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "use tools"},
            {"role": "user", "content": [{"type": "text", "text": "Oslo?"}, image]},
            {"role": "assistant", "content": "Looking.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "w", "description": "d", "parameters": TOOL, "strict": True},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "w"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": TOOL, "strict": True},
        },
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
    }
    assert visit(RESPONSES, {"model": "m", "input": items}).beside_bytes >= 100


def _image(url: str) -> dict[str, str]:
    return {"type": "input_image", "image_url": url}


def test_a_message_is_a_chat_with_the_results_of_tools_first() -> None:
    turns = [
        {"role": "user", "content": "Oslo?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t" * 50, "signature": "s" * 50},
                {"type": "text", "text": "Looking.", "cache_control": {"type": "ephemeral"}},
                {"type": "tool_use", "id": "c1", "name": "w", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "so?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
            ],
        },
    ]
    asked = {
        "model": "m",
        "max_tokens": 9,
        "system": [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "b"},
        ],
        "messages": turns,
        "stop_sequences": ["END"],
        "tools": [{"name": "w", "description": "d", "input_schema": TOOL}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "temperature": 0.5,
        "top_k": 3,
    }
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    call = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}}
    assert chat_of(MESSAGES, asked) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "a\n\nb"},
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "user", "content": [{"type": "text", "text": "so?"}, image]},
        ],
        "max_tokens": 9,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {"name": "w", "parameters": TOOL, "description": "d"}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "user": "u",
        "temperature": 0.5,
        "top_k": 3,
    }
    assert visit(MESSAGES, asked).beside_bytes >= 100


R = {"model": "m", "input": "hi"}
M = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("door", "body", "code", "param", "says"),
    [
        (RESPONSES, R | {"tools": [{"type": "web_search"}]}, "field_refused", "tools[0]", "'web_search'"),
        (
            RESPONSES,
            R | {"tools": [{"type": "mcp", "server_label": "x"}]},
            "field_refused",
            "tools[0]",
            "'mcp'",
        ),
        (
            RESPONSES,
            R | {"tool_choice": {"type": "file_search"}},
            "field_refused",
            "tool_choice",
            "file_search",
        ),
        (RESPONSES, R | {"background": True}, "field_refused", "background", "meters"),
        (RESPONSES, R | {"conversation": "conv_1"}, "field_refused", "conversation", "previous_response_id"),
        (RESPONSES, R | {"prompt": {"id": "pmpt"}}, "field_refused", "prompt", "template"),
        (RESPONSES, R | {"truncation": "auto"}, "field_refused", "truncation", "dropped"),
        (RESPONSES, R | {"max_tokens": 5}, "bad_value", "max_tokens", "not known at this door"),
        (RESPONSES, R | {"max_output_tokens": 0}, "bad_value", "max_output_tokens", "at least 1, got 0"),
        (RESPONSES, R | {"max_output_tokens": True}, "bad_value", "max_output_tokens", "got true"),
        (RESPONSES, {"model": "m"}, "bad_value", "input", "at least one item"),
        (
            RESPONSES,
            R | {"input": [{"type": "item_reference", "id": "x"}]},
            "field_refused",
            "input[0]",
            "itself",
        ),
        (
            RESPONSES,
            R | {"input": [{"type": "web_search_call", "id": "x"}]},
            "field_refused",
            "input[0]",
            "price",
        ),
        (RESPONSES, R | {"input": [{"type": "poem"}]}, "bad_value", "input[0].type", '"poem"'),
        (
            RESPONSES,
            R | {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "no_capability",
            "input[0].content[0]",
            "cannot be bounded",
        ),
        (RESPONSES, R | {"stream": "yes"}, "bad_value", "stream", "true or false"),
        (RESPONSES, R | {"metadata": {"a": 1}}, "bad_value", "metadata", "512"),
        (RESPONSES, R | {"reasoning": {"mode": "pro"}}, "field_refused", "reasoning.mode", "price"),
        (
            MESSAGES,
            {k: v for k, v in M.items() if k != "max_tokens"},
            "bad_value",
            "max_tokens",
            "at least 1",
        ),
        (
            MESSAGES,
            M | {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "field_refused",
            "tools[0]",
            "web_search_20250305",
        ),
        (MESSAGES, M | {"mcp_servers": [{}]}, "field_refused", "mcp_servers", "price"),
        (MESSAGES, M | {"speed": "fast"}, "field_refused", "speed", "price"),
        (MESSAGES, M | {"inference_geo": "us"}, "field_refused", "inference_geo", "residency"),
        (
            MESSAGES,
            M | {"thinking": {"type": "enabled", "budget_tokens": 5}},
            "bad_value",
            "thinking.budget_tokens",
            "1024",
        ),
        (MESSAGES, M | {"frobnicate": 1}, "bad_value", "frobnicate", "not known"),
        (MESSAGES, M | {"messages": []}, "bad_value", "messages", "at least one"),
        (
            MESSAGES,
            M | {"messages": [{"role": "tool", "content": "x"}]},
            "bad_value",
            "messages[0].role",
            "user or",
        ),
        (
            MESSAGES,
            M | {"messages": [{"role": "user", "content": [{"type": "server_tool_use", "id": "x"}]}]},
            "field_refused",
            "messages[0].content[0]",
            "server_tool_use",
        ),
        (
            MESSAGES,
            M
            | {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]},
            "no_capability",
            "messages[0].content[0]",
            "cannot be bounded",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(
    door: Door, body: dict[str, Any], code: str, param: str, says: str
) -> None:
    no = refusal(door, body)
    assert (no.code, no.param) == (code, param)
    assert says in no.message


# --- the bound ----------------------------------------------------------------------------------------------

words = st.one_of(st.text(max_size=40), st.just("long thoughts " * 60))  # more than the JSON around them


@st.composite
def responses_bodies(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A request, and the bytes of all texts in it that a model may read."""
    said: list[str] = []

    def word() -> str:
        said.append(draw(words))
        return said[-1]

    makers = [
        lambda: {"role": "user", "content": word()},
        lambda: {"role": "user", "content": [{"type": "input_text", "text": word()} for _ in range(2)]},
        lambda: {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": word()}],
        },
        lambda: {"type": "function_call", "call_id": "c", "name": word(), "arguments": word()},
        lambda: {"type": "function_call_output", "call_id": "c", "output": word()},
        lambda: {
            "type": "reasoning",
            "id": "r",
            "summary": [{"type": "summary_text", "text": word()}],
            "encrypted_content": word(),
        },
    ]
    items = [draw(st.sampled_from(makers))() for _ in range(draw(st.integers(1, 6)))]
    items.append({"role": "user", "content": word()})
    body: dict[str, Any] = {"model": "m", "input": items, "instructions": word()}
    if draw(st.booleans()):
        body["tools"] = [
            {"type": "function", "name": word(), "description": word(), "parameters": {"title": word()}}
        ]
    return body, sum(len(text.encode()) for text in said)


@st.composite
def messages_bodies(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    said: list[str] = []

    def word() -> str:
        said.append(draw(words))
        return said[-1]

    def result() -> dict[str, Any]:
        content = draw(st.sampled_from([word, lambda: [{"type": "text", "text": word()}]]))()
        return {"type": "tool_result", "tool_use_id": "c", "content": content}

    user = [lambda: {"type": "text", "text": word()}, result]
    assistant = [
        lambda: {"type": "text", "text": word()},
        lambda: {"type": "thinking", "thinking": word(), "signature": word()},
        lambda: {"type": "redacted_thinking", "data": word()},
        lambda: {"type": "tool_use", "id": "c", "name": word(), "input": {word(): word()}},
    ]
    turns: list[dict[str, Any]] = [{"role": "user", "content": word()}]
    for _ in range(draw(st.integers(0, 3))):
        for role, makers in (("assistant", assistant), ("user", user)):
            blocks = [draw(st.sampled_from(makers))() for _ in range(draw(st.integers(1, 3)))]
            turns.append({"role": role, "content": blocks})
    body: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": turns}
    body["system"] = [{"type": "text", "text": word()}, {"type": "text", "text": word()}]
    if draw(st.booleans()):
        body["tools"] = [{"name": word(), "description": word(), "input_schema": {"title": word()}}]
    return body, sum(len(text.encode()) for text in said)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        responses_bodies().map(lambda b: (RESPONSES, *b)), messages_bodies().map(lambda b: (MESSAGES, *b))
    )
)
def test_the_bound_is_never_below_the_text_that_a_model_may_read(
    case: tuple[Door, dict[str, Any], int],
) -> None:
    door, body, text_bytes = case
    made = visit(door, body)
    # A tokenizer that makes a token of each byte, and a template that adds nothing: the hardest there is.
    bound = input_bound_tok(
        "chat", made.chat, TokenizerBound(per_request_tok=0, per_message_tok=0, per_tool_tok=0)
    )
    assert isinstance(bound, int)
    assert bound + made.beside_bytes >= text_bytes


# --- engines that speak it themselves -----------------------------------------------------------------------


def test_responses_are_sent_on_as_they_came_and_nothing_is_kept_at_the_provider() -> None:
    asked = R | {
        "max_output_tokens": 900,
        "store": True,
        "metadata": {"secret": "x"},
        "prompt_cache_key": "k",
        "stream": True,
        "previous_response_id": "resp_ours",
    }
    made = visit(RESPONSES, asked)
    assert isinstance(made, ResponsesVisit)
    before = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]
    made = made.following(before)
    assert isinstance(made, ResponsesVisit)
    out = json.loads(render_responses(made.native, "gpt", True, 33))
    hi = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert out == {
        "model": "gpt",
        "input": [*before, hi],
        "max_output_tokens": 33,
        "store": False,
        "prompt_cache_key": "k",
        "stream": True,
    }
    assert json.loads(bytes(made.chat["messages"])) == [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize(("clamp", "budget"), [(4096, 2048), (2000, 1999), (900, None)])
def test_messages_are_sent_on_as_they_came_but_think_within_the_clamp(clamp: int, budget: int | None) -> None:
    system = [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    asked = M | {
        "system": system,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "service_tier": "auto",
    }
    made = visit(MESSAGES, asked)
    assert isinstance(made, MessagesVisit)
    out = json.loads(render_native(made.native, "claude", False, clamp))
    assert out["system"] == system
    assert (out["model"], out["max_tokens"], out["stream"]) == ("claude", clamp, False)
    assert out["service_tier"] == "standard_only"
    assert (out.get("thinking") or {}).get("budget_tokens") == budget


def test_nothing_is_written_to_a_cache_at_a_price_that_was_not_reserved() -> None:
    """A prefix that is kept for an hour costs twice the input's price to write, and usage has one class of
    writes. It is kept for the usual five minutes, wherever in the body the hour is asked for."""
    long, short = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"}

    def body(kept: dict[str, str]) -> dict[str, Any]:
        part = {"type": "text", "text": "x", "cache_control": kept}
        document = {
            "type": "document",
            "source": {"type": "content", "content": [part]},
            "cache_control": kept,
        }
        result = {"type": "tool_result", "tool_use_id": "t", "content": [part], "cache_control": kept}
        call = {"type": "tool_use", "id": "t", "name": "f", "input": {"cache_control": long}}
        tool = {"name": "f", "input_schema": {"properties": {"cache_control": long}}, "cache_control": kept}
        turns = [
            {"role": "user", "content": [part, document]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        return {
            "model": "m", "max_tokens": 9, "messages": turns, "system": [part], "tools": [tool],
            "cache_control": kept,
        }  # fmt: skip

    made = visit(MESSAGES, body(long))
    plain = visit(MESSAGES, body(short))
    assert isinstance(made, MessagesVisit) and isinstance(plain, MessagesVisit)
    sent = json.loads(render_native(made.native, "claude", False, 9))
    assert sent == json.loads(render_native(plain.native, "claude", False, 9))
    assert sent["messages"][1]["content"][0]["input"] == {"cache_control": long}, "a tool's words are its own"
    five = {"type": "ephemeral", "ttl": "5m"}
    said = visit(MESSAGES, body(five))
    assert json.loads(render_native(said.native, "claude", False, 9))["cache_control"] == five


@settings(max_examples=150, deadline=None)
@given(messages_bodies())
def test_a_chat_is_put_to_a_messages_place_and_means_the_same(case: tuple[dict[str, Any], int]) -> None:
    """Messages, read as chat, written as Messages for the place, read as chat again: nothing is lost."""
    body, _ = case
    chat = visit(MESSAGES, body).chat
    assert ADAPTERS["anthropic"].check("chat", chat) is None
    sent = msgspec.json.decode(render_chat(chat, "up", True, 77), type=dict[str, Any])
    assume(sent["messages"])  # a conversation of empty texts only
    again = visit(MESSAGES, sent).chat
    assert (sent["model"], sent["max_tokens"], sent["stream"]) == ("up", 77, True)
    for first, second in zip(sent["messages"], sent["messages"][1:], strict=False):
        assert first["role"] != second["role"], "turns alternate"
    assert _meaning(chat) == _meaning(again)


def _meaning(chat: Body) -> tuple[str, list[Any], list[Any], list[Any]]:
    messages = json.loads(bytes(chat["messages"]))
    text = "".join(
        content if isinstance(content := m.get("content"), str) else "".join(p["text"] for p in content or ())
        for m in messages
        if m["role"] != "tool"
    )
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for m in messages
        for call in m.get("tool_calls") or ()
    ]
    results = [(m["tool_call_id"], m["content"]) for m in messages if m["role"] == "tool"]
    tools = json.loads(bytes(chat["tools"])) if "tools" in chat else []
    return text.replace("\n", ""), calls, results, tools


@pytest.mark.parametrize(
    ("field", "value"), [("logit_bias", {"1": 5}), ("n", 2), ("logprobs", True), ("frequency_penalty", 0.5)]
)
def test_what_messages_cannot_say_is_not_put_to_a_messages_place(field: str, value: Any) -> None:
    chat = body_of({"model": "m", "messages": [{"role": "user", "content": "x"}], field: value})
    no = ADAPTERS["anthropic"].check("chat", chat)
    assert no is not None and no.param == field
