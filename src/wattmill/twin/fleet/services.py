"""What one simulated gateway worker works with: the live services, as far as no bytes are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from wattmill.distribution.backend_state import BackendState
from wattmill.distribution.resilience import Resilience
from wattmill.distribution.spec import Backend
from wattmill.distribution.spending import Unseen
from wattmill.ledger.rating import output_affordable, worst_case_nusd
from wattmill.ports import Grant, Journal
from wattmill.scheduling.fleet import FleetView
from wattmill.twin.fleet.timers import Clock
from wattmill.twin.fleet.visit import Visit
from wattmill.vocab.budget import Spend
from wattmill.vocab.fact import Status
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage


class Purse(Protocol):
    """`ports.Purse` where the caps answer at once: nobody waits for a database in a simulation."""

    def reserve(self, path: tuple[int, ...], worst: Spend) -> Grant | None: ...
    def lease_now(self, path: tuple[int, ...], worst: Spend, floor: Spend) -> Grant | Refusal: ...
    def settle(self, grant: Grant, spend: Spend) -> None: ...
    def shrink(self, grant: Grant, worst: Spend) -> None: ...


class Gate(Protocol):
    """`distribution.gate.Gate`, of which a visit is all that it looks at."""

    def enter(self, x: Any) -> Any: ...
    def left(self, x: Any) -> None: ...


class Metrics:
    """Counts what gates count, by name and labels."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}

    def count(self, *labels: str, by: float = 1) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + by


class Rates:
    """What a reservation is priced by: the ledger's own rule."""

    worst_case = staticmethod(worst_case_nusd)
    affordable = staticmethod(output_affordable)


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's services are, for the twin."""

    view: FleetView
    life: dict[str, BackendState]
    purse: Purse
    journal: Journal
    clock: Clock
    backends: Mapping[str, Backend]
    counts: frozenset[str]  # pools whose engines count a prompt when they are asked
    written: Callable[[], bytes] | None = None  # the fact that the journal wrote last, as it wrote it
    gates: tuple[Gate, ...] = ()
    resilience: Resilience = Resilience()
    unseen: Unseen = "reserved"
    default_output_tok: int = 512
    bound_tok_per_tok: float = 4.0
    affinity: bool = True
    streams: frozenset[str] = (
        frozenset()
    )  # pools whose engines are asked for a stream whatever the client wants


class Heard(Protocol):
    """Whoever wants to know what became of the requests."""

    def ended(self, visit: Visit, status: Status, ttft_us: int | None, usage: Usage) -> None: ...
    def refused(self, visit: Visit, refusal: Refusal) -> None: ...


RATES = Rates()
