"""The fleet as the policy sees it: what was declared, corrected by what was measured, in numbered views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from wattmill.ports import Clock, Journal
from wattmill.scheduling.policy import cheapest_adequate, visible_models
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Snapshot
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route


class PoolLife(Protocol):
    """What the data plane knows of a pool at this moment; None where nothing was measured yet."""

    busy: int
    healthy: bool
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None


class FleetView:
    """The view of one worker. A view is replaced, never edited; each has an id that decisions name."""

    def __init__(
        self,
        *,
        pools: tuple[Pool, ...],
        life: Mapping[str, PoolLife],
        weights: Weights,
        journal: Journal,
        clock: Clock,
        first_id: int = 1,
    ) -> None:
        self._declared = pools
        self._life = [life[pool.name] for pool in pools]
        self._weights = weights
        self._journal = journal
        self._clock = clock
        self.fleet = Fleet(id=first_id - 1, at_us=0, pools=())
        self.refresh()

    def refresh(self) -> None:
        """Make a new view if health or a measured speed (to two digits) has changed since the last."""
        pools = tuple(map(_seen, self._declared, self._life))
        if pools == self.fleet.pools:
            return
        self.fleet = Fleet(id=self.fleet.id + 1, at_us=self._clock.wall_us(), pools=pools)
        self._journal.append_note(
            Snapshot(self.fleet.id, self.fleet.at_us, msgspec.msgpack.encode(self.fleet))
        )

    def route(self, request: Request, caller: Caller) -> Route | Refusal:
        busy = [life.busy for life in self._life]
        for pool, life in zip(self.fleet.pools, self._life, strict=True):
            if pool.healthy != life.healthy:
                self.refresh()
                break
        return cheapest_adequate(request, caller, self.fleet, busy=busy, weights=self._weights)

    def models(self, caller: Caller) -> list[tuple[str, str]]:
        """Return (id, owner) of what the caller may ask for."""
        owners = {pool.name for pool in self.fleet.pools}
        names = visible_models(caller, self.fleet)
        return [
            (name, name.split("/", 1)[0] if name.split("/", 1)[0] in owners else "wattmill") for name in names
        ]


Router = Callable[[Request, Caller], Route | Refusal]


def _seen(pool: Pool, life: PoolLife) -> Pool:
    return msgspec.structs.replace(
        pool,
        healthy=life.healthy,
        prefill_tok_per_s=_two_digits(life.prefill_tok_per_s) or pool.prefill_tok_per_s,
        decode_tok_per_s=_two_digits(life.decode_tok_per_s) or pool.decode_tok_per_s,
    )


def _two_digits(value: float | None) -> float | None:
    return None if value is None or value <= 0 else float(f"{value:.1e}")
