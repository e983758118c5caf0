"""One conformance suite: the same work through each door gives the same ledger rows, and hits the same caps
with the same refusal code, in the door's own words.

An engine that speaks all protocols answers, so each door is tried translated (to a place that speaks chat),
passed through (to a place that speaks it), and crossed (to a place that speaks another one).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gateway_rig import Answer, Rig, Wire, rig, run, until
from polyglot import ARGUMENTS, COUNTING, PROMPT_TOK, polyglot

from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import WAIT
from wattmill.vocab.fact import End, Refused
from wattmill.vocab.usage import Usage

DOORS = ("chat", "completions", "responses", "messages")
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
ADAPTERS = ("openai-compatible", "llama.cpp", "vllm", "openai", "anthropic")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def work(door: str, *, stream: bool, most: int = 10, tool: bool = False, model: str = "m") -> dict[str, Any]:
    """The same request in the words of each door."""
    body: dict[str, Any] = {"model": model, "stream": stream}
    if door == "chat":
        body |= {"messages": [{"role": "user", "content": "hi"}], "max_tokens": most}
        function = {"name": "w", "description": "d", "parameters": SCHEMA}
        tools: list[Any] = [{"type": "function", "function": function}]
    elif door == "completions":
        return body | {"prompt": "hi", "max_tokens": most}
    elif door == "responses":
        body |= {"input": "hi", "max_output_tokens": most}
        tools = [{"type": "function", "name": "w", "description": "d", "parameters": SCHEMA}]
    else:
        body |= {"messages": [{"role": "user", "content": "hi"}], "max_tokens": most}
        tools = [{"name": "w", "description": "d", "input_schema": SCHEMA}]
    return body | ({"tools": tools} if tool else {})


async def asked(r: Rig, door: str, body: dict[str, Any]) -> Answer:
    data = json.dumps(body, separators=(",", ":")).encode()
    return await r.ask(
        data, path=PATHS[door], headers=[("anthropic-version", "2023-06-01")] * (door == "messages")
    )


def inferred(r: Rig) -> list[Wire]:
    """What the engine was asked to answer; near a cap it is also asked to count."""
    return [wire for wire in r.engines[0].seen if not wire.path.endswith(COUNTING)]


def row(end: End) -> dict[str, Any]:
    """What a door must not change in the books."""
    return {
        "status": end.status,
        "usage": end.usage,
        "source": end.usage_source,
        "cost": end.cost_nusd,
        "charge": end.charge_nusd,
        "overrun": end.overrun_nusd,
        "error": end.error,
    }


def code_of(door: str, answer: Answer) -> str:
    """The refusal's code, read as a client of that protocol would."""
    error = answer.json["error"]
    if door == "messages":
        assert answer.json["type"] == "error" and answer.json["request_id"].startswith("req_")
        assert error["type"].endswith("_error") or error["type"] == "request_too_large"
    else:
        assert error["request_id"].startswith("req_")
    return str(error["code"])


def words(door: str, answer: Answer, *, stream: bool) -> tuple[str, list[Any]]:
    """The text and the calls of an answer, as a client of that protocol reads them."""
    if not stream:
        return whole_words(door, answer.json)
    events = [json.loads(line[6:]) for line in answer.body.decode().split("\n") if line.startswith("data: {")]
    if door in ("chat", "completions"):
        calls = [c for e in events for x in e["choices"] for c in x.get("delta", {}).get("tool_calls") or ()]
        arguments = "".join(c["function"]["arguments"] for c in calls)
        return answer.text, [(calls[0]["id"], calls[0]["function"]["name"], arguments)] if calls else []
    if door == "responses":
        return whole_words(door, events[-1]["response"])
    text = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    pieces = "".join(e["delta"].get("partial_json", "") for e in events if e["type"] == "content_block_delta")
    starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    return text, [(b["id"], b["name"], pieces) for b in starts if b["type"] == "tool_use"]


