"""The privacy guard on real sockets: what the engine gets, what the client sees, what is written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from gateway_engine import Wire, answer_body
from gateway_rig import CHAT, KEY, STREAM, Rig, rig, run

from served import Served
from wattmill.app.declared.privacy_settings import (
    ClassRule,
    GuardHook,
    OwnPattern,
    PatternRule,
    PrivacySettings,
)
from wattmill.app.doors.side import side_doors
from wattmill.app.gates.privacy import PrivacyGate
from wattmill.distribution.privacy.texts import unreadable
from wattmill.vocab.fact import Refused
from wattmill.vocab.guard import Shown, Verdict

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
MAIL = "ann.lee@mail.example"
REDACT = PrivacySettings(rules=(PatternRule(pattern="email", action="redact"),))


def asking(text: str, **more: Any) -> dict[str, Any]:
    return CHAT | {"max_tokens": 200, "messages": [{"role": "user", "content": text}]} | more


async def echo(wire: Wire) -> None:
    """Repeat the last text, streamed in pieces of three characters."""
    messages = wire.body.get("messages")
    text = messages[-1]["content"] if messages else wire.body["prompt"]
    if not wire.body.get("stream"):
        await wire.json(answer_body(text))
        return
    await wire.stream_head()
    for at in range(0, len(text), 3):
        await wire.chunk(text[at : at + 3])
    await wire.chunk(None, finish="stop")
    await wire.usage_chunk(5, 2)
    await wire.done()


def guarded(settings: PrivacySettings, test: Callable[[Rig], Awaitable[None]], *, engines: int = 1) -> None:
    async def main() -> None:
        async with rig(*[echo] * engines) as r:
            r.more = {"gates": (PrivacyGate(settings, {}),), "discreet": bool(settings.rules)}
            r.gateway.use(r.services())
            await test(r)
            r.assert_balanced()
            assert not r.logged

    run(main())


def sent(r: Rig) -> str:
    return r.engines[0].seen[-1].raw.decode()


@pytest.mark.parametrize("stream", [False, True])
def test_an_original_never_leaves_and_comes_back_in_the_answer(stream: bool) -> None:
    async def test(r: Rig) -> None:
        answer = await r.ask(asking(f"write to {MAIL}, then to {MAIL}", stream=stream))
        said = answer.text if stream else answer.json["choices"][0]["message"]["content"]
        assert said == f"write to {MAIL}, then to {MAIL}"
        assert MAIL not in sent(r) and sent(r).count("[EMAIL_1]") == 2
        intent = r.journal.intents[0]
        assert intent.evidence == ("email x2: redact",)
        assert MAIL not in repr(r.journal.facts)

    guarded(REDACT, test)


def test_a_completion_and_its_escapes_are_read_too() -> None:
    async def test(r: Rig) -> None:
        raw = rb'{"model":"m","prompt":"to ann.lee\u0040mail.example","max_tokens":5}'
        await r.ask(raw, path="/v1/completions")
        assert "ann.lee" not in sent(r)

    guarded(REDACT, test)


def test_what_is_refused_leaves_no_words_behind() -> None:
    async def test(r: Rig) -> None:
        answer = await r.ask(asking("my key is sk-proj-abcdefghijklmnopqrstuvwx"))
        assert answer.status == 403 and answer.error["code"] == "content_refused"
        assert answer.headers["x-should-retry"] == "false"
        assert "sk-proj" not in answer.body.decode() and not r.engines[0].seen
        await r.ask(asking("hi", model="sk-proj-abcdefghijklmnopqrstuvwx"))
        await r.ask(b'{"model":"m","messages":"sk-proj-abcdefghijklmnopqrstuvwx"}')
        await r.ask(asking("hi"), headers=[("x-request-id", "sk-proj-abcdefghijklmnopqrstuvwx")])
        assert len(r.journal.of(Refused)) == 3 and len(r.journal.intents) == 1
        assert "sk-proj" not in repr(r.journal.facts)

    guarded(PrivacySettings(rules=(PatternRule(pattern="api_key", action="refuse"),)), test)


def test_a_class_is_raised_before_anything_is_routed() -> None:
    async def test(r: Rig) -> None:
        await r.ask(asking("pay DE89 3704 0044 0532 0130 00"))
        await r.ask(asking("nothing"))
        assert [i.privacy for i in r.journal.intents] == ["private", "internal"]
        assert "DE89" in sent_at(r, 0)

    guarded(PrivacySettings(rules=(PatternRule(pattern="iban", action="raise:private"),)), test)


def sent_at(r: Rig, number: int) -> str:
    return r.engines[0].seen[number].raw.decode()


def test_a_rule_holds_for_the_teams_that_it_names() -> None:
    settings = PrivacySettings(
        patterns={"staff": OwnPattern(regex=r"\bE-[0-9]{6}\b")},
        rules=(PatternRule(pattern="staff", action="redact", teams=("other",)),),
    )

    async def test(r: Rig) -> None:
        await r.ask(asking("E-123456"))
        assert "E-123456" in sent(r)

    guarded(settings, test)


def test_a_class_brings_its_regions_and_operators_and_a_header_narrows_them() -> None:
    seen: list[Any] = []
    settings = PrivacySettings(
        classes={"internal": ClassRule(residency=("eu", "ch")), "private": ClassRule(operators=("own",))}
    )

    async def test(r: Rig) -> None:
        services = r.services()
        plain = services.route
        services.route = lambda ask, *more: (seen.append(ask), plain(ask, *more))[1]
        r.gateway.use(services)
        await r.ask()
        await r.ask(headers=[("x-wattmill-privacy", "private"), ("x-wattmill-residency", "CH, us")])
        bad = await r.ask(headers=[("x-wattmill-residency", "eu,,us")])
        assert bad.status == 400

    guarded(settings, test)
    assert [(a.residency, a.operators) for a in seen] == [
        (frozenset({"eu", "ch"}), None),
        (frozenset({"ch"}), frozenset({"own"})),
    ]


@pytest.mark.parametrize(("rule", "status"), [("refuse", 403), ("pass", 200)])
def test_what_no_pattern_can_read_is_refused_unless_declared_otherwise(rule: Any, status: int) -> None:
    async def main() -> None:
        async with rig() as r:
            settings = msgspec.structs.replace(REDACT, unreadable=rule)
            r.more = {"gates": (PrivacyGate(settings, {}),)}
            r.gateway.use(r.services())
            answer = await r.ask({"model": "m", "prompt": [1, 2, 3]}, path="/v1/completions")
            assert answer.status == status
            assert len(r.engines[0].seen) == (status == 200)

    run(main())


def test_pictures_sound_and_files_are_no_text() -> None:
    for part in (PICTURE, {"type": "input_audio"}, {"type": "file"}, {"type": "video_url"}):
        assert unreadable({"messages": [{"role": "user", "content": [part]}]}) is not None
    assert unreadable({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}) is None
    assert unreadable({"input": [[1, 2], [3]]}) is not None and unreadable({"input": ["a"]}) is None


def test_a_place_that_fails_half_way_leaves_nothing_of_itself_in_the_answer() -> None:
    """A guardrail that wants the whole answer holds back all of the first place's words."""

    async def breaks(wire: Wire) -> None:
        await wire.stream_head()
        await wire.chunk("words of the first ")
        wire.reset()

    async def main() -> None:
        async with rig(breaks, echo) as r:
            hook = GuardHook(name="calm", stage="output", call=f"{__name__}:calm")
            r.more = {"gates": (PrivacyGate(PrivacySettings(hooks=(hook,)), {}),)}
            r.gateway.use(r.services())
            answer = await r.ask(asking("second", stream=True))
            assert answer.text == "second"
            r.assert_balanced()

    run(main())


