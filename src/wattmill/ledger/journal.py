"""The journal of one process: what is about to happen and what happened, on the file before the deed.

One `pwrite` per record survives the death of the process; a thread's group `fdatasync` bounds what the
death of the machine can lose to `sync_s`. Room for the end of every open attempt is allocated with its
intent, so that a full disk refuses new work and never loses the end of old work.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    Closed,
    encoder,
    frame,
    header,
    segment_name,
)
from wattmill.ports import JournalUnavailable
from wattmill.vocab.fact import End, Fact

MAX_END_BYTES = 768
"""Room set aside for each end record. Its numbers need less than 300; its texts are cut to fit."""

STEPS = (1024 * 1024, 256 * 1024, 64 * 1024, 16 * 1024, 4 * 1024)
"""Room is asked of the disk in these steps, smaller ones when it is nearly full."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


class Journal:
    """Implements `ports.Journal`. Appends belong to one thread (the event loop); flushing has its own."""

    def __init__(
        self,
        home_journal: Path,
        *,
        kind: epochs.Kind,
        worker: int,
        segment_bytes: int = 64 * 1024 * 1024,
        sync_s: float = 0.2,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._wall_us = wall_us
        self._segment_bytes = segment_bytes
        self._segment = 0
        self._at = self._room = 0
        self._fd = -1
        self._open = 0  # attempts whose end is still to come
        self.records = 0  # appended so far
        self._dirty = False
        self._failed: str | None = None
        self._retired: list[int] = []  # descriptors of finished segments, to be synced and closed
        self._wake = threading.Event()
        self._stop = False
        try:
            self.folder, self._lock_fd = epochs.create(
                home_journal, kind=kind, worker=worker, start_us=wall_us()
            )
            self.epoch = self.folder.name
            self._begin_segment(FRAME_BYTES)
        except OSError as error:
            raise JournalUnavailable(f"cannot begin a journal in {home_journal}: {error}") from error
        self._sync_s = sync_s
        self._flusher = threading.Thread(target=self._flush_forever, name="journal-sync", daemon=True)
        self._flusher.start()

    # -- the hot path ------------------------------------------------------------------------------------

    def append_intent(self, fact: Fact) -> None:
        """Write, and set room aside for the end. Raises `JournalUnavailable`: then nothing may leave."""
        payload = encoder.encode(fact)
        need = FRAME_BYTES + len(payload)
        # One end's room beyond the open ones is always kept: an end nobody announced must fit as well.
        if self._at + need + (self._open + 2) * MAX_END_BYTES > self._room or self._at > self._segment_bytes:
            self._make_room(need)
        if self._failed is not None:
            raise JournalUnavailable(self._failed)
        self._put(payload)
        self._open += 1

    def append_end(self, fact: Fact) -> None:
        """Write into the room that its intent set aside; texts that would not fit are cut."""
        payload = encoder.encode(fact)
        if len(payload) > MAX_END_BYTES - FRAME_BYTES:
            payload = encoder.encode(_fitted(fact))
        self._put(payload)
        if self._open:
            self._open -= 1

    def append_note(self, fact: Fact) -> bool:
        """Write if there is room beyond what open attempts may still need; say whether it was written."""
        if self._failed is not None:
            return False
        payload = encoder.encode(fact)
        need = FRAME_BYTES + len(payload)
        if self._at + need + (self._open + 1) * MAX_END_BYTES > self._room:
            try:
                self._make_room(need)
            except JournalUnavailable:
                return False
        self._put(payload)
        return True

    def _put(self, payload: bytes) -> None:
        data = FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            done = os.pwrite(self._fd, data, self._at)
        except OSError as error:
            self._broken(error)
            raise JournalUnavailable(self._failed or "") from error
        if done != len(data):
            self._finish_short_write(data, done)
        self._at += len(data)
        self.records += 1
        self._dirty = True

    def _finish_short_write(self, data: bytes, done: int) -> None:
        """Write the rest. If that cannot be, wipe what stands there: no reader may take it for a record."""
        start = self._at
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], start + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, bytes(done), start)
            self._broken(error)
            raise JournalUnavailable(self._failed or "") from error

    # -- room --------------------------------------------------------------------------------------------

    def _make_room(self, need: int) -> None:
        if self._failed is not None:
            raise JournalUnavailable(self._failed)
        keep = need + (self._open + 2) * MAX_END_BYTES
        if self._at > self._segment_bytes:
            try:
                self._begin_segment(keep)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._broken(error)
                    raise JournalUnavailable(self._failed or "") from error
                # No room for a new segment: this one may grow beyond its size while it can.
        if self._at + keep <= self._room:
            return
        for step in STEPS:
            grow = max(self._at + keep - self._room, 0)
            grow = -(-grow // step) * step
            try:
                _allocate(self._fd, self._room, grow)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._broken(error)
                    break
                continue
            self._room += grow
            return
        raise JournalUnavailable(
            self._failed
            or f"no room on the disk under {self.folder}: {keep} bytes are needed for a record and the ends "
            f"of {self._open + 1} attempts; free some space, serving goes on by itself"
        )

    def _begin_segment(self, keep: int) -> None:
        """Open the next segment with `keep` bytes of room, then leave the last one at its true length."""
        number = self._segment + 1
        path = self.folder / segment_name(number)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            room = 0
            for step in STEPS:
                room = -(-(HEADER_BYTES + keep + 2 * MAX_END_BYTES) // step) * step
                try:
                    _allocate(fd, 0, room)
                    break
                except OSError as error:
                    if error.errno not in _NO_ROOM or step == STEPS[-1]:
                        raise
            os.pwrite(fd, header(self.epoch, number), 0)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        if self._fd >= 0:
            os.ftruncate(self._fd, self._at)
            self._retired.append(self._fd)
        self._fd, self._segment, self._at, self._room = fd, number, HEADER_BYTES, room
        self._dirty = True

    # -- durability --------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Return when all that was appended survives the death of the machine. Blocks: not for the loop."""
        while self._retired:
            fd = self._retired[0]
            os.fdatasync(fd)
            self._retired.pop(0)
            os.close(fd)
            _sync_folder(self.folder)
        self._dirty = False
        os.fdatasync(self._fd)

    def _flush_forever(self) -> None:
        with contextlib.suppress(OSError):
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)
        while not self._stop:
            self._wake.wait(self._sync_s)
            if self._dirty and not self._stop:
                try:
                    self.sync()
                except OSError as error:
                    # After a failed flush the pages may be gone: no later success means anything.
                    self._broken(error)
                    return

    def _broken(self, error: OSError) -> None:
        self._failed = (
            f"the journal {self.folder / segment_name(self._segment)} cannot be written: {error}; "
            "check the disk and restart this worker"
        )
        _log.error("%s", self._failed)

    def close(self) -> None:
        """Write the footer that tells a clean end from a death, flush, and drop the lock. Idempotent."""
        if self._stop:
            return
        self._stop = True
        self._wake.set()
        self._flusher.join()
        try:
            if self._failed is None:
                footer = frame(Closed(self._wall_us(), self.records))
                os.pwrite(self._fd, footer, self._at)
                self._at += len(footer)
                os.ftruncate(self._fd, self._at)
                self.sync()
        except OSError as error:
            self._broken(error)
        finally:
            for fd in (*self._retired, self._fd, self._lock_fd):
                os.close(fd)
            self._retired.clear()

    @property
    def open_attempts(self) -> int:
        return self._open


def _allocate(fd: int, offset: int, length: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, length)
    else:  # pragma: no cover - macOS: written zeros are allocated blocks too
        os.pwrite(fd, bytes(length), offset)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fitted(fact: Fact) -> Fact:
    """Return the end record with its texts cut so that it fits `MAX_END_BYTES` whatever they say."""
    if not isinstance(fact, End):
        return fact
    return msgspec.structs.replace(
        fact,
        finish_reason=_cut(fact.finish_reason, 40),
        error=_cut(fact.error, 220),
        engine_id=_cut(fact.engine_id, 96),
    )


def _cut(text: str | None, size: int) -> str | None:
    return text if text is None else text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
