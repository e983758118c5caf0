"""A request to `/v1/messages`, written down as a chat completion."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from wattmill.distribution.doors.fields import (
    array,
    bad,
    decoded,
    encode,
    flag,
    given,
    known,
    obj,
    refuse,
    text,
)
from wattmill.distribution.doors.messages_blocks import joined, messages_of, short_lived
from wattmill.vocab.request import Body

_ALIKE = ("temperature", "top_p", "top_k")
_HERE = (
    *("model", "messages", "system", "max_tokens", "stop_sequences", "stream", "metadata", "tools"),
    *("tool_choice", "thinking", "output_config", "service_tier", "speed", "cache_control"),
)
_REFUSED = {
    "container": "runs code at the provider, at a price of its own",
    "mcp_servers": "are called by the provider, at a price of its own",
    "context_management": "would let the provider change the input, and what it costs, unseen",
    "inference_geo": "is decided here by the residency of a place; ask for a pool, or for a privacy class",
    "diagnostics": "is not offered here",
    "user_profile_id": "is between you and a provider; not offered here",
    "workspace_id": "is between you and a provider; not offered here",
}
_KNOWN = frozenset((*_ALIKE, *_HERE, *_REFUSED))
_TOOL_FIELDS = frozenset(
    (
        *("name", "description", "input_schema", "type", "cache_control", "strict", "eager_input_streaming"),
        *("input_examples", "allowed_callers", "defer_loading"),
    )
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request as this door understood it."""

    chat: Body
    native: Body
    beside_bytes: int
    stream: bool


def read(body: Body, *, counting: bool = False) -> Asked:
    """Translate; raises `fields.Unservable`. `counting`: only the prompt is asked for, so no length."""
    known(body, _KNOWN)
    for name, why in _REFUSED.items():
        if given(body, name) is not None:
            refuse(name, why)
    if _decoded(body, "speed") not in (None, "standard"):
        refuse("speed", "must be 'standard': another speed has another price")
    tier = _decoded(body, "service_tier")
    if tier not in (None, "auto", "standard_only"):
        bad("service_tier", "auto or standard_only", tier)
    native = dict(body)
    turns = array(_decoded(body, "messages"), "messages")
    messages, beside = messages_of(turns)
    if short_lived(turns):
        native["messages"] = Raw(encode(turns))
    if not messages:
        bad("messages", "an array with at least one message", body["messages"])
    if (system := _decoded(body, "system")) is not None:
        content, more = joined(system, "system")
        beside += more
        if isinstance(system, list) and short_lived(system):
            native["system"] = Raw(encode(system))
        if content:
            messages.insert(0, {"role": "system", "content": content})
    chat: Body = {name: body[name] for name in ("model", *_ALIKE) if given(body, name) is not None}
    chat["messages"] = Raw(encode(messages))
    most = given(body, "max_tokens")
    if most is not None:
        value = decoded(most, "max_tokens")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            bad("max_tokens", "a whole number of at least 1", most)
        chat["max_tokens"] = most
    elif not counting:
        bad("max_tokens", "a whole number of at least 1", None)
    if (stops := _decoded(body, "stop_sequences")) is not None:
        for one in array(stops, "stop_sequences"):
            text(one, "stop_sequences")
        if stops:
            chat["stop"] = Raw(encode(stops))
    if (user := obj(_decoded(body, "metadata") or {}, "metadata").get("user_id")) is not None:
        chat["user"] = Raw(encode(text(user, "metadata.user_id")))
    beside += _tools(body, chat, native)
    kept = _decoded(body, "cache_control")
    if short_lived([{"cache_control": kept}]):
        native["cache_control"] = Raw(encode(kept))
    _tool_choice(body, chat)
    _output(body, chat)
    _thinking(body)
    stream = flag(body, "stream", False)
    if stream:
        chat["stream"] = Raw(b"true")
    return Asked(chat=chat, native=native, beside_bytes=beside, stream=stream)


def _decoded(body: Body, name: str) -> Any:
    raw = given(body, name)
    return None if raw is None else decoded(raw, name)


def _tools(body: Body, chat: Body, native: Body) -> int:
    """Write the tools down; return the bytes of what only an engine of this protocol is told of them."""
    tools = array(_decoded(body, "tools") or [], "tools")
    out = []
    beside = 0
    for number, one in enumerate(tools):
        at = f"tools[{number}]"
        tool = obj(one, at)
        kind = tool.get("type")
        if kind not in (None, "custom"):
            refuse(
                at,
                f"is a tool of type {kind!r}: its provider runs it at a price of its own, or alone knows its "
                "schema; offer a tool with an 'input_schema', and run it yourself",
            )
        known(tool, _TOOL_FIELDS, at=at)
        function: dict[str, Any] = {
            "name": text(tool.get("name"), f"{at}.name"),
            "parameters": obj(tool.get("input_schema"), f"{at}.input_schema"),
        }
        if tool.get("description") is not None:
            function["description"] = text(tool["description"], f"{at}.description")
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        if tool.get("input_examples"):
            beside += len(encode(tool["input_examples"]))
        out.append({"type": "function", "function": function})
    if out:
        chat["tools"] = Raw(encode(out))
    if short_lived(tools):
        native["tools"] = Raw(encode(tools))
    return beside


def _tool_choice(body: Body, chat: Body) -> None:
    choice = _decoded(body, "tool_choice")
    if choice is None:
        return
    kind = obj(choice, "tool_choice").get("type")
    if kind == "tool":
        wanted: Any = {"type": "function", "function": {"name": text(choice.get("name"), "tool_choice.name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        wanted = _CHOICES[kind]
    else:
        bad("tool_choice.type", "auto, any, tool or none", kind)
    if "tools" in chat:
        chat["tool_choice"] = Raw(encode(wanted))
        if choice.get("disable_parallel_tool_use") is True:
            chat["parallel_tool_calls"] = Raw(b"false")


def _output(body: Body, chat: Body) -> None:
    said = obj(_decoded(body, "output_config") or {}, "output_config")
    known(said, ("effort", "format"), at="output_config")
    if said.get("effort") is not None:
        chat["reasoning_effort"] = Raw(encode(text(said["effort"], "output_config.effort")))
    if (form := said.get("format")) is not None:
        if obj(form, "output_config.format").get("type") != "json_schema":
            bad("output_config.format.type", "json_schema", form.get("type"))
        schema = {"name": "answer", "schema": obj(form.get("schema"), "output_config.format.schema")}
        chat["response_format"] = Raw(
            encode({"type": "json_schema", "json_schema": {**schema, "strict": True}})
        )


def _thinking(body: Body) -> None:
    """Only an engine of this protocol is told: elsewhere the model's template decides whether it thinks."""
    said = obj(_decoded(body, "thinking") or {}, "thinking")
    kind = said.get("type")
    if kind not in (None, "enabled", "disabled", "adaptive", "between_tools"):
        bad("thinking.type", "enabled, adaptive, between_tools or disabled", kind)
    if kind == "enabled":
        budget = said.get("budget_tokens")
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1024:
            bad("thinking.budget_tokens", "a whole number of at least 1024", budget)
