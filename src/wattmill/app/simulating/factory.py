"""The composition of a simulated worker: the live parts, with a simulated clock, loop, engines and clients.

What a worker does at its start (`app.worker`, `app.running.supervisor`) is done here in a folder of its own:
the declaration is accepted, prices are published, tenants and keys are made. Then one worker's gates, view
and purse are made for the simulated clock. What is left in the folder is a factory's: `wattmill audit`,
`explain` and `replay` read it.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import msgspec

from wattmill import __version__
from wattmill.app.declared.declaration import stored
from wattmill.app.declared.plan import backends, fleet_pools, route_weights
from wattmill.app.declared.policy_named import policy_named
from wattmill.app.declared.price_plan import price_specs, publish
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tenants import apply_tenants
from wattmill.app.declared.tier_settings import default_tier
from wattmill.app.gates.admission import AdmissionGate
from wattmill.app.home import Home
from wattmill.app.identify import read_entries
from wattmill.app.running.worker_tiers import SeenByAll, admission_plan, filled, tier_gate
from wattmill.app.simulating.demand import Demand, Who
from wattmill.app.simulating.laws import sim_pools
from wattmill.distribution.backend_state import BackendState
from wattmill.ledger.budgets import Allotments, at_once
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.scheduling.fleet import FleetView
from wattmill.scheduling.memory import Memory
from wattmill.twin.fleet.books import SimulatedBooks
from wattmill.twin.fleet.demand import Traffic
from wattmill.twin.fleet.gateway import FrontGate
from wattmill.twin.fleet.pool import RunningPool, Source
from wattmill.twin.fleet.services import Gate, Setup
from wattmill.twin.fleet.spec import Client
from wattmill.twin.fleet.timeline import Timeline
from wattmill.twin.fleet.timers import Clock, Timers
from wattmill.twin.fleet.world import Leaps, World
from wattmill.vocab.caller import Caller

START_US = 1_767_225_600_000_000
"""2026-01-01 00:00 UTC, where no other start is named: the same run says the same instants."""


Core = Literal["auto", "compiled", "python"]


class Nowhere(msgspec.Struct, frozen=True):
    """Where a simulated engine listens."""

    url: str = "http://127.0.0.1:9/v1"
    key: str = "simulated"


class Admitted:
    """Holds the gate that fills places, as a worker's tiers do."""

    admission: AdmissionGate | None = None


