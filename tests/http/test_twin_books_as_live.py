"""The twin's gateway against the live one: the same fates of the same requests, the same facts.

A script says, for each request and place, what the place makes of it. The live gateway meets it on sockets,
at scripted engines; the twin's on a simulated clock, at pools that do the same. Reservations, ends, refusals,
what the purse lost and what is thought of each place are then compared field by field. What only bytes have
is no part of it: a client that leaves, an engine that is silent, hedges and continuation have no counterpart
in the twin, and an error status other than 429 has neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Literal, NamedTuple

import msgspec
from gateway_rig import ME, FakePurse, ListJournal, Wire, price, rig, run, until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wattmill.distribution.backend_state import BackendState
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.spec import TokenizerBound
from wattmill.ports import Grant
from wattmill.twin.fleet.gateway import FrontGate
from wattmill.twin.fleet.services import Setup
from wattmill.twin.fleet.spec import Client, Turn
from wattmill.twin.fleet.timers import Clock
from wattmill.twin.spec import Broken, Served, Work
from wattmill.units import PS_PER_MS
from wattmill.vocab.budget import Spend
from wattmill.vocab.fact import End, Intent, Refused
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.route import Candidate, Route

Fate = Literal["answers", "limited", "unreachable", "breaks at once", "breaks in the middle"]
TOK_PER_BYTE_BOUND = 4.0


class Ask(NamedTuple):
    stream: bool
    output_tok: int  # that the engine would say
    max_tok: int
    fates: tuple[Fate, ...]  # by place


class Told(NamedTuple):
    """What one gateway wrote down and was left with."""

    intents: list[Any]
    ends: list[Any]
    refused: list[Any]
    spent_nusd: int
    held_nusd: int
    places: list[Any]


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _bound_tok(text: str) -> int:
    raw = msgspec.Raw(json.dumps(_messages(text)).encode())  # as the rig's client writes it
    bound = input_bound_tok("chat", {"messages": raw}, TokenizerBound())
    assert isinstance(bound, int)
    return bound


TEXT = next("x" * size for size in range(20, 40) if _bound_tok("x" * size) % TOK_PER_BYTE_BOUND == 0)
PROMPT_TOK = round(_bound_tok(TEXT) / TOK_PER_BYTE_BOUND)
"""The bound is a whole multiple of it: the twin, which knows tokens, reserves what the bytes are worth."""


# ---- live


def _engine(at: int, asks: list[Ask], now: list[int]) -> Any:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"

    async def script(wire: Wire) -> None:
        ask = asks[now[0]]
        fate = ask.fates[at]
        output_tok = min(ask.output_tok, wire.body["max_tokens"])
        if fate == "limited":
            no = {"error": {"message": "too many", "type": "rate_limit_error"}}
            await wire.json(no, 429, "connection: close\r\nretry-after: 1\r\n")
        elif fate == "breaks at once" or (fate == "breaks in the middle" and not wire.body.get("stream")):
            wire.reset()
        elif not wire.body.get("stream"):
            said = {"role": "assistant", "content": "x"}
            usage = {"prompt_tokens": PROMPT_TOK, "completion_tokens": output_tok}
            choice = {"index": 0, "message": said, "finish_reason": "stop"}
            await wire.json({"choices": [choice], "usage": usage}, extra="connection: close\r\n")
        else:
            await wire.send(head + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            half = fate == "breaks in the middle"
            made = max(1, output_tok // 2) if half else output_tok
            for n in range(made):
                usage = {"prompt_tokens": PROMPT_TOK, "completion_tokens": n + 1}
                await wire.chunk("x", usage=usage if "continuous" in str(wire.body) else None)
            if half:
                await asyncio.sleep(0.02)  # so that what was sent is read
                wire.reset()
                return
            await wire.chunk(None, finish="stop")
            await wire.usage_chunk(PROMPT_TOK, output_tok)
            await wire.done()
        wire.writer.close()

    return script


async def _live(asks: list[Ask], adapter: str, cap_nusd: int) -> Told:
    now = [0]
    scripts = [_engine(at, asks, now) for at in range(len(asks[0].fates))]
    async with rig(*scripts, adapter=adapter) as r:
        r.purse.cap_nusd = cap_nusd
        for number, ask in enumerate(asks):
            now[0] = number
            for engine, fate in zip(r.engines, ask.fates, strict=True):
                if fate == "unreachable":
                    await engine.stop()
            body = {"model": "m", "messages": _messages(TEXT), "max_tokens": ask.max_tok}
            client = await r.connect()
            await client.send(body | {"stream": True} if ask.stream else body)
            with contextlib.suppress(asyncio.IncompleteReadError, ValueError):  # an answer that breaks off
                await client.answer()
            client.abort()
            await until(lambda: not r.gateway.in_flight)
        assert not r.logged
        return _told(r.journal, r.purse, [r.gateway.state(f"p{at}") for at in range(len(scripts))])


# ---- simulated


class _Purse(FakePurse):
    def lease_now(self, path: tuple[int, ...], worst: Spend, floor: Spend) -> Grant | Refusal:
        left = self.cap_nusd - self.spent_nusd - self.held_nusd
        if left < floor.nusd:
            return Refusal(code="budget_exceeded", message="nothing is left")
        return self._grant(min(worst.nusd, left))


class _Pool:
    """Looks to the gate as a running pool does."""

    def __init__(self, name: str, at: int) -> None:
        self.name = name
        self.at = at
        self.fate: Fate = "answers"
        self.gone = False
        self.taken: list[tuple[int, Work]] = []

    @property
    def connects(self) -> bool:
        return not self.gone

    def refuses(self, work: Work) -> float | None:
        return 1.0 if self.fate == "limited" else None

    def take(self, index: int, work: Work) -> None:
        self.taken.append((index, work))

    def made(self, computed_tok: int, output_tok: int) -> None:
        pass


class _View:
    """In order, as the rig's route."""

    def __init__(self, life: dict[str, BackendState]) -> None:
        self._life = life

    def place(self, ask: Any, caller: Any, prefix: Any) -> Route | Refusal:
        pools = [name for name, state in self._life.items() if state.healthy]
        if not pools:
            return Refusal(code="no_healthy_place", message="all down")
        return Route(tuple(Candidate(p, 1_000, 0.1, 0.2, 0.0) for p in pools), (), "in order", 1)

    def learn(self, *what: Any) -> None:
        pass


