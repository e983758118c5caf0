"""pydantic-ai: an agent with a tool and a typed answer, through each door, whole and streamed."""

from __future__ import annotations

import asyncio
import os

from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY = os.environ["URL"], os.environ["KEY"]


class Place(BaseModel):
    city: str


async def main() -> None:
    openai = OpenAIProvider(base_url=URL + "/v1", api_key=KEY)
    anthropic = AnthropicProvider(anthropic_client=AsyncAnthropic(base_url=URL, api_key=KEY))
    models = {
        "chat": OpenAIChatModel("scripted", provider=openai),
        "responses": OpenAIResponsesModel("scripted", provider=openai),
        "messages": AnthropicModel("scripted", provider=anthropic),
    }
    for name, model in models.items():
        agent = Agent(model)

        @agent.tool_plain
        def weather(city: str) -> str:
            """Say what the weather is in a city."""
            return f"rain in {city}"

        done = await agent.run("Oslo?")
        assert done.output == "The tool said rain in Oslo", (name, done.output)
        usage = done.usage() if callable(done.usage) else done.usage
        assert usage.requests == 2 and usage.output_tokens == 5, (name, usage)
        async with agent.run_stream("Oslo?") as stream:
            assert await stream.get_output() == "The tool said rain in Oslo", name
        if name != "messages":  # whose model profile knows no native schemas for an unknown name
            typed = await Agent(model, output_type=NativeOutput(Place)).run("where?")
            assert typed.output == Place(city="Oslo"), (name, typed.output)


asyncio.run(main())
print("ok")
