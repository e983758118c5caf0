"""The bytes of a journal: segment headers and framed, checksummed records. Format version 1.

A segment is a header of 32 bytes, then frames: u32 length, u32 CRC-32 of the payload, payload (MessagePack
of one fact), little endian. A length of zero means "nothing yet": room is set aside by preallocation, which
reads as zeros. What was written once is read forever (`tests/unit/test_frozen_formats.py`).
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, NamedTuple

import msgspec

from wattmill.vocab.fact import (
    Asker,
    End,
    EngineAbort,
    EngineCount,
    Fact,
    Intent,
    MeterWindow,
    Progress,
    Refused,
    Replayed,
    RunawaySeen,
    Snapshot,
)

FORMAT_VERSION = 1
MAGIC = b"WATTMILL"
HEADER_BYTES = 32
FRAME_BYTES = 8
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
"""No writer makes larger ones; a larger length in a file is damage, not a record."""

SUFFIX = ".wmj"

_HEADER = struct.Struct("<8sHH12sII")
FRAME = struct.Struct("<II")


class Closed(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The last record of an epoch that ended in order: without it, the epoch died."""

    at_us: int
    records: int


Record = (
    Intent
    | Progress
    | End
    | Refused
    | Snapshot
    | MeterWindow
    | EngineCount
    | EngineAbort
    | Asker
    | RunawaySeen
    | Replayed
    | Closed
)

encoder = msgspec.msgpack.Encoder()
decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Damage(NamedTuple):
    """Bytes of a journal that are not what was written."""

    epoch: str
    segment: int
    offset: int  # of the first bad byte's frame
    length: int
    kind: Literal["torn", "corrupt", "header", "missing"]

    def __str__(self) -> str:
        what = {
            "torn": "an incomplete last record (the machine died in mid-write); ignored",
            "corrupt": "a record whose checksum does not hold",
            "header": "a segment header that is not ours",
            "missing": "a segment that is not there",
        }[self.kind]
        place = f"{self.epoch}/{segment_name(self.segment)} offset {self.offset}"
        return f"journal {place}: {what} ({self.length} bytes)"


class BadHeader(ValueError):
    """The file is no segment of this epoch, or of a format that this version cannot read."""


def segment_name(segment: int) -> str:
    return f"{segment:06d}{SUFFIX}"


def header(epoch: str, segment: int) -> bytes:
    """Return the 32 bytes that begin a segment."""
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, 0, epoch.encode(), segment, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def check_header(data: bytes, epoch: str, segment: int) -> None:
    """Raise `BadHeader` unless `data` begins this segment in a format that can be read."""
    if len(data) < HEADER_BYTES:
        raise BadHeader(f"{epoch}/{segment_name(segment)}: {len(data)} bytes, a header has {HEADER_BYTES}")
    magic, version, _, name, number, crc = _HEADER.unpack_from(data)
    if magic != MAGIC or crc != zlib.crc32(data[: HEADER_BYTES - 4]):
        raise BadHeader(f"{epoch}/{segment_name(segment)}: not a wattmill journal, or its header is damaged")
    if version > FORMAT_VERSION:
        raise BadHeader(
            f"{epoch}/{segment_name(segment)}: format {version}, this wattmill reads up to {FORMAT_VERSION}; "
            "upgrade"
        )
    if name.decode("ascii", "replace") != epoch or number != segment:
        raise BadHeader(f"{epoch}/{segment_name(segment)}: belongs to epoch {name!r}, segment {number}")


def frame(fact: Fact | Closed) -> bytes:
    """Return one record as it stands in a segment."""
    payload = encoder.encode(fact)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def next_whole(data: bytes, start: int) -> int:
    """Return the offset of the first whole, valid frame at or after `start`, or -1.

    Slow (tries every byte): for stepping over damage only.
    """
    end = len(data) - FRAME_BYTES
    at = start
    while at <= end:
        length, crc = FRAME.unpack_from(data, at)
        if 0 < length <= len(data) - at - FRAME_BYTES and length <= MAX_PAYLOAD_BYTES:
            payload = data[at + FRAME_BYTES : at + FRAME_BYTES + length]
            if zlib.crc32(payload) == crc:
                return at
        at += 1
    return -1
