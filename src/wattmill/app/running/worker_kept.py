"""What one worker keeps for tenants: the store, the claims, the cache, and their housekeeping."""

from __future__ import annotations

import logging

import msgspec

from wattmill.app.declared.settings import Settings
from wattmill.app.gates.answer_shelf import AnswerShelf
from wattmill.app.gates.cache import CacheGate
from wattmill.app.gates.claims import Claims
from wattmill.app.gates.idempotency import IdempotencyGate
from wattmill.app.gates.recording import size_limit
from wattmill.app.home import Home
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import KeptUnavailable
from wattmill.app.kept.store import KeptStore
from wattmill.distribution.gate import Gate
from wattmill.ledger import epoch as epochs
from wattmill.ports import Clock

_SWEEP_S = 60.0
_MIB = 1 << 20
_log = logging.getLogger("wattmill.kept")


class WorkerKept:
    """Lives as long as the worker; `use` follows each declaration. `shelf` is for whoever keeps something."""

    def __init__(self, home: Home, epoch: str, clock: Clock) -> None:
        self._clock = clock
        self._store = KeptStore(home.kept_db, wall_us=clock.wall_us)
        self.shelf = Shelf(self._store)
        self._claims = Claims(
            self.shelf,
            epoch=epoch,
            alive=lambda name: epochs.alive(home.journal / name),
            wall_us=clock.wall_us,
            keep_s=0.0,
        )
        self._answers = AnswerShelf(self.shelf, memory_bytes=0, wall_us=clock.wall_us)
        self._idempotency: IdempotencyGate | None = None
        self._caching = False
        self._swept_s = clock.now()

    def gates(self, settings: Settings) -> list[Gate]:
        """Return idempotency and, where models are listed, the cache, by what is declared now."""
        self._store.limits = settings.kept
        self._claims.keep_s = float(settings.idempotency.keep_s)
        most_bytes = size_limit(settings.kept.item_mib)
        self._idempotency = IdempotencyGate(self._claims, most_bytes=most_bytes)
        gates: list[Gate] = [self._idempotency]
        self._caching = bool(settings.cache.models)
        self._answers.memory_bytes = settings.cache.memory_mib * _MIB
        if self._caching:
            guarded_by = msgspec.json.encode(settings.privacy, order="sorted")
            gates.append(
                CacheGate(settings.cache, self._answers, most_bytes=most_bytes, guarded_by=guarded_by)
            )
        return gates

    def forget(self) -> None:
        """What is kept was deleted by hand: give nothing of it from memory."""
        self._answers.forget()

    async def tick(self) -> None:
        """Write and read what is cached; once a minute delete what has expired and bury dead claims."""
        if self._caching:
            await self._answers.tick()
        if self._clock.now() - self._swept_s < _SWEEP_S:
            return
        self._swept_s = self._clock.now()
        try:
            await self.shelf.sweep()
            await self._claims.bury()
        except KeptUnavailable as error:
            _log.warning("the kept store is not swept: %s", error)

    async def close(self) -> None:
        """Write down what was answered; then close the file."""
        if self._idempotency is not None:
            await self._idempotency.settled()
        if self._caching:
            await self._answers.tick()
        self.shelf.close()