def whole_words(door: str, body: dict[str, Any]) -> tuple[str, list[Any]]:
    if door == "completions":
        return body["choices"][0]["text"], []
    if door == "chat":
        message = body["choices"][0]["message"]
        calls = [
            (c["id"], c["function"]["name"], c["function"]["arguments"])
            for c in message.get("tool_calls") or ()
        ]
        return message["content"] or "", calls
    if door == "responses":
        text = "".join(p["text"] for i in body["output"] if i["type"] == "message" for p in i["content"])
        calls = [
            (i["call_id"], i["name"], i["arguments"]) for i in body["output"] if i["type"] == "function_call"
        ]
        return text, calls
    text = "".join(b["text"] for b in body["content"] if b["type"] == "text")
    return text, [
        (b["id"], b["name"], json.dumps(b["input"], separators=(",", ":")))
        for b in body["content"]
        if b["type"] == "tool_use"
    ]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tool", [False, True])
def test_the_same_work_gives_the_same_rows(adapter: str, stream: bool, tool: bool) -> None:
    async def test() -> None:
        async with rig(polyglot(tool=tool), adapter=adapter) as r:
            doors = [d for d in DOORS if d != "completions" or (adapter != "anthropic" and not tool)]
            for door in doors:
                answer = await asked(r, door, work(door, stream=stream, tool=tool))
                assert answer.status == 200, (door, answer.body)
                text, calls = words(door, answer, stream=stream)
                assert text == ("" if tool else "hello"), door
                assert calls == ([("c1", "w", "".join(ARGUMENTS))] if tool else []), door
            assert [i.endpoint for i in r.journal.intents] == list(doors)
            rows = [row(end) for end in r.journal.ends]
            assert rows[0]["usage"] == Usage(PROMPT_TOK, 2, cached_tok=16)
            assert rows[0]["source"] == "measured" and rows[0]["status"] == "finished"
            assert all(one == rows[0] for one in rows), dict(zip(doors, rows, strict=True))
            if not tool:
                chat, *_, third, fourth = r.journal.intents
                for intent in (third, fourth):
                    assert intent.reserved_nusd == chat.reserved_nusd
                    assert (intent.input_bound_tok, intent.output_clamp_tok, intent.pool) == (
                        chat.input_bound_tok,
                        chat.output_clamp_tok,
                        chat.pool,
                    )
            assert not r.logged
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_long_stream_says_each_word_once_through_each_door(adapter: str) -> None:
    """Events that differ in their text alone are recognised, and told in the door's words all the same."""

    async def test() -> None:
        async with rig(polyglot(pieces=12, apart_s=0.002), adapter=adapter) as r:
            for door in DOORS:
                if door == "completions" and adapter == "anthropic":
                    continue
                answer = await asked(r, door, work(door, stream=True, most=20))
                assert words(door, answer, stream=True)[0] == "".join(f"w{n} " for n in range(12)), door
            rows = [row(end) for end in r.journal.ends]
            assert rows[0]["usage"] == Usage(PROMPT_TOK, 12, cached_tok=16)
            assert all(one == rows[0] for one in rows)
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize(
    ("adapter", "door", "path"),
    [
        ("openai", "responses", "/v1/responses"),
        ("openai", "messages", "/v1/chat/completions"),
        ("anthropic", "messages", "/v1/messages"),
        ("anthropic", "responses", "/v1/messages"),
        ("anthropic", "chat", "/v1/messages"),
        ("openai-compatible", "responses", "/v1/chat/completions"),
        ("llama.cpp", "messages", "/v1/chat/completions"),
    ],
)
def test_a_place_is_asked_in_the_protocol_that_it_speaks_best(adapter: str, door: str, path: str) -> None:
    async def test() -> None:
        async with rig(polyglot(), adapter=adapter) as r:
            answer = await asked(r, door, work(door, stream=False, most=7))
            assert answer.status == 200
            (wire,) = r.engines[0].seen
            assert wire.path == path
            assert wire.body["model"] == "up"
            if path == "/v1/responses":
                assert wire.body["max_output_tokens"] == 7 and wire.body["store"] is False
                assert answer.json["model"] == "m" and answer.json["id"] != "resp_up"
            else:
                assert wire.body["max_tokens" if adapter != "openai" else "max_completion_tokens"] == 7

    run(test())


