"""Tiers and admission on real sockets: who waits, who overtakes, who pays what, who is to come back when."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from gateway_engine import Wire, well
from gateway_rig import CHAT, ME, STREAM, Answer, Client, Rig, price, rig, run, until

from wattmill.app.flexing import in_force
from wattmill.app.flexing.in_force import InForce
from wattmill.app.gates.admission import AdmissionGate, Plan
from wattmill.app.gates.shared_room import SharedRoom
from wattmill.app.gates.tier import TierGate
from wattmill.app.gates.valve import Valve
from wattmill.app.home import Home
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.power.signal.spec import Orders
from wattmill.scheduling.admission.spec import AdmissionRules, TierRule
from wattmill.scheduling.spec import Fleet, Pool
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Refused
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.tier import Tier

TIERS = {
    "free": Tier(name="free", number=0, rank=0),
    "premium": Tier(name="premium", number=1, rank=30, ttft_s=2.0, tok_per_s=20.0, context_tok=500),
    "ultra": Tier(name="ultra", number=2, rank=40, privacy="private"),
}
RULES = AdmissionRules(
    tiers=(
        TierRule(name="free", rank=0, queue=3, timeout_s=30.0),
        TierRule(name="premium", rank=30, queue=50, timeout_s=30.0),
        TierRule(name="ultra", rank=40, queue=50, timeout_s=30.0),
    )
)


class Held:
    """An engine that answers one request for each turn that it is given, and remembers who was inside."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(0)
        self.inside = 0
        self.most_inside = 0
        self.users: list[str] = []

    async def __call__(self, wire: Wire) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.users.append(wire.body.get("user", ""))
        try:
            await self.turns.acquire()
        finally:
            self.inside -= 1
        await wire.json(
            {
                "id": "e", "object": "chat.completion", "created": 1, "model": "up",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"},
                             "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1_000, "completion_tokens": 1_000, "total_tokens": 2_000},
            }
        )  # fmt: skip


class Factory:
    """A rig whose callers have tiers, and its gate."""

    def __init__(
        self, r: Rig, held: Held, *, rules: AdmissionRules, slots: int, home: Home | None = None
    ) -> None:
        self.home = home
        self.valve = None if home is None else Valve(home, r.clock)
        self.r = r
        self.held = held
        able = ADAPTERS["openai-compatible"].capabilities
        pools = tuple(
            Pool(
                name=f"p{n}", models=frozenset({"m"}), capabilities=able,
                context_tok=100_000, privacy="private", slots=slots,
                charge_in_nusd_per_mtok={"m": 1}, charge_out_nusd_per_mtok={"m": 1},
                prefill_tok_per_s=1_000.0, decode_tok_per_s=100.0,
            )
            for n in range(len(r.engines))
        )  # fmt: skip
        self.fleet = Fleet(id=1, at_us=0, pools=pools)
        self.plan = Plan(
            rules=rules,
            tiers={rule.name: n for n, rule in enumerate(rules.tiers)},
            slots=tuple(slots for _ in pools),
            fair_over="key",
        )
        self.lives = [r.gateway.state(pool.name) for pool in pools]
        self.gate = AdmissionGate(
            self.plan, clock=r.clock, fleet=lambda: self.fleet, lives=self.lives, valve=self.valve
        )
        r.more = {"gates": (TierGate(TIERS), self.gate)}
        services = r.services()
        services.identify = self.identify
        for backend in services.backends.values():
            model = backend.models["m"]
            by_tier = {
                tier: msgspec.structs.replace(model, charge=price(10 + n, dollars, dollars))
                for n, (tier, dollars) in enumerate({"free": 0, "premium": 45, "ultra": 150}.items())
            }
            backend.models["m"] = msgspec.structs.replace(model, by_tier=by_tier)
        r.gateway.use(services)

    def identify(self, header: bytes | None, wall_us: int) -> Caller | Refusal:
        """A key is TIER or TIER-NUMBER; each number is a tenant."""
        tier, _, number = (header or b"").decode().removeprefix("Bearer ").partition("-")
        return msgspec.structs.replace(ME, key=100 + int(number or 0), tier=tier)

    async def send(self, key: str, user: str, **more: Any) -> Client:
        client = await self.r.connect()
        await client.send(CHAT | {"user": user}, key=key, **more)
        return client

    def order(self, pace: float | None, *, until_s: float | None = None) -> None:
        """Let lower tiers begin so much work per second, as the supervisor would tell."""
        assert self.home is not None and self.valve is not None
        told = Orders(phase="active", event="e", lower_work_per_s=pace, batches=pace is None)
        at_s = self.r.clock.wall_us() / 1e6
        in_force.write(
            self.home,
            InForce(orders=told, at_s=at_s, until_s=until_s, protected_rank=30, workers=1),
        )
        self.valve.tick()

    async def waiting(self, count: int) -> None:
        await until(lambda: self.gate.admission.waiting == count)


