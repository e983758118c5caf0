"""What stands between a request and its route, and what is no inference at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from gateway_rig import CHAT, STREAM, Rig, rig, run, until

from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.distribution.side_door import SideAnswer, SideRequest
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

NO = Refusal(code="bad_value", message="not today")


class Probe:
    """A gate that does what it is told and remembers who came and went."""

    def __init__(self, does: Any = None) -> None:
        self.does = does
        self.inside: list[Exchange] = []
        self.entered = 0
        self.gone = 0

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        self.entered += 1
        self.inside.append(x)
        return self.does(x) if callable(self.does) else self.does

    def left(self, x: Exchange) -> None:
        self.gone += 1
        self.inside.remove(x)


class Loud:
    """A tap that shouts, and has a last word."""

    def again(self) -> None: ...

    def event(self, event: bytes) -> bytes:
        return event.replace(b'"hel"', b'"HEL"')

    def whole(self, body: bytes) -> bytes:
        return body.replace(b'"hello"', b'"HELLO"')

    def ended(self, complete: bool) -> bytes:
        return b": complete\n\n" if complete else b": broken\n\n"


async def with_gates(r: Rig, *gates: Probe, **more: Any) -> None:
    r.more = {"gates": gates, **more}
    r.gateway.use(r.services())


def test_gates_are_passed_in_order_and_left_once_each() -> None:
    async def test() -> None:
        async with rig() as r:
            first, second = Probe(), Probe()
            await with_gates(r, first, second)
            assert (await r.ask()).status == 200
            assert (await r.ask(STREAM)).text == "hello"
            assert (first.entered, first.gone, second.entered, second.gone) == (2, 2, 2, 2)
            r.assert_balanced()

    run(test())


class Choosy(Probe):
    """A gate that looks at requests with one header only."""

    def concerns(self, headers: Mapping[bytes, bytes], caller: Caller) -> bool:
        return b"idempotency-key" in headers


def test_a_gate_is_not_asked_again_about_a_head_that_does_not_concern_it() -> None:
    async def test() -> None:
        async with rig() as r:
            choosy, other = Choosy(), Probe()
            await with_gates(r, choosy, other)
            client = await r.connect()
            for _ in range(4):
                assert (await client.ask()).status == 200
            assert choosy.entered == choosy.gone < 4
            assert (other.entered, other.gone) == (4, 4)
            before = choosy.entered
            for _ in range(4):
                assert (await client.ask(headers=[("idempotency-key", "k")])).status == 200
            assert choosy.entered == choosy.gone == before + 4
            r.assert_balanced()

    run(test())


def test_a_gate_that_refuses_ends_it_and_later_gates_are_never_asked() -> None:
    async def test() -> None:
        async with rig() as r:
            first, refusing, later = Probe(), Probe(NO), Probe()
            await with_gates(r, first, refusing, later)
            answer = await r.ask()
            assert answer.status == 400 and answer.json["error"]["message"] == "not today"
            assert (first.gone, refusing.gone, later.entered) == (1, 1, 0)
            assert not r.journal.intents and r.gateway.in_flight == 0

    run(test())


@pytest.mark.parametrize("verdict", [None, NO])
def test_a_gate_may_keep_a_request_waiting_and_then_let_it_pass_or_not(verdict: Refusal | None) -> None:
    async def test() -> None:
        async with rig() as r:
            gate = Probe(WAIT)
            await with_gates(r, gate)
            asked = asyncio.create_task(r.ask())
            await until(lambda: bool(gate.inside))
            assert not r.journal.intents  # nothing leaves while it waits
            gate.inside[0].go_on(verdict)
            assert (await asked).status == (200 if verdict is None else 400)
            assert gate.gone == 1
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_while_it_waits_leaves_the_gate_and_comes_to_nothing() -> None:
    async def test() -> None:
        async with rig() as r:
            gate = Probe(WAIT)
            await with_gates(r, gate)
            client = await r.connect()
            asked = asyncio.create_task(client.ask())
            await until(lambda: bool(gate.inside))
            x = gate.inside[0]
            client.abort()
            await until(lambda: gate.gone == 1)
            x.go_on()
            x.answer_with(b"", b"")
            await asyncio.gather(asked, return_exceptions=True)
            assert gate.gone == 1 and not r.journal.intents and r.gateway.in_flight == 0
            assert not r.logged

    run(test())


def test_a_gate_may_answer_by_itself() -> None:
    async def test() -> None:
        async with rig() as r:

            def answer(x: Exchange) -> Waiting:
                x.answer_with(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", b'{"kept":1}')
                return WAIT

            gate = Probe(answer)
            await with_gates(r, gate)
            assert (await r.ask()).json == {"kept": 1}
            assert gate.gone == 1 and not r.journal.intents

    run(test())


def test_a_gate_that_breaks_is_a_500_and_is_left_all_the_same() -> None:
    async def test() -> None:
        async with rig() as r:

            def breaks(x: Exchange) -> None:
                raise RuntimeError("a defect")

            gate = Probe(breaks)
            await with_gates(r, gate)
            assert (await r.ask()).status == 500
            assert gate.gone == 1 and r.gateway.in_flight == 0 and len(r.logged) == 1

    run(test())


def test_what_a_gate_makes_of_the_request_is_what_is_routed() -> None:
    async def test() -> None:
        async with rig() as r:

            def shorten(x: Exchange) -> None:
                x.ask = msgspec.structs.replace(x.ask, max_output_tok=3)

            await with_gates(r, Probe(shorten))
            await r.ask()
            assert r.engines[0].seen[0].body["max_tokens"] == 3
            assert r.journal.intents[0].output_clamp_tok == 3

    run(test())


def test_taps_see_all_that_the_client_sees() -> None:
    async def test() -> None:
        async with rig() as r:
            await with_gates(r, Probe(lambda x: x.tap(Loud())))
            assert (await r.ask()).json["choices"][0]["message"]["content"] == "HELLO"
            streamed = await r.ask(STREAM)
            assert streamed.text.lower() == "hello"
            assert b": complete\n\n" in streamed.body
            r.assert_balanced()

    run(test())


def test_a_tap_hears_that_a_stream_broke() -> None:
    async def test() -> None:
        async def half(wire: Any) -> None:
            await wire.stream_head()
            await wire.chunk("hel")
            wire.writer.close()

        async with rig(half) as r:
            await with_gates(r, Probe(lambda x: x.tap(Loud())))
            streamed = await r.ask(STREAM)
            assert b"HEL" in streamed.body and b": broken\n\n" in streamed.body
            r.assert_balanced()

    run(test())


class Door:
    def __init__(self) -> None:
        self.asked: list[SideRequest] = []
        self.cancelled = False
        self.hold: asyncio.Event | None = None

    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal:
        self.asked.append(request)
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if request.path.endswith(b"broken"):
            raise RuntimeError("a defect")
        if request.path.endswith(b"none"):
            return Refusal(code="not_found", message="no such thing")
        return SideAnswer(b'{"ok":true}', 201, headers=((b"x-more", b"1"),))


def test_a_side_door_gets_the_caller_the_path_and_the_query() -> None:
    async def test() -> None:
        async with rig() as r:
            door = Door()
            await with_gates(r, side_doors={b"/v1/things": door})
            answer = await r.ask({"a": 1}, path="/v1/things/x?limit=2", method="POST")
            assert answer.status == 201 and answer.json == {"ok": True} and answer.headers["x-more"] == "1"
            (asked,) = door.asked
            assert (asked.path, asked.query, asked.caller.name) == (b"/v1/things/x", b"limit=2", "me")
            assert (await r.ask({}, path="/v1/things/none", method="POST")).status == 404
            assert (await r.ask({}, path="/v1/things/broken", method="POST")).status == 500
            assert (await r.ask({}, path="/v1/thingsx", method="POST")).status == 404
            assert (await r.ask({}, path="/v1/things", method="POST", key="bogus")).status == 401
            assert len(door.asked) == 3

    run(test())


def test_a_client_that_leaves_cancels_its_side_door() -> None:
    async def test() -> None:
        async with rig() as r:
            door = Door()
            door.hold = asyncio.Event()
            await with_gates(r, side_doors={b"/v1/things": door})
            client = await r.connect()
            asked = asyncio.create_task(client.ask({}, path="/v1/things", method="POST"))
            await until(lambda: bool(door.asked))
            client.abort()
            await until(lambda: door.cancelled)
            await asyncio.gather(asked, return_exceptions=True)
            assert not r.logged

    run(test())


_ = CHAT
