"""Files and batches in the kept store: who may see what, and for how long."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import msgspec

from wattmill.app.batches.spec import ENDED, LANE, Batch, BatchSettings, Done, FileMeta
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import Item, Kind, Line
from wattmill.units import US_PER_S
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller

_DAY_US = 86_400 * US_PER_S
_PAGE = 1_000
_RANK = {name: rank for rank, name in enumerate(PRIVACY_CLASSES)}
_encode = msgspec.json.Encoder().encode
_file = msgspec.json.Decoder(FileMeta).decode
_batch = msgspec.json.Decoder(Batch).decode
_done = msgspec.json.Decoder(Done).decode


class Kept(msgspec.Struct, frozen=True):
    """A batch, and the item that it stands in."""

    batch: Batch
    item: Item


class BatchShelf:
    """All that files and batches ask of the store. Raises `KeptUnavailable` and `NoRoom`."""

    def __init__(
        self, shelf: Shelf, settings: Callable[[], BatchSettings], wall_us: Callable[[], int]
    ) -> None:
        self._shelf = shelf
        self.settings = settings
        self.wall_us = wall_us

    def scope(self, caller: Caller) -> int:
        """Return the node that owns what `caller` makes."""
        path = caller.path
        return path[-2] if self.settings().scope == "team" and len(path) > 1 else caller.key

    # ---- files

    async def add_file(
        self, node: int, meta: FileMeta, content: bytes, *, privacy: str, keep_s: float | None, id: str = ""
    ) -> Item:
        """Keep a file; one with the same `id` is replaced."""
        now_us = self.wall_us()
        keep_us = int(self.settings().keep_days * _DAY_US)
        if keep_s is not None:
            keep_us = min(keep_us, int(keep_s * US_PER_S))
        item = Item(
            kind="file",
            node=node,
            data_class=privacy,
            id=id or f"file-{secrets.token_hex(12)}",
            created_us=now_us,
            expires_us=now_us + keep_us,
            meta=_encode(meta),
            body=content,
        )
        await self._shelf.put(item)
        return item

    async def file(self, node: int, id: str, *, privacy: str) -> tuple[Item, FileMeta] | None:
        """Return a file of `node`, if data of its class may be seen by who works with class `privacy`."""
        item = await self._shelf.get("file", node, id)
        if item is None or _RANK[item.data_class] > _RANK[privacy]:
            return None
        return item, _file(item.meta)

    async def files(
        self, node: int, *, privacy: str, after: str, limit: int, purpose: str | None = None
    ) -> list[tuple[str, FileMeta, int, int]]:
        """Return (id, meta, created, expires) of up to `limit` files, newest first."""
        found = []
        async for line in self._lines("file", node, privacy, after):
            meta = _file(line.meta)
            if purpose in (None, meta.purpose):
                found.append((line.id, meta, line.created_us, line.expires_us))
                if len(found) == limit:
                    break
        return found

    async def _lines(self, kind: Kind, node: int, privacy: str, after: str) -> AsyncIterator[Line]:
        """Go through what who works with class `privacy` may see, page by page."""
        while True:
            page = await self._shelf.lines(kind, node, after=after, limit=_PAGE)
            for line in page:
                if _RANK[line.data_class] <= _RANK[privacy]:
                    yield line
            if len(page) < _PAGE:
                return
            after = page[-1].id

    async def delete_file(self, node: int, id: str) -> bool:
        return await self._shelf.delete("file", node, id)

    # ---- batches

    async def add_batch(self, node: int, batch: Batch) -> None:
        await self._shelf.put(self._item(node, batch))

    async def batch(self, node: int, id: str, *, privacy: str) -> Kept | None:
        item = await self._shelf.get("batch", node, id)
        if item is None or _RANK[item.data_class] > _RANK[privacy]:
            return None
        return Kept(_batch(item.meta), item)

    async def batches(self, node: int, *, privacy: str, after: str, limit: int) -> list[Batch]:
        found = []
        async for line in self._lines("batch", node, privacy, after):
            found.append(_batch(line.meta))
            if len(found) == limit:
                break
        return found

    async def running(self) -> list[tuple[int, str]]:
        """Return (node, id) of the batches that have not ended, the oldest first."""
        return [(line.node, line.id) for line in await self._shelf.owned("batch")]

    async def change(self, kept: Kept, batch: Batch) -> Kept | None:
        """Replace a batch that nobody has changed since; None: somebody has, or it is gone."""
        now = msgspec.structs.replace(self._item(kept.item.node, batch), version=kept.item.version)
        if not await self._shelf.change(now):
            return None
        return Kept(batch, msgspec.structs.replace(now, version=now.version + 1))

    def _item(self, node: int, batch: Batch) -> Item:
        """An ended batch goes after the declared days; one that runs is kept until it has ended."""
        keep_us = int(self.settings().keep_days * _DAY_US)
        ended = batch.status in ENDED
        return Item(
            kind="batch",
            node=node,
            data_class=batch.privacy,
            id=batch.id,
            created_us=batch.created_at * US_PER_S,
            expires_us=self.wall_us() + keep_us if ended else 2**62,
            owner="" if ended else LANE,
            meta=_encode(batch),
        )

    # ---- finished lines

    async def add_done(self, node: int, batch: Batch, number: int, done: Done) -> None:
        """Write down that a line is finished, before the next one takes its place."""
        await self._shelf.put(
            Item(
                kind="batch_line",
                node=node,
                data_class=done.privacy,
                id=_line_id(batch.id, number),
                created_us=self.wall_us(),
                # After a death between a batch's end and this, nobody else would come for it.
                expires_us=batch.expires_at * US_PER_S + int(self.settings().keep_days * _DAY_US),
                owner=LANE,
                body=_encode(done),
            )
        )

    async def numbers_done(self, node: int, batch: Batch) -> set[int]:
        """Return the numbers of the lines that are finished."""
        found: set[int] = set()
        after = ""
        while True:
            lines = await self._shelf.lines("batch_line", node, after=after, limit=_PAGE)
            found.update(
                int(line.id.rpartition("/")[2]) for line in lines if line.id.startswith(f"{batch.id}/")
            )
            if len(lines) < _PAGE:
                return found
            after = lines[-1].id

    async def done(self, node: int, batch: Batch, number: int) -> Done | None:
        item = await self._shelf.get("batch_line", node, _line_id(batch.id, number))
        return None if item is None else _done(item.body)

    async def forget_line(self, node: int, batch: Batch, number: int) -> None:
        await self._shelf.delete("batch_line", node, _line_id(batch.id, number))


def _line_id(batch_id: str, number: int) -> str:
    return f"{batch_id}/{number:07d}"
