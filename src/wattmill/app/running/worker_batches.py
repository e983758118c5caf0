"""What a worker has for files and batches: the doors, and the lane if it holds the lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wattmill.app.batches.door import batch_doors
from wattmill.app.batches.inside import Answered, InsideKeys, ask
from wattmill.app.batches.lane import Lane
from wattmill.app.batches.shelf import BatchShelf
from wattmill.app.declared.settings import Settings
from wattmill.app.home import Home
from wattmill.app.identify import Keyring
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.store import KeptStore
from wattmill.distribution.gateway import Gateway
from wattmill.distribution.side_door import SideDoor
from wattmill.ports import Clock

BATCH_TIER = "batch"


class WorkerBatches:
    """Made once; `use` at each reload. Nothing is opened before something is kept, or was kept before."""

    def __init__(
        self, home: Home, gateway: Gateway, keyring: Keyring, clock: Clock, settings: Settings,
        *, may_begin: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._gateway = gateway
        self._clock = clock
        self._settings = settings
        self._store = KeptStore(home.kept_db, limits=settings.kept)
        self._shelf = Shelf(self._store)
        keys = InsideKeys()
        keyring.inside = keys.key_of
        self._kept = BatchShelf(self._shelf, lambda: self._settings.batches, clock.wall_us)
        self._lane = Lane(
            self._kept,
            self._ask,
            keys,
            lock=home.lane_lock,
            tier=self._tier,
            may_begin=may_begin,
            count=lambda outcome: gateway.metrics.count("wattmill_batch_lines_total", outcome),
        )
        self._running: asyncio.Task[None] | None = None

    def use(self, settings: Settings) -> dict[bytes, SideDoor]:
        """Work by `settings` from now on; return the side doors."""
        self._settings = settings
        self._store.limits = settings.kept
        return batch_doors(self._kept, self._lane.wake.set)

    async def run(self) -> None:
        """Work in the lane until cancelled."""
        await self._lane.run()

    async def drain(self, timeout_s: float) -> None:
        """Let the lines at work finish; another worker goes on behind them."""
        await self._lane.drain(timeout_s)

    def close(self) -> None:
        """Finish what was asked of the store. Blocks."""
        self._shelf.close()

    async def _ask(self, path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        return await ask(self._gateway, self._clock, path, headers, body)

    def _tier(self) -> str | None:
        named = self._settings.batches.tier
        return named or (BATCH_TIER if BATCH_TIER in self._settings.tiers else None)