@contextlib.asynccontextmanager
async def factory(
    *, rules: AdmissionRules = RULES, slots: int = 1, home: Home | None = None
) -> AsyncIterator[Factory]:
    held = Held()
    async with rig(held) as r:
        yield Factory(r, held, rules=rules, slots=slots, home=home)


def test_who_finds_no_slot_waits_at_the_gateway_and_goes_when_one_is_free() -> None:
    async def test() -> None:
        async with factory(slots=2) as f:
            clients = [await f.send("premium", str(n)) for n in range(5)]
            await until(lambda: f.held.inside == 2)
            await f.waiting(3)
            for _ in range(5):
                f.held.turns.release()
            assert [(await client.answer()).status for client in clients] == [200] * 5
            assert f.held.most_inside == 2
            assert f.held.users == ["0", "1", "2", "3", "4"]
            queued = [intent.queued_us for intent in f.r.journal.intents]
            assert queued[:2] == [0, 0] and all(us > 0 for us in queued[2:])
            assert not f.gate.admission.waiting and not f.gate._tickets
            f.r.assert_balanced()

    run(test())


def test_a_higher_tier_overtakes_and_equal_tenants_take_turns() -> None:
    async def test() -> None:
        async with factory() as f:
            first = await f.send("free-9", "first")
            await until(lambda: f.held.inside == 1)
            clients = [first]
            for n, (key, user) in enumerate(
                [("free-1", "a1"), ("free-1", "a2"), ("free-2", "b1"), ("premium-3", "p"), ("ultra-4", "u")],
                1,
            ):
                clients.append(await f.send(key, user))
                await f.waiting(n)
            for _ in clients:
                f.held.turns.release()
            assert [(await client.answer()).status for client in clients] == [200] * 6
            assert f.held.users == ["first", "u", "p", "a1", "b1", "a2"]

    run(test())


def test_a_client_that_leaves_the_queue_is_forgotten_and_costs_nothing() -> None:
    async def test() -> None:
        async with factory() as f:
            busy = await f.send("free", "busy")
            await until(lambda: f.held.inside == 1)
            leaver = await f.send("free", "leaver")
            await f.waiting(1)
            stayer = await f.send("free", "stayer")
            await f.waiting(2)
            leaver.abort()
            await f.waiting(1)
            f.held.turns.release()
            f.held.turns.release()
            assert (await busy.answer()).status == (await stayer.answer()).status == 200
            assert f.held.users == ["busy", "stayer"]
            queued = f.r.gateway.metrics.values["wattmill_queued_total"]
            assert queued == {("free", "gone"): 1, ("free", "served"): 1}
            assert len(f.r.journal.intents) == 2
            f.r.assert_balanced()

    run(test())


def test_who_waits_too_long_is_told_when_to_come_back_and_the_journal_knows_how_long_it_waited() -> None:
    rules = AdmissionRules(tiers=(TierRule(name="premium", rank=1, timeout_s=0.05),))

    async def test() -> None:
        async with factory(rules=rules) as f:
            busy = await f.send("premium", "busy")
            await until(lambda: f.held.inside == 1)
            answer = await f.r.ask(CHAT, key="premium")
            assert answer.status == 503 and answer.error["code"] == "queue_timeout"
            assert int(answer.headers["retry-after"]) >= 1
            assert "x-should-retry" not in answer.headers or answer.headers["x-should-retry"] != "false"
            (no,) = f.r.journal.of(Refused)
            assert no.tier == "premium" and no.queued_us >= 50_000
            f.held.turns.release()
            assert (await busy.answer()).status == 200

    run(test())


def test_a_full_queue_refuses_with_a_time_and_who_fills_more_than_its_share_gives_way() -> None:
    async def test() -> None:
        async with factory() as f:
            busy = await f.send("free-9", "busy")
            await until(lambda: f.held.inside == 1)
            greedy = [await f.send("free-1", f"g{n}") for n in range(3)]
            await f.waiting(3)  # the queue of the tier is full
            refused = await f.r.ask(CHAT, key="free-1")
            assert refused.status == 503 and refused.error["code"] == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
            modest = await f.send("free-2", "modest")
            gave_way = await greedy[2].answer()
            assert gave_way.status == 503 and "retry-after" in gave_way.headers
            for _ in range(4):
                f.held.turns.release()
            for client in (busy, greedy[0], greedy[1], modest):
                assert (await client.answer()).status == 200
            f.r.assert_balanced()

    run(test())


