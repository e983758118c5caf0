"""Which prompts begin alike: a cheap fingerprint of a prompt's beginnings, and where each was seen last.

A beginning is a running checksum of the prompt's bytes at lengths that double. What two prompts are found to
share is at least half of what they truly share, and never more. A wrong match (one in four thousand million)
costs a wrong expectation, never a wrong answer or a wrong charge: the engine counts what it had cached.
"""

from __future__ import annotations

from zlib import crc32

LENGTHS = (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536)
"""Bytes at which a beginning is taken; what follows the last one is not looked at."""

LONGEST_BYTES = LENGTHS[-1]

MOST = 16_384  # beginnings that are remembered, over all places
_YIELD_GAIN = 0.1

Prefix = tuple[int, ...]
"""Fingerprints of the beginnings of one prompt, at `LENGTHS`."""


def prefix_of(prompt: bytes, model: str) -> Prefix:
    """Return the fingerprints of a prompt's beginnings; () if it is too short to be worth it."""
    size = len(prompt)
    if size < 256:
        return ()
    mark = crc32(prompt[:256], crc32(model.encode()))
    if size < 512:
        return (mark,)
    marks, at = [mark], 256
    for end in LENGTHS[1:]:
        if end > size:
            break
        mark = crc32(prompt[at:end], mark)
        marks.append(mark)
        at = end
    return tuple(marks)


class Prefixes:
    """Where beginnings were sent. Bounded: the one that was sent longest ago is forgotten first."""

    def __init__(self, pools: int, *, most: int = MOST) -> None:
        self._pools = pools
        self._most = most
        self._sent: dict[int, int] = {}  # fingerprint -> places, one bit each

    def __len__(self) -> int:
        return len(self._sent)

    def shared_bytes(self, prefix: Prefix) -> tuple[int, ...]:
        """Return how much of this prompt each place has seen before, in bytes; () if none has."""
        sent = self._sent
        if not prefix or prefix[0] not in sent:
            return ()
        found, missing = [0] * self._pools, (1 << self._pools) - 1
        for i in range(len(prefix) - 1, -1, -1):
            new = sent.get(prefix[i], 0) & missing
            if new:
                missing ^= new
                while new:
                    found[new.bit_length() - 1] = LENGTHS[i]
                    new ^= 1 << (new.bit_length() - 1)
                if not missing:
                    break
        return tuple(found)

    def send(self, prefix: Prefix, at: int) -> None:
        """Take down that this prompt goes to place `at`."""
        sent, bit = self._sent, 1 << at
        for mark in prefix:
            sent[mark] = sent.pop(mark, 0) | bit
        while len(sent) > self._most:
            del sent[next(iter(sent))]


def hit_share(known: float, *, expected_tok: float, cached_tok: float) -> float:
    """Return the share of a repeated beginning that an engine really has in its cache, after one more answer.

    It begins at 0 for a place of which nothing is known and rises with what the engine itself counts."""
    if expected_tok <= 0:
        return known
    seen = min(1.0, max(0.0, cached_tok / expected_tok))
    return known + _YIELD_GAIN * (seen - known)
