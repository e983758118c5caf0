"""The figures once a second, for as many watchers as there are: one reading, one delta, many sockets."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

WATCHED_S = 1.0
ALONE_S = 5.0
BUSY_SHARE = 20  # a reading may take 1/20 of the time: at 10 M rows the board slows down, not the factory
KEPT_DELTAS = 30
TREND = 150
BEAT_S = 2.0

Json = Any


def delta(old: Json, new: Json) -> list[list[Json]]:
    """Return [path, value] for each part of `new` that differs and [path] for each that is gone.

    Lists of different lengths are replaced as a whole.
    """
    changes: list[list[Json]] = []
    _compare(old, new, [], changes)
    return changes


def _compare(old: Json, new: Json, path: list[str | int], changes: list[list[Json]]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        changes += [[[*path, key]] for key in old if key not in new]
        for key, value in new.items():
            if key in old:
                _compare(old[key], value, [*path, key], changes)
            else:
                changes.append([[*path, key], value])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            _compare(a, b, [*path, i], changes)
    elif old != new or type(old) is not type(new):
        changes.append([path, new])


class Live:
    """Reads the figures in a thread, keeps short trends, and tells watchers what changed."""

    def __init__(self, read: Callable[[], Json]) -> None:
        self._read = read
        self._state: Json = None
        self._fresh_s = 0.0
        self._number = 0
        self._deltas: deque[tuple[int, bytes]] = deque(maxlen=KEPT_DELTAS)
        self._trends: dict[str, deque[tuple[float, float | None]]] = {}
        self._news = asyncio.Condition()
        self._reading = asyncio.Lock()
        self._woken = asyncio.Event()
        self._closing = False
        self.watchers = 0

    async def figures(self, *, at_most_old_s: float = 0.5) -> Json:
        """Return the figures, read again if the last reading is older than that."""
        async with self._reading:
            if self._state is None or time.monotonic() - self._fresh_s > at_most_old_s:
                await self._take()
            return self._state

    async def run(self) -> None:
        """Read until cancelled: each second while someone watches, each five seconds for the trends."""
        took_s = 0.0
        while True:
            pause_s = max(WATCHED_S if self.watchers else ALONE_S, BUSY_SHARE * took_s)
            left_s = self._fresh_s + pause_s - time.monotonic()
            if self._state is not None and left_s > 0:
                self._woken.clear()
                try:
                    async with asyncio.timeout(left_s):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                continue
            async with self._reading:
                began_s = time.monotonic()
                await self._take()
                took_s = time.monotonic() - began_s

    async def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._closing = True
        async with self._news:
            self._news.notify_all()

    async def _take(self) -> None:
        new = await asyncio.to_thread(self._read)
        old, self._state, self._fresh_s = self._state, new, time.monotonic()
        for item in new["line"]:
            trend = self._trends.setdefault(item["id"], deque(maxlen=TREND))
            trend.append((new["at_us"] / 1e6, item["figure"]["value"]))
        if old is not None:
            self._number += 1
            self._deltas.append((self._number, msgspec.json.encode(delta(old, new))))
        async with self._news:
            self._news.notify_all()

    def _full(self) -> bytes:
        return msgspec.json.encode(
            {"figures": self._state, "trends": {id: list(t) for id, t in self._trends.items()}}
        )

    async def _is_news(self, seen: int) -> bool:
        try:
            async with asyncio.timeout(BEAT_S), self._news:
                await self._news.wait_for(lambda: self._closing or self._number > seen)
        except TimeoutError:
            return False
        return True

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: `full`, then a `delta` per reading, `beat` after 2 s of silence."""
        self.watchers += 1
        self._woken.set()
        try:
            await self.figures(at_most_old_s=WATCHED_S)
            seen = self._number
            yield event(b"full", self._full())
            while not self._closing:
                if not await self._is_news(seen):
                    yield event(b"beat", b"{}")
                    continue
                missed = [d for d in self._deltas if d[0] > seen]
                if self._number - seen > len(missed):
                    yield event(b"full", self._full())
                else:
                    for _, body in missed:
                        yield event(b"delta", body)
                seen = self._number
        finally:
            self.watchers -= 1


def event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
