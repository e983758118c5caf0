"""Cached answers as one worker has them: in memory first, in the kept store behind it, written in bundles.

What the other workers have cached is learned by polling what is new in the store: a request whose key nobody
has cached costs no look at the disk. What is deleted there may be given from memory until `forget` is told.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import Item, KeptUnavailable
from wattmill.vocab.fact import UsageSource
from wattmill.vocab.usage import Usage

_log = logging.getLogger("wattmill.cache")
_KNOWN = 1_000_000  # keys remembered to be in the store, 16 bytes of each
_ENTRY_BYTES = 512  # counted for each beside its answer


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as a place gave it."""

    request: str  # id of the request that it was made for
    pool: str
    usage: Usage
    source: UsageSource
    created_us: int
    expires_us: int
    answer: bytes = b""


_decode = msgspec.msgpack.Decoder(Cached).decode
_encode = msgspec.msgpack.Encoder().encode


class AnswerShelf:
    """Keys are (node, data class, digest)."""

    def __init__(self, shelf: Shelf, *, memory_bytes: int, wall_us: Callable[[], int]) -> None:
        self._shelf = shelf
        self.memory_bytes = memory_bytes
        self._wall_us = wall_us
        self._memory: OrderedDict[tuple[int, str, str], Cached] = OrderedDict()
        self._bytes = 0
        self._known: set[bytes] = set()
        self._row = 0
        self._new: list[Item] = []

    # ---- reading

    def in_memory(self, node: int, data_class: str, digest: str) -> Cached | None:
        key = (node, data_class, digest)
        found = self._memory.get(key)
        if found is None:
            return None
        if found.expires_us <= self._wall_us():
            self._drop(key)
            return None
        self._memory.move_to_end(key)
        return found

    def may_be_in_store(self, node: int, digest: str) -> bool:
        return _short(node, digest) in self._known

    async def from_store(self, node: int, data_class: str, digest: str) -> Cached | None:
        try:
            item = await self._shelf.get("cache", node, digest, data_class=data_class)
        except KeptUnavailable as error:
            _log.warning("the cache is not read: %s", error)
            return None
        if item is None:
            return None
        found = msgspec.structs.replace(_decode(item.meta), answer=item.body)
        self._remember((node, data_class, digest), found)
        return found

    # ---- writing

    def keep(self, node: int, data_class: str, digest: str, cached: Cached) -> None:
        """Give it again from now on; on the disk with the next bundle."""
        self._remember((node, data_class, digest), cached)
        self._new.append(
            Item(
                kind="cache",
                node=node,
                data_class=data_class,
                id=digest,
                created_us=cached.created_us,
                expires_us=cached.expires_us,
                body=cached.answer,
                meta=_encode(msgspec.structs.replace(cached, answer=b"")),
            )
        )

    async def tick(self) -> None:
        """Write what is new, and learn what the others have written."""
        new, self._new = self._new, []
        try:
            if new:
                await self._shelf.put_many(new)
            self._row, found = await self._shelf.since("cache", self._row)
        except KeptUnavailable as error:
            _log.warning("%d answers are cached in memory only: %s", len(new), error)
            return
        if len(self._known) + len(found) > _KNOWN:
            self._known.clear()
        self._known.update(_short(node, digest) for node, digest in found)

    def forget(self) -> None:
        """Give nothing from memory any more: what is on the disk may have been deleted."""
        self._memory.clear()
        self._new.clear()
        self._bytes = 0
        self._known.clear()
        self._row = 0

    # ---- memory

    def _remember(self, key: tuple[int, str, str], cached: Cached) -> None:
        self._drop(key)
        size = len(cached.answer) + _ENTRY_BYTES
        if size > self.memory_bytes:
            return
        self._memory[key] = cached
        self._bytes += size
        while self._bytes > self.memory_bytes:
            self._drop(next(iter(self._memory)))

    def _drop(self, key: tuple[int, str, str]) -> None:
        gone = self._memory.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.answer) + _ENTRY_BYTES


def _short(node: int, digest: str) -> bytes:
    return node.to_bytes(8, "little", signed=True) + bytes.fromhex(digest[:16])
