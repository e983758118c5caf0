"""The laws of an attempt, over scripts that hypothesis makes: whatever engines and clients do, each intent
has one end, nothing stays reserved, and what the purse lost is what the ends charge."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from gateway_rig import CHAT, Rig, Script, Wire, answer_body, rig, run, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattmill.vocab.fact import Refused

ENDS = ("finish", "reset", "close", "bad event", "error event", "no done", "usage lies", "chatter")
HEADS = (*["ok"] * 12, "400", "401", "429", "500", "garbage", "reset", "close")


def engine(head: str, chunks: int, end: str) -> Script:
    """Make an engine that answers with `head`, gives `chunks` chunks of content and ends as `end` says."""

    async def script(wire: Wire) -> None:
        if head == "garbage":
            await wire.send(b"\x00\x01\x02\r\n\r\n")
        elif head == "reset":
            wire.reset()
        elif head == "close":
            wire.writer.close()
        elif head != "ok":
            await wire.json({"error": {"message": "no"}}, status=int(head))
        elif wire.body.get("stream"):
            await stream(wire)
        elif end == "finish":
            await wire.json(answer_body(output=chunks))
        elif end == "usage lies":
            await wire.json(answer_body(prompt=10**6, output=10**6))
        elif end == "no done":
            await wire.json({k: v for k, v in answer_body().items() if k != "usage"})
        else:
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            wire.reset()

    async def stream(wire: Wire) -> None:
        await wire.stream_head()
        for i in range(chunks):
            await wire.chunk(
                "x", timings={"prompt_n": 4, "predicted_n": i + 1, "prompt_ms": 1, "predicted_ms": 1}
            )
        if end == "reset":
            wire.reset()
        elif end == "close":
            wire.writer.close()
        elif end == "bad event":
            await wire.event(b"data: ]\n\n")
        elif end == "error event":
            await wire.event({"error": {"message": "x"}})
        elif end == "chatter":
            for i in range(200):
                await wire.chunk(
                    "y", timings={"prompt_n": 4, "predicted_n": i, "prompt_ms": 1, "predicted_ms": 1}
                )
        else:
            await wire.chunk(None, finish="stop")
            await wire.usage_chunk(10**6 if end == "usage lies" else 4, chunks)
            if end != "no done":
                await wire.event(b"data: [DONE]\n\n")
            await wire.send(b"0\r\n\r\n")

    return script


engines = st.builds(engine, st.sampled_from(HEADS), st.integers(0, 5), st.sampled_from(ENDS))
clients = st.fixed_dictionaries(
    {
        "stream": st.booleans(),
        "max_tokens": st.sampled_from([1, 3, 50]),
        "leaves_after": st.one_of(
            st.none(), st.none(), st.integers(0, 400)
        ),  # bytes of the answer that it reads
        "broken": st.sampled_from([False] * 5 + [True]),  # asks for what is refused
    }
)


async def one_client(r: Rig, plan: dict[str, Any]) -> None:
    client = await r.connect()
    body = CHAT | {"stream": plan["stream"], "max_tokens": plan["max_tokens"]}
    if plan["broken"]:
        body["model"] = "nobody"
    await client.send(body)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        if plan["leaves_after"] is None:
            answer = await client.answer()
            assert answer.status in (200, 400, 404, 429, 502, 503, 504)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.reader.readexactly(plan["leaves_after"])
    client.abort()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scripts=st.lists(engines, min_size=1, max_size=3),
    plans=st.lists(clients, min_size=1, max_size=6),
    adapter=st.sampled_from(["llama.cpp", "openai-compatible"]),
    cap=st.sampled_from([10**15, 10**15, 10**15, 3_000_000, 100]),
    lease=st.booleans(),
)
def test_whatever_happens_the_books_close(
    scripts: list[Script], plans: list[dict[str, Any]], adapter: str, cap: int, lease: bool
) -> None:
    async def test() -> None:
        async with rig(*scripts, adapter=adapter, idle_timeout_s=5.0) as r:
            r.purse.cap_nusd = cap
            r.purse.lease_first = lease
            await asyncio.gather(*(one_client(r, plan) for plan in plans))
            await until(lambda: not r.gateway.in_flight and not r.server.connections)
            assert r.purse.spent_nusd <= cap  # no cap is ever passed
            assert not r.logged
            r.assert_balanced()

    run(test())


def test_a_thousand_at_once_on_a_cap_worth_fifty_spend_no_more_than_it() -> None:
    async def test() -> None:
        async with rig(engine("ok", 3, "finish")) as r:
            reserved = None
            first = await r.ask(CHAT | {"max_tokens": 3})
            assert first.status == 200
            reserved = r.journal.intents[0].reserved_nusd
            r.purse.cap_nusd = r.purse.spent_nusd + 50 * reserved
            clients = [await r.connect() for _ in range(20)]

            async def many(client: Any) -> list[int]:
                return [(await client.ask(CHAT | {"max_tokens": 3})).status for _ in range(50)]

            statuses = [s for got in await asyncio.gather(*map(many, clients)) for s in got]
            assert set(statuses) == {200, 429}
            assert r.purse.spent_nusd <= r.purse.cap_nusd
            r.assert_balanced()

    run(test())


def test_a_refusal_writes_no_name_into_the_books_that_no_place_knows() -> None:
    """Whoever has a key may send any number of names, and a name that is booked stays for ever."""

    async def test() -> None:
        async with rig() as r:
            for n in range(3):
                headers = [("x-wattmill-privacy", "loud")]
                assert (await r.ask(CHAT | {"model": f"junk-{n}"}, headers=headers)).status == 400
                assert (await r.ask(CHAT | {"model": f"p0/junk-{n}"})).status == 404
            assert (await r.ask(CHAT | {"model": "p0/m"}, headers=headers)).status == 400
            assert [fact.model for fact in r.journal.of(Refused)] == [""] * 6 + ["p0/m"]

    run(test())