class _Nobody:
    def ended(self, *what: Any) -> None:
        pass

    def refused(self, *what: Any) -> None:
        pass


def _simulated(asks: list[Ask], adapter: str, cap_nusd: int) -> Told:
    clock, journal, purse = Clock(10**15), ListJournal(), _Purse(cap_nusd)
    pools = [_Pool(f"p{at}", at) for at in range(len(asks[0].fates))]
    model = BackendModel(name="m", upstream="up", cost=price(1, 1, 2), charge=price(2, 10, 20))
    backends = {
        pool.name: Backend(
            pool=pool.name, base_url="http://127.0.0.1:9/v1", models={"m": model}, adapter=adapter
        )
        for pool in pools
    }
    life = {pool.name: BackendState(pool.name) for pool in pools}
    gate = FrontGate(
        Setup(
            view=_View(life),  # type: ignore[arg-type]
            life=life,
            purse=purse,
            journal=journal,
            clock=clock,
            backends=backends,
            counts=frozenset(),
            default_output_tok=100,
            bound_tok_per_tok=TOK_PER_BYTE_BOUND,
            streams=frozenset(backends if ADAPTERS[adapter].always_stream else ()),
        ),
        _Nobody(),
    )
    gate.use(pools)  # type: ignore[arg-type]
    for number, ask in enumerate(asks):
        for pool, fate in zip(pools, ask.fates, strict=True):
            pool.fate, pool.gone = fate, pool.gone or fate == "unreachable"
        client = Client(name="me", caller=ME, model="m", stream=ask.stream)
        gate.arrive(number, Turn(0, 0, PROMPT_TOK, ask.output_tok, ask.max_tok), client, 0)
        while any(pool.taken for pool in pools):
            for pool in pools:
                for index, work in pool.taken[:]:
                    pool.taken.clear()
                    _meets(gate, clock, pool, index, work)
    return _told(journal, purse, list(life.values()))