@pytest.mark.parametrize("door", ["responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_passes_through_is_what_the_place_said(door: str, stream: bool) -> None:
    """But for what was not sent to the place (the model as asked, whether the answer is kept) and the id of a
    response, by which it can be found here."""
    adapter = {"responses": "openai", "messages": "anthropic"}[door]

    async def test() -> None:
        async with rig(polyglot(), adapter=adapter) as r:
            answer = await asked(r, door, work(door, stream=stream))
            if not stream:
                assert answer.json["id"] == "msg_up" or answer.json["output"][0]["id"] == "i1"
                return
            events = [e for e in answer.body.decode().split("\n\n") if e and not e.startswith(":")]
            kinds = [event.split("\n")[0].removeprefix("event: ") for event in events]
            if door == "messages":
                assert kinds[0] == "message_start" and kinds[1] == "ping" and kinds[-1] == "message_stop"
            else:
                assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
                ids = {json.loads(e.split("\ndata: ")[1])["response"]["id"] for e in (events[0], events[-1])}
                assert len(ids) == 1 and ids.pop().startswith("resp_") and '"id":"i1"' in events[2]
            assert "wattmill charge_usd=" in answer.body.decode()

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_client_that_leaves_is_booked_alike(adapter: str) -> None:
    async def test() -> None:
        rows = {}
        doors = [d for d in DOORS if d != "completions" or adapter != "anthropic"]
        for door in doors:
            async with rig(polyglot(fault="stall"), adapter=adapter) as r:
                client = await r.connect()
                body = json.dumps(work(door, stream=True), separators=(",", ":")).encode()
                await client.send(body, path=PATHS[door])
                await client.head()
                client.abort()
                await until(lambda r=r: r.journal.ends)
                await r.engines[0].left.wait()
                rows[door] = row(r.journal.ends[0])
                r.assert_balanced()
        # A place that is asked in another protocol counts in other events; what it counted is what is booked.
        same_words = [
            d for d in doors if not (adapter == "openai" and d == "responses") and d != "completions"
        ]
        first = rows[same_words[0]]
        assert (
            first["status"] == "aborted" and first["source"] == "estimated" and first["usage"].output_tok == 1
        )
        assert {d: rows[d] for d in same_words} == dict.fromkeys(same_words, first)
        assert all(rows[d]["usage"].output_tok == 1 and rows[d]["status"] == "aborted" for d in doors)

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["reset", "500"])
def test_a_place_that_fails_is_replaced_alike(adapter: str, stream: bool, fault: str) -> None:
    async def test() -> None:
        rows = {}
        for door in ("chat", "responses", "messages"):
            async with rig(polyglot(fault=fault), polyglot(), adapter=adapter) as r:
                answer = await asked(r, door, work(door, stream=stream))
                assert answer.status == 200 and answer.headers["x-wattmill-pool"] == "p1"
                assert words(door, answer, stream=stream)[0] == "hello"
                rows[door] = [row(end) for end in r.journal.ends]
                r.assert_balanced()
        assert rows["chat"][0]["status"] == "failed" and rows["chat"][1]["status"] == "finished"
        assert rows["responses"] == rows["chat"] and rows["messages"] == rows["chat"]

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["reset", "500"])
def test_when_all_places_fail_the_refusal_is_the_same(stream: bool, fault: str) -> None:
    async def test() -> None:
        for door in DOORS:
            async with rig(polyglot(fault=fault)) as r:
                answer = await asked(r, door, work(door, stream=stream))
                assert (answer.status, code_of(door, answer)) == (502, "upstream_failed")
                assert "x-should-retry" not in answer.headers
                r.assert_balanced()

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_stream_that_breaks_off_says_so_in_the_doors_words(adapter: str) -> None:
    async def test() -> None:
        rows = {}
        for door in ("chat", "responses", "messages"):
            async with rig(polyglot(fault="mid"), adapter=adapter) as r:
                answer = await asked(r, door, work(door, stream=True))
                assert answer.status == 200
                last = answer.body.decode().rstrip("\n").split("\n\n")[-1]
                body = json.loads(last.partition("data: ")[2])
                if door == "chat":
                    assert body["error"]["code"] == "upstream_failed"
                elif door == "messages":
                    assert body["type"] == "error" and body["error"]["code"] == "upstream_failed"
                    assert body["error"]["type"] == "api_error"
                elif body["type"] == "error":  # the place's own protocol passed through
                    assert adapter == "openai" and body["code"] == "upstream_failed"
                else:
                    assert body["type"] == "response.failed"
                    assert body["response"]["error"]["message"].startswith("upstream_failed: ")
                    assert body["response"]["output"][0]["content"][0]["text"] == "hel"
                rows[door] = row(r.journal.ends[0])
                r.assert_balanced()
        assert rows["chat"]["status"] == "failed" and rows["chat"]["usage"].output_tok == 1
        assert rows["messages"] == rows["chat"]
        if adapter != "openai":  # whose Responses count nothing before their end, not even the cached tokens
            assert rows["responses"] == rows["chat"]

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_cap_refuses_alike_at_each_door_and_nothing_leaves(adapter: str, stream: bool) -> None:
    async def test() -> None:
        doors = [d for d in DOORS if d != "completions" or adapter != "anthropic"]
        for door in doors:
            async with rig(polyglot(), adapter=adapter) as r:
                r.purse.cap_nusd = 1_000
                answer = await asked(r, door, work(door, stream=stream))
                assert (answer.status, code_of(door, answer)) == (429, "budget_exceeded")
                assert answer.headers["x-should-retry"] == "false"
                if door == "messages":
                    assert answer.json["error"]["type"] == "billing_error"
                assert not inferred(r)
                (refused,) = r.journal.of(Refused)
                assert (refused.endpoint, refused.code) == (door, "budget_exceeded")
                r.assert_balanced()

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_near_its_cap_an_answer_is_clamped_alike(adapter: str, stream: bool) -> None:
    """Less is left than the worst case: the limit that the place is told is what the cap still pays."""

    async def test() -> None:
        clamps = {}
        for door in ("chat", "responses", "messages"):
            async with rig(polyglot(), adapter=adapter) as r:
                first = await asked(r, door, work(door, stream=stream, most=1_000))
                assert first.status == 200
                reserved = r.journal.intents[0].reserved_nusd
                r.purse.cap_nusd = r.purse.spent_nusd + reserved - 20_000 * 900  # 900 of 1,000 output tokens
                answer = await asked(r, door, work(door, stream=stream, most=1_000))
                assert answer.status == 200
                clamps[door] = r.journal.intents[1].output_clamp_tok
                wire = inferred(r)[1].body
                limits = [
                    v
                    for k, v in wire.items()
                    if k in ("max_tokens", "max_completion_tokens", "max_output_tokens")
                ]
                assert limits == [clamps[door]]
                r.assert_balanced()
        # Where the place counts the prompt exactly, the bound need not be paid for and more is left.
        most = 131 if adapter == "llama.cpp" else 100
        assert clamps == dict.fromkeys(clamps, most)

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_stream_that_passes_its_clamp_is_cut_and_ends_well_in_the_doors_words(adapter: str) -> None:
    async def test() -> None:
        rows = {}
        for door in ("chat", "responses", "messages"):
            async with rig(polyglot(pieces=9), adapter=adapter) as r:
                answer = await asked(r, door, work(door, stream=True, most=4))
                assert answer.status == 200
                rows[door] = row(r.journal.ends[0])
                last = answer.body.decode().rstrip("\n").split("\n\n")[-1]
                if door == "chat":
                    assert last == "data: [DONE]" and '"finish_reason":"length"' in answer.body.decode()
                elif door == "messages":
                    assert last.startswith("event: message_stop")
                    assert '"stop_reason":"max_tokens"' in answer.body.decode()
                else:
                    body = json.loads(last.partition("data: ")[2])
                    assert body["type"] == "response.incomplete"
                    assert body["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
                assert words(door, answer, stream=True)[0] in ("w0 w1 w2 w3 ", ""), door
                r.assert_balanced()
        assert rows["chat"]["status"] == "cut" and rows["chat"]["error"] == "clamp"
        assert rows["messages"] == rows["chat"]
        assert rows["responses"]["status"] == "cut"
        assert adapter == "openai" or rows["responses"] == rows["chat"]

    run(test())


def test_errors_of_each_kind_have_the_same_code_and_status_at_each_door() -> None:
    async def test() -> None:
        async with rig(polyglot()) as r:
            for door in DOORS:
                path = PATHS[door]
                unknown = await asked(r, door, work(door, stream=False, model="nobody"))
                assert (unknown.status, code_of(door, unknown)) == (404, "unknown_model")
                nobody = await r.ask(work(door, stream=False), path=path, key=None)
                assert (nobody.status, code_of(door, nobody)) == (401, "missing_key")
                bad = await r.ask(b"{nonsense", path=path)
                assert (bad.status, code_of(door, bad)) == (400, "bad_json")
                twice = await r.ask(b'{"model":"m","model":"m"}', path=path)
                assert (twice.status, code_of(door, twice)) == (400, "duplicate_field")
                deep = await r.ask(b'{"model":"m","messages":' + b"[" * 100_000, path=path)
                assert (deep.status, code_of(door, deep)) == (400, "bad_json")
                narrow = await r.ask(work(door, stream=False), path=path, key="narrow")
                assert (narrow.status, code_of(door, narrow)) == (403, "out_of_scope")
                assert door in narrow.json["error"]["message"]
                wrong = await r.ask(path=path, method="GET")
                assert (wrong.status, code_of(door, wrong)) == (405, "method_not_allowed")
            assert not r.logged
            r.assert_balanced()

    run(test())


def test_the_key_of_messages_may_come_in_its_own_header_but_two_keys_are_refused() -> None:
    async def test() -> None:
        async with rig(polyglot()) as r:
            body = work("messages", stream=False)
            own = [("x-api-key", "wm-test-key")]
            assert (await r.ask(body, path="/v1/messages", key=None, headers=own)).status == 200
            assert (await r.ask(body, path="/v1/messages", headers=own)).status == 200
            two = await r.ask(body, path="/v1/messages", headers=[("x-api-key", "narrow")])
            assert (two.status, code_of("messages", two)) == (400, "bad_header")
            models = await r.ask(
                path="/v1/models", method="GET", key=None, headers=[*own, ("anthropic-version", "1")]
            )
            assert [m["id"] for m in models.json["data"]] == ["m", "p0/m"] and models.json[
                "has_more"
            ] is False
            r.assert_balanced()

    run(test())


# --- gates and taps know chat only --------------------------------------------------------------------------


class Redacts:
    """A gate that takes a word out of the prompt, as the privacy guard does."""

    def enter(self, x: Exchange) -> None:
        body = {n: msgspec.Raw(bytes(v).replace(b"secret", b"[NAME]")) for n, v in x.draft.body.items()}
        x.draft = msgspec.structs.replace(x.draft, body=body)

    def left(self, x: Exchange) -> None: ...


@pytest.mark.parametrize(("adapter", "door"), [("openai", "responses"), ("anthropic", "messages")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_a_gate_has_changed_never_leaves_as_it_came(
    adapter: str, door: str, stream: bool
) -> None:
    """Nor does it pass by a gate that wants to see the answer: both leave as the chat that the gate saw."""

    async def test() -> None:
        async with rig(polyglot(), adapter=adapter) as r:
            body = work(door, stream=stream)
            text = json.dumps(body).replace('"hi"', '"my secret"').encode()
            r.more = {"gates": (Redacts(),)}
            r.gateway.use(r.services())
            answer = await r.ask(text, path=PATHS[door])
            assert words(door, answer, stream=stream)[0] == "hello"
            (wire,) = r.engines[0].seen
            assert b"secret" not in wire.raw and b"[NAME]" in wire.raw
            r.assert_balanced()

    run(test())


class Upper:
    """A tap that changes what passes, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def event(self, event: bytes) -> bytes:
        self.seen.append(event)
        return event.replace(b"hel", b"HEL")

    def whole(self, body: bytes) -> bytes:
        self.seen.append(body)
        return body.replace(b"hel", b"HEL")

    def ended(self, complete: bool) -> bytes:
        self.seen.append(b"ended" if complete else b"broken")
        return b""

    def again(self) -> None: ...


class TapsBoth:
    def __init__(self) -> None:
        self.inner, self.outer = Upper(), Upper()

    def enter(self, x: Exchange) -> None:
        x.tap(self.inner)
        x.tap(self.outer, outer=True)

    def left(self, x: Exchange) -> None: ...


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("door", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_taps_see_a_chat_and_outer_taps_what_the_client_sees(adapter: str, door: str, stream: bool) -> None:
    async def test() -> None:
        async with rig(polyglot(), adapter=adapter) as r:
            gate = TapsBoth()
            r.more = {"gates": (gate,)}
            r.gateway.use(r.services())
            answer = await asked(r, door, work(door, stream=stream))
            assert words(door, answer, stream=stream)[0] == "HELlo"
            inner = b"".join(gate.inner.seen)
            assert b"choices" in inner and b"hel" in inner and b"HEL" not in inner
            if door != "chat":
                said = b"".join(one for one in gate.outer.seen if one not in (b"ended", b"broken"))
                lines = answer.body.split(b"\n\n") if stream else [answer.body]
                told = [line for line in lines if not line.startswith(b":")]
                assert said.split(b"\n\n") == told if stream else said == answer.body
                assert b"HEL" in said and b"choices" not in said
            r.assert_balanced()

    run(test())


class Remembers:
    """A gate that answers by itself, as the exact cache does: with a chat."""

    def enter(self, x: Exchange) -> Any:
        usage = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
        base = {"id": "e-1", "model": "up"}
        if x.draft.stream:
            chunks = [
                {**base, "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]},
                {**base, "choices": [], "usage": usage},
            ]
            body = (
                b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"
            )
        else:
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({**base, "choices": [choice], "usage": usage}).encode()
        kind = b"text/event-stream" if x.draft.stream else b"application/json"
        x.answer_with(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind, body)
        return WAIT

    def left(self, x: Exchange) -> None: ...


@pytest.mark.parametrize("door", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_there_already_is_told_in_the_doors_words(door: str, stream: bool) -> None:
    async def test() -> None:
        async with rig(polyglot()) as r:
            r.more = {"gates": (Remembers(),)}
            r.gateway.use(r.services())
            answer = await asked(r, door, work(door, stream=stream))
            assert words(door, answer, stream=stream)[0] == "hello"
            if door == "responses":
                body = json.loads(answer.body.split(b"data: ")[-1]) if stream else {"response": answer.json}
                assert body["response"]["usage"]["input_tokens"] == 50
            assert not r.engines[0].seen
            r.assert_balanced()

    run(test())


def test_thinking_that_only_a_place_of_the_protocol_reads_is_reserved_for() -> None:
    async def test() -> None:
        thinking = {"type": "thinking", "thinking": "t" * 5_000, "signature": "s" * 500}
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [thinking, {"type": "text", "text": "ho"}]},
            {"role": "user", "content": "go on"},
        ]
        reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e" * 5_500}
        items = [{"role": "user", "content": "hi"}, reasoning, {"role": "user", "content": "go on"}]
        for adapter, door, body in (
            ("anthropic", "messages", work("messages", stream=False) | {"messages": turns}),
            ("openai", "responses", work("responses", stream=False) | {"input": items}),
        ):
            async with rig(polyglot(), adapter=adapter) as r:
                assert (await asked(r, door, body)).status == 200
                assert b"ttttt" in r.engines[0].seen[0].raw or b"eeeee" in r.engines[0].seen[0].raw
                assert r.journal.intents[0].input_bound_tok > 5_500

    run(test())
