"""The content blocks of Messages, written down as the messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wattmill.distribution.doors.fields import array, bad, beyond, encode, obj, refuse, text, unable, wrong

_CLIENTS = frozenset(
    {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "document"}
)


def messages_of(turns: Sequence[Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the chat's messages, and the bytes of what a chat cannot hold (thinking, with its signature)."""
    messages: list[dict[str, Any]] = []
    beside = 0
    for number, turn in enumerate(turns):
        at = f"messages[{number}]"
        role = obj(turn, at).get("role")
        content = turn.get("content")
        if role not in ("user", "assistant", "system"):
            bad(f"{at}.role", "user or assistant", role)
        if isinstance(content, str):
            messages.append({"role": role, "content": content})
            continue
        blocks = array(content, f"{at}.content")
        if role == "system":
            told, more = joined(blocks, f"{at}.content")
            messages.append({"role": "system", "content": told})
            beside += more
        elif role == "assistant":
            beside += _assistant(blocks, at, messages)
        else:
            beside += _user(blocks, at, messages)
    return messages, beside


def joined(content: Any, at: str) -> tuple[str, int]:
    """Return a system prompt as one text: a chat's template takes no parts there."""
    if isinstance(content, str):
        return content, 0
    texts = []
    for number, block in enumerate(array(content, at)):
        said = obj(block, f"{at}[{number}]")
        if said.get("type") != "text":
            bad(f"{at}[{number}].type", "text", said.get("type"))
        texts.append(text(said.get("text"), f"{at}[{number}].text"))
    return "\n\n".join(texts), 0


def _assistant(blocks: list[Any], at: str, messages: list[dict[str, Any]]) -> int:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    beside = 0
    for number, block in enumerate(blocks):
        where = f"{at}.content[{number}]"
        said = _block(block, where)
        kind = said["type"]
        if kind == "text":
            texts.append(text(said.get("text"), f"{where}.text"))
            beside += _citations(said)
        elif kind == "tool_use":
            function = {
                "name": text(said.get("name"), f"{where}.name"),
                "arguments": encode(obj(said.get("input"), f"{where}.input")).decode(),
            }
            calls.append(
                {"id": text(said.get("id"), f"{where}.id"), "type": "function", "function": function}
            )
        elif kind in ("thinking", "redacted_thinking"):
            beside += sum(len(value.encode()) for value in said.values() if isinstance(value, str))
        else:
            bad(f"{where}.type", "text, tool_use or thinking in an assistant's message", kind)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    messages.append(message)
    return beside


def _user(blocks: list[Any], at: str, messages: list[dict[str, Any]]) -> int:
    """Results of tools come first, each as a message of its own, as a chat has it; images that a tool gave
    stand beside the user's words, since a chat's tool message holds text only."""
    parts: list[dict[str, Any]] = []
    beside = 0
    for number, block in enumerate(blocks):
        where = f"{at}.content[{number}]"
        said = _block(block, where)
        kind = said["type"]
        if kind == "tool_result":
            told, images = _result(said, where)
            call_id = text(said.get("tool_use_id"), f"{where}.tool_use_id")
            messages.append({"role": "tool", "tool_call_id": call_id, "content": told})
            parts += images
        elif kind in ("text", "image", "document"):
            parts += _parts(said, where)
            beside += _citations(said)
        else:
            bad(f"{where}.type", "text, image, document or tool_result in a user's message", kind)
    if len(parts) == 1 and parts[0]["type"] == "text":
        messages.append({"role": "user", "content": parts[0]["text"]})
    elif parts:
        messages.append({"role": "user", "content": parts})
    elif not blocks:
        bad(f"{at}.content", "a text or an array with at least one block", blocks)
    return beside


def _result(said: dict[str, Any], at: str) -> tuple[str, list[dict[str, Any]]]:
    content = said.get("content")
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[dict[str, Any]] = []
    for number, block in enumerate(array(content, f"{at}.content")):
        where = f"{at}.content[{number}]"
        for part in _parts(_block(block, where), where):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(part)
    return "\n".join(texts), images


def _parts(said: dict[str, Any], at: str) -> list[dict[str, Any]]:
    kind = said["type"]
    if kind == "text":
        return [{"type": "text", "text": text(said.get("text"), f"{at}.text")}]
    if kind == "image":
        return [
            {"type": "image_url", "image_url": {"url": _image(obj(said.get("source"), f"{at}.source"), at)}}
        ]
    if kind == "document":
        return _document(said, at)
    raise wrong(f"{at}.type", "text, image or document", kind)


def _image(source: dict[str, Any], at: str) -> str:
    kind = source.get("type")
    if kind == "base64":
        media = text(source.get("media_type"), f"{at}.source.media_type")
        return f"data:{media};base64,{text(source.get('data'), f'{at}.source.data')}"
    if kind == "url":
        return text(source.get("url"), f"{at}.source.url")
    raise beyond(
        f"{at}.source", f"must be of type base64 or url, got {kind!r}: stored files are not images here"
    )


def _document(said: dict[str, Any], at: str) -> list[dict[str, Any]]:
    source = obj(said.get("source"), f"{at}.source")
    head = "\n".join(said[name] for name in ("title", "context") if isinstance(said.get(name), str))
    parts = [{"type": "text", "text": head}] if head else []
    kind = source.get("type")
    if kind == "text":
        parts.append({"type": "text", "text": text(source.get("data"), f"{at}.source.data")})
    elif kind == "content":
        content = source.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for number, block in enumerate(array(blocks, f"{at}.source.content")):
            where = f"{at}.source.content[{number}]"
            parts += _parts(_block(block, where), where)
    else:
        unable(
            at,
            f"is a document of type {kind!r}, which cannot be bounded in tokens, so nothing can be reserved "
            "for it; send its text",
        )
    return parts


def _block(block: object, at: str) -> dict[str, Any]:
    said = obj(block, at)
    kind = said.get("type")
    if kind not in _CLIENTS:
        if isinstance(kind, str) and kind.endswith(("_tool_result", "server_tool_use", "container_upload")):
            refuse(at, f"belongs to a tool that a provider runs at a price of its own ({kind}); not offered")
        unable(at, f"is a block of type {kind!r}, which cannot be written down as a chat")
    return said


def _citations(said: dict[str, Any]) -> int:
    told = said.get("citations")
    return len(encode(told)) if told else 0


def short_lived(said: list[Any]) -> bool:
    """Take a longer `ttl` out of each `cache_control` in blocks, turns or tools; say whether one was there.

    What a cache keeps for longer is written at a price of its own (twice the input's, where the usual writes
    cost a quarter more), and an answer's usage has one class of writes: it could not be reserved for."""
    found = False
    for one in said:
        if not isinstance(one, dict):
            continue
        kept = one.get("cache_control")
        if isinstance(kept, dict) and kept.get("ttl") not in (None, "5m"):
            del kept["ttl"]
            found = True
        inner = [one.get("content")]
        if isinstance(source := one.get("source"), dict):
            inner.append(source.get("content"))
        for blocks in inner:
            if isinstance(blocks, list) and short_lived(blocks):
                found = True
    return found
