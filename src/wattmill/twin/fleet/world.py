"""The simulation's loop: whatever comes next happens, until nothing more comes.

Of what happens at one instant, what was asked for earlier (timers) comes first, then clients, then engines:
who comes at the instant at which a step ends may be in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from wattmill.ports import Journal
from wattmill.scheduling.scaling.policy import scale
from wattmill.scheduling.scaling.spec import ScalingMemory, ScalingRules
from wattmill.twin.fleet.demand import Traffic
from wattmill.twin.fleet.gateway import FrontGate, comes_back_s
from wattmill.twin.fleet.pool import RunningPool
from wattmill.twin.fleet.spec import Client
from wattmill.twin.fleet.timeline import Timeline
from wattmill.twin.fleet.timers import NEVER_PS, Clock, Timers
from wattmill.twin.fleet.visit import Visit
from wattmill.units import PS_PER_US, US_PER_S
from wattmill.vocab.fact import EngineCount, MeterWindow, Status
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

SWEEP_S = 0.1  # as a worker: lessons, breakers, probes
REFRESH_S = 0.25  # as a worker: the view of the fleet
PURSE_S = 1.0  # a worker does it four times as often; here no other one waits for what it holds
METER = "twin"


class Advances(Protocol):
    """One engine, or many that go together."""

    @property
    def next_ps(self) -> int: ...

    def advance(self, to_ps: int) -> None: ...


class Leaps(Advances, Protocol):
    """Many engines that tell the instants of their events themselves, so that many go by in one call."""

    def advance(self, to_ps: int, *, to_news: bool = False) -> None: ...


class World:
    """A factory that can be run once."""

    def __init__(
        self,
        *,
        clock: Clock,
        timers: Timers,
        traffic: Traffic,
        clients: Sequence[Client],
        journal: Journal,
        meter_s: float = 10.0,
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._traffic = traffic
        self._clients = clients
        self._journal = journal
        self._meter_s = meter_s
        self._window_us = clock.wall_us()
        self._streams: dict[int, int] = {}  # of requests under way: by index, the stream
        self._engines: list[Advances] = []
        self._bank: Leaps | None = None
        self._coupled = True  # what an engine tells may change what comes before the next arrival
        self._scaling: dict[str, ScalingMemory] = {}
        self._stops = False
        self.pools: list[RunningPool] = []
        self.asked = 0
        self.served = 0  # answered to the end
        self.came_back = 0
        self.timeline: Timeline | None = None
        self.gate: FrontGate
        self.waiting: Callable[[], int] = lambda: 0
        self.resized: Callable[[RunningPool], None] = lambda pool: None
        self.refresh: Callable[[], None] = lambda: None
        self.tick_purse: Callable[[], None] = lambda: None

    def start(
        self, pools: Sequence[RunningPool], gate: FrontGate, *, coupled: bool, bank: Leaps | None = None
    ) -> None:
        """Take over the pools and the gate that were made for this clock.

        `coupled`: an end may let another request come or go before the next arrival (queues at the gateway,
        sessions), so that engines go from one event to the next and not from one arrival to the next.
        """
        self._coupled = coupled
        self._bank = bank
        self.pools = list(pools)
        self.gate = gate
        self.changed()
        for pool in pools:
            split, rules = pool.spec.disaggregation, pool.spec.scaling
            apart = split is not None and split.scaling is not None
            if apart:
                assert split is not None and split.scaling is not None
                self._scales(pool, f"{pool.name} prefill", split.scaling, prefill=True)
            if rules is not None:
                self._scales(pool, pool.name, rules, prefill=False if apart else None)
        self.read_counters(self._clock.wall_us())
        self._every(SWEEP_S, self._sweep)
        self._every(REFRESH_S, lambda: self.refresh())
        self._every(PURSE_S, lambda: self.tick_purse())
        self._every(self._meter_s, self.read_meter)

    def watch(self, timeline: Timeline) -> None:
        """Take down how things are, as often as `timeline` wants it."""
        self.timeline = timeline
        self._every(timeline.every_s, timeline.look)

    def changed(self) -> None:
        """Replicas came or went."""
        alone = [replica.engine for pool in self.pools if not pool.banked for replica in pool.replicas]
        self._engines = [*alone, *([] if self._bank is None else [self._bank])]

    # ---- the loop

    def run(self, tell: Callable[[int], None] = lambda done: None, tell_every: int = 500) -> None:
        """Let everything happen. `tell` hears now and then how many requests have come."""
        clock, timers, traffic = self._clock, self._timers, self._traffic
        clients, streams, gate = self._clients, self._streams, self.gate
        told = 0
        while True:
            arrival_us = traffic.next_us
            if arrival_us is None and self._is_over:
                break
            arrival_ps = NEVER_PS if arrival_us is None else arrival_us * PS_PER_US
            due_ps = timers.next_ps
            if not self._engines_until(due_ps if due_ps <= arrival_ps else arrival_ps):
                continue  # what an engine told has changed what comes next
            if due_ps <= arrival_ps:
                if due_ps > clock.now_ps:
                    clock.now_ps = due_ps
                timers.run_due()
            else:
                clock.now_ps = arrival_ps
                turn, stream, tries = traffic.pop()
                index = self.asked
                self.asked = index + 1
                streams[index] = stream
                gate.arrive(index, turn, clients[turn.client], tries)
                if self.asked - told >= tell_every:
                    told = self.asked
                    tell(told)
        self.read_meter()
        self.read_counters(self._clock.wall_us() + US_PER_S)  # a moment later, when all is told
        tell(self.asked)

    def _engines_until(self, until_ps: int) -> bool:
        """Let engines work up to an instant, that instant not included. False: something else comes first
        now, because of what one of them told."""
        clock, timers, traffic, engines = self._clock, self._timers, self._traffic, self._engines
        bank = self._bank
        if bank is not None and len(engines) == 1:  # what follows, where there is nobody else to look at
            while bank.next_ps < until_ps:
                bank.advance(until_ps - 1, to_news=self._coupled)
                if timers.soon or traffic.changed:
                    traffic.changed = False
                    return False
            return True
        while engines:
            due = [engine.next_ps for engine in engines]
            now_ps = min(due)
            if now_ps >= until_ps:
                return True
            engine = engines[due.index(now_ps)]
            if engine is self._bank:  # it tells the instant of each event, and goes on as far as it may
                due.append(until_ps)
                due.remove(now_ps)
                self._bank.advance(max(now_ps, min(due) - 1), to_news=self._coupled)
            else:
                clock.now_ps = now_ps
                engine.advance(now_ps)
            if timers.soon or traffic.changed:
                traffic.changed = False
                return False
        return True

    @property
    def _is_over(self) -> bool:
        busy = self.gate.in_flight or self.waiting()
        return not busy and self._timers.next_ps > self._clock.now_ps

    # ---- what becomes of requests

    def ended(self, visit: Visit, status: Status, ttft_us: int | None, usage: Usage) -> None:
        stream = self._streams.pop(visit.index)
        if status == "finished":
            self.served += 1
            if visit.turn.session >= 0:
                self._traffic.ended(visit.turn, stream, self._clock.now_ps // PS_PER_US)
        if self._scaling:
            for pool in self.pools:
                if pool.ending:
                    pool.tend()

    def refused(self, visit: Visit, refusal: Refusal) -> None:
        stream = self._streams.pop(visit.index)
        wait_s = comes_back_s(refusal)
        if wait_s is not None and visit.tries + 1 < visit.client.tries:
            self.came_back += 1
            at_us = self._clock.now_ps // PS_PER_US + max(1, round(wait_s * US_PER_S))
            self._traffic.again(visit.turn, stream, visit.tries + 1, at_us)

    # ---- now and then

    def _every(self, seconds: float, call: Callable[[], None]) -> None:
        def again() -> None:
            call()
            self._timers.call_later(seconds, again)

        self._timers.call_later(seconds, again)

    def _sweep(self) -> None:
        self.gate.sweep()

    def _scales(self, pool: RunningPool, name: str, rules: ScalingRules, *, prefill: bool | None) -> None:
        """Let a pool, or the replicas of one kind in it, come and go by `rules`, told as `name`."""
        self._scaling[name] = ScalingMemory()
        self._every(rules.look_s, partial(self._look, pool, name, rules, prefill))

    def _look(self, pool: RunningPool, name: str, rules: ScalingRules, prefill: bool | None) -> None:
        # What waits at the gateway waits for a prompt to be computed.
        waiting = 0 if prefill is False else self.waiting()
        load = pool.load(waiting, prefill=prefill)
        scaled = scale(load, rules, self._scaling[name], now_s=self._clock.now())
        self._scaling[name] = scaled.memory
        if scaled.reason:
            if self.timeline is not None:
                self.timeline.scaled(name, scaled.replicas, scaled.reason)
            if prefill is None:
                pool.resize(scaled.replicas)
            else:
                pool.resize_kind(scaled.replicas, prefill=prefill)

    def read_counters(self, at_us: int) -> None:
        """Tell the journal what the engines have counted: the witness of the books."""
        for pool in self.pools:
            prompt_tok, output_tok = pool.counted_tok
            self._journal.append_note(
                EngineCount(pool.name, "twin", at_us, prompt_tok, output_tok, idle=not pool.in_flight)
            )

    def read_meter(self) -> None:
        """Tell the journal what was drawn since the last time, and by which pool."""
        now_us = self._clock.wall_us()
        shares: dict[str, int] = {}
        idle = 0
        sources = []
        for pool in self.pools:
            if pool.spec.power is None:
                continue
            drawn = pool.joules()
            idle += drawn.idle_uj
            shares[pool.name] = drawn.dynamic_uj
            sources.append(f"{pool.name}: {pool.spec.power.origin.source}")
        total = idle + sum(shares.values())
        if total and now_us > self._window_us:
            self._journal.append_note(
                MeterWindow(
                    METER, self._window_us, now_us, total, idle, shares, 0, "modelled", "; ".join(sources)
                )
            )
        self._window_us = now_us
