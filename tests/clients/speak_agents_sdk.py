"""OpenAI's Agents SDK: an agent with a tool, on responses and on chat, whole and streamed."""

from __future__ import annotations

import asyncio
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

URL, KEY = os.environ["URL"], os.environ["KEY"]
set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """Say what the weather is in a city."""
    return f"rain in {city}"


async def main() -> None:
    client = AsyncOpenAI(base_url=URL + "/v1", api_key=KEY)
    for made in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        agent = Agent(
            name="a", instructions="be brief", tools=[weather], model=made("scripted", openai_client=client)
        )
        done = await Runner.run(agent, "Oslo?")
        assert done.final_output == "The tool said rain in Oslo", (made, done.final_output)
        assert done.context_wrapper.usage.requests == 2
        assert done.context_wrapper.usage.output_tokens == 5, done.context_wrapper.usage
        streamed = Runner.run_streamed(agent, "Oslo?")
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == "The tool said rain in Oslo", made
    kept = Agent(name="b", model=OpenAIResponsesModel("scripted", openai_client=client))
    first = await Runner.run(kept, "hi")
    again = await Runner.run(kept, "and?", previous_response_id=first.last_response_id)
    assert again.final_output == "hello there"


asyncio.run(main())
print("ok")
