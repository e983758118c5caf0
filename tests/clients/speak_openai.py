"""OpenAI's own client for Python: chat and responses, whole and streamed, tools, state, refusals."""

from __future__ import annotations

import os

from openai import NotFoundError, OpenAI, RateLimitError

URL, KEY, POOR = os.environ["URL"], os.environ["KEY"], os.environ["POOR_KEY"]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK = [{"role": "user", "content": "hi"}]

with OpenAI(base_url=URL + "/v1", api_key=KEY) as client:
    chat = client.chat.completions.create(model="scripted", messages=ASK)
    assert chat.choices[0].message.content == "hello there" and chat.usage.completion_tokens == 2
    chunks = client.chat.completions.create(model="scripted", messages=ASK, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello there"

    whole = client.responses.create(model="scripted", input="hi", instructions="be brief")
    assert whole.output_text == "hello there" and whole.status == "completed"
    assert whole.usage.output_tokens == 2 and whole.usage.input_tokens_details.cached_tokens == 4
    with client.responses.stream(model="scripted", input="hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "hello there"
    assert events[0].type == "response.created" and events[0].sequence_number == 0
    assert events[-1].type == "response.completed"

    tools = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}]
    for streamed in (False, True):
        if streamed:
            with client.responses.stream(model="scripted", input="Oslo?", tools=tools) as stream:
                asked = stream.get_final_response()
        else:
            asked = client.responses.create(model="scripted", input="Oslo?", tools=tools)
        (call,) = [item for item in asked.output if item.type == "function_call"]
        assert call.name == "weather" and call.arguments == '{"city": "Oslo"}'
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        told = client.responses.create(
            model="scripted", input=[result], tools=tools, previous_response_id=asked.id
        )
        assert told.output_text == "The tool said rain", told.output_text

    form = {"format": {"type": "json_schema", "name": "place", "schema": PARAMETERS, "strict": True}}
    assert client.responses.create(model="scripted", input="x", text=form).output_text == '{"city": "Oslo"}'

    stored = client.responses.retrieve(whole.id)
    assert stored.output_text == "hello there"
    assert client.responses.input_items.list(whole.id).data[0].content[0].text == "hi"
    client.responses.delete(whole.id)
    for lost in (whole.id, client.responses.create(model="scripted", input="hi", store=False).id):
        try:
            client.responses.retrieve(lost)
            raise AssertionError("found again")
        except NotFoundError as no:
            assert no.code == "not_found"
    assert client.responses.input_tokens.count(model="scripted", input="hi").input_tokens > 0

with OpenAI(base_url=URL + "/v1", api_key=POOR) as poor:
    for spend in (
        lambda: poor.chat.completions.create(model="scripted", messages=ASK),
        lambda: poor.responses.create(model="scripted", input="hi"),
        lambda: poor.responses.create(model="scripted", input="hi", stream=True),
    ):
        try:
            spend()
            raise AssertionError("not refused")
        except RateLimitError as no:
            assert no.code == "budget_exceeded", no
print("ok")
