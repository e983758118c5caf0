"""What a request passes between being understood and being routed, and what its answer passes on the way out.

Gates and taps are how budgets of runs, privacy, idempotency, caching and admission take part in a request
without the exchange knowing any of them. `app/` makes them and hands them in by `Services.gates`, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange


class Waiting:
    """The gate has taken the request over: it calls `Exchange.go_on` or `Exchange.answer_with` later."""

    __slots__ = ()


WAIT: Final = Waiting()


class Gate(Protocol):
    """One thing that every inference request passes, once. Called on the event loop; must not block."""

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        """Let `x` pass (None), refuse it, or keep it waiting.

        `x.caller`, `x.draft` and `x.ask` are set. A gate may replace `x.ask` (its class may rise, its limit
        may fall), give `x` a draft with another body, and add taps. After `WAIT` it calls `x.go_on` exactly
        once, or `x.answer_with`; either is harmless if the client has left meanwhile.
        """

    def left(self, x: Exchange) -> None:
        """The exchange that entered is over: answered, refused, failed, or its client left. Called once."""


@runtime_checkable
class Selective(Protocol):
    """A gate that can say beforehand whom it lets pass untouched, by nothing but the head and the key."""

    def concerns(self, headers: Mapping[bytes, bytes], caller: Caller) -> bool:
        """Say whether a request with these headers may be of interest. False is remembered and holds for
        every further one of that head and caller: such a request neither enters nor leaves this gate."""


def concerned(gates: tuple[Gate, ...], headers: Mapping[bytes, bytes], caller: Caller) -> tuple[Gate, ...]:
    """Return the gates that a request with this head has to pass, in their order."""
    return tuple([g for g in gates if not isinstance(g, Selective) or g.concerns(headers, caller)])


class Tap(Protocol):
    """Sees what the client is about to see, and may change it. Each call returns what goes on."""

    def again(self) -> None:
        """Another place answers from the beginning: of the first, the client has seen nothing."""

    def event(self, event: bytes) -> bytes:
        """One event of a stream, `data: ...` with its blank line; b"" keeps it back."""

    def whole(self, body: bytes) -> bytes:
        """The body of an answer that is not streamed."""

    def ended(self, complete: bool) -> bytes:
        """The stream ends: return what was kept back, b"" if nothing. `complete`: as the engine meant it."""
