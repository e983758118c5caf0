"""Anthropic itself, and any place that speaks its Messages: a chat is put to it in that protocol.

Its key goes into `x-api-key`, and each request names the version of the protocol (`HEADERS`). A request that
came in as Messages is sent on as it was, but for the model, the clamp and the tier.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.models.engines.contract import (
    BOUNDED,
    BUSY,
    CAP,
    DROP,
    STREAM_FIELDS,
    Adapter,
    checked_by,
    function_tools,
    only,
    refuse,
)
from wattmill.models.engines.messages_dialect import MessagesDialect
from wattmill.models.engines.speech import Speech, encode
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Endpoint

HEADERS = (("anthropic-version", "2023-06-01"),)
KEY_HEADER = "x-api-key"
TOOL_PROMPT_TOK = 1_024
"""Above what the provider's own prompt takes where a request has tools: 159 to 530 tokens by model and choice
(docs.anthropic.com, "Tool use pricing and tokens", read in November 2026)."""
_LEAST_THINKING = 1_024  # tokens; a smaller budget is refused by the provider
_FIELDS = frozenset(
    (
        *(
            "model",
            "messages",
            "max_tokens",
            "max_completion_tokens",
            "stream",
            "stream_options",
            "stop",
            "n",
        ),
        *("temperature", "top_p", "top_k", "user", "tools", "tool_choice", "parallel_tool_calls", "seed"),
        *("response_format", "reasoning_effort", "service_tier", "frequency_penalty", "presence_penalty"),
        *("store", "metadata", "safety_identifier", "prompt_cache_key", "verbosity"),
    )
)
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_NOT_SAID = "has no counterpart in Messages"


def render_chat(body: Body, model: str, stream: bool, max_output_tok: int) -> bytes:
    """Write a chat down as Messages. The caller has passed the adapter's `check`."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in msgspec.json.decode(body["messages"], type=list[dict[str, Any]]):
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(_text_of(message.get("content")))
        elif role == "tool":
            result = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id"),
                "content": _text_of(message.get("content")),
            }
            _add(turns, "user", [result])
        elif role == "assistant":
            _add(turns, "assistant", _assistant(message))
        else:
            _add(turns, "user", _user(message.get("content")))
    out: dict[str, Any] = {"model": model, "max_tokens": max_output_tok, "messages": turns, "stream": stream}
    if system:
        out["system"] = "\n\n".join(system)
    for name in ("temperature", "top_p", "top_k"):
        if name in body and bytes(body[name]) != b"null":
            out[name] = body[name]
    stops = _decoded(body, "stop")
    if stops:
        out["stop_sequences"] = [stops] if isinstance(stops, str) else stops
    user = _decoded(body, "user")
    if user:
        out["metadata"] = {"user_id": user}
    _put_tools(body, out)
    _put_format(body, out)
    return encode(out)


def render_native(body: Body, model: str, stream: bool, max_output_tok: int) -> bytes:
    """Send Messages on as they came; only what governs length, model and price is set."""
    out: dict[str, Any] = dict(body)
    out["model"] = model
    out["max_tokens"] = max_output_tok
    out["stream"] = stream
    out["service_tier"] = "standard_only"  # another tier has another price
    if "thinking" in body:
        thinking = msgspec.json.decode(body["thinking"])
        if isinstance(thinking, dict) and thinking.get("type") == "enabled":
            budget = min(thinking.get("budget_tokens", _LEAST_THINKING), max_output_tok - 1)
            if budget < _LEAST_THINKING:
                del out["thinking"]  # the clamp leaves no room to think in
            else:
                out["thinking"] = {**thinking, "budget_tokens": budget}
    return encode(out)


def _decoded(body: Body, name: str) -> Any:
    raw = body.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(p.get("text", "")) for p in content or () if isinstance(p, dict))


