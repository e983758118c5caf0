"""Reading a journal, while it is written or long after: facts with their places, in the order of writing."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    BadHeader,
    Closed,
    Damage,
    Record,
    check_header,
    decoder,
    next_whole,
    segment_name,
)

READ_BYTES = 256 * 1024


class Position(NamedTuple):
    """The first byte of an epoch that has not been read."""

    segment: int = 0  # 0: before the first segment
    offset: int = 0


START = Position()


class Found(NamedTuple):
    """One record and where it stands."""

    fact: Record
    segment: int
    offset: int


class Batch(NamedTuple):
    """What one read gave. `at_end`: nothing more stands there now. `position`: where to go on."""

    records: list[Found]
    damages: list[Damage]
    position: Position
    at_end: bool


class Tail:
    """Follows one epoch from a position, which is all the state there is: make a new one freely."""

    def __init__(self, folder: Path, position: Position = START) -> None:
        self.folder = folder
        self.epoch = folder.name
        self.position = position
        self.closed = False  # the footer was read
        self._fd = -1
        self._fd_segment = 0
        self._lost = 0  # the segment that was told to be missing

    def read(self, limit: int = 4096, *, final: bool = False) -> Batch:
        """Return up to about `limit` records that were not read yet.

        Args:
            limit: more may come, when one block of the file holds more.
            final: the writer is dead, so that bytes without a valid record are damage and not "still being
                written". Without it, a read stops before them.
        """
        records: list[Found] = []
        damages: list[Damage] = []
        while len(records) < limit:
            if self.position.segment == 0 and not self._step(damages):
                return Batch(records, damages, self.position, True)
            before = len(records) + len(damages)
            moved = self._read_block(records, damages, final)
            if moved or len(records) + len(damages) > before:
                continue
            newer = [n for n in epochs.segments(self.folder) if n > self.position.segment]
            if not newer:
                return Batch(records, damages, self.position, True)
            # The writer leaves a segment for good before it begins the next: look once more, then go on.
            moved = self._read_block(records, damages, True)
            if moved or len(records) + len(damages) > before:
                continue
            self._step(damages)
        return Batch(records, damages, self.position, False)

    def _step(self, damages: list[Damage]) -> bool:
        """Go to the next segment that is there; False if there is none."""
        newer = [n for n in epochs.segments(self.folder) if n > self.position.segment]
        if not newer:
            return False
        expected = self.position.segment + 1
        # At the start, older segments may have been removed because they were booked; inside, none may lack.
        if self.position.segment and newer[0] != expected:
            damages.append(Damage(self.epoch, expected, 0, 0, "missing"))
        self.close()
        self.position = Position(newer[0], 0)
        return True

    def _read_block(self, records: list[Found], damages: list[Damage], final: bool) -> bool:
        """Read one block at the position; True if the position moved without records (a header, damage)."""
        segment, offset = self.position
        fd = self._descriptor(segment)
        if fd < 0:
            if final and self._lost != segment:
                self._lost = (
                    segment  # only what was booked to its end may be removed, and then we are past it
                )
                damages.append(Damage(self.epoch, segment, offset, 0, "missing"))
            return False
        if offset < HEADER_BYTES:
            head = os.pread(fd, HEADER_BYTES, 0)
            if not any(head) and not final:
                return False  # allocated, header not written yet
            try:
                check_header(head, self.epoch, segment)
            except BadHeader as error:
                if len(head) == HEADER_BYTES and any(head) and "upgrade" in str(error):
                    raise
                if any(head):
                    damages.append(Damage(self.epoch, segment, 0, len(head), "header"))
                elif not final:
                    return False
            self.position = Position(segment, HEADER_BYTES)
            return True
        data = os.pread(fd, READ_BYTES, offset)
        at = self._parse(data, segment, offset, records)
        if at:
            self.position = Position(segment, offset + at)
            return False
        if len(data) < FRAME_BYTES:
            return False
        length = FRAME.unpack_from(data)[0]
        if READ_BYTES - FRAME_BYTES < length <= MAX_PAYLOAD_BYTES:
            data = os.pread(fd, FRAME_BYTES + length, offset)
            at = self._parse(data, segment, offset, records)
            if at:
                self.position = Position(segment, offset + at)
                return False
        if not length and not final:
            return False
        return self._skip(fd, segment, offset, damages, live=not final)

    def _parse(self, data: bytes, segment: int, base: int, records: list[Found]) -> int:
        """Append the whole frames at the start of `data`; return how many bytes they take."""
        at, size = 0, len(data)
        unpack, crc32, decode = FRAME.unpack_from, zlib.crc32, decoder.decode
        view = memoryview(data)
        while at + FRAME_BYTES <= size:
            length, crc = unpack(data, at)
            end = at + FRAME_BYTES + length
            if not length or end > size:
                break
            payload = view[at + FRAME_BYTES : end]
            if crc32(payload) != crc:
                break
            try:
                fact = decode(payload)
            except msgspec.MsgspecError as error:
                raise BadHeader(
                    f"{self.epoch}/{segment_name(segment)} offset {base + at}: a valid record that this "
                    f"wattmill cannot read ({error}); it was written by a newer version, upgrade"
                ) from error
            if isinstance(fact, Closed):
                self.closed = True
            else:
                records.append(Found(fact, segment, base + at))
            at = end
        return at

    def _skip(self, fd: int, segment: int, offset: int, damages: list[Damage], *, live: bool = False) -> bool:
        """Step over bytes that are no record, if a record stands behind them or the writer is dead."""
        rest = os.pread(fd, os.fstat(fd).st_size - offset, offset)
        used = len(rest.rstrip(b"\0"))
        if not used:
            return False
        behind = next_whole(rest[: used + 256], 0)  # a record may end in zeros
        if behind == 0:
            return True  # it was being written when it was read first, and is whole now
        if behind > 0:
            damages.append(Damage(self.epoch, segment, offset, behind, "corrupt"))
            self.position = Position(segment, offset + behind)
            return True
        if live:
            return False  # the writer may be in the middle of it
        damages.append(Damage(self.epoch, segment, offset, used, "torn"))
        self.position = Position(segment, offset + len(rest))
        return True

    def _descriptor(self, segment: int) -> int:
        if self._fd >= 0 and self._fd_segment == segment:
            return self._fd
        self.close()
        try:
            self._fd = os.open(self.folder / segment_name(segment), os.O_RDONLY)
        except FileNotFoundError:
            return -1
        self._fd_segment = segment
        return self._fd

    def behind_bytes(self) -> int:
        """Return how many bytes stand behind the position, at most: allocated room is counted."""
        total = 0
        for number in epochs.segments(self.folder):
            if number < self.position.segment:
                continue
            try:
                size = os.stat(self.folder / segment_name(number)).st_size
            except FileNotFoundError:
                continue
            total += size - (self.position.offset if number == self.position.segment else 0)
        return total

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
