"""The items of a Responses input, written down as the messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wattmill.distribution.doors.fields import array, bad, known, obj, refuse, text, unable, wrong

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_PAID = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "computer_call",
        "computer_call_output",
        "image_generation_call",
        "code_interpreter_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "tool_search_call",
        "tool_search_output",
        "program",
        "program_output",
        "additional_tools",
    }
)


def messages_of(items: Sequence[Any], instructions: str | None) -> tuple[list[dict[str, Any]], int]:
    """Return the chat's messages, and the bytes of items that a chat cannot hold (reasoning): an engine that
    speaks Responses itself is sent them, so they count in the bound."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    beside = 0
    for number, item in enumerate(items):
        at = f"input[{number}]"
        kind = obj(item, at).get("type")
        if kind == "message" or (kind is None and "role" in item):
            messages.append(_message(item, at))
        elif kind == "function_call":
            call = {
                "id": text(item.get("call_id"), f"{at}.call_id"),
                "type": "function",
                "function": {
                    "name": text(item.get("name"), f"{at}.name"),
                    "arguments": text(item.get("arguments"), f"{at}.arguments"),
                },
            }
            _add_call(messages, call)
        elif kind == "custom_tool_call":
            call = {
                "id": text(item.get("call_id"), f"{at}.call_id"),
                "type": "custom",
                "custom": {
                    "name": text(item.get("name"), f"{at}.name"),
                    "input": text(item.get("input"), f"{at}.input"),
                },
            }
            _add_call(messages, call)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": text(item.get("call_id"), f"{at}.call_id"),
                    "content": _output(item.get("output"), f"{at}.output"),
                }
            )
        elif kind == "reasoning":
            beside += _size(item)
        elif kind == "item_reference":
            refuse(
                at,
                "refers to an item by its id; send the item itself, or continue with 'previous_response_id'",
            )
        elif kind in _PAID:
            refuse(at, f"is an item of a tool that providers run at a price of its own ({kind}); not offered")
        elif kind == "compaction":
            refuse(at, "is an encrypted summary that only its provider can read; send the items themselves")
        else:
            bad(f"{at}.type", "the type of an item of this protocol", kind)
    return messages, beside


def _message(item: dict[str, Any], at: str) -> dict[str, Any]:
    known(item, ("type", "role", "content", "id", "status", "phase"), at=at)
    role = _ROLES.get(text(item.get("role"), f"{at}.role"))
    if role is None:
        bad(f"{at}.role", "user, assistant, system or developer", item["role"])
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(part, f"{at}.content[{n}]") for n, part in enumerate(array(content, f"{at}.content"))]
    if role != "user" and all(part["type"] in ("text", "refusal") for part in parts):
        # Templates of small models know no parts, and nobody's assistant or system message needs them.
        return {
            "role": role,
            "content": "".join(part.get("text") or part.get("refusal", "") for part in parts),
        }
    if len(parts) == 1 and parts[0]["type"] == "text":
        return {"role": role, "content": parts[0]["text"]}
    return {"role": role, "content": parts}


def _part(part: object, at: str) -> dict[str, Any]:
    said = obj(part, at)
    kind = said.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": text(said.get("text"), f"{at}.text")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": text(said.get("refusal"), f"{at}.refusal")}
    if kind == "input_image":
        if said.get("file_id") is not None or said.get("image_url") is None:
            unable(
                at, "must hold an 'image_url' (an address or a data URL): stored files are not images here"
            )
        image = {"url": text(said["image_url"], f"{at}.image_url")}
        if said.get("detail") is not None:
            image["detail"] = text(said["detail"], f"{at}.detail")
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": obj(said.get("input_audio"), f"{at}.input_audio")}
    if kind == "input_file":
        unable(
            at,
            "is a file, which cannot be bounded in tokens, so nothing can be reserved for it; send its text",
        )
    raise wrong(f"{at}.type", "input_text, input_image, input_audio, output_text or refusal", kind)


def _output(value: object, at: str) -> str:
    """What a tool gave: a text, or parts that are texts."""
    if isinstance(value, str):
        return value
    texts = []
    for number, part in enumerate(array(value, at)):
        said = obj(part, f"{at}[{number}]")
        if said.get("type") not in ("input_text", "output_text", "text"):
            unable(f"{at}[{number}]", "must be text: a chat cannot hold a tool's image or file")
        texts.append(text(said.get("text"), f"{at}[{number}].text"))
    return "\n".join(texts)


def _add_call(messages: list[dict[str, Any]], call: dict[str, Any]) -> None:
    """Calls that follow each other, or the assistant's words, are one message of a chat."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant":
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    else:
        last.setdefault("tool_calls", []).append(call)


def _size(item: dict[str, Any]) -> int:
    texts = 0
    for value in item.values():
        if isinstance(value, str):
            texts += len(value.encode())
        elif isinstance(value, list):
            texts += sum(_size(one) for one in value if isinstance(one, dict))
    return texts