def _add(turns: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    """Turns alternate here: what follows from the same side joins the turn before."""
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _assistant(message: dict[str, Any]) -> list[dict[str, Any]]:
    text = _text_of(message.get("content"))
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for call in message.get("tool_calls") or ():
        named = call.get("function") or {}
        try:
            given = msgspec.json.decode(named.get("arguments") or "{}")
        except msgspec.MsgspecError:
            given = None
        if not isinstance(given, dict):
            given = {"_unparsed": named.get("arguments")}
        blocks.append({"type": "tool_use", "id": call.get("id"), "name": named.get("name"), "input": given})
    return blocks


def _user(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks: list[dict[str, Any]] = []
    for part in content or ():
        if part.get("type") == "image_url":
            blocks.append({"type": "image", "source": _source(str(part.get("image_url", {}).get("url", "")))})
        elif part.get("text"):
            blocks.append({"type": "text", "text": part["text"]})
    return blocks


def _source(url: str) -> dict[str, str]:
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        return {"type": "base64", "media_type": head[5:].partition(";")[0], "data": data}
    return {"type": "url", "url": url}


def _put_tools(body: Body, out: dict[str, Any]) -> None:
    tools = []
    for tool in _decoded(body, "tools") or ():
        function = tool.get("function") or {}
        made = {
            "name": function.get("name"),
            "input_schema": function.get("parameters") or {"type": "object"},
        }
        if function.get("description") is not None:
            made["description"] = function["description"]
        tools.append(made)
    if not tools:
        return
    out["tools"] = tools
    choice = _decoded(body, "tool_choice")
    wanted: dict[str, Any] | None = None
    if isinstance(choice, str):
        wanted = {"type": _CHOICES.get(choice, "auto")}
    elif isinstance(choice, dict):
        wanted = {"type": "tool", "name": (choice.get("function") or {}).get("name")}
    if _decoded(body, "parallel_tool_calls") is False:
        wanted = {**(wanted or {"type": "auto"}), "disable_parallel_tool_use": True}
    if wanted is not None:
        if wanted["type"] == "none":
            wanted = {"type": "none"}
        out["tool_choice"] = wanted


def _put_format(body: Body, out: dict[str, Any]) -> None:
    config: dict[str, Any] = {}
    form = _decoded(body, "response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        config["format"] = {"type": "json_schema", "schema": form.get("json_schema", {}).get("schema") or {}}
    effort = _decoded(body, "reasoning_effort")
    if effort in ("low", "medium", "high", "xhigh", "max"):
        config["effort"] = effort
    if config:
        out["output_config"] = config


def _only_known(endpoint: Endpoint, body: Body) -> Refusal | None:
    for name in body:
        if name not in _FIELDS:
            return Refusal(
                code="field_refused",
                param=name,
                message=f"{name!r} {_NOT_SAID}, which this place speaks (adapter anthropic); leave it out",
            )
    return None


def _schema_only(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind in ("text", "json_schema"):
        return None
    return f"must have the type text or json_schema, got {kind!r}"


ANTHROPIC = Adapter(
    name="anthropic",
    busy=BUSY | {529},  # its `overloaded_error`
    always_stream=False,
    capabilities=frozenset({"chat", "tools", "json_schema", "vision"}),
    rules={
        "n": only(1, why=_NOT_SAID),
        "max_tokens": DROP,
        "max_completion_tokens": DROP,
        "min_tokens": CAP,
        "tools": checked_by(function_tools),
        "response_format": checked_by(_schema_only),
        "frequency_penalty": only(0, why=_NOT_SAID),
        "presence_penalty": only(0, why=_NOT_SAID),
        "logit_bias": refuse(_NOT_SAID),
        "service_tier": only("auto", "default", why="another tier has another price"),
        "store": only(False, why="would keep the request at the provider"),
        "seed": BOUNDED,
        "stream": DROP,
        "stream_options": DROP,
        "model": DROP,
    },
    clamp_field={"chat": "max_tokens", "completions": "max_tokens"},
    stream_fields=STREAM_FIELDS,
    counts_in="usage",  # the dialect counts in each chat event that it makes
    extra_check=_only_known,
    chat_as=Speech(path="/messages", render=render_chat, dialect=MessagesDialect),
    native_count_path="/messages/count_tokens",
    natives={"messages": Speech(path="/messages", render=render_native, dialect=MessagesDialect)},
)
