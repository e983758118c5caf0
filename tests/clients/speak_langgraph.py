"""LangGraph: an agent's loop of model and tool, through each door."""

from __future__ import annotations

import os

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

URL, KEY = os.environ["URL"], os.environ["KEY"]


@tool
def weather(city: str) -> str:
    """Say what the weather is in a city."""
    return f"rain in {city}"


for model in (
    ChatOpenAI(model="scripted", base_url=URL + "/v1", api_key=KEY),
    ChatOpenAI(model="scripted", base_url=URL + "/v1", api_key=KEY, use_responses_api=True),
    ChatAnthropic(model="scripted", base_url=URL, api_key=KEY, max_tokens=100),
):
    bound = model.bind_tools([weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state, bound=bound: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    done = graph.compile().invoke({"messages": [("user", "Oslo?")]})
    assert done["messages"][-1].text == "The tool said rain in Oslo", done["messages"][-1]
    assert len(done["messages"]) == 4
print("ok")
