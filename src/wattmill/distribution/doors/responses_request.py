"""A request to `/v1/responses`, written down as a chat completion."""

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
    unable,
)
from wattmill.distribution.doors.responses_items import messages_of
from wattmill.vocab.request import Body

_ALIKE = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)
"""Fields that mean the same in a chat; the engine's rules judge their values."""
_HERE = (
    *("model", "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning"),
    *("previous_response_id", "store", "stream", "stream_options", "metadata", "include", "top_logprobs"),
    *("truncation", "background", "max_tool_calls", "prompt_cache_retention", "prompt_cache_options"),
)
_REFUSED = {
    "conversation": "is kept at a provider; continue with 'previous_response_id'",
    "prompt": "is a template kept at a provider: its length cannot be known here; send the text itself",
    "context_management": "would let the provider change the input, and what it costs, unseen",
    "moderation": "is a paid service of the provider",
    "image": "is not offered here",
    "access_programs": "is between you and a provider; not offered here",
}
_KNOWN = frozenset((*_ALIKE, *_HERE, *_REFUSED))
_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = frozenset((_LOGPROBS, "reasoning.encrypted_content"))
_OF_PAID_TOOLS = (".results", ".sources", ".outputs", ".image_url")  # nothing to include: none are offered
_MOST_PAIRS, _MOST_NAME, _MOST_VALUE = 16, 64, 512
_CHOICES = ("auto", "none", "required")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request as this door understood it."""

    chat: Body  # what any engine is sent
    native: Body  # what an engine that speaks this protocol is sent: governed fields are set later
    items: list[Any]  # of this request, without those of the responses before it
    beside_bytes: int  # text of `native` that `chat` does not hold
    echo: dict[str, Any]  # fields of the answer that repeat the request
    stream: bool
    store: bool
    previous: str | None


def read(body: Body) -> Asked:
    """Translate; raises `fields.Unservable`. Items of earlier responses are added by `following`."""
    known(body, _KNOWN)
    for name, why in _REFUSED.items():
        if given(body, name) is not None:
            refuse(name, why)
    if flag(body, "background", False):
        refuse("background", "must be false: the answer would arrive where nobody meters it")
    if (truncation := _decoded(body, "truncation")) not in (None, "disabled"):
        refuse("truncation", f"must be 'disabled', got {truncation!r}: nothing is dropped from an input here")
    options = _decoded(body, "prompt_cache_options")
    if options is not None and obj(options, "prompt_cache_options").get("mode", "implicit") != "implicit":
        refuse(
            "prompt_cache_options", "may only be {'mode': 'implicit'}: its writes could not be reserved for"
        )
    raw = given(body, "input")
    items = _items(raw)
    previous = _decoded(body, "previous_response_id")
    if previous is not None:
        previous = text(previous, "previous_response_id")
    instructions = _decoded(body, "instructions")
    if instructions is not None:
        instructions = text(instructions, "instructions")
    messages, beside = messages_of(items, instructions)
    if not messages and previous is None:
        bad("input", "a text or an array with at least one item", raw)
    chat: Body = {name: body[name] for name in ("model", *_ALIKE) if given(body, name) is not None}
    chat["messages"] = Raw(encode(messages))
    _limits(body, chat)
    tools = _tools(body, chat)
    choice = _tool_choice(body, chat)
    told = _text(body, chat)
    reasoning = _reasoning(body, chat)
    _logprobs(body, chat)
    stream = flag(body, "stream", False)
    if stream:
        chat["stream"] = Raw(b"true")
    store = flag(body, "store", True)
    if not store:
        chat["store"] = Raw(b"false")  # for whoever else would keep the answer
    native = {name: value for name, value in body.items() if name not in ("previous_response_id", "metadata")}
    echo = {
        "background": False,
        "instructions": instructions,
        "max_output_tokens": _decoded(body, "max_output_tokens"),
        "max_tool_calls": _decoded(body, "max_tool_calls"),
        "metadata": _metadata(body),
        "parallel_tool_calls": flag(body, "parallel_tool_calls", True),
        "previous_response_id": previous,
        "prompt_cache_key": _decoded(body, "prompt_cache_key"),
        "reasoning": reasoning,
        "safety_identifier": _decoded(body, "safety_identifier"),
        "service_tier": "default",
        "store": store,
        "temperature": _decoded(body, "temperature"),
        "text": told,
        "tool_choice": choice,
        "tools": tools,
        "top_logprobs": _decoded(body, "top_logprobs") or 0,
        "top_p": _decoded(body, "top_p"),
        "truncation": "disabled",
        "user": _decoded(body, "user"),
    }
    return Asked(
        chat=chat,
        native=native,
        items=items,
        beside_bytes=beside,
        echo=echo,
        stream=stream,
        store=store,
        previous=previous,
    )


def following(asked: Asked, before: list[Any]) -> Asked:
    """Return the request with the items of the responses that it continues; their instructions do not carry
    over, as the protocol has it."""
    items = [*before, *asked.items]
    messages, beside = messages_of(items, asked.echo["instructions"])
    if not messages:
        bad("input", "a text or an array with at least one item", None)
    return msgspec.structs.replace(
        asked,
        chat={**asked.chat, "messages": Raw(encode(messages))},
        native={**asked.native, "input": Raw(encode(items))},
        beside_bytes=beside,
    )


def _decoded(body: Body, name: str) -> Any:
    raw = given(body, name)
    return None if raw is None else decoded(raw, name)


def _items(raw: Raw | None) -> list[Any]:
    if raw is None:
        return []
    value = decoded(raw, "input")
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list):
        bad("input", "a text or an array of items", raw)
    return value


def _limits(body: Body, chat: Body) -> None:
    most = given(body, "max_output_tokens")
    if most is not None:
        chat["max_tokens"] = most
        value = decoded(most, "max_output_tokens")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            bad("max_output_tokens", "a whole number of at least 1", most)


def _tools(body: Body, chat: Body) -> list[Any]:
    raw = given(body, "tools")
    if raw is None:
        return []
    tools = array(decoded(raw, "tools"), "tools")
    out = []
    for number, one in enumerate(tools):
        at = f"tools[{number}]"
        tool = obj(one, at)
        kind = tool.get("type")
        named: dict[str, Any] = {"name": text(tool.get("name"), f"{at}.name")} if "name" in tool else {}
        if tool.get("description") is not None:
            named["description"] = text(tool["description"], f"{at}.description")
        if kind == "function":
            text(tool.get("name"), f"{at}.name")
            if tool.get("parameters") is not None:
                named["parameters"] = obj(tool["parameters"], f"{at}.parameters")
            if tool.get("strict") is not None:
                named["strict"] = tool["strict"]
        elif kind == "custom":
            text(tool.get("name"), f"{at}.name")
            if tool.get("format") is not None:
                named["format"] = _format(obj(tool["format"], f"{at}.format"))
        else:
            refuse(
                at,
                f"is a tool of type {kind!r}, which a provider would run at a price of its own; "
                "offer a function, and run it yourself",
            )
        out.append({"type": kind, kind: named})
    if out:
        chat["tools"] = Raw(encode(out))
    return tools


def _format(said: dict[str, Any]) -> dict[str, Any]:
    if said.get("type") != "grammar":
        return said
    return {
        "type": "grammar",
        "grammar": {name: value for name, value in said.items() if name != "type"},
    }


def _tool_choice(body: Body, chat: Body) -> Any:
    choice = _decoded(body, "tool_choice")
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in _CHOICES:
            bad("tool_choice", f"one of {', '.join(_CHOICES)}, or an object", choice)
        wanted: Any = choice
    else:
        kind = obj(choice, "tool_choice").get("type")
        if kind in ("function", "custom"):
            wanted = {"type": kind, kind: {"name": text(choice.get("name"), "tool_choice.name")}}
        elif kind == "allowed_tools":
            allowed = [
                {"type": t.get("type"), t.get("type"): {"name": text(t.get("name"), "tool_choice.tools")}}
                for t in (
                    obj(t, "tool_choice.tools") for t in array(choice.get("tools"), "tool_choice.tools")
                )
                if isinstance(t.get("type"), str)
            ]
            wanted = {
                "type": "allowed_tools",
                "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": allowed},
            }
        else:
            refuse("tool_choice", f"demands a tool of type {kind!r}, which is not offered here")
    if "tools" in chat:
        chat["tool_choice"] = Raw(encode(wanted))
    return choice


def _text(body: Body, chat: Body) -> dict[str, Any]:
    said = _decoded(body, "text")
    if said is None:
        return {"format": {"type": "text"}}
    form = obj(said, "text").get("format") or {"type": "text"}
    kind = obj(form, "text.format").get("type")
    if kind == "json_schema":
        schema = {name: form[name] for name in ("name", "description", "schema", "strict") if name in form}
        text(form.get("name"), "text.format.name")
        obj(form.get("schema"), "text.format.schema")
        chat["response_format"] = Raw(encode({"type": "json_schema", "json_schema": schema}))
    elif kind == "json_object":
        chat["response_format"] = Raw(b'{"type":"json_object"}')
    elif kind != "text":
        unable("text.format", f"must have the type text, json_schema or json_object, got {kind!r}")
    told = {"format": form}
    if said.get("verbosity") is not None:
        chat["verbosity"] = Raw(encode(text(said["verbosity"], "text.verbosity")))
        told["verbosity"] = said["verbosity"]
    return told


def _reasoning(body: Body, chat: Body) -> dict[str, Any]:
    said = _decoded(body, "reasoning")
    if said is None:
        return {"effort": None, "summary": None}
    if obj(said, "reasoning").get("mode") not in (None, "standard"):
        refuse("reasoning.mode", "must be 'standard': another mode has another price")
    effort = said.get("effort")
    if effort is not None:
        chat["reasoning_effort"] = Raw(encode(text(effort, "reasoning.effort")))
    return {"effort": effort, "summary": said.get("summary")}


def _logprobs(body: Body, chat: Body) -> None:
    include = array(_decoded(body, "include") or [], "include")
    for one in include:
        if one not in _INCLUDABLE and not str(one).endswith(
            (".results", ".sources", ".outputs", ".image_url")
        ):
            bad("include", f"some of {', '.join(sorted(_INCLUDABLE))}", one)
    most = given(body, "top_logprobs")
    if _LOGPROBS in include or (most is not None and bytes(most) != b"0"):
        chat["logprobs"] = Raw(b"true")
        if most is not None:
            chat["top_logprobs"] = most


def _metadata(body: Body) -> dict[str, str]:
    said = obj(_decoded(body, "metadata") or {}, "metadata")
    if len(said) > _MOST_PAIRS:
        bad("metadata", f"at most {_MOST_PAIRS} pairs", said)
    for name, value in said.items():
        if len(name) > _MOST_NAME or not isinstance(value, str) or len(value) > _MOST_VALUE:
            bad(
                "metadata",
                f"names up to {_MOST_NAME} and texts up to {_MOST_VALUE} characters",
                {name: value},
            )
    return said
