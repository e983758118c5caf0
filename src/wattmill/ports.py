"""The doors between a layer and the world: narrow protocols that `app/` fills.

Live and twin plug different things into the same doors; nothing else knows which world it lives in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wattmill.vocab.fact import Fact
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage


class Clock(Protocol):
    """Two readings: `now` for durations (monotonic), `wall_us` for instants that people and books see."""

    def now(self) -> float: ...  # seconds, monotonic

    def wall_us(self) -> int: ...  # microseconds since 1970 UTC


class Meter(Protocol):
    def read_j(self) -> float | None: ...  # joules since start; None: cannot measure


class Store(Protocol):
    def append(self, facts: Sequence[Fact]) -> None: ...


class JournalUnavailable(Exception):
    """The journal cannot promise room for a record and its end; nothing may leave."""


class Journal(Protocol):
    """Append-only and durable against the death of the process when `append` returns."""

    epoch: str

    def append_intent(self, fact: Fact) -> None:
        """Write and set room aside for the end record. Raises `JournalUnavailable`."""

    def append_end(self, fact: Fact) -> None:
        """Write into the room that the intent set aside; never fails for lack of space."""

    def append_note(self, fact: Fact) -> bool:
        """Write if there is room (progress, refusals, snapshots); False if there was none."""


class Grant(Protocol):
    """Money set aside at every node of a path until it is settled or released."""

    @property
    def nusd(self) -> int: ...


class Purse(Protocol):
    """The budget tree as the gateway sees it: nothing leaves before it is reserved.

    `reserve` takes from allotments in memory and never blocks; when they are too small it returns None, and
    the caller awaits `lease`, which asks the shared caps for more and then reserves. Both are atomic over all
    nodes of the path: everything or nothing.
    """

    def reserve(self, path: tuple[int, ...], nusd: int) -> Grant | None: ...

    async def lease(self, path: tuple[int, ...], nusd: int, floor_nusd: int) -> Grant | Refusal:
        """Reserve `nusd`, or what the caps still allow if that is at least `floor_nusd`, or refuse."""

    def settle(self, grant: Grant, charge_nusd: int) -> None:
        """Charge `charge_nusd` (0 releases all); what was reserved beyond it is free again. Idempotent."""


class Rate(Protocol):
    """Price tokens: the one rating rule, so that what a client is told is what the books say."""

    def __call__(self, price: Price, usage: Usage) -> int: ...  # nano-dollars
