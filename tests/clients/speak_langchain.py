"""LangChain: OpenAI's chat and responses, and Anthropic's messages; whole, streamed, with a tool."""

from __future__ import annotations

import os

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

URL, KEY = os.environ["URL"], os.environ["KEY"]


@tool
def weather(city: str) -> str:
    """Say what the weather is in a city."""
    return "rain"


MODELS = {
    "chat": ChatOpenAI(model="scripted", base_url=URL + "/v1", api_key=KEY),
    "responses": ChatOpenAI(model="scripted", base_url=URL + "/v1", api_key=KEY, use_responses_api=True),
    "messages": ChatAnthropic(model="scripted", base_url=URL, api_key=KEY, max_tokens=100),
}
for name, model in MODELS.items():
    whole = model.invoke("hi")
    assert whole.text == "hello there", (name, whole)
    assert whole.usage_metadata["output_tokens"] == 2, (name, whole.usage_metadata)
    chunks = list(model.stream("hi"))
    assert "".join(chunk.text for chunk in chunks) == "hello there", name
    if name != "chat":  # which asks for no usage of a stream at another address than OpenAI's
        added = chunks[0]
        for chunk in chunks[1:]:
            added += chunk
        assert added.usage_metadata == whole.usage_metadata, (
            name,
            added.usage_metadata,
            whole.usage_metadata,
        )
    asked = model.bind_tools([weather]).invoke("Oslo?")
    (call,) = asked.tool_calls
    assert call["args"] == {"city": "Oslo"}, (name, call)
    turns = [HumanMessage("Oslo?"), asked, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
    told = model.bind_tools([weather]).invoke(turns)
    assert told.text == "The tool said rain", (name, told)
print("ok")
