"""A look at the newest pages of the journal: decisions with their reasons, and what is in flight.

Bounded: 128 kB around the place up to which the books have read, per live worker. Who needs the whole story
of a request asks `explain`.
"""

from __future__ import annotations

import os

from wattmill.app.home import Home
from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import FRAME, FRAME_BYTES, HEADER_BYTES, decoder, next_whole, segment_name
from wattmill.vocab.fact import End, Intent
from wattmill.vocab.ids import request_id

PEEK_BYTES = 64 * 1024


def peek(
    home: Home, read_up_to: dict[str, tuple[int, int]]
) -> tuple[dict[str, str], list[tuple[str, Intent]]]:
    """Return (request id -> why its place was chosen, attempts without an end with their request ids).

    Args:
        read_up_to: epoch -> (segment, offset) that the ledger has booked; others begin at their first byte.
    """
    reasons: dict[str, str] = {}
    open_: list[tuple[str, Intent]] = []
    for epoch in epochs.names(home.journal):
        folder = home.journal / epoch
        if not epochs.alive(folder) or epochs.who(folder).kind != "gateway":
            continue
        there = epochs.segments(folder)
        if not there:
            continue
        segment, offset = read_up_to.get(epoch, (0, 0))
        if segment not in there:
            segment, offset = there[-1], 0
        intents: dict[int, Intent] = {}
        for fact in _facts(os.fspath(folder / segment_name(segment)), offset):
            if isinstance(fact, Intent):
                intents[fact.seq] = fact
                if fact.route is not None:
                    reasons[request_id(epoch, fact.request)] = fact.route.reason
            elif isinstance(fact, End):
                intents.pop(fact.seq, None)
        open_ += [(request_id(epoch, intent.request), intent) for intent in intents.values()]
    return reasons, open_


def _facts(path: str, offset: int) -> list[object]:
    begin = max(HEADER_BYTES, offset - PEEK_BYTES)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        data = os.pread(fd, offset - begin + PEEK_BYTES if offset > begin else PEEK_BYTES, begin)
    finally:
        os.close(fd)
    # A window begins inside a record, so the first whole one is looked for; a segment begins with one.
    at = 0 if begin == HEADER_BYTES else next_whole(data, 0)
    found: list[object] = []
    while 0 <= at <= len(data) - FRAME_BYTES:
        length, _ = FRAME.unpack_from(data, at)
        end = at + FRAME_BYTES + length
        if not length or end > len(data):
            break
        found.append(decoder.decode(data[at + FRAME_BYTES : end]))
        at = end
    return found