# --- guardrails ------------------------------------------------------------------------------------------


def calm(shown: Shown) -> Verdict:
    """Refuse anger, make contracts private, and lower voices."""
    text = " ".join(shown.texts)
    if "anger" in text:
        return Verdict(refuse="no anger here")
    if "broken" in text:
        raise RuntimeError(text)
    privacy = "private" if "contract" in text else None
    quiet = tuple(t.replace("LOUD", "quiet") for t in shown.texts)
    return Verdict(privacy=privacy, texts=quiet if quiet != shown.texts else None)


def hooked(**more: Any) -> PrivacySettings:
    return PrivacySettings(hooks=(GuardHook(**({"name": "calm", "call": f"{__name__}:calm"} | more)),))


def test_a_function_may_refuse_raise_and_change_what_goes_in() -> None:
    async def test(r: Rig) -> None:
        refused = await r.ask(asking("anger"))
        assert refused.status == 403 and refused.error["message"] == "guardrail 'calm': no anger here"
        await r.ask(asking("a contract, LOUD", temperature=0.5))
        assert json.loads(sent(r))["messages"][0]["content"] == "a contract, quiet"
        assert r.journal.intents[0].privacy == "private"
        assert r.journal.intents[0].evidence == ("hook calm: raise", "hook calm: change")
        failed = await r.ask(asking("broken"))
        assert failed.status == 503 and failed.error["code"] == "guard_unavailable"
        assert len(r.engines[0].seen) == 1

    guarded(hooked(), test)


