"""The doors between a layer and the world: narrow protocols that `app/` fills.

Live and twin plug different things into the same doors; nothing else knows which world it lives in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wattmill.vocab.budget import Spend, Unit
from wattmill.vocab.fact import Fact
from wattmill.vocab.meter import MeterSpec, Reading
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage


class Clock(Protocol):
    """Two readings: `now` for durations (monotonic), `wall_us` for instants that people and books see."""

    def now(self) -> float: ...  # seconds, monotonic

    def wall_us(self) -> int: ...  # microseconds since 1970 UTC


class Meter(Protocol):
    """One meter of power, found by entry point (`wattmill.meters`)."""

    @property
    def spec(self) -> MeterSpec: ...

    def read(self, *, t_s: float) -> Sequence[Reading]:
        """Return what it says now, one reading of each of its counters, stamped `t_s` (monotonic seconds) or
        with the instant it was taken. Raises `MeterError` where it cannot be read: a gap, never a zero."""


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
    """Amounts set aside at every node of a path until they are settled or released."""

    @property
    def nusd(self) -> int: ...

    @property
    def held(self) -> tuple[int, ...]:
        """Gauges of limits with what is reserved of each, as an intent carries them."""

    def took(self, spend: Spend) -> tuple[int, ...]:
        """The same gauges with what `spend` uses of each, as an end carries them."""

    def part(self, unit: Unit) -> int | None:
        """What was granted in a unit that some limit on the path counts; None: none does."""


class Purse(Protocol):
    """The budget tree as the gateway sees it: nothing leaves before it is reserved.

    `reserve` takes from allotments in memory and never blocks; when they are too small it returns None, and
    the caller awaits `lease`, which asks the shared caps for more and then reserves. Both are atomic over all
    nodes of the path: everything or nothing.
    """

    def reserve(self, path: tuple[int, ...], worst: Spend) -> Grant | None: ...

    async def lease(self, path: tuple[int, ...], worst: Spend, floor: Spend) -> Grant | Refusal:
        """Reserve `worst`, or what the limits still allow if that is at least `floor`, or refuse."""

    def settle(self, grant: Grant, spend: Spend) -> None:
        """Charge `spend` (`NOTHING` releases all); what was reserved beyond it is free again. Idempotent."""

    def shrink(self, grant: Grant, worst: Spend) -> None:
        """Keep only `worst` of a reservation and free the rest at once."""


class Rate(Protocol):
    """Price tokens: the one rating rule, so that what a client is told is what the books say."""

    def __call__(self, price: Price, usage: Usage) -> int: ...  # nano-dollars