def test_each_tier_pays_its_price_and_a_request_may_ask_for_a_lower_one_only() -> None:
    async def test() -> None:
        async with factory(slots=8) as f:
            for _ in range(10):
                f.held.turns.release()

            async def ask(key: str, lower: str | None = None) -> Answer:
                headers = [] if lower is None else [("x-wattmill-tier", lower)]
                return await f.r.ask(CHAT, key=key, headers=headers)

            for key, lower, dollars in (
                ("free", None, 0), ("premium", None, 45), ("ultra", "premium", 45), ("ultra", "free", 0),
            ):  # fmt: skip
                spent = f.r.purse.spent_nusd
                assert (await ask(key, lower)).status == 200
                assert f.r.purse.spent_nusd - spent <= dollars * 2_000 * 1_000
                intent = f.r.journal.intents[-1]
                assert intent.terms is not None and intent.terms.tier == (lower or key)
                assert (intent.reserved_nusd > 0) == (dollars > 0)
            too_high = await ask("free", "premium")
            assert too_high.status == 403 and too_high.error["code"] == "tier_too_high"
            unknown = await ask("free", "platinum")
            assert unknown.status == 400 and unknown.error["code"] == "bad_header"
            gone = await ask("silver")
            assert gone.status == 503 and gone.error["code"] == "unpriced"
            f.r.assert_balanced()

    run(test())


def test_a_promise_of_context_and_privacy_binds() -> None:
    async def test() -> None:
        async with factory(slots=8) as f:
            f.held.turns.release()
            long = CHAT | {"messages": [{"role": "user", "content": "x" * 4_000}]}
            answer = await f.r.ask(long, key="premium")
            assert answer.status == 400 and answer.error["code"] == "context_too_long"
            assert (await f.r.ask(CHAT, key="ultra")).status == 200
            assert f.r.journal.intents[-1].privacy == "private"

    run(test())


def test_with_every_place_down_nobody_waits() -> None:
    async def test() -> None:
        async with factory() as f:
            busy = await f.send("free", "busy")
            await until(lambda: f.held.inside == 1)
            waiting = await f.send("free", "waiting")
            await f.waiting(1)
            f.lives[0].failed("gone", now_s=f.r.clock.now(), surely_down=True)
            f.fleet = msgspec.structs.replace(
                f.fleet, id=2, pools=(msgspec.structs.replace(f.fleet.pools[0], healthy=False),)
            )
            answer = await waiting.answer()
            assert answer.status == 503 and answer.error["code"] == "no_healthy_place"
            f.held.turns.release()
            assert (await busy.answer()).status == 200

    run(test())


def test_whoever_waits_goes_on_waiting_over_a_reload_and_more_slots_are_used_at_once() -> None:
    async def test() -> None:
        async with factory() as f:
            clients = [await f.send("premium", str(n)) for n in range(3)]
            await until(lambda: f.held.inside == 1)
            await f.waiting(2)
            f.gate.use(msgspec.structs.replace(f.plan, slots=(3,)), fleet=lambda: f.fleet, lives=f.lives)
            await until(lambda: f.held.inside == 3)
            for _ in clients:
                f.held.turns.release()
            assert [(await client.answer()).status for client in clients] == [200] * 3
            f.r.assert_balanced()

    run(test())


def test_when_tiers_are_gone_whoever_waits_goes_on_to_the_places(tmp_path: Path) -> None:
    async def test() -> None:
        async with factory() as f:
            room = SharedRoom(tmp_path / "room", 0)
            room.use(["p0"])
            f.gate = AdmissionGate(f.plan, clock=f.r.clock, fleet=lambda: f.fleet, lives=f.lives, shared=room)
            services = f.r.gateway.services
            f.r.gateway.use(dataclasses.replace(services, gates=(services.gates[0], f.gate)))
            clients = [await f.send("premium", str(n)) for n in range(3)]
            await f.waiting(2)
            f.gate.release()
            room.close()  # nothing of it is touched again
            await until(lambda: f.held.inside == 3)
            for _ in clients:
                f.held.turns.release()
            assert [(await client.answer()).status for client in clients] == [200] * 3
            f.r.assert_balanced()

    run(test())


def test_a_stream_that_had_to_wait_is_the_same_stream() -> None:
    async def well_later(wire: Wire) -> None:
        await gate.wait()
        await well(wire)

    gate: asyncio.Event

    async def test() -> None:
        nonlocal gate
        gate = asyncio.Event()
        async with rig(well_later) as r:
            f = Factory(r, Held(), rules=RULES, slots=1)
            clients = []
            for n in range(3):
                clients.append(await r.connect())
                await clients[-1].send(STREAM, key="premium")
                await f.waiting(n)
            gate.set()
            assert [(await client.answer()).text for client in clients] == ["hello"] * 3
            r.assert_balanced()

    run(test())