def test_a_guardrail_that_may_fail_open_says_so_in_the_record() -> None:
    async def test(r: Rig) -> None:
        assert (await r.ask(asking("broken"))).status == 200
        assert r.journal.intents[0].evidence == ("hook calm: failed, passed",)

    guarded(hooked(on_error="pass"), test)


class Service:
    """A guardrail behind an address."""

    def __init__(self, does: Callable[[Shown], Any]) -> None:
        self.does = does
        self.seen: list[Shown] = []

    async def __aenter__(self) -> Service:
        self.served = Served(self.serve)
        await self.served.start()
        self.url = f"http://127.0.0.1:{self.served.port}/look"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.served.stop()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        shown = msgspec.json.decode(await reader.readexactly(length), type=Shown)
        self.seen.append(shown)
        answer = self.does(shown)
        if answer is not None:
            data = msgspec.json.encode(answer)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
        else:
            await reader.read()  # says nothing until the caller leaves


def test_a_service_sees_what_is_left_after_redaction_and_its_word_holds() -> None:
    async def main() -> None:
        async with Service(calm) as service, rig(echo) as r:
            hook = GuardHook(name="far", call=service.url)
            settings = msgspec.structs.replace(REDACT, hooks=(hook,))
            r.more = {"gates": (PrivacyGate(settings, {}),)}
            r.gateway.use(r.services())
            answer = await r.ask(asking(f"LOUD {MAIL}"))
            assert answer.json["choices"][0]["message"]["content"] == f"quiet {MAIL}"
            assert service.seen[0].texts[-1] == "LOUD [EMAIL_1]" and service.seen[0].stage == "input"
            assert (await r.ask(asking("anger"))).status == 403
            kept = await r.ask(asking("hi"), headers=[("x-wattmill-privacy", "private")])
            assert kept.status == 503 and "may not see" in kept.error["message"]
            assert len(service.seen) == 2
            r.assert_balanced()

    run(main())


@pytest.mark.parametrize(("on_error", "status"), [("refuse", 503), ("pass", 200)])
def test_a_silent_service_is_not_waited_for(on_error: Any, status: int) -> None:
    async def main() -> None:
        async with Service(lambda shown: None) as service, rig(echo) as r:
            hook = GuardHook(name="far", call=service.url, on_error=on_error, timeout_s=0.05)
            r.more = {"gates": (PrivacyGate(PrivacySettings(hooks=(hook,)), {}),)}
            r.gateway.use(r.services())
            assert (await r.ask(asking("hi"))).status == status
            r.assert_balanced()

    run(main())


def test_a_client_that_leaves_while_a_service_thinks_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with Service(lambda shown: None) as service, rig(echo) as r:
            gate = PrivacyGate(
                PrivacySettings(hooks=(GuardHook(name="far", call=service.url, timeout_s=9),)), {}
            )
            r.more = {"gates": (gate,)}
            r.gateway.use(r.services())
            client = await r.connect()
            await client.send(asking("hi"))
            while not service.seen:
                await asyncio.sleep(0.005)
            client.abort()
            while r.gateway.in_flight or gate.waiting:
                await asyncio.sleep(0.005)
            assert not r.engines[0].seen and not r.logged

    run(main())


@pytest.mark.parametrize("window", [None, 4])
def test_an_answer_is_changed_before_it_is_shown(window: int | None) -> None:
    async def test(r: Rig) -> None:
        streamed = await r.ask(asking("so LOUD it is, LOUD", stream=True))
        assert streamed.text == "so quiet it is, quiet"
        assert [c["finish_reason"] for e in streamed.events if isinstance(e, dict) for c in e["choices"]][
            -1
        ] == "stop"
        whole = await r.ask(asking("so LOUD it is"))
        assert whole.json["choices"][0]["message"]["content"] == "so quiet it is"

    guarded(hooked(stage="output", window_chars=window), test)


