"""The end of a conversation as two numbers: equal for calls that differ in figures, ids and white space only.

Cheap enough for every request: it looks at the last 4 kB, parses nothing and builds no text. Two calls of a
loop differ in what machines write (counters, times, random ids), hardly in what people and models mean by
them. So where tools are called, hexadecimal digits, signs of dates and white space are deleted before the
rest is hashed. Elsewhere figures stay: the items of a batch may differ in nothing else.
"""

from __future__ import annotations

import re
from zlib import crc32

TAIL_BYTES = 4_096
_WORD_BYTES = 48  # what remains of a message shorter than this is a word or two
_ROLE = b'"role"'
_ROLE_FIRST_BYTES = 48  # less after a role than this: the client writes the content before it, or said a word
_SPACE = b" \t\r\n"
_NOISE = b"0123456789abcdefABCDEF-_:.,+" + _SPACE
_IDS = re.compile(rb'id": ?"[^"]*"')


def sketch(messages: bytes | memoryview) -> tuple[int, int, bool]:
    """Return (hash of the last two messages, hash of the last one, whether that one is more than a word).

    `messages` is their JSON, as it came; of a longer one the end is read.
    """
    tail = bytes(messages[-TAIL_BYTES:])
    last = tail.rfind(_ROLE)
    if last > 0 and len(tail) - last < _ROLE_FIRST_BYTES:
        last = tail.rfind(_ROLE, 0, last)
    last = max(last, 0)
    before = max(tail.rfind(_ROLE, 0, last), 0)
    pair, end = tail[before:last], tail[last:]
    noise = _SPACE
    if b'"tool_call' in end or b'"tool_call' in pair:
        noise = _NOISE
        pair, end = _IDS.sub(b"", pair), _IDS.sub(b"", end)  # random in every call
    pair, end = pair.translate(None, noise), end.translate(None, noise)
    # A last message longer than the tail: how the conversation begins tells apart what ends alike, such as
    # documents with the same long question behind them.
    hashed = crc32(end) if last else crc32(end, head(messages))
    return crc32(pair, hashed), hashed, len(end) >= _WORD_BYTES


def head(messages: bytes | memoryview) -> int:
    """Return a number for how a conversation begins: tells the conversations of one key apart."""
    return crc32(messages[:1_024])
