"""How an answer that broke off is asked to go on: what was said is the beginning of what the engine says.

Pure. Only text goes on: who called a tool, or was asked for several choices, gets a new answer or none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.vocab.request import Body, Endpoint

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_ONLY_TEXT = frozenset(("role", "content"))


def text_so_far(endpoint: Endpoint, events: list[bytes]) -> str | None:
    """Return the text of the chunks that were shown; None if there was anything but text in them."""
    parts: list[str] = []
    for event in events:
        for line in event.splitlines():
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if not payload.startswith(b"{"):
                continue
            try:
                chunk = _decode(payload)
            except msgspec.DecodeError:
                return None
            for choice in chunk.get("choices") or ():
                if choice.get("index", 0) != 0 or choice.get("finish_reason") is not None:
                    return None
                part = _text_of(endpoint, choice)
                if part is None:
                    return None
                parts.append(part)
    return "".join(parts)


def _text_of(endpoint: Endpoint, choice: dict[str, Any]) -> str | None:
    if endpoint == "completions":
        return str(choice.get("text") or "")
    delta = choice.get("delta") or {}
    if any(value for name, value in delta.items() if name not in _ONLY_TEXT):
        return None
    return str(delta.get("content") or "")


def by_last_message(endpoint: Endpoint, body: Body, text: str) -> Body | None:
    """Engines that go on with a last message of the assistant by themselves (llama.cpp)."""
    if endpoint == "completions":
        return _longer_prompt(body, text)
    if endpoint != "chat" or not _may_go_on(body):
        return None
    messages = msgspec.json.decode(body["messages"], type=list[msgspec.Raw])
    messages.append(msgspec.Raw(_encode({"role": "assistant", "content": text})))
    return {**body, "messages": msgspec.Raw(_encode(messages))}


def by_flag(endpoint: Endpoint, body: Body, text: str) -> Body | None:
    """Engines that go on if they are told to (vLLM)."""
    longer = by_last_message(endpoint, body, text)
    if longer is not None and endpoint == "chat":
        longer["continue_final_message"] = msgspec.Raw(b"true")
        longer["add_generation_prompt"] = msgspec.Raw(b"false")
    return longer


def _may_go_on(body: Body) -> bool:
    """A grammar or a tool would begin anew after the words that were said."""
    return all(
        bytes(body.get(name, b"null")) in (b"null", b"[]")
        for name in ("tools", "functions", "response_format", "logprobs", "continue_final_message")
    )


def _longer_prompt(body: Body, text: str) -> Body | None:
    if not bytes(body.get("prompt", b"")).startswith(b'"'):
        return None
    prompt = msgspec.json.decode(body["prompt"], type=str)
    return {**body, "prompt": msgspec.Raw(_encode(prompt + text))}