@pytest.mark.parametrize("window", [None, 4])
def test_an_answer_that_is_refused_shows_nothing_of_what_was_refused(window: int | None) -> None:
    async def test(r: Rig) -> None:
        streamed = await r.ask(asking("well, anger is what I feel", stream=True))
        shown = streamed.text
        assert "anger" not in shown and "feel" not in shown and "well, ".startswith(shown)
        last = [c for e in streamed.events if isinstance(e, dict) for c in e["choices"]][-1]
        assert last["finish_reason"] == "content_filter" and "no anger" in last["delta"]["refusal"]
        whole = (await r.ask(asking("anger"))).json["choices"][0]
        assert whole["finish_reason"] == "content_filter" and whole["message"]["content"] is None

    guarded(hooked(stage="output", window_chars=window), test)


def test_a_guardrail_on_answers_sees_placeholders_and_the_client_originals() -> None:
    async def test(r: Rig) -> None:
        answer = await r.ask(asking(f"LOUD {MAIL}", stream=True))
        assert answer.text == f"quiet {MAIL}"

    hook = GuardHook(name="calm", stage="output", call=f"{__name__}:calm_without_mail")
    guarded(msgspec.structs.replace(REDACT, hooks=(hook,)), test)


def calm_without_mail(shown: Shown) -> Verdict:
    assert MAIL not in shown.texts[0]
    return calm(shown)


def test_a_key_keeps_its_own_guard_and_others_pay_nothing() -> None:
    settings = PrivacySettings(rules=(PatternRule(pattern="email", action="redact", teams=("acme/a",)),))
    gate = PrivacyGate(settings, {})
    from wattmill.vocab.caller import Caller

    inside = Caller(key=1, name="acme/a/k", path=(1,))
    beside = Caller(key=2, name="acme/b/k", path=(1,))
    assert gate.guard_of(inside) is not None and gate.guard_of(beside) is None
    assert KEY and STREAM


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/messages", {"max_tokens": 200, "messages": [{"role": "user", "content": f"to {MAIL}!"}]}),
        ("/v1/responses", {"input": f"to {MAIL}!", "store": False}),
    ],
)
def test_every_door_is_guarded(path: str, asked: dict[str, Any], stream: bool) -> None:
    async def test(r: Rig) -> None:
        answer = await r.ask({"model": "m", "stream": stream, **asked}, path=path)
        assert answer.status == 200, answer.body
        assert MAIL not in sent(r) and "[EMAIL_1]" in sent(r)
        text = answer.body.decode()
        if not stream:
            assert f"to {MAIL}!" in text and "EMAIL_1" not in text
            return
        events = [json.loads(e.split("data: ", 1)[1]) for e in text.split("\n\n") if "data: {" in e]
        deltas = [e["delta"] for e in events if "delta" in e]
        said = "".join(d if isinstance(d, str) else d.get("text", "") for d in deltas)
        assert said == f"to {MAIL}!" and "EMAIL_1" not in text

    guarded(REDACT, test)


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/responses/input_tokens"])
def test_a_prompt_that_is_only_counted_goes_no_further_than_one_that_is_answered(path: str) -> None:
    asks: list[Any] = []

    async def counting(wire: Wire) -> None:
        await wire.json({"input_tokens": 9})

    async def count(settings: PrivacySettings, **headers: str) -> tuple[Any, Rig]:
        async with rig(counting, adapter="llama.cpp") as r:
            r.more = {"gates": (PrivacyGate(settings, {}),), "side_doors": side_doors(r.gateway, None)}  # type: ignore[arg-type]
            services = r.services()
            plain = services.route
            services.route = lambda ask, caller, prompt: asks.append(ask) or plain(ask, caller, prompt)  # type: ignore[func-returns-value]
            r.gateway.use(services)
            words = {"input": MAIL} if "responses" in path else {"messages": asking(MAIL)["messages"]}
            answer = await r.ask({"model": "m", **words}, path=path, headers=list(headers.items()))
            return answer, r

    async def main() -> None:
        for rules in (REDACT, hooked()):
            answer, r = await count(rules)
            assert answer.json["counted_by"] == "bound" and not r.engines[0].seen
        answer, r = await count(
            PrivacySettings(classes={"private": ClassRule(residency=("eu",), operators=("own",))}),
            **{"x-wattmill-privacy": "private", "x-wattmill-residency": "eu,ch"},
        )
        assert answer.json["counted_by"] == "place:p0" and len(r.engines[0].seen) == 1
        assert (asks[-1].privacy, asks[-1].residency, asks[-1].operators) == (
            "private",
            frozenset({"eu"}),
            frozenset({"own"}),
        )

    run(main())
