"""An engine whose answer is nearly right: one value in it is absent, of another type, or beyond all bounds.

Through every adapter and every door: the client is answered, nobody is charged anything else than what is
told, each attempt ends once in a record that can be written, and nothing is taken for a defect of wattmill.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_rig import CHAT, Rig, Script, Wire, answer_body, rig, run, until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wattmill.ledger.frame import encoder
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.units import NUSD_PER_USD

DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "completions": ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 10}),
    "embeddings": ("/v1/embeddings", {"model": "m", "input": "hi"}),
    "messages": ("/v1/messages", CHAT),
    "responses": ("/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 10}),
}
ODD: list[Any] = [
    None, 0, 1, 3, -1, 1.0, 1.5, 1e308, 2**31, 2**40, 2**63, 2**64, 10**30, "3", "", "x", "\U0001f600",
    True, False, [], {}, [1], {"a": 1}, [{}], [None],
]  # fmt: skip

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TIMES = {"prompt_n": 4, "cache_n": 1, "predicted_n": 1, "prompt_ms": 1.5, "predicted_ms": 2.5}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "e", "object": "chat.completion.chunk", "model": "up", "choices": [choice], **more}


def _text(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "e", "choices": [{"index": 0, "text": text, "finish_reason": finish}], **more}


_ITEMS = [
    {"id": "i", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
    {"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
]
_RESPONSE = {
    "id": "r",
    "object": "response",
    "status": "completed",
    "model": "up",
    "output": _ITEMS,
    "usage": {
        "input_tokens": 4,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 6,
    },
}
_TOOL = {"type": "tool_use", "id": "c", "name": "f"}
_PIECE = {"type": "input_json_delta", "partial_json": "{}"}
_INPUT = {"input_tokens": 4, "output_tokens": 1, "cache_read_input_tokens": 1}

STREAMS: dict[str, list[dict[str, Any]]] = {
    "/chat/completions": [
        _chunk({"role": "assistant", "content": ""}, timings=TIMES),
        {"choices": [], "timings": {"prompt_n": 2}, "prompt_progress": {"total": 5, "processed": 2}},
        _chunk({"content": "a"}, timings=TIMES, usage=USAGE),
        _chunk({"reasoning_content": "b"}),
        _chunk({"tool_calls": [CALL]}),
        _chunk({}, "stop"),
        {"id": "e", "choices": [], "usage": USAGE, "timings": TIMES},
    ],
    "/completions": [_text("a", timings=TIMES), _text("", "stop"), {"choices": [], "usage": USAGE}],
    "/messages": [
        {"type": "message_start", "message": {"id": "m", "model": "up", "content": [], "usage": _INPUT}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "t"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": _TOOL},
        {"type": "content_block_delta", "index": 1, "delta": _PIECE},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ],
    "/responses": [
        {"type": "response.created", "sequence_number": 0, "response": {**_RESPONSE, "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": _ITEMS[0]},
        {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "delta": "t"},
        {"type": "response.output_item.added", "output_index": 1, "item": _ITEMS[1]},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
        {"type": "response.output_item.done", "output_index": 0, "item": _ITEMS[0]},
        {"type": "response.completed", "sequence_number": 9, "response": _RESPONSE},
    ],
}  # fmt: skip
_MESSAGE = {"role": "assistant", "content": "t", "reasoning_content": "r", "tool_calls": [CALL]}
_CHOICE = {"index": 0, "message": _MESSAGE, "text": "t", "finish_reason": "stop", "logprobs": PROBS}
WHOLE: dict[str, dict[str, Any]] = {
    "/chat/completions": {"id": "e", "model": "up", "choices": [_CHOICE], "usage": USAGE, "timings": TIMES},
    "/completions": {"id": "e", "model": "up", "choices": [_CHOICE], "usage": USAGE, "timings": TIMES},
    "/embeddings": {
        "data": [{"index": 0, "embedding": [0.1]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    },
    "/messages": {
        "id": "m",
        "model": "up",
        "content": [{"type": "text", "text": "t"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 4, "output_tokens": 3, "cache_read_input_tokens": 1},
    },
    "/responses": _RESPONSE,
}  # fmt: skip

Change = tuple[int, Any]  # which of all the values, and what stands there instead; ...: it is not there


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _changed(answer: Any, changes: list[Change]) -> Any:
    answer = copy.deepcopy(answer)
    for number, odd in changes:
        places = list(_places(answer))
        if not places:
            break
        *way, last = places[number % len(places)]
        inner = answer
        for key in way:
            inner = inner[key]
        if odd is ...:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(odd)
    return answer


def nearly(changes: list[Change]) -> Script:
    async def script(wire: Wire) -> None:
        path = wire.path.removeprefix("/v1")
        if not wire.body.get("stream"):
            await wire.json(_changed(WHOLE[path], changes))
            return
        await wire.stream_head()
        for event in _changed(STREAMS[path], changes):
            named = isinstance(event, dict) and isinstance(event.get("type"), str)
            head = b"event: %b\n" % event["type"].encode() if named else b""
            await wire.event(head + b"data: " + json.dumps(event).encode() + b"\n\n")
        if path.endswith("completions"):
            await wire.event(b"data: [DONE]\n\n")
        await wire.send(b"0\r\n\r\n")

    return script


def told_nusd(body: bytes, headers: dict[str, str]) -> int | None:
    said = headers.get("x-wattmill-charge-usd")
    if said is None:
        _, found, rest = body.partition(b": wattmill charge_usd=")
        said = rest.split()[0].decode() if found else None
    return None if said is None else round(float(said) * NUSD_PER_USD)


async def asked(r: Rig, door: str, *, stream: bool, n: int = 1) -> None:
    path, plain = DOORS[door]
    body = dict(plain)
    if stream and door != "embeddings":
        body["stream"] = True
    if n > 1 and door in ("chat", "completions"):
        body["n"] = n
    a = await r.ask(body, path=path)
    await until(lambda: not r.gateway.in_flight)
    assert a.status in (200, 400, 502)
    assert not r.logged, r.logged
    r.assert_balanced()
    for fact in r.journal.facts:
        encoder.encode(fact)
    told = told_nusd(a.body, a.headers)
    assert told in (None, sum(end.charge_nusd for end in r.journal.ends))
    if a.headers["content-type"].startswith("text/event-stream"):
        lines = [x[6:] for x in a.body.split(b"\n") if x.startswith(b"data: ") and x != b"data: [DONE]"]
        assert all(json.loads(line) is not None for line in lines)
    else:
        json.loads(a.body)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 90), st.sampled_from([*ODD, ...])), max_size=3),
    st.sampled_from(list(ADAPTERS)),
    st.sampled_from(list(DOORS)),
    st.booleans(),
    st.sampled_from([1, 2]),
)
@example([], "openai", "chat", True, 1)
@example([], "anthropic", "responses", True, 1)
def test_an_answer_that_is_nearly_right_is_told_or_refused_and_booked_once(
    changes: list[Change], adapter: str, door: str, stream: bool, n: int
) -> None:
    async def test() -> None:
        async with rig(nearly(changes), adapter=adapter, idle_timeout_s=5.0) as r:
            await asked(r, door, stream=stream, n=n)

    run(test())


@pytest.mark.parametrize("ms", [1e308, -1.0, 10**30])
@pytest.mark.parametrize("stream", [True, False])
def test_a_time_that_cannot_be_is_not_told_and_the_answer_is(ms: float, stream: bool) -> None:
    times = {**TIMES, "prompt_ms": ms, "predicted_ms": ms}

    async def script(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a", timings=times)
        await wire.chunk(None, finish="stop", timings=times)
        await wire.usage_chunk(5, 2)
        await wire.done()

    async def test() -> None:
        async with rig(script, adapter="llama.cpp") as r:
            await asked(r, "chat", stream=stream)
            (end,) = r.journal.ends
            assert end.status == "finished" and end.prefill_us is None and end.decode_us is None
            assert end.usage is not None and end.usage.prompt_tok == 5

    run(test())


@pytest.mark.parametrize("count", [-1, 10**30])
def test_a_count_that_cannot_be_is_never_booked(count: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a", timings={**TIMES, "predicted_n": count})
        await wire.until_left()

    async def test() -> None:
        async with rig(script, adapter="llama.cpp") as r:
            await asked(r, "chat", stream=True)
            (end,) = r.journal.ends
            assert end.status == "failed"

    run(test())


def test_an_answer_that_a_door_cannot_read_goes_to_the_next_place_and_is_not_charged() -> None:
    """It was booked as finished, and its client waited until the total time was over."""
    odd = answer_body()
    odd["choices"][0]["message"]["tool_calls"] = [{"id": [1], "type": "function"}]

    async def script(wire: Wire) -> None:
        await wire.json(odd)

    async def well_enough(wire: Wire) -> None:
        await wire.json(answer_body())

    async def test() -> None:
        async with rig(script, well_enough) as r:
            a = await r.ask(CHAT, path="/v1/messages")
            assert a.status == 200 and a.headers["x-wattmill-pool"] == "p1"
            first, second = r.journal.ends
            assert (first.status, first.charge_nusd, second.status) == ("failed", 0, "finished")
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("stream", [True, False])
def test_a_defect_after_the_end_was_booked_still_tells_the_client(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wattmill.distribution.doors.messages_answer import MessageWriter

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(MessageWriter, "close", broken)

    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            closing = [("connection", "close")]
            await client.send(CHAT | {"stream": stream}, path="/v1/messages", headers=closing)
            told = await client.reader.read()
            if told.startswith(b"HTTP/1.1 500 ") or not stream:
                assert b'"code":"internal"' in told
            else:  # it had begun: it can only be broken off
                assert b"message_start" in told and b"message_stop" not in told
                assert not told.endswith(b"0\r\n\r\n")
            await until(lambda: not r.gateway.in_flight)
            assert len(r.logged) == 1
            r.assert_balanced()

    run(test())
