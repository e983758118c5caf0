"""What clients see: the answers, their headers, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_rig import CHAT, EPOCH, STREAM, Rig, Wire, rig, run, until, well

from wattmill.distribution.spec import Limits
from wattmill.vocab.fact import Refused
from wattmill.vocab.refusal import Refusal


def test_a_whole_answer_tells_its_charge_and_its_books_agree() -> None:
    async def test() -> None:
        async with rig() as r:
            a = await r.ask(headers=[("x-request-id", "mine-1")])
            assert a.status == 200 and a.json["choices"][0]["message"]["content"] == "hello"
            assert a.headers["x-request-id"] == f"req_{EPOCH}_1"
            assert a.headers["x-wattmill-pool"] == "p0"
            assert a.headers["x-wattmill-expected-usd"] == "0.000001000"
            assert a.headers["x-wattmill-charge-usd"] == "0.000090000"  # 5 in at $10, 2 out at $20
            assert a.headers["x-wattmill-energy-j"] == "1.000;modelled"
            assert a.headers["x-wattmill-tokens"] == "prompt=5;cached=0;output=2"
            (end,), (intent,) = r.journal.ends, r.journal.intents
            assert (end.status, end.charge_nusd, end.cost_nusd) == ("finished", 90_000, 9_000)
            assert end.usage_source == "measured" and end.http_status == 200
            assert end.told_uj == 1_000_000, "the joules that the client was told stand in the books"
            assert (intent.label, intent.asked_output_tok, intent.output_clamp_tok) == ("mine-1", 10, 10)
            r.assert_balanced()

    run(test())


def test_a_stream_passes_event_by_event_and_ends_with_its_charge() -> None:
    async def test() -> None:
        async with rig() as r:
            a = await r.ask(STREAM)
            assert a.headers["content-type"].startswith("text/event-stream")
            assert a.text == "hello"
            assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1 for chunk in a.chunks)
            assert a.chunks[-1] == b"data: [DONE]\n\n"
            assert a.chunks[-2].startswith(
                b": wattmill charge_usd=0.000090000 energy_j=1.000 provenance=modelled"
            )
            assert f"request=req_{EPOCH}_1".encode() in a.chunks[-2]
            assert b"usage" not in a.body  # it was not asked for
            assert r.engines[0].seen[0].body["stream_options"] == {"include_usage": True}
            r.assert_balanced()

    run(test())


def test_without_uvloop_all_is_the_same() -> None:
    async def test() -> None:
        async with rig() as r:
            assert (await r.ask()).headers["x-wattmill-charge-usd"] == "0.000090000"
            assert (await r.ask(STREAM)).text == "hello"
            client = await r.connect()
            await client.send(STREAM)
            client.abort()
            await until(lambda: not r.gateway.in_flight)
            r.assert_balanced()

    run(test(), pure=True)


def test_a_client_that_asks_for_the_usage_of_a_stream_gets_it() -> None:
    async def test() -> None:
        async with rig() as r:
            a = await r.ask(STREAM | {"stream_options": {"include_usage": True}})
            usages = [e["usage"] for e in a.events if isinstance(e, dict) and e.get("usage")]
            assert usages == [{"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}]

    run(test())


def test_an_engine_that_is_always_streamed_gives_a_whole_answer_too() -> None:
    async def test() -> None:
        async with rig(adapter="llama.cpp") as r:
            a = await r.ask()
            assert a.json["choices"][0]["message"]["content"] == "hello"
            assert a.json["usage"]["completion_tokens"] == 2
            assert a.headers["x-wattmill-charge-usd"] == "0.000090000"
            assert r.engines[0].seen[0].body["stream"] is True
            r.assert_balanced()

    run(test())


def test_streamed_and_not_the_books_are_the_same() -> None:
    async def test() -> None:
        async with rig() as r:
            await r.ask()
            await r.ask(STREAM)
            one, two = r.journal.ends
            assert (one.usage, one.cost_nusd, one.charge_nusd, one.usage_source) == (
                two.usage,
                two.cost_nusd,
                two.charge_nusd,
                two.usage_source,
            )

    run(test())


def test_the_engine_sees_its_own_key_and_nothing_of_the_callers() -> None:
    async def test() -> None:
        async with rig() as r:
            secret = [("cookie", "a=b"), ("baggage", "x"), ("x-forwarded-for", "1.2.3.4"), ("x-custom", "y")]
            await r.ask(headers=[*secret, ("accept-encoding", "gzip, br"), ("user-agent", "me")])
            seen = r.engines[0].seen[0]
            assert set(seen.headers) == {
                "host",
                "accept-encoding",
                "user-agent",
                "authorization",
                "content-type",
                "content-length",
            }
            assert seen.headers["authorization"] == "Bearer factory-secret"
            assert seen.headers["accept-encoding"] == "identity"
            assert seen.headers["user-agent"] == "wattmill"
            assert seen.body["model"] == "up" and seen.body["max_tokens"] == 10

    run(test())


def test_embeddings_and_completions_have_their_own_doors() -> None:
    async def completion(wire: Wire) -> None:
        await wire.json(
            {
                "id": "c",
                "object": "text_completion",
                "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
            }
        )

    async def test() -> None:
        async with rig() as r:
            a = await r.ask({"model": "m", "input": "x"}, path="/v1/embeddings")
            assert a.status == 200 and a.json["data"][0]["embedding"] == [0.5]
            assert r.journal.intents[0].output_clamp_tok == 0
            r.engines[0].script = completion
            b = await r.ask({"model": "m", "prompt": "x", "max_tokens": 3}, path="/v1/completions")
            assert b.status == 200 and b.json["choices"][0]["text"] == "ok"
            assert [w.path for w in r.engines[0].seen] == ["/v1/embeddings", "/v1/completions"]
            r.assert_balanced()

    run(test())


def test_a_model_with_its_place_in_front_is_pinned_there() -> None:
    async def test() -> None:
        async with rig(well, well) as r:
            a = await r.ask(CHAT | {"model": "p1/m"})
            assert a.headers["x-wattmill-pool"] == "p1"
            (intent,) = r.journal.intents
            assert intent.pinned and intent.model == "p1/m"

    run(test())


def test_models_are_listed_and_found_by_names_with_a_slash() -> None:
    async def test() -> None:
        async with rig() as r:
            listed = await r.ask(method="GET", path="/v1/models")
            assert [m["id"] for m in listed.json["data"]] == ["m", "p0/m"]
            for path in ("/v1/models/p0/m", "/v1/models/p0%2Fm", "/v1/models/p0/m?x=1"):
                one = await r.ask(method="GET", path=path)
                assert one.json == {"id": "p0/m", "object": "model", "created": 0, "owned_by": "p0"}
            none = await r.ask(method="GET", path="/v1/models/gpt")
            assert (
                none.status == 404
                and none.error["code"] == "unknown_model"
                and "p0/m" in none.error["message"]
            )
            assert (await r.ask(method="GET", path="/v1/models", key=None)).status == 401

    run(test())


def test_health_is_alive_and_readiness_knows_why_not() -> None:
    async def test() -> None:
        async with rig() as r:
            assert (await r.ask(method="GET", path="/healthz", key=None)).json == {"status": "alive"}
            assert (await r.ask(method="GET", path="/readyz", key=None)).json == {"status": "ready"}
            r.gateway.state("p0").failed("gone", now_s=r.clock.now(), surely_down=True)
            r.gateway.state("p0").probe_at_s = r.clock.now() + 60
            down = await r.ask(method="GET", path="/readyz", key=None)
            assert (down.status, down.error["code"]) == (503, "no_healthy_place")
            r.gateway.draining = True
            assert (await r.ask(method="GET", path="/readyz", key=None)).error["code"] == "draining"

    run(test())


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/v1/poems", 404, None),
        ("GET", "/", 404, None),
        ("POST", "/v1", 404, None),
        ("GET", "/v1/chat/completions", 405, "POST, OPTIONS"),
        ("DELETE", "/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/v1/chat/completions", 200, "POST, OPTIONS"),
        ("HEAD", "/v1/models", 200, None),
    ],
)
def test_paths_and_methods(method: str, path: str, status: int, allow: str | None) -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            a = await client.ask(method=method, path=path)
            assert (a.status, a.headers.get("allow")) == (status, allow)
            assert a.headers["x-request-id"].startswith("req_")
            if status == 404:
                assert a.error["type"] == "invalid_request_error" and a.headers["x-should-retry"] == "false"
            assert (await client.ask()).status == 200  # the connection goes on
            client.close()

    run(test())


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        (None, CHAT, 401, "missing_key"),
        ("wrong", CHAT, 401, "invalid_key"),
        ("revoked", CHAT, 401, "revoked_key"),
        ("expired", CHAT, 401, "expired_key"),
        ("narrow", CHAT, 403, "out_of_scope"),
        ("wm-test-key", CHAT | {"model": "gpt-9"}, 404, "unknown_model"),
        ("wm-test-key", b"{", 400, "bad_json"),
        ("wm-test-key", b"\xff\xfe", 400, "bad_json"),
        ("wm-test-key", CHAT | {"max_tokens": 0}, 400, "bad_value"),
        ("wm-test-key", CHAT | {"messages": "hi"}, 400, "bad_value"),
        ("wm-test-key", CHAT | {"n_predict": 5_000}, 400, "field_refused"),
        ("wm-test-key", b'{"model":"m","model":"n","messages":[]}', 400, "duplicate_field"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_expected_refusals_are_clear_and_written_down(
    key: str | None, body: Any, status: int, code: str, stream: bool
) -> None:
    async def test() -> None:
        async with rig() as r:
            asked = body | {"stream": stream} if isinstance(body, dict) else body
            a = await r.ask(asked, key=key, headers=[("x-request-id", "L1")])
            assert (a.status, a.error["code"]) == (status, code)
            assert set(a.error) == {"message", "type", "code", "param", "request_id"}
            assert a.error["request_id"] == a.headers["x-request-id"]
            assert a.headers["x-should-retry"] == "false"
            assert ("www-authenticate" in a.headers) == (status == 401)
            assert not r.journal.intents and not r.engines[0].seen
            notes = r.journal.of(Refused)
            if status == 401:
                assert not notes  # nobody we know
            else:
                (note,) = notes
                assert (note.code, note.path[:2], note.label) == (code, (1, 2), "L1")
                assert f"req_{EPOCH}_{note.seq:x}" == a.headers["x-request-id"]
            assert ["wattmill_refusals_total", code] == [
                "wattmill_refusals_total",
                r.gateway.snapshot()["wattmill_refusals_total"][0][0][0],
            ]
            r.assert_balanced()

    run(test())


def test_a_request_may_say_that_its_data_is_more_sensitive_and_never_less() -> None:
    async def test() -> None:
        async with rig() as r:
            for said in ("private", "PUBLIC", "internal"):
                assert (await r.ask(headers=[("x-wattmill-privacy", said)])).status == 200
            assert [i.privacy for i in r.journal.intents] == ["private", "internal", "internal"]
            bad = await r.ask(headers=[("x-wattmill-privacy", "secret")])
            assert (bad.status, bad.error["code"]) == (400, "bad_header")

    run(test())


@pytest.mark.parametrize("label", ["x" * 129, "a\x01b", "é"])
def test_a_label_that_is_long_or_unprintable_is_no_label(label: str) -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.connect()
            data = json.dumps(CHAT).encode()
            client.writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer wm-test-key\r\n"
                b"x-request-id: " + label.encode() + b"\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
            )
            a = await client.answer()
            assert a.status in (200, 400)  # a control character is no header at all
            assert all(i.label is None for i in r.journal.intents)
            client.close()

    run(test())


def test_admission_and_the_number_in_flight_are_limited() -> None:
    gate = asyncio.Event()

    async def slow(wire: Wire) -> None:
        await gate.wait()
        await well(wire)

    async def test() -> None:
        async with rig(slow, limits=Limits(in_flight=1)) as r:
            first = asyncio.create_task(r.ask())
            await r.engines[0].arrived.wait()
            over = await r.ask()
            assert (over.status, over.error["code"]) == (503, "overloaded")
            assert int(over.headers["retry-after"]) >= 1 and "x-should-retry" not in over.headers
            gate.set()
            assert (await first).status == 200
            r.refusal = Refusal(code="ledger_backlog", message="the ledger is 9 s behind", retry_after_s=9.0)
            behind = await r.ask()
            assert (behind.status, behind.headers["retry-after"]) == (503, "9")
            r.assert_balanced()

    run(test())


def test_nothing_leaves_when_the_journal_is_full() -> None:
    async def test() -> None:
        async with rig() as r:
            r.journal.full = True
            a = await r.ask()
            assert (a.status, a.error["code"]) == (503, "journal_unavailable")
            assert not r.engines[0].seen
            r.assert_balanced()
            assert (await r.ask(method="GET", path="/readyz")).error["code"] == "journal_unavailable"
            r.journal.full = False
            assert (await r.ask()).status == 200
            r.assert_balanced()

    run(test())


def test_the_cap_clamps_an_answer_and_then_refuses() -> None:
    async def test() -> None:
        async with rig() as r:
            r.purse.cap_nusd = 150 * 10_000 + 7 * 20_000  # roughly the input's bound and a few tokens
            await r.ask(CHAT | {"max_tokens": 1_000})
            (intent,) = r.journal.intents
            assert 0 < intent.output_clamp_tok < 1_000
            assert intent.reserved_nusd <= r.purse.cap_nusd
            assert r.engines[0].seen[0].body["max_tokens"] == intent.output_clamp_tok
            r.purse.cap_nusd = r.purse.spent_nusd + 10
            a = await r.ask()
            assert (a.status, a.error["code"], a.error["type"]) == (
                429,
                "budget_exceeded",
                "insufficient_quota",
            )
            assert a.headers["x-should-retry"] == "false"
            r.assert_balanced()

    run(test())


def test_a_lease_that_takes_time_is_waited_for() -> None:
    async def test() -> None:
        async with rig() as r:
            r.purse.lease_first = True
            r.purse.lease_gate = asyncio.Event()
            asked = asyncio.create_task(r.ask())
            await asyncio.sleep(0.05)
            assert not r.engines[0].seen
            r.purse.lease_gate.set()
            assert (await asked).status == 200
            r.assert_balanced()

    run(test())


def test_choices_multiply_what_is_reserved() -> None:
    async def test() -> None:
        async with rig() as r:
            await r.ask(CHAT | {"n": 3})
            await r.ask({"model": "m", "prompt": ["a", "b"], "max_tokens": 5}, path="/v1/completions")
            chat, completion = r.journal.intents
            assert (chat.choices, chat.output_clamp_tok, chat.needs) == (3, 30, ("n",))
            assert (completion.choices, completion.output_clamp_tok) == (2, 10)

    run(test())


def test_a_reload_swaps_places_and_running_streams_go_on() -> None:
    gate = asyncio.Event()

    async def held(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("a")
        await gate.wait()
        await wire.chunk("b", finish="stop")
        await wire.usage_chunk(1, 2)
        await wire.done()

    async def reload(r: Rig) -> None:
        r.backend["idle_timeout_s"] = 59.0
        r.gateway.use(r.services())

    async def test() -> None:
        async with rig(held) as r:
            running = asyncio.create_task(r.ask(STREAM))
            await r.engines[0].arrived.wait()
            before = r.gateway.upstreams["p0"]
            await reload(r)
            assert r.gateway.upstreams["p0"] is not before
            r.gateway.use(r.services())
            kept = r.gateway.upstreams["p0"]
            r.gateway.use(r.services())
            assert r.gateway.upstreams["p0"] is kept  # an unchanged backend keeps its connections
            gate.set()
            a = await running
            assert a.text == "ab"
            r.engines[0].script = well
            assert (await r.ask()).status == 200
            r.assert_balanced()

    run(test())


def test_tokens_and_charges_are_counted_by_pool() -> None:
    async def test() -> None:
        async with rig() as r:
            await r.ask()
            await r.ask(STREAM)
            s = r.gateway.snapshot(connections=len(r.server.connections))
            assert s["wattmill_requests_total"] == [[["chat", "p0", "2xx"], 2]]
            assert sorted(s["wattmill_tokens_total"]) == [[["p0", "input"], 10], [["p0", "output"], 4]]
            assert s["wattmill_charge_nusd_total"] == [[["p0"], 180_000]]
            assert sum(s["wattmill_ttft_seconds"][0][1][:-1]) == 2
            assert json.loads(json.dumps(s)) == s

    run(test())
