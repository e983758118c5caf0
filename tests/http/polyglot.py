"""A scripted engine that speaks chat, Responses and Messages: the same words, calls, counts and faults."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway_engine import Script, Wire

PROMPT_TOK, OUTPUT_TOK = 50, 2
Told = tuple[list[bytes], int, dict[str, Any]]
"""The events of a stream, how many of them reach up to the first piece, and the whole answer."""
COUNTING = ("/input_tokens", "/count_tokens")
ARGUMENTS = ('{"city":', '"Oslo"}')


def polyglot(
    *, tool: bool = False, fault: str | None = None, pieces: int = 2, apart_s: float = 0.0
) -> Script:
    """`fault`: "reset" before anything, "mid" after the first piece, "500", "stall" after the first piece.
    `apart_s`: between two events of a stream, so that each is read by itself."""

    async def serve(wire: Wire) -> None:
        if fault == "reset":
            wire.reset()
            return
        if fault == "500":
            await wire.json({"error": {"message": "no"}}, status=500)
            return
        path = wire.path
        if path.endswith(COUNTING):
            await wire.json({"input_tokens": PROMPT_TOK})
            return
        made = {"messages": _messages, "responses": _responses}.get(path.rpartition("/")[2], _chat)
        if path == "/v1/completions":
            made = _completions
        stream, seen, whole = made(wire.body, tool=tool, pieces=pieces)
        if not wire.body.get("stream"):
            if fault in ("mid", "stall"):
                text = json.dumps(whole).encode()
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                await wire.send(head % len(text) + text[:20])
                if fault == "stall":
                    await wire.until_left()
                else:
                    wire.reset()
                return
            await wire.json(whole)
            return
        await wire.stream_head()
        for number, event in enumerate(stream):
            if fault is not None and number == seen:
                if fault == "stall":
                    await wire.until_left()
                else:
                    wire.reset()
                return
            await wire.event(event)
            if apart_s:
                await asyncio.sleep(apart_s)
        await wire.send(b"0\r\n\r\n")

    return serve


def _texts(pieces: int) -> list[str]:
    return ["hel", "lo"] if pieces == 2 else [f"w{n} " for n in range(pieces)]


def _chat(body: dict[str, Any], *, tool: bool, pieces: int) -> Told:
    usage = {
        "prompt_tokens": PROMPT_TOK,
        "completion_tokens": pieces,
        "total_tokens": PROMPT_TOK + pieces,
        "prompt_tokens_details": {"cached_tokens": 16},
    }

    made = 0

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        nonlocal made
        made += bool(delta.get("content") or delta.get("tool_calls"))
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = {"id": "e-1", "object": "chat.completion.chunk", "model": "up", "choices": [choice]}
        return _data(event | (_so_far(body, made) if made else {}))

    finish = "tool_calls" if tool else "stop"
    if tool:
        function = {"name": "w", "arguments": ""}
        call = {"index": 0, "id": "c1", "type": "function", "function": function}
        deltas = [{"tool_calls": [call]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ARGUMENTS]
        named = {"name": "w", "arguments": "".join(ARGUMENTS)}
        message = {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": named}]}
    else:
        deltas = [{"content": text} for text in _texts(pieces)]
        message = {"content": "".join(_texts(pieces))}
    stream = [chunk({"role": "assistant", "content": ""}), chunk({"content": ""}), chunk({"content": ""})]
    stream += [chunk(delta) for delta in deltas] + [chunk({}, finish)]
    stream.append(_data({"id": "e-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}))
    stream.append(b"data: [DONE]\n\n")
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    whole = {"id": "e-1", "object": "chat.completion", "model": "up", "choices": [choice], "usage": usage}
    return stream, 4, whole


def _so_far(body: dict[str, Any], made: int) -> dict[str, Any]:
    """What engines that count in each chunk say there, if they are asked to: llama.cpp and vLLM."""
    if body.get("timings_per_token"):
        return {"timings": {"prompt_n": PROMPT_TOK - 16, "cache_n": 16, "predicted_n": made}}
    if (body.get("stream_options") or {}).get("continuous_usage_stats"):
        return {
            "usage": {
                "prompt_tokens": PROMPT_TOK,
                "completion_tokens": made,
                "total_tokens": PROMPT_TOK + made,
            }
        }
    return {}


def _completions(body: dict[str, Any], *, tool: bool, pieces: int) -> Told:
    usage = {
        "prompt_tokens": PROMPT_TOK,
        "completion_tokens": pieces,
        "total_tokens": PROMPT_TOK + pieces,
        "prompt_tokens_details": {"cached_tokens": 16},
    }

    made = 0

    def chunk(text: str, finish: str | None = None) -> bytes:
        nonlocal made
        made += bool(text)
        choice = {"index": 0, "text": text, "finish_reason": finish}
        event = {"id": "e-1", "object": "text_completion", "model": "up", "choices": [choice]}
        return _data(event | (_so_far(body, made) if made else {}))

    stream = [chunk(""), chunk(""), chunk(""), *(chunk(text) for text in _texts(pieces)), chunk("", "stop")]
    stream.append(_data({"id": "e-1", "object": "text_completion", "choices": [], "usage": usage}))
    stream.append(b"data: [DONE]\n\n")
    choice = {"index": 0, "text": "".join(_texts(pieces)), "finish_reason": "stop"}
    whole = {"id": "e-1", "object": "text_completion", "model": "up", "choices": [choice], "usage": usage}
    return stream, 4, whole


def _responses(body: dict[str, Any], *, tool: bool, pieces: int) -> Told:
    def answer(status: str, output: list[Any], usage: Any = None) -> dict[str, Any]:
        return {
            "id": "resp_up",
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": "up",
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "store": body.get("store"),
            "previous_response_id": None,
            "error": None,
            "usage": usage,
        }

    usage = {
        "input_tokens": PROMPT_TOK,
        "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
        "output_tokens": pieces,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOK + pieces,
    }
    at = {"item_id": "i1", "output_index": 0}
    if tool:
        item = {"type": "function_call", "id": "i1", "call_id": "c1", "name": "w", "status": "completed"}
        empty, full = {**item, "arguments": ""}, {**item, "arguments": "".join(ARGUMENTS)}
        grown: list[dict[str, Any]] = [
            {"type": "response.function_call_arguments.delta", **at, "delta": part} for part in ARGUMENTS
        ]
        grown.append({"type": "response.function_call_arguments.done", **at, "arguments": full["arguments"]})
        opening: list[dict[str, Any]] = []
    else:
        base = {"type": "message", "id": "i1", "role": "assistant", "status": "completed"}
        text = "".join(_texts(pieces))
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        empty, full = {**base, "content": []}, {**base, "content": [part]}
        here = {**at, "content_index": 0}
        opening = [{"type": "response.content_part.added", **here, "part": {**part, "text": ""}}]
        grown = [
            {"type": "response.output_text.delta", **here, "delta": text, "logprobs": []}
            for text in _texts(pieces)
        ]
        grown.append({"type": "response.output_text.done", **here, "text": text, "logprobs": []})
        grown.append({"type": "response.content_part.done", **here, "part": part})
    events = [
        {"type": "response.created", "response": answer("in_progress", [])},
        {"type": "response.in_progress", "response": answer("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        *opening,
        *grown,
        {"type": "response.output_item.done", "output_index": 0, "item": full},
        {"type": "response.completed", "response": answer("completed", [full], usage)},
    ]
    stream = [_event({**event, "sequence_number": number}) for number, event in enumerate(events)]
    return stream, 4 if tool else 5, answer("completed", [full], usage)


def _messages(body: dict[str, Any], *, tool: bool, pieces: int) -> Told:
    def message(content: list[Any], stop: str | None, output: int) -> dict[str, Any]:
        usage = {
            "input_tokens": PROMPT_TOK - 16,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 16,
            "output_tokens": output,
        }
        return {
            "id": "msg_up",
            "type": "message",
            "role": "assistant",
            "model": "up",
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    if tool:
        block: dict[str, Any] = {"type": "tool_use", "id": "c1", "name": "w", "input": {}}
        full = {**block, "input": json.loads("".join(ARGUMENTS))}
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ARGUMENTS]
    else:
        block = {"type": "text", "text": ""}
        full = {**block, "text": "".join(_texts(pieces))}
        deltas = [{"type": "text_delta", "text": text} for text in _texts(pieces)]
    stop = "tool_use" if tool else "end_turn"
    events = [
        {"type": "message_start", "message": message([], None, 1)},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": pieces}},
        {"type": "message_stop"},
    ]
    return [_event(event) for event in events], 4, message([full], stop, pieces)


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"event: " + body["type"].encode() + b"\n" + _data(body)
