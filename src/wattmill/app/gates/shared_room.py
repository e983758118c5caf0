"""What the workers of one machine tell each other about slots and queues: one small mapped file, no locks.

Each cell has one writer, its worker, and is written whole (eight aligned bytes); only virtual times are
written by all, where a lost update costs a little fairness. Two workers that look at one free slot at the
same moment may both take it: at most one too many per further worker at a place, until one of them ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

WORKERS = 256
POOLS = 256
TIERS = 64
TENANTS = 65_536
STALE_S = 0.1
"""A worker that has not said for so long who waits at it is not waited for."""

_MAGIC = b"wmroom01"
_NAMES = 16_384  # bytes for the names of the places
_HEAD = 64 + _NAMES
_NOBODY = -1.0

# Offsets in cells of eight bytes, behind the head.
_PID = 0
_PENDING = _PID + WORKERS
_STAMP = _PENDING + WORKERS
_BUSY = _STAMP + WORKERS
_RANK = _BUSY + POOLS * WORKERS
_TAG = _RANK + POOLS * WORKERS
_VIRTUAL = _TAG + POOLS * WORKERS
_FINISH = _VIRTUAL + TIERS
_CELLS = _FINISH + TENANTS
SIZE = _HEAD + 8 * _CELLS


class SharedRoom:
    """One worker's hand on the file. Whoever makes it first makes it for all."""

    def __init__(self, path: Path, worker: int) -> None:
        if not 0 <= worker < WORKERS:
            raise ValueError(f"worker is {worker}, must be below {WORKERS}")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._alone():
            if os.fstat(self._file).st_size < SIZE:
                os.ftruncate(self._file, SIZE)
                os.pwrite(self._file, _MAGIC, 0)
        self._map = mmap.mmap(self._file, SIZE)
        if self._map[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{path} is no room file of this version; remove it while the factory is down")
        view = memoryview(self._map)
        self._view = view
        self._int = view[_HEAD:].cast("q")
        self._float = view[_HEAD:].cast("d")
        self.worker = worker
        self._rows: list[int] = []
        self._others: list[int] = []
        for pool in range(POOLS):
            self._int[_BUSY + pool * WORKERS + worker] = 0
            self._float[_RANK + pool * WORKERS + worker] = _NOBODY
        self._int[_PENDING + worker] = 0
        self._float[_STAMP + worker] = 0.0
        self._int[_PID + worker] = os.getpid()

    def close(self) -> None:
        self._int[_PID + self.worker] = 0
        for view in (self._int, self._float, self._view):
            view.release()
        self._map.close()
        os.close(self._file)

    def use(self, pools: Sequence[str]) -> None:
        """Name the places, in the order in which they are numbered from now on."""
        with self._alone():
            raw = os.pread(self._file, _NAMES, 64)
            names: list[str] = msgspec.json.decode(raw[: raw.index(b"\0")] or b"[]", type=list[str])
            names += [pool for pool in pools if pool not in names]
            if len(names) > POOLS:
                raise ValueError(f"{len(names)} places were ever declared, at most {POOLS}: remove the file")
            written = msgspec.json.encode(names)
            if len(written) >= _NAMES:
                raise ValueError(f"names of {len(names)} places have {len(written)} bytes: remove the file")
            os.pwrite(self._file, written + b"\0", 64)
        self._rows = [names.index(pool) * WORKERS for pool in pools]
        self.look()

    def look(self) -> None:
        """See which other workers live. A dead one holds no slot: its connections are closed."""
        self._others = [w for w in range(WORKERS) if w != self.worker and _alive(self._int[_PID + w])]

    # ---- slots

    def busy_cell(self, pool: int) -> tuple[memoryview, int]:
        """Return where this worker's busy slots of a place are written."""
        return self._int, _BUSY + self._rows[pool] + self.worker

    def busy_elsewhere(self, pool: int) -> int:
        """Return the slots of a place that other workers have taken."""
        cells, row = self._int, _BUSY + self._rows[pool]
        total = 0
        for other in self._others:
            total += cells[row + other]
        return total

    def pending_cell(self) -> tuple[memoryview[int], int]:
        """Return where this worker writes how many were let in that hold no slot yet."""
        return self._int, _PENDING + self.worker

    def pending_elsewhere(self) -> int:
        total = 0
        for other in self._others:
            total += self._int[_PENDING + other]
        return total

    # ---- who waits

    def tell_waiting(self, best: dict[int, tuple[int, float]]) -> None:
        """Tell (rank, start tag) of the best who waits here, for each place that would do for somebody."""
        for pool, row in enumerate(self._rows):
            rank, tag = best.get(pool, (_NOBODY, 0.0))
            self._float[_TAG + row + self.worker] = tag
            self._float[_RANK + row + self.worker] = rank
        self._float[_STAMP + self.worker] = time.monotonic() if best else 0.0

    def somebody_waits_elsewhere(self) -> bool:
        stamps = self._float
        for other in self._others:  # noqa: SIM110  any() costs twice as much, and this is asked each time
            if stamps[_STAMP + other]:
                return True
        return False

    def better_elsewhere(self, pool: int, rank: int, tag: float, margin: float) -> bool:
        """Return whether somebody waits elsewhere for a place with a better right: of a higher tier, or of
        the same one with less of it until now, by more than `margin` of work."""
        row, floats = self._rows[pool], self._float
        for other in self._others:
            there = floats[_RANK + row + other]
            if there < rank or time.monotonic() - floats[_STAMP + other] > STALE_S:
                continue
            if there > rank or floats[_TAG + row + other] + margin < tag:
                return True
        return False

    # ---- Tags: virtual time, shared by all workers

    def virtual(self, tier: int) -> float:
        return self._float[_VIRTUAL + tier]

    def finish(self, tier: int, tenant: int) -> float:
        return self._float[_FINISH + (tenant * 31 + tier) % TENANTS]

    def charge(self, tier: int, tenant: int, work: float, start: float | None = None) -> float:
        floats, at = self._float, _FINISH + (tenant * 31 + tier) % TENANTS
        virtual = floats[_VIRTUAL + tier]
        if start is None:
            start = floats[at]
            if start < virtual:
                start = virtual
        if start > virtual:
            floats[_VIRTUAL + tier] = start
        finish = floats[at] = start + work
        return finish

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _alive(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