class SimulatedFactory:
    """One run of a declared factory. Make it, `run` it, then read its books under `home`."""

    def __init__(
        self,
        settings: Settings,
        env: Mapping[str, str],
        demand: Demand,
        home: Home,
        *,
        seed: int,
        start_us: int = START_US,
        timeline_s: float | None = None,
        meter_s: float = 10.0,
        core: Core = "auto",
    ) -> None:
        """`core`: what plays the engines. `compiled` (numba, extra `twin`) has paged memory, preemption and
        each engine's scheduler; `python` reserves a request's whole context; `auto` is the first where numba
        is there."""
        one_worker = msgspec.structs.replace(settings.gateway, workers=1)
        self.settings = settings = msgspec.structs.replace(settings, gateway=one_worker)
        self.home = home
        self.seed = seed
        self.clock = clock = Clock(start_us)
        timers = Timers(clock)
        self.control = control = Control(home.control_db, wall_us=clock.wall_us)
        apply_tenants(control, settings, None)
        prices = publish(control, price_specs(settings, env, now_us=start_us), now_us=start_us)
        control.put_config(stored(settings), start_us)
        self.clients = _clients(control, settings, demand)
        endpoints = dict.fromkeys(settings.pools, Nowhere())
        reached = backends(settings, prices, endpoints, env)
        able = {name: adapter.capabilities for name, adapter in ADAPTERS.items()}
        declared = fleet_pools(settings, reached, env, able.__getitem__, now_us=start_us)
        specs = sim_pools(settings, env, declared)
        self.books = SimulatedBooks(home.journal, home.ledger_db, seed=seed, start_us=start_us)
        self.books.use_prices(control.prices())
        if not {"energy_uj", "carbon_ug"} & {limit.unit for limit in Limits(control).states()}:
            # No limit counts joules or grams, and nobody can declare one here: no attempt need work them out.
            reached = {
                name: msgspec.structs.replace(backend, ceiling=None) for name, backend in reached.items()
            }
        life = {pool.name: BackendState(pool.name, settings.resilience.breaker) for pool in declared}
        self._admitted = Admitted()
        self._declared = filled(settings, declared)
        self._per_replica = {spec.name: spec.slots for spec in specs}
        seen: dict[str, Any] = dict(life)
        if settings.tiers:
            seen = {name: SeenByAll(state, self._admitted) for name, state in life.items()}
        dice = random.Random(seed)
        self.view = FleetView(
            pools=self._declared,
            life=seen,
            weights=route_weights(settings),
            journal=self.books,
            clock=clock,
            policy=settings.routing.policy,
            named=policy_named,
            memory=Memory(
                expected_output_tok=settings.routing.expected_output_tok, seed=seed, draw=dice.random
            ),
            affinity=settings.routing.prefix_affinity,
            signals=settings.routing.cascade,
            version=__version__,
        )
        self.purse = Allotments(
            control, self.books.epoch, run_in_thread=_now, now=clock.now, wall_us=clock.wall_us
        )
        self.world = world = World(
            clock=clock,
            timers=timers,
            traffic=Traffic(demand.streams),
            clients=self.clients,
            journal=self.books,
            meter_s=meter_s,
        )
        self._states = [life[pool.name] for pool in declared]
        gates: tuple[Gate, ...] = ()
        if settings.tiers:
            admission = AdmissionGate(
                admission_plan(settings, self._declared),
                clock=clock,
                fleet=lambda: self.view.fleet,
                lives=self._states,
                loop=timers,  # type: ignore[arg-type]  # the two calls of it that the gate makes
            )
            self._admitted.admission = admission
            gates = (tier_gate(settings), admission)
            world.waiting = lambda: admission.admission.waiting
        setup = Setup(
            view=self.view,
            life=life,
            purse=self.purse,
            journal=self.books,
            clock=clock,
            backends=reached,
            counts=frozenset(
                name for name, backend in reached.items() if ADAPTERS[backend.adapter].count_path is not None
            ),
            written=self.books.written,
            gates=gates,
            resilience=settings.resilience,
            unseen=settings.budgets.unseen,
            default_output_tok=settings.routing.default_output_tok,
            bound_tok_per_tok=settings.routing.bound_tok_per_tok,
            affinity=settings.routing.prefix_affinity,
            streams=frozenset(
                name for name, backend in reached.items() if ADAPTERS[backend.adapter].always_stream
            ),
        )
        gate = FrontGate(setup, world)
        bank: Leaps | None = None
        sources: dict[str, Source] = {}
        if core == "compiled" or (core == "auto" and find_spec("numba") is not None):
            from wattmill.twin.fleet.bank import banked  # numba: only where it is used

            bank, sources = banked(
                specs, clock=clock, on_first=gate.on_first, on_end=gate.on_end, prefixes=demand.prefixes,
                seed=seed,
            )  # fmt: skip
        pools: list[RunningPool] = []
        for at, (spec, pool) in enumerate(zip(specs, declared, strict=True)):
            one = msgspec.structs.replace(pool, slots=spec.slots)
            pools.append(
                RunningPool(
                    at, spec, one, clock=clock, timers=timers, on_first=gate.on_first, on_end=gate.on_end,
                    on_broken=gate.on_broken, on_change=self._changed, seed=seed * 7_919 + at,
                    source=sources.get(spec.name),
                )
            )  # fmt: skip
        gate.use(pools)
        self.pools = pools
        world.refresh = self.view.refresh
        world.tick_purse = lambda: at_once(self.purse.tick())
        world.start(pools, gate, coupled=bool(gates) or demand.sessions, bank=bank)
        self.timeline: Timeline | None = None
        if timeline_s is not None:
            self.timeline = Timeline(clock, pools, world.waiting, every_s=timeline_s)
            world.watch(self.timeline)

    def run(self, tell: Callable[[int], None] = lambda done: None) -> None:
        """Let the whole demand come and be served, and close the books."""
        # Nothing here makes rings of references, and a collector that looks for them takes a sixth of the
        # time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.world.run(tell)
            idle = {
                pool.name: hours - self.books.db.balance("nusd", f"cost:{pool.name}")
                for pool in self.pools
                if (hours := self.hours_nusd(pool)) is not None
            }
            at_once(self.purse.tick())
            used = self.books.close(self.clock.wall_us(), idle)
            self.control.close_epoch(self.books.epoch, used)
        finally:
            if collecting:
                gc.enable()
            self.books.db.close()
            self.control.close()

    def hours_nusd(self, pool: RunningPool) -> int | None:
        """Book what was told so far, and return what the hours of a pool cost."""
        self.books.book()
        return pool.hours_nusd

    def _changed(self) -> None:
        """Replicas came or went: the policy and the gate see other slots, as after a reload."""
        self.world.changed()
        slots = {pool.name: max(1, pool.ready) * self._per_replica[pool.name] for pool in self.pools}
        pools = tuple(
            msgspec.structs.replace(pool, slots=slots.get(pool.name, pool.slots)) for pool in self._declared
        )
        if pools == self._declared:
            return
        self._declared = pools
        self.view.declare(pools)
        admission = self._admitted.admission
        if admission is not None:
            admission.use(
                admission_plan(self.settings, pools), fleet=lambda: self.view.fleet, lives=self._states
            )


def _clients(control: Control, settings: Settings, demand: Demand) -> list[Client]:
    """Make a key for each client, and return them as the gateway will know them."""
    made: list[tuple[int, Who, str]] = []
    for number, (who, model) in enumerate(demand.clients):
        team = control.find(who.team)
        key, _ = control.create_key(
            team.id, f"client-{number + 1}", privacy=who.privacy or "internal", tier=who.tier
        )
        made.append((key.id, who, model))
    entries = read_entries(control, settings.tenants, tier=default_tier(settings.tiers, settings.admission))
    callers: dict[int, Caller] = {entry.caller.key: entry.caller for entry in entries.values()}
    return [
        Client(name=callers[key].name, caller=callers[key], model=model, stream=who.stream, tries=who.tries)
        for key, who, model in made
    ]


async def _now(call: Callable[..., Any], *args: Any) -> Any:
    """Make a blocking call here and now: nobody else runs meanwhile."""
    return call(*args)
