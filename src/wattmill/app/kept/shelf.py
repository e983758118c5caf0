"""The kept store as the event loop uses it: the same calls, awaited, in one thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from wattmill.app.kept.spec import Item, Line
from wattmill.app.kept.store import KeptStore

P = ParamSpec("P")
R = TypeVar("R")


class Shelf:
    """Raises what the store raises: `KeptUnavailable`, `NoRoom`. The thread starts with the first call."""

    def __init__(self, store: KeptStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kept")

    async def put(self, item: Item) -> None:
        await self._call(self.store.put, item)

    async def put_many(self, items: Sequence[Item]) -> int:
        return await self._call(self.store.put_many, items)

    async def since(self, kind: str, row: int) -> tuple[int, list[tuple[int, str]]]:
        return await self._call(self.store.since, kind, row)

    async def add(self, item: Item) -> Item | None:
        return await self._call(self.store.add, item)

    async def get(self, kind: str, node: int, id: str, *, data_class: str | None = None) -> Item | None:
        return await self._call(self.store.get, kind, node, id, data_class=data_class)

    async def change(self, item: Item) -> bool:
        return await self._call(self.store.change, item)

    async def delete(
        self, kind: str, node: int, id: str, *, version: int | None = None, owner: str | None = None
    ) -> bool:
        return await self._call(self.store.delete, kind, node, id, version=version, owner=owner)

    async def lines(
        self, kind: str, node: int, *, data_class: str | None = None, after: str = "", limit: int = 100
    ) -> list[Line]:
        return await self._call(self.store.lines, kind, node, data_class=data_class, after=after, limit=limit)

    async def owned(self, kind: str) -> list[Line]:
        return await self._call(self.store.owned, kind)

    async def delete_all(self, *, kind: str | None = None, node: int | None = None) -> int:
        return await self._call(self.store.delete_all, kind=kind, node=node)

    async def sweep(self) -> int:
        return await self._call(self.store.sweep)

    async def _call(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Finish what was asked, then close the file. Blocks."""
        self._thread.shutdown(wait=True)
        self.store.close()