def _meets(gate: FrontGate, clock: Clock, pool: _Pool, index: int, work: Work) -> None:
    came_ps = clock.now_ps
    clock.now_ps = first_ps = came_ps + PS_PER_MS
    if pool.fate == "breaks at once":
        gate.on_broken(Broken(index, work.input_tok, 0, 0))  # life estimates that the prompt was computed
        return
    gate.on_first(index, pool.at)
    clock.now_ps += PS_PER_MS
    if pool.fate == "breaks in the middle":
        gate.on_broken(Broken(index, work.input_tok, 0, max(1, work.output_tok // 2)))
    else:
        gate.on_end(Served(index, pool.at, came_ps, came_ps, first_ps, clock.now_ps, 0))


# ---- what is compared


def _told(journal: ListJournal, purse: FakePurse, places: list[BackendState]) -> Told:
    order = {intent.seq: n for n, intent in enumerate(journal.intents)}

    def intent(fact: Intent) -> dict[str, Any]:
        said = {name: getattr(fact, name) for name in fact.__struct_fields__}
        del said["at_us"], said["label"]
        said["route"] = fact.route and fact.route.candidates
        return said | {"seq": order[fact.seq], "request": order[fact.request]}

    def end(fact: End) -> dict[str, Any]:
        said = {name: getattr(fact, name) for name in fact.__struct_fields__}
        # In the twin there is no client that could be told an estimate of its joules.
        for name in ("at_us", "started_us", "duration_us", "engine_id", "told_uj"):
            del said[name]
        return said | {"seq": order[fact.seq], "ttft_us": fact.ttft_us is not None}

    return Told(
        [intent(fact) for fact in journal.intents],
        [end(fact) for fact in journal.ends],
        [(fact.code, fact.path, fact.endpoint, fact.model, fact.tier) for fact in journal.of(Refused)],
        purse.spent_nusd,
        purse.held_nusd,
        [(s.pool, s.state, s.healthy, s.failures, s.reachable, s.serving, s.ahead_tok) for s in places],
    )


fates = st.sampled_from(
    ("answers", "answers", "limited", "unreachable", "breaks at once", "breaks in the middle")
)


@st.composite
def scripts(draw: st.DrawFn) -> list[Ask]:
    places = draw(st.integers(1, 3))
    return [
        Ask(
            stream=draw(st.booleans()),
            output_tok=draw(st.integers(1, 8)),
            max_tok=draw(st.sampled_from((4, 30))),
            fates=tuple(draw(fates) for _ in range(places)),
        )
        for _ in range(draw(st.integers(1, 2)))
    ]


def _one(stream: bool, *places: Fate) -> list[Ask]:
    return [Ask(stream, 6, 30, places)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asks=scripts(),
    adapter=st.sampled_from(("openai-compatible", "vllm")),
    cap_nusd=st.sampled_from((10**15, 10**15, 900_000, 1_200_000, 10)),
)
@example(_one(True, "answers"), "openai-compatible", 10**15)
@example(_one(False, "limited", "answers"), "openai-compatible", 10**15)
@example(_one(True, "unreachable", "breaks at once", "answers"), "openai-compatible", 10**15)
@example(_one(True, "breaks in the middle", "answers"), "openai-compatible", 10**15)
@example(_one(False, "breaks in the middle", "answers"), "openai-compatible", 10**15)
@example(_one(False, "breaks in the middle", "answers"), "vllm", 10**15)
@example(_one(False, "breaks at once"), "openai-compatible", 10**15)
def test_whatever_places_do_the_twin_books_what_the_live_gateway_books(
    asks: list[Ask], adapter: str, cap_nusd: int
) -> None:
    found: list[Told] = []

    async def live() -> None:
        found.append(await _live(asks, adapter, cap_nusd))

    run(live())
    simulated = _simulated(asks, adapter, cap_nusd)
    for name, lived, played in zip(Told._fields, found[0], simulated, strict=True):
        assert played == lived, name


def test_an_answer_that_was_lost_unseen_holds_its_reservation_in_both() -> None:
    """Without a stream nobody saw what was made: the cap keeps all that was set aside, the client pays 0."""
    asks = _one(False, "breaks in the middle")
    told = _simulated(asks, "openai-compatible", 10**15)
    end, intent = told.ends[0], told.intents[0]
    assert (end["usage_source"], end["usage"], end["charge_nusd"]) == ("unmetered", None, 0)
    assert end["cost_nusd"] == intent["reserved_cost_nusd"] > 0
    assert end["kept_nusd"] == told.spent_nusd == intent["reserved_nusd"] > 0
