"""Chance from whole numbers: the same seed and index give the same bits, in any order and on any machine."""

from __future__ import annotations

from wattmill.twin.engine.compiled import inner


@inner
def mixed(seed: int, index: int) -> int:
    """Return 62 well-mixed bits of a seed and an index (the finalizer of splitmix64)."""
    z = seed * 0x1E3779B97F4A7C15 + (index + 1) * 0x3C6EF372FE94F82B
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * 0x3F58476D1CE4E5B9
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * 0x14D049BB133111EB
    return (z ^ ((z >> 31) & 0x1FFFFFFFF)) & 0x3FFFFFFFFFFFFFFF
