"""What a worker does for tiers: the first and the last of its gates, and what workers tell each other."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, Protocol

import msgspec

from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import admission_rules, tier_plans
from wattmill.app.gates.admission import AdmissionGate, Plan
from wattmill.app.gates.shared_room import SharedRoom
from wattmill.app.gates.tier import TierGate
from wattmill.app.gates.valve import Valve
from wattmill.app.home import Home
from wattmill.distribution.backend_state import BackendState
from wattmill.distribution.gate import Gate
from wattmill.distribution.gateway import Gateway
from wattmill.ports import Clock
from wattmill.scheduling.fleet import FleetView
from wattmill.scheduling.spec import Pool
from wattmill.vocab.tier import Tier


def filled(settings: Settings, pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """Return the places as the policy is to see them; see `WorkerTiers.filled`."""
    if not settings.tiers:
        return pools
    beyond = settings.gateway.workers - 1
    return tuple(
        msgspec.structs.replace(pool, queue=min(pool.queue, settings.admission.ahead) + beyond)
        for pool in pools
    )


def admission_plan(settings: Settings, pools: tuple[Pool, ...]) -> Plan:
    """Return what the last gate works by."""
    declared = settings.pools
    return Plan(
        rules=admission_rules(settings.tiers, settings.admission, workers=settings.gateway.workers),
        tiers={name: number for number, name in enumerate(tier_plans(settings.tiers))},
        slots=tuple(pool.slots + min(declared[pool.name].queue, settings.admission.ahead) for pool in pools),
        fair_over=settings.admission.fair_over,
        prompt_share=settings.admission.prompt_share,
        expected_output_tok=settings.routing.expected_output_tok,
        bound_tok_per_tok=settings.routing.bound_tok_per_tok,
    )


def promised(settings: Settings) -> dict[str, Tier]:
    """Return the tiers with what each of them promises."""
    return {
        name: Tier(
            name=name,
            number=number,
            rank=one.rank,
            ttft_s=one.ttft_s,
            tok_per_s=one.tok_per_s,
            context_tok=one.context_tok,
            privacy=one.privacy,
        )
        for number, (name, one) in enumerate(tier_plans(settings.tiers).items())
    }


def tier_gate(settings: Settings) -> TierGate:
    """Return the first gate."""
    return TierGate(promised(settings), bound_tok_per_tok=settings.routing.bound_tok_per_tok)


def saving_tiers(settings: Settings) -> dict[str, Tier]:
    """Return, by the name of a tier, the lower one that serves its requests near a limit."""
    tiers = promised(settings)
    return {
        name: tiers[plan.saving]
        for name, plan in tier_plans(settings.tiers).items()
        if plan.saving is not None
    }


class Admits(Protocol):
    """Whoever holds the gate that fills places."""

    @property
    def admission(self) -> AdmissionGate | None: ...


class SeenByAll:
    """A place as the policy is to see it where admission fills it: busy with requests of other workers too,
    and with those that are on their way."""

    __slots__ = ("_state", "_tiers")

    def __init__(self, state: BackendState, tiers: Admits) -> None:
        self._state = state
        self._tiers = tiers

    @property
    def busy(self) -> int:
        admission = self._tiers.admission
        taken = self._state.taken
        return taken if admission is None else taken + admission.heading_for(self._state.pool)

    @property
    def healthy(self) -> bool:
        return self._state.healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class WorkerTiers:
    """One per worker. Without declared tiers it does nothing, and nothing of it stands in a request's way."""

    def __init__(self, home: Home, number: int, gateway: Gateway, clock: Clock) -> None:
        self._path = home.run / "room"
        self._number = number
        self._gateway = gateway
        self._clock = clock
        self._room: SharedRoom | None = None
        self.valve = Valve(home, clock)
        self.admission: AdmissionGate | None = None

    def filled(self, settings: Settings, pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
        """Return the places as the policy is to see them: with tiers who waits, waits at the gateway. The few
        that may be inside beyond the slots are those of `ahead`, and one for each worker that looks at the
        same moment."""
        return filled(settings, pools)

    def life(self, settings: Settings, pool: str) -> BackendState:
        """Return a place's life as the policy is to see it."""
        state = self._gateway.state(pool)
        if not settings.tiers:
            return state
        return SeenByAll(state, self)  # type: ignore[return-value]  # it is one in all but its type

    def gates(self, settings: Settings, fleet: FleetView, others: tuple[Gate, ...]) -> tuple[Gate, ...]:
        """Return all gates in their order: the tier is known first, and who goes when is decided last."""
        if not settings.tiers:
            if self.admission is not None:
                self.admission.release()
                self.admission = None
            self._part()
            return others
        pools = fleet.fleet.pools
        self._share(settings, [pool.name for pool in pools])
        lives = [self._gateway.state(pool.name) for pool in pools]
        plan = admission_plan(settings, pools)
        if self.admission is None:
            self.admission = AdmissionGate(
                plan,
                clock=self._clock,
                fleet=lambda: fleet.fleet,
                lives=lives,
                shared=self._room,
                valve=self.valve,
            )
        else:
            self.admission.use(plan, fleet=lambda: fleet.fleet, lives=lives)
        return (tier_gate(settings), *others, self.admission)

    def tick(self) -> None:
        """See which other workers live, and whether power is short; a few times a second."""
        self.valve.tick()
        if self._room is not None:
            self._room.look()

    def status(self) -> dict[str, Any]:
        """Return how many wait, by tier; nothing without tiers."""
        if self.admission is None:
            return {}
        power = {**self.valve.status(), "lower_waiting": self.admission.lower_waiting()}
        return {"waiting": self.admission.admission.counts(), "power": power}

    def close(self) -> None:
        self._part()

    def _share(self, settings: Settings, pools: list[str]) -> None:
        """Tell other workers of our slots, and see theirs, if there are any."""
        if settings.gateway.workers < 2:
            return
        if self._room is None:
            self._room = SharedRoom(self._path, self._number)
        room = self._room
        room.use(pools)
        for number, pool in enumerate(pools):
            state = self._gateway.state(pool)
            state.share(*room.busy_cell(number), partial(room.busy_elsewhere, number))

    def _part(self) -> None:
        room, self._room = self._room, None
        if room is None:
            return
        for pool in list(self._gateway.upstreams):
            self._gateway.state(pool).share_no_more()
        with contextlib.suppress(OSError):
            room.close()
