"""What an exchange knows of the door that its request came through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from wattmill.distribution.doors.door import Door, Visit, Writer
from wattmill.vocab.request import Entry

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange
    from wattmill.distribution.gate import Tap


class Keeper(Protocol):
    """Keeps finished answers for their clients."""

    def keep(self, x: Exchange, answer: Mapping[str, Any], done: Callable[[bool], None]) -> None:
        """Keep `answer`, the object as the client sees it; call `done` on the event loop, once: True when it
        will be found by every worker."""


class Entrance:
    """Made with the exchange. `visit` is set once the body was read.

    `keeper` is set by a gate that keeps the answer; `pending` says that the request continues an earlier one
    which nobody has looked up yet. `outer` taps see what the client sees, in the door's own words.
    """

    __slots__ = ("door", "keeper", "outer", "pending", "visit")

    def __init__(self, door: Door) -> None:
        self.door = door
        self.visit: Visit
        self.keeper: Keeper | None = None
        self.pending = False
        self.outer: list[Tap] = []

    @property
    def name(self) -> Entry:
        return self.door.name

    def writer(self) -> Writer:
        return self.visit.writer(kept=self.keeper is not None)
