"""Anthropic's own client for Python: whole and streamed, tools, counting, models, refusals."""

from __future__ import annotations

import os

from anthropic import Anthropic, AuthenticationError, BadRequestError, RateLimitError

URL, KEY, POOR = os.environ["URL"], os.environ["KEY"], os.environ["POOR_KEY"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK = {"model": "scripted", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}

with Anthropic(base_url=URL, api_key=KEY) as client:
    system = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    whole = client.messages.create(**ASK, system=system)
    assert whole.content[0].text == "hello there" and whole.stop_reason == "end_turn"
    assert whole.usage.output_tokens == 2 and whole.usage.cache_read_input_tokens == 4
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "hello there"
        final = stream.get_final_message()
    assert final.usage.output_tokens == 2 and final.usage.input_tokens == whole.usage.input_tokens - 2
    kinds = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds

    tools = [{"name": "weather", "description": "d", "input_schema": SCHEMA}]
    for streamed in (False, True):
        if streamed:
            with client.messages.stream(**ASK, tools=tools) as stream:
                asked = stream.get_final_message()
        else:
            asked = client.messages.create(**ASK, tools=tools)
        assert asked.stop_reason == "tool_use"
        (call,) = [block for block in asked.content if block.type == "tool_use"]
        assert call.input == {"city": "Oslo"}
        turns = [
            *ASK["messages"],
            {"role": "assistant", "content": asked.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
        ]
        told = client.messages.create(**{**ASK, "messages": turns}, tools=tools)
        assert told.content[0].text == "The tool said rain"

    assert client.messages.count_tokens(model="scripted", messages=ASK["messages"]).input_tokens > 0
    assert "scripted" in [model.id for model in client.models.list()]
    try:
        client.messages.create(**ASK, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        raise AssertionError("not refused")
    except BadRequestError as no:
        assert (
            no.body["error"]["code"] == "field_refused"
            and no.body["error"]["type"] == "invalid_request_error"
        )

with Anthropic(base_url=URL, api_key="wm-nobody") as stranger:
    try:
        stranger.messages.create(**ASK)
        raise AssertionError("not refused")
    except AuthenticationError as no:
        assert no.body["error"]["code"] == "invalid_key"

with Anthropic(base_url=URL, api_key=None, auth_token=POOR) as poor:
    for streamed in (False, True):
        try:
            poor.messages.create(**ASK, stream=streamed)
            raise AssertionError("not refused")
        except RateLimitError as no:
            assert no.body["error"]["code"] == "budget_exceeded", no
print("ok")
