"""Claims on a client's idempotency keys: one request is made once, however often and wherever it is sent.

A claim is one row of the kept store, owned by the epoch of the worker that serves the request. While its
owner lives, a second request with the same key is told to wait. The death of an owner is confirmed as
everywhere: by the lock that the kernel has released, never by age. Then whoever comes next takes the claim
over, by compare-and-swap. A finished claim holds the answer until it expires.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import msgspec

from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import Item, KeptUnavailable, NoRoom
from wattmill.units import US_PER_S
from wattmill.vocab.refusal import Refusal

_NEVER_US = 2**62
"""When a running claim expires: its owner ends it, or its owner's death does."""
_TRIES = 20  # takes-over that lost a race


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim says beside the answer; kept as JSON."""

    body_sha256: str
    request: str  # id of the request that made it
    done: bool = False
    stream: bool = False
    kept: bool = False  # the answer is here


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One that this worker owns."""

    item: Item
    told: Told


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a finished request."""

    request: str
    stream: bool
    answer: bytes


_told = msgspec.json.Decoder(Told).decode


class Claims:
    """The claims of one worker. `alive(epoch)` may block for a moment; it is called in a thread."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        epoch: str,
        alive: Callable[[str], bool],
        wall_us: Callable[[], int],
        keep_s: float,
    ) -> None:
        self._shelf = shelf
        self._epoch = epoch
        self._alive = alive
        self._wall_us = wall_us
        self.keep_s = keep_s
        self._mine: dict[tuple[int, str], str] = {}  # (node, id) -> request: those that run here
        self._ending: dict[tuple[int, str], asyncio.Event] = {}

    async def claim(
        self, *, node: int, name: bytes, data_class: str, body: bytes, request: str
    ) -> Claim | Stored | Refusal:
        """Claim the key `name` of `node` for the request that is `body`; or return the answer that it has
        had, or why it cannot be served now."""
        id = hashlib.sha256(name).hexdigest()
        told = Told(body_sha256=hashlib.sha256(body).hexdigest(), request=request)
        now_us = self._wall_us()
        item = Item(
            kind="idempotency",
            node=node,
            data_class=data_class,
            id=id,
            created_us=now_us,
            expires_us=_NEVER_US,
            meta=msgspec.json.encode(told),
            owner=self._epoch,
        )
        place = (node, id)
        try:
            for _ in range(_TRIES):
                ending = self._ending.get(place)
                if ending is not None:
                    await ending.wait()  # its answer left a moment ago and is being written down
                found = await self._shelf.add(item)
                if found is None:
                    self._mine[place] = request
                    return Claim(item=item, told=told)
                answer = self._judge(found, told, data_class)
                if answer is not None:
                    return answer
                if await self._runs(found):
                    return Refusal(
                        code="idempotency_running",
                        message=f"the request with this idempotency key ({_told(found.meta).request}) is "
                        "still running; ask again for its answer",
                        param="idempotency-key",
                        retry_after_s=1.0,
                    )
                mine = msgspec.structs.replace(item, version=found.version)
                if await self._shelf.change(mine):
                    self._mine[place] = request
                    return Claim(item=msgspec.structs.replace(mine, version=found.version + 1), told=told)
            return Refusal(
                code="idempotency_running",
                message="several requests with this idempotency key arrive at once; ask again",
                param="idempotency-key",
                retry_after_s=1.0,
            )
        except (KeptUnavailable, NoRoom) as error:
            return Refusal(
                code="kept_unavailable",
                message=f"the idempotency key cannot be written down, so it could be served twice: {error}",
                param="idempotency-key",
                retry_after_s=2.0,
            )

    def _judge(self, found: Item, told: Told, data_class: str) -> Stored | Refusal | None:
        """Return what a claim that is there says to the request `told`; None: it runs, or has died."""
        before = _told(found.meta)
        if before.body_sha256 != told.body_sha256 or found.data_class != data_class:
            what = "body" if before.body_sha256 != told.body_sha256 else "data class"
            return Refusal(
                code="idempotency_mismatch",
                message="this idempotency key was used for a request with another "
                f"{what} ({before.request}); use a new key for a new request",
                param="idempotency-key",
            )
        if not before.done:
            return None
        if not before.kept:
            return Refusal(
                code="idempotency_gone",
                message=f"{before.request} had this idempotency key and was answered; the answer was too "
                "long to keep, or not to be kept. Use a new key to ask anew",
                param="idempotency-key",
            )
        return Stored(request=before.request, stream=before.stream, answer=found.body)

    async def _runs(self, found: Item) -> bool:
        if found.owner == self._epoch:
            return (found.node, found.id) in self._mine
        return bool(found.owner) and await asyncio.to_thread(self._alive, found.owner)

    async def finish(self, claim: Claim, answer: bytes | None, *, stream: bool) -> None:
        """The request was answered: keep `answer` (None: only that it was) for repetitions."""
        told = msgspec.structs.replace(claim.told, done=True, stream=stream, kept=answer is not None)
        done = msgspec.structs.replace(
            claim.item,
            owner="",
            expires_us=self._wall_us() + int(self.keep_s * US_PER_S),
            meta=msgspec.json.encode(told),
            body=answer or b"",
        )
        place = (done.node, done.id)
        ending = self._ending[place] = asyncio.Event()
        try:
            if not await self._change(done) and answer is not None:
                told = msgspec.structs.replace(told, kept=False)
                await self._change(msgspec.structs.replace(done, body=b"", meta=msgspec.json.encode(told)))
        finally:
            self._mine.pop(place, None)
            del self._ending[place]
            ending.set()

    async def _change(self, item: Item) -> bool:
        try:
            return await self._shelf.change(item)
        except NoRoom:
            return False

    async def free(self, claim: Claim) -> None:
        """The request was not answered: who asks again is served anew."""
        item = claim.item
        place = (item.node, item.id)
        ending = self._ending[place] = asyncio.Event()
        try:
            await self._shelf.delete(item.kind, item.node, item.id, version=item.version, owner=self._epoch)
        finally:
            self._mine.pop(place, None)
            del self._ending[place]
            ending.set()

    async def bury(self) -> int:
        """Delete claims of the dead that nobody has asked for again in the time that answers are kept."""
        gone = 0
        for line in await self._shelf.owned("idempotency"):
            old = self._wall_us() - line.created_us > self.keep_s * US_PER_S
            if old and line.owner != self._epoch and not await asyncio.to_thread(self._alive, line.owner):
                gone += await self._shelf.delete(
                    line.kind, line.node, line.id, version=line.version, owner=line.owner
                )
        return gone