def test_who_waits_for_its_money_has_its_slot_already() -> None:
    """The caps are asked in a thread: whoever comes meanwhile must not be let into the same slot."""

    async def test() -> None:
        async with factory(slots=2) as f:
            f.r.purse.lease_first = True
            f.r.purse.lease_gate = asyncio.Event()
            clients = [await f.send("premium", str(n)) for n in range(5)]
            await f.waiting(3)
            assert f.held.inside == 0
            assert f.gate.heading_for("p0") == 2 and f.gate.heading_for("p1") == 0
            f.r.purse.lease_gate.set()
            await until(lambda: f.held.inside == 2)
            assert f.gate.heading_for("p0") == 0
            for _ in clients:
                f.held.turns.release()
            assert [(await client.answer()).status for client in clients] == [200] * 5
            assert f.held.most_inside == 2
            f.r.assert_balanced()

    run(test())


def test_while_power_is_short_lower_tiers_wait_with_slots_free_and_the_protected_pass(tmp_path: Path) -> None:
    async def test() -> None:
        home = Home(tmp_path)
        home.create()
        async with factory(slots=8, home=home) as f:
            for _ in range(9):
                f.held.turns.release()
            assert (await f.r.ask(CHAT, key="free-1")).status == 200
            f.order(0.0)
            held = [await f.send("free-1", "held"), await f.send("free-2", "held too")]
            await f.waiting(2)
            assert (await f.r.ask(CHAT, key="premium-3")).status == 200
            assert f.gate.lower_waiting() == 2 and f.valve is not None
            assert f.valve.held_work > 0 and f.valve.work > f.valve.lower_work > 0
            f.order(None)  # it is over
            assert [(await client.answer()).status for client in held] == [200, 200]
            f.r.assert_balanced()

    run(test())


def test_lower_tiers_begin_work_at_the_ordered_pace(tmp_path: Path) -> None:
    async def test() -> None:
        home = Home(tmp_path)
        home.create()
        async with factory(slots=8, home=home) as f:
            for _ in range(20):
                f.held.turns.release()
            assert f.valve is not None
            await f.r.ask(CHAT, key="free-1")
            work = f.valve.lower_work  # of one such request
            f.order(work * 10.0)  # ten of them a second
            began_s = f.r.clock.now()
            clients = [await f.send("free-1", str(n)) for n in range(3)]
            assert [(await client.answer()).status for client in clients] == [200] * 3
            # The first begins when the bucket holds anything; each further one once that is paid for.
            assert 0.15 <= f.r.clock.now() - began_s < 5.0

    run(test())


def test_who_is_held_back_for_too_long_is_told_that_power_is_short_and_until_when(tmp_path: Path) -> None:
    rules = AdmissionRules(
        tiers=(TierRule(name="free", rank=0, timeout_s=0.05), TierRule(name="premium", rank=30)),
        longest_retry_s=90.0,
    )

    async def test() -> None:
        home = Home(tmp_path)
        home.create()
        async with factory(rules=rules, slots=8, home=home) as f:
            f.order(0.0, until_s=f.r.clock.wall_us() / 1e6 + 60.0)
            answer = await f.r.ask(CHAT, key="free")
            assert answer.status == 503 and answer.error["code"] == "power_limit"
            assert 50 <= int(answer.headers["retry-after"]) <= 60
            assert f.valve is not None and f.valve.refused == {"free": 1}
            (no,) = f.r.journal.of(Refused)
            assert no.code == "power_limit" and no.tier == "free"

    run(test())


def test_who_waits_for_a_slot_is_not_told_that_power_is_short(tmp_path: Path) -> None:
    rules = AdmissionRules(
        tiers=(TierRule(name="free", rank=0, timeout_s=0.05), TierRule(name="premium", rank=30))
    )

    async def test() -> None:
        home = Home(tmp_path)
        home.create()
        async with factory(rules=rules, slots=1, home=home) as f:
            f.order(1e9)  # as much as anybody may want
            busy = await f.send("premium", "busy")
            await until(lambda: f.held.inside == 1)
            answer = await f.r.ask(CHAT, key="free")
            assert answer.status == 503 and answer.error["code"] == "queue_timeout"
            assert f.valve is not None and f.valve.refused == {}
            f.held.turns.release()
            assert (await busy.answer()).status == 200

    run(test())


def test_orders_end_with_their_time_even_if_nobody_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        home = Home(tmp_path)
        home.create()
        async with factory(slots=8, home=home) as f:
            f.held.turns.release()
            f.order(0.0, until_s=f.r.clock.wall_us() / 1e6 - 1.0)
            assert f.valve is not None and not f.valve.holds and f.valve.batches
            assert (await f.r.ask(CHAT, key="free")).status == 200

    run(test())
